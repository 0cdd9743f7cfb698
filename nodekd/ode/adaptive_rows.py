"""Adaptive solves in which every image of a batch has its own steps, so that no answer depends on batch mates (S23).

A solver that takes the batch as one system has one step length and one error norm for all, and solves each image only
as exactly as its company lets it. Here every image, a row of the state, has its own time, step length, error norm and
decision, which are those that torchdiffeq takes for that image alone: the same first step, controller, slopes handed
on, and polynomial at the end. Rows that are done leave the computation. The host looks once per step at what became of
them.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from nodekd.ode.embedded_pair import PAIRS, Step, between, column, error_ratio, rms, take_step
from nodekd.ode.integrator import Integrator

SAFETY = 0.9
"""Part taken of the step length that would just meet the tolerance."""
LARGEST_GROWTH = 10.0
LARGEST_CUT = 0.2
FIRST_EVALUATIONS = 2
"""Evaluations that choose the first step."""

REJECTED, ACCEPTED, FINISHED, DIVERGED = range(4)
"""What becomes of a row in a step; rows of the first two go on."""


@final
@dataclass(frozen=True)
class RowEnds:
    """The end of every row's solve."""

    state: Tensor
    """y(T), (b ...); NaN in every row that failed, and in no other."""
    evaluations: Tensor
    """(b,) int64 on the host: what each row needed; all it was allowed if it failed, 0 if it did not begin finite."""
    capped: bool
    """Whether a row needs more than it was allowed."""
    diverged: bool
    """Whether a row left the finite numbers, or its step length came to nothing."""

    @property
    def largest(self) -> int:
        """Evaluations that the batch waited for; 0 where there is no row."""
        return int(self.evaluations.max()) if len(self.evaluations) else 0

    @property
    def mean(self) -> float:
        """Mean of the rows' evaluations; 0 where there is no row."""
        return float(self.evaluations.double().mean()) if len(self.evaluations) else 0.0


def solve_rows(field: nn.Module, state: Tensor, integrator: Integrator, allowed: Tensor | None = None) -> RowEnds:
    """Integrate dy/dt = f(t, y) over [0, horizon] in every row by itself.

    The gradient flows through the states of all accepted steps. Step lengths are constants to it: torchdiffeq's
    direct gradient differentiates its choice of the first length, but of none after it; both agree as far as the
    solution does not depend on its steps. A rejected step has no gradient, even where it overflowed.

    Args:
        field: Module f(t, y), called with the times (m,) of the rows under way and their states (m ...); no row of
            its value may depend on another.
        state: y(0), (b ...).
        integrator: An adaptive solver with a direct gradient.
        allowed: Evaluations that each row may need, (b,) int64 on the host; default `max_evaluations` for all.

    Returns:
        The end of each row.

    Raises:
        ValueError: If f does not return the shape of y.

    Source:
        [hairer1993solving] Ch. II.4, as in torchdiffeq ([chen2018neural]).
    """
    if allowed is None:
        allowed = torch.full((len(state),), integrator.max_evaluations)
    ends = _Ends(state, allowed)
    solve = _Solve(field, integrator, ends, state.dtype)
    rows = solve.begin(state)
    while len(rows.ids):
        rows = solve.go_on(rows)
    return ends.gathered()


@final
@dataclass(frozen=True)
class _Rows:
    """The rows still under way."""

    ids: Tensor
    """(m,) int64 on the host: which rows of the batch they are."""
    state: Tensor
    """(m ...)."""
    slope: Tensor
    """f at time and state, (m ...)."""
    time: Tensor
    """(m,) float64, as the lengths."""
    length: Tensor
    """Length of the step to come, (m,); 0 where it is not finite."""

    def at(self, places: Tensor) -> "_Rows":
        """Return some of them; places is (r,) int64 on the host."""
        if len(places) == len(self.ids):
            return self
        there = places.to(self.state.device)
        kept = (each.index_select(0, there) for each in (self.state, self.slope, self.time, self.length))
        return _Rows(self.ids[places], *kept)


