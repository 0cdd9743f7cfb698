"""Distances between the last feature maps of a student and a teacher."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum"]
Distance = Literal["l1", "l2"]


def to_side(maps: Tensor, height: int, width: int) -> Tensor:
    """Bring maps (b c h w) to another height and width; equal ones come back unchanged.

    Larger maps are averaged over their windows (adaptive average pooling), smaller ones are interpolated bilinearly,
    so that a constant map keeps its value either way. Where one side is larger and the other smaller, the map is
    interpolated.
    """
    own = tuple(maps.shape[2:])
    if own == (height, width):
        return maps
    if own[0] >= height and own[1] >= width:
        return F.adaptive_avg_pool2d(maps, (height, width))
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)


def unit_length(maps: Tensor) -> Tensor:
    """Divide each sample's map (b ...) by its L2 norm over all its numbers; a map of zeros stays zero."""
    return F.normalize(maps.flatten(1), dim=1).view_as(maps)


def feature_distance(
    ours: Tensor, theirs: Tensor, *, distance: Distance = "l1", normalise: bool = True, reduction: Reduction = "mean"
) -> Tensor:
    """Return how far two batches of maps are apart.

    L_n = || x^T / ||x^T||_2 - y / ||y||_2 ||_1,  y = NTL_n(x^S)

    Args:
        ours: The transformed student map (b c h w); receives gradient.
        theirs: The teacher's map (b c h w), constant.
        distance: `l1` sums absolute differences, `l2` squared ones.
        normalise: Whether each sample's map is divided by its L2 norm over c h w first.
        reduction: `sum` adds up a sample's entries and averages over the batch, as the equation; `mean` averages over
            all entries, as the code of Factor Transfer. sum = c*h*w * mean, so a weight means nothing without it.

    Returns:
        Scalar without a unit.

    Raises:
        ValueError: If the shapes differ.

    Source:
        [park2020feature] Eq. of L_FEED; normalisation and the mean as in the code of [kim2018paraphrasing]. Squared
        differences and maps left as they are are our ablations.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"two maps of one shape are compared, but got {tuple(ours.shape)} and {tuple(theirs.shape)}.")
    theirs = theirs.detach()
    if normalise:
        ours, theirs = unit_length(ours), unit_length(theirs)
    difference = ours - theirs
    entries = difference.abs() if distance == "l1" else difference.square()
    return entries.mean() if reduction == "mean" else entries.flatten(1).sum(dim=1).mean()


def attention(maps: Tensor) -> Tensor:
    """Return attention maps (b 1 h w): the mean over channels of the squared map."""
    return maps.square().mean(dim=1, keepdim=True)


def attention_distance(ours: Tensor, theirs: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return how differently a student and a teacher spread their attention over the image.

    Q = vec(sum_c |A_c|^2);  sum: 1/2 * || Q_S / ||Q_S||_2 - Q_T / ||Q_T||_2 ||_2, averaged over the batch;
    mean: (Q_S / ||Q_S||_2 - Q_T / ||Q_T||_2)^2 averaged over batch and places.

    Args:
        ours: The student's map (b c h w); receives gradient. Channels may differ from the teacher's.
        theirs: The teacher's map (b c' h' w'), constant; our attention is brought to its side.
        reduction: `sum` is the equation of the paper, `mean` the authors' code, for which they give weights of 1000.

    Returns:
        Scalar without a unit.

    Source:
        [zagoruyko2017paying] Sec. 3.1, Eq. 2, p = 2. Sides are brought together after the squares, by `to_side`.
    """
    theirs = attention(theirs.detach())
    difference = unit_length(to_side(attention(ours), *theirs.shape[2:])) - unit_length(theirs)
    if reduction == "mean":
        return difference.square().mean()
    # The square root has no finite slope at 0, where both attend alike.
    squared = difference.flatten(1).square().sum(dim=1)
    return 0.5 * squared.clamp_min(1e-12).sqrt().mean()
