"""How often a network is asked: images sent forwards and gradients sent back, by purpose."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn


@final
class Effort:
    """Forwards and backwards of one network, in images, and the seconds, since `watched` began."""

    def __init__(self) -> None:
        self.forwards: Counter[str] = Counter()
        self.backwards: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self._purpose = "other"

    @contextmanager
    def on(self, purpose: str) -> Iterator[None]:
        """Count what the body asks under a purpose; within another one, under the inner."""
        outer, self._purpose = self._purpose, purpose
        start = time.perf_counter()
        yield
        self.seconds[purpose] = self.seconds.get(purpose, 0.0) + time.perf_counter() - start
        self._purpose = outer

    def note(self, module: nn.Module, inputs: Any, logits: Tensor) -> None:
        """Count a forward of (b k) logits, and its backward when that comes; a hook of `nn.Module`."""
        del module, inputs
        purpose, images = self._purpose, len(logits)
        self.forwards[purpose] += images
        if logits.requires_grad:
            logits.register_hook(lambda _: self._count_backward(purpose, images))

    def record(self, images: int) -> dict[str, Any]:
        """Return sums and parts per image as plain values."""
        scale = 1 / max(images, 1)
        return {
            "forwards_per_image": self.forwards.total() * scale,
            "backwards_per_image": self.backwards.total() * scale,
            "by": {
                name: {
                    "forwards_per_image": self.forwards[name] * scale,
                    "backwards_per_image": self.backwards[name] * scale,
                    "seconds": self.seconds[name],
                }
                for name in self.seconds
            },
        }

    def _count_backward(self, purpose: str, images: int) -> None:
        self.backwards[purpose] += images


@contextmanager
def watched(network: nn.Module) -> Iterator[Effort]:
    """Count what a network, and the views of it that are solved another way, are asked in the body."""
    effort = Effort()
    handle = network.register_forward_hook(effort.note)
    try:
        yield effort
    finally:
        handle.remove()