@final
class _Ends:
    """Collects the ends of rows, in whatever order they come; ids are (r,) int64 on the host."""

    def __init__(self, state: Tensor, allowed: Tensor) -> None:
        self.allowed = allowed
        self._like = state
        self._ids: list[Tensor] = []
        self._states: list[Tensor] = []
        self._evaluations = torch.zeros(len(state), dtype=torch.int64)
        self._capped = self._diverged = False
        self._all_finite = torch.ones((), dtype=torch.bool, device=state.device)

    def finish(self, ids: Tensor, states: Tensor, count: int) -> None:
        """Keep the states (r ...) of rows that reached the horizon; a row that is not finite there has diverged."""
        if len(ids) == 0:
            return
        finite = _finite(states)
        self._all_finite = self._all_finite & finite.all()
        self._keep(ids, torch.where(column(finite, states), states, torch.nan), torch.tensor(count))

    def cap(self, ids: Tensor) -> None:
        """Give up rows that need more than they are allowed."""
        self._capped |= len(ids) > 0
        self._fail(ids, self.allowed[ids])

    def diverge(self, ids: Tensor) -> None:
        """Give up rows that cannot go on."""
        self._diverged |= len(ids) > 0
        self._fail(ids, self.allowed[ids])

    def leave_out(self, ids: Tensor) -> None:
        """Give up rows that do not begin finite, and cost nothing."""
        self._diverged |= len(ids) > 0
        self._fail(ids, torch.tensor(0))

    def _fail(self, ids: Tensor, counts: Tensor) -> None:
        if len(ids):
            self._keep(ids, self._like.new_full((len(ids), *self._like.shape[1:]), torch.nan), counts)

    def _keep(self, ids: Tensor, states: Tensor, counts: Tensor) -> None:
        self._evaluations[ids] = counts
        self._ids.append(ids)
        self._states.append(states)

    def gathered(self) -> RowEnds:
        """Return the ends in the order of the batch."""
        state = self._like
        if self._ids:
            place = torch.argsort(torch.cat(self._ids)).to(state.device)
            state = torch.cat(self._states).index_select(0, place)
        return RowEnds(state, self._evaluations, self._capped, self._diverged or not self._all_finite)


