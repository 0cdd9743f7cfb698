"""Students of equal depth and cost as an ODE student, whose Euler steps have weights of their own."""

from collections.abc import Iterable
from typing import final

import torch
from torch import nn

from nodekd.models.normalised import Normalise
from nodekd.ode.integrator import Integrator
from nodekd.shapes import Images, Logits, State


@final
class UntiedStudent(nn.Module):
    """A classifier whose middle is N residual blocks, h <- h + (T/N) f_i(t_i, h) with t_i = i T/N.

    With equal f_i it is the ODE student solved by N Euler steps over [0, T]. Several ODE blocks become as many such
    rows, one after another.
    """

    nfe: int
    """Blocks evaluated in a forward; always the same."""

    def __init__(
        self,
        normalise: Normalise,
        stem: nn.Module,
        blocks: Iterable[nn.Module],
        head: nn.Module,
        integrator: Integrator,
    ) -> None:
        super().__init__()
        if integrator.solver != "euler" or integrator.steps is None or integrator.step_size is None:
            raise ValueError(
                f"An untied student has a block for each step of euler, but got solver {integrator.solver}. "
                "Choose solver euler, or a student with an ODE."
            )
        self.normalise = normalise
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.steps = integrator.steps
        self.step_size = integrator.step_size
        self.nfe = len(self.blocks)

    def forward(self, images: Images) -> Logits:
        """Map images (b c h w) in [0, 1] to logits (b k)."""
        return self.head(self.features(images))

    def features(self, images: Images) -> State:
        """Map images (b c h w) in [0, 1] to the state behind the last block, (b c h w)."""
        state = self.stem(self.normalise(images))
        for number, block in enumerate(self.blocks):
            slope = block((number % self.steps) * self.step_size, state)
            state = torch.add(state, slope, alpha=self.step_size)
        return state
