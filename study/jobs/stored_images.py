"""Adversarial images that one job stored and another reads: refused where they do not belong to what is attacked."""

from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodekd.attacks.threat import Threat
from nodekd.shapes import Images
from study.durable import DAMAGED

IMAGES = "adversarial.npz"
VERSIONS = ("images", "pushed")
"""What may be stored of every image; the first always is."""


@final
class StoredImages:
    """The adversarial images in a job's folder, shape (e n c h w) per version."""

    def __init__(self, folder: Path) -> None:
        """Read them.

        Raises:
            ValueError: If there are none, or the file is damaged.
        """
        self._name = f"{folder.parent.name}/{folder.name}"
        try:
            with np.load(folder / IMAGES, allow_pickle=False) as stored:
                self._ids: NDArray[np.int64] = stored["image_id"]
                self._versions = [stored[name] for name in VERSIONS if name in stored.files]
        except DAMAGED as error:
            raise self._refusal(f"cannot be read: {error}") from error
        if not self._versions:
            raise self._refusal("hold none")

    def at(self, epsilon_index: int, ids: Tensor, clean: Images, threat: Threat) -> tuple[Tensor, ...]:
        """Return every version (n c h w) at one epsilon, on the device of the clean images.

        Args:
            epsilon_index: Position of the epsilon in the stored grid.
            ids: (n,) image ids.
            clean: (n c h w) the images without attack.
            threat: Ball around them.

        Raises:
            ValueError: If ids, shape, type or number of epsilons differ, or an image lies outside the ball.
        """
        if not np.array_equal(self._ids, ids.cpu().numpy()):
            raise self._refusal(f"are of other images: {_listed(self._ids)} instead of {_listed(ids.cpu().numpy())}")
        return tuple(self._checked(version, epsilon_index, clean, threat) for version in self._versions)

    def _checked(self, version: NDArray[np.float32], epsilon_index: int, clean: Images, threat: Threat) -> Tensor:
        expected = tuple(clean.shape)
        if version.shape[1:] != expected or version.dtype != np.float32:
            raise self._refusal(f"have shape {version.shape[1:]} {version.dtype} instead of {expected} float32")
        if epsilon_index >= len(version):
            raise self._refusal(f"stand for {len(version)} epsilons, but number {epsilon_index + 1} is asked for")
        images = torch.from_numpy(version[epsilon_index]).to(clean.device)
        outside = int((~threat.contains(images, clean)).sum())
        if outside:
            raise self._refusal(
                f"were made from other images or at another epsilon: {outside} of {len(clean)} lie outside the ball of "
                f"epsilon {threat.epsilon:g} ({threat.norm})"
            )
        return images

    def _refusal(self, fault: str) -> ValueError:
        return ValueError(
            f"Stored adversarial images must be those of the attacked images, but those of {self._name} {fault}. "
            f"Delete that folder and give the same command again."
        )


def _listed(ids: NDArray[np.int64]) -> str:
    if len(ids) == 0:
        return "no ids"
    return f"ids {ids[0]} to {ids[-1]} (n = {len(ids)})"