@final
class _Solve:
    """One solve: how rows begin, and how they go on."""

    def __init__(self, field: nn.Module, integrator: Integrator, ends: _Ends, dtype: torch.dtype) -> None:
        assert integrator.rtol is not None, "an adaptive integrator has tolerances"
        assert integrator.atol is not None, "an adaptive integrator has tolerances"
        self._field, self._ends, self._pair = field, ends, PAIRS[integrator.solver]
        self._rtol, self._atol = integrator.rtol, integrator.atol
        self._horizon = float(torch.tensor(integrator.horizon, dtype=dtype))
        self._count = FIRST_EVALUATIONS

    def begin(self, state: Tensor) -> _Rows:
        """Choose the first step of every row that begins finite."""
        finite = _finite(state).cpu()
        affordable = self._ends.allowed >= FIRST_EVALUATIONS
        self._ends.leave_out(_places(~finite))
        self._ends.cap(_places(finite & ~affordable))
        ids = _places(finite & affordable)
        if len(ids) < len(state):
            state = state.index_select(0, ids.to(state.device))
        time = torch.zeros(len(ids), dtype=torch.float64, device=state.device)
        if len(ids) == 0:
            return _Rows(ids, state, state, time, time)
        slope = self._field(time.to(state.dtype), state)
        if slope.shape != state.shape:
            raise ValueError(
                f"f(t, y) must have the shape of y where t is one time per row, but got {list(slope.shape)} for y "
                f"{list(state.shape)} and t {list(time.shape)}; spread t over the other axes, as t.view(-1, 1, 1, 1)."
            )
        length = self._first_length(state, slope)
        fates = torch.where(length > 0, ACCEPTED, DIVERGED).cpu()
        return self._going(_Rows(ids, state, slope, time, length), fates)

    @torch.no_grad()
    def _first_length(self, state: Tensor, slope: Tensor) -> Tensor:
        """Choose the first step (m,) by an Euler step and the change of the slope over it.

        Source:
            [hairer1993solving] Ch. II.4, p. 169, with the root mean square as norm.
        """
        scale = self._atol + state.abs() * self._rtol
        size, speed = rms(state / scale), rms(slope / scale)
        small = (size < 1e-5) | (speed < 1e-5)
        trial = torch.where(small, 1e-6, 0.01 * size / speed)
        later = self._field(trial, state + column(trial, state) * slope)
        change = rms((later - slope) / scale) / trial
        still = (speed <= 1e-15) & (change <= 1e-15)
        largest = torch.where(change > speed, change, speed)
        length = torch.where(still, (trial * 1e-3).clamp_min(1e-6), (0.01 / largest) ** (1 / self._pair.order))
        return _or_zero(torch.minimum(100 * trial, length).double())

    def go_on(self, rows: _Rows) -> _Rows:
        """Try one step in every row; return the rows still under way."""
        state, slope = rows.state.view_as(rows.state), rows.slope.view_as(rows.slope)
        step = take_step(self._field, self._pair, state, slope, rows.time, rows.length)
        self._count += len(self._pair.nodes)
        ratio = error_ratio(step, self._pair, self._rtol, self._atol)
        accepted = ratio <= 1
        time = torch.where(accepted, rows.time + rows.length, rows.time)
        length = _next_length(rows.length, ratio.double(), self._pair.order)
        fates = self._fates(accepted, time, length).cpu()
        self._finish(rows, step, time, _places(fates == FINISHED))
        end, last = step.end, step.slope
        if bool(((fates == REJECTED) | (fates == DIVERGED)).any()):
            _only_through(accepted, state, slope)
            taken = column(accepted, end)
            end, last = torch.where(taken, end, rows.state), torch.where(taken, last, rows.slope)
        return self._going(_Rows(rows.ids, end, last, time, length), fates)

    def _fates(self, accepted: Tensor, time: Tensor, length: Tensor) -> Tensor:
        finished = accepted & (time >= self._horizon)
        stuck = ~(time + length > time)
        fates = torch.where(stuck, DIVERGED, accepted.to(torch.int64))
        return torch.where(finished, FINISHED, fates)

    def _finish(self, rows: _Rows, step: Step, end_time: Tensor, places: Tensor) -> None:
        if len(places) == 0:
            return
        there = places.to(end_time.device)
        begun, ended = rows.time.index_select(0, there), end_time.index_select(0, there)
        states = between(step, self._pair, there, (self._horizon - begun) / (ended - begun))
        self._ends.finish(rows.ids[places], states, self._count)

    def _going(self, rows: _Rows, fates: Tensor) -> _Rows:
        """Give up the rows that cannot go on, or may not, and return the others."""
        going = fates <= ACCEPTED
        affordable = self._ends.allowed[rows.ids] >= self._count + len(self._pair.nodes)
        self._ends.diverge(rows.ids[fates == DIVERGED])
        self._ends.cap(rows.ids[going & ~affordable])
        return rows.at(_places(going & affordable))


def _next_length(length: Tensor, ratio: Tensor, order: int) -> Tensor:
    """Return the step after one with this error ratio: at most 10 times it, not shorter after a good one."""
    least = torch.where(ratio < 1, 1.0, LARGEST_CUT)
    factor = torch.maximum(SAFETY / ratio ** (1 / order), least).clamp_max(LARGEST_GROWTH)
    return _or_zero(length * factor)


def _or_zero(length: Tensor) -> Tensor:
    return torch.where(torch.isfinite(length), length, 0.0)


def _only_through(accepted: Tensor, *starts: Tensor) -> None:
    """Let the gradient of a step back to its start where it was accepted; elsewhere it is 0, or 0 times infinity."""

    def cut(gradient: Tensor) -> Tensor:
        return torch.where(column(accepted, gradient), gradient, 0.0)

    for start in starts:
        if start.requires_grad:
            start.register_hook(cut)


def _finite(state: Tensor) -> Tensor:
    return torch.isfinite(state).flatten(1).all(dim=1)


def _places(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()
