"""The letters of tensor shapes, as names for types.

b images of a batch, n images of a set, k classes, c h w channels, height and width, e epsilons, a attacks.
"""

from torch import Tensor

Images = Tensor
"""(b c h w) float32 in [0, 1]; normalisation lives inside the networks."""

Labels = Tensor
"""(b,) int64 class indices."""

Logits = Tensor
"""(b k) float32 scores before the softmax."""

State = Tensor
"""(b c h w) float32 state of an ODE block."""
