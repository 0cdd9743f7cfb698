"""The right-hand side of an ODE block: f(t, y), alone or with a gain and a damping."""

from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nodekd.models.damping import Damping, DampingConfig, Gain
from nodekd.shapes import State

Norm = Literal["group", "none"]
Time = Literal["channel", "none"]


def group_norm(channels: int, norm: Norm) -> nn.Module:
    """Return a GroupNorm with at most 32 groups of at least two channels, or nothing.

    It has no running state, so it fits an ODE. Two channels in a group, as in torchdiffeq's ODE-net with 64 channels:
    with one channel in each, the mean of every feature map is removed and the head's pooling has little left to see.
    """
    if norm == "none":
        return nn.Identity()
    groups = min(32, max(1, channels // 2))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


@final
class TimeConv(nn.Module):
    """3x3 convolution of the state with the time as one extra, constant channel.

    The constant channel is convolved once for the whole batch and added, which equals concatenating it and costs less.

    Source:
        [chen2018neural], ConcatConv of their ODE-net; the same map in another order of summation.
    """

    def __init__(self, channels: int, time: Time) -> None:
        super().__init__()
        self.state = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Conv2d(1, channels, 3, padding=1, bias=False) if time == "channel" else None
        if self.time is not None:
            bound = (9 * (channels + 1)) ** -0.5
            nn.init.uniform_(self.state.weight, -bound, bound)
            nn.init.uniform_(self.time.weight, -bound, bound)

    def forward(self, t: float | Tensor, y: State) -> State:
        """Map (b c h w) to (b c h w); t is one time for all, or (b,)."""
        out = self.state(y)
        if self.time is None:
            return out
        ones = y.new_ones(1, 1, *y.shape[2:])
        response = F.conv2d(ones, self.time.weight, padding=1)
        if not isinstance(t, Tensor):
            return torch.add(out, response, alpha=t)
        if t.dim() == 0:
            return out + t.to(y.dtype) * response
        return torch.addcmul(out, t.to(y.dtype).view(-1, 1, 1, 1), response)


@final
class PlainDynamics(nn.Module):
    """f(t, y) of an ODE-net: two time-aware convolutions between group norms.

    Source:
        [chen2018neural], ODE function of their MNIST ODE-net: norm, relu, conv, norm, relu, conv, norm.
        `norm="none"` leaves the norms out and starts the last convolution at zero, so that the flow begins as identity.
    """

    def __init__(self, channels: int, *, norm: Norm, time: Time) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, norm)
        self.conv1 = TimeConv(channels, time)
        self.norm2 = group_norm(channels, norm)
        self.conv2 = TimeConv(channels, time)
        self.norm3 = group_norm(channels, norm)
        if norm == "none":
            for parameter in self.conv2.parameters():
                nn.init.zeros_(parameter)

    def forward(self, t: float | Tensor, y: State) -> State:
        """Return dy/dt, (b c h w) like y; t is one time for all, or (b,)."""
        out = self.conv1(t, torch.relu(self.norm1(y)))
        out = self.conv2(t, torch.relu(self.norm2(out)))
        return self.norm3(out)


@final
class BlockDynamics(nn.Module):
    """f with a learned gain, a damping, or both: dy/dt = -lambda y + c gain f(t, y), c = 1 or 1 + lambda.

    With `norm="none"`, f starts at zero (see `PlainDynamics`), so that the flow begins as y(0) exp(-lambda t). With
    `norm="group"`, f and the head divide the scale of the state out again and hardly feel the damping (S15).

    Source:
        [yang2020interpolation], read as an ODE by us; see `Damping`.
    """

    def __init__(self, f: PlainDynamics, *, damping: DampingConfig | None, gain: bool) -> None:
        super().__init__()
        self.f = f
        self.damping = None if damping is None else Damping(damping)
        self.gain = Gain() if gain else None

    def forward(self, t: float | Tensor, y: State) -> State:
        """Return dy/dt, (b c h w) like y; t is one time for all, or (b,)."""
        slope = self.f(t, y)
        if self.gain is not None:
            slope = self.gain.value() * slope
        return slope if self.damping is None else self.damping.slope(y, slope)
