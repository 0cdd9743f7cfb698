"""What early stopping saves: student epochs until a search has 98 % of the hypervolume that it reaches unstopped.

    python -m study.launch search_spaces/kd.yaml --stage search --output results/curves sampler.name=random
        budget.trials=64 early_stopping.name=mo-asha early_stopping.spared=1 early_stopping.rungs=[4,13]
    .venv/bin/python benchmarks/early_stopping.py results/curves ... [--output benchmarks/early_stopping_<yyyymm>.json]

The first command (one line) records: every condemned trial is spared, so each has its values at all rungs and at its
end. The second replays, and takes any number of recordings: a search is one trial after the other, each suggestion is
answered by the recorded trial that is nearest to it and not yet used, until all are used. Nothing is made up, so a rule
that stops a member of the front never reaches the target, which is counted.
"""

import argparse
import json
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from nodekd.streams import seed_of
from study.fronts import hypervolume
from study.ledger import Ledger
from study.points import Parameter, walk
from study.provenance import provenance
from study.rungs import (
    LEAST_TAU,
    OBJECTIVES,
    SPARED,
    Finished,
    Rule,
    Values,
    correlation,
    distrust,
    is_spared,
    judge,
    values_of,
)
from study.samplers import distribution_of
from study.sampling import StudyView
from study.space.reader import read_space
from study.space.settings import Space

SHARE = 0.98
"""Of the unstopped search's hypervolume."""
GOAL = 2.0
"""Times fewer epochs."""


@dataclass(frozen=True)
class World:
    """The recorded trials as a function of the point."""

    space: Space
    """As recorded, overrides of the command line included."""
    points: NDArray[np.float64]
    """(n, p) as numbers, each column scaled to its range."""
    scale: NDArray[np.float64]
    """(p,)"""
    values: NDArray[np.float64]
    """(n, r + 1, 2) accuracy and adversarial accuracy after each rung and at the end."""
    rungs: tuple[int, ...]
    images: tuple[int, int]
    """Behind accuracy and adversarial accuracy at a rung."""
    reference: tuple[float, float]
    """Of the hypervolume."""

    @property
    def last_rung_alone(self) -> "World":
        """The same trials, compared at the last rung only."""
        return replace(self, rungs=self.rungs[-1:], values=self.values[:, -2:])

    def nearest(self, point: dict[str, Any], left: list[int]) -> int:
        """Return which of the trials that are left is nearest to a point."""
        asked = np.array(_encoded(self.space.parameters, point)) / self.scale
        return left[int(np.square(self.points[left] - asked).sum(axis=1).argmin())]

    @property
    def epochs(self) -> int:
        """Of a training that is not stopped."""
        return self.space.train.epochs

    @property
    def area(self) -> float:
        """The hypervolume of all recorded trials."""
        return hypervolume(self.values[:, -1], self.reference)

    def tau(self) -> dict[str, dict[str, float]]:
        """Return by rung and objective how well it orders the trials as the end does."""
        return {
            str(rung): {
                name: round(correlation([Finished(_pair(of[place]), _pair(of[-1])) for of in self.values], name), 3)
                for name in OBJECTIVES
            }
            for place, rung in enumerate(self.rungs)
        }


def read_world(ledger: Ledger, study: dict[str, Any]) -> World:
    """Read a recorded search; trials that failed are left out."""
    words = shlex.split(study["command"])
    space = read_space(ledger.root / "space.yaml", [each for each in words if "=" in each and not each.startswith("-")])
    rows, values, rungs = [], [], ()
    for key in ledger.keys("trials"):
        config, outcome = ledger.config(key), ledger.outcome(key)
        records = [json.loads(path.read_text()) for path in sorted(ledger.folder(key).glob("rung-*.json"))]
        if config is None or outcome is None or outcome["state"] != "COMPLETE" or not records:
            continue
        rungs = tuple(record["epoch"] for record in records)
        rows.append(_encoded(space.parameters, config["params"]))
        values.append([values_of(each) for each in (*(record["values"] for record in records), outcome["values"])])
    table = np.array(rows)
    scale = np.where(np.ptp(table, axis=0) > 0, np.ptp(table, axis=0), 1.0)
    images = (study["split_sizes"]["val_search"], space.early_stopping.images)
    return World(space, table / scale, scale, np.array(values), rungs, images, tuple(study["reference_point"]))


def _encoded(parameters: Sequence[Parameter], point: dict[str, Any]) -> list[float]:
    """Write a point as numbers: choices one-hot, inactive parameters as -1, logarithms where the search takes them."""
    row: list[float] = []
    for parameter in parameters:
        value = point.get(parameter.name)
        if parameter.kind == "choice":
            row += [float(value == choice) for choice in parameter.choices]
        else:
            row.append(-20.0 if value is None else float(np.log(value)) if parameter.log else float(value))
    return row


Ask = Callable[[], tuple[int, dict[str, Any]]]
Tell = Callable[[int, dict[str, Any]], None]


def ours(space: Space, seed: int) -> tuple[Ask, Tell]:
    """Ask and tell as the study does."""
    view = StudyView(replace(space, study=space.study.model_copy(update={"seed": seed}), points=()), 10, None)
    return lambda: _never_none(view.ask()), view.tell


def stock(space: Space, seed: int) -> tuple[Ask, Tell]:
    """Ask and tell as plain Optuna does, with its default sampler for two objectives; stopped trials are failed."""
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=optuna.samplers.TPESampler(seed=seed))

    def ask() -> tuple[int, dict[str, Any]]:
        trial = study.ask()
        return trial.number, walk(space.parameters, lambda each: _suggested(trial, each))

    def tell(number: int, outcome: dict[str, Any]) -> None:
        values = outcome["values"] and list(values_of(outcome["values"]))
        study.tell(number, values, state=None if values else optuna.trial.TrialState.FAIL)

    return ask, tell


def _suggested(trial: optuna.Trial, parameter: Parameter) -> Any:
    return trial._suggest(parameter.name, distribution_of(parameter))


def _never_none(asked: tuple[int, dict[str, Any]] | None) -> tuple[int, dict[str, Any]]:
    assert asked is not None, "only a grid is ever used up"
    return asked


def search(
    world: World, sampler: tuple[Ask, Tell], rule: Rule | None, seed: int, least_tau: float
) -> list[tuple[int, float]]:
    """Search until every recorded trial is used; return epochs spent and hypervolume reached after each."""
    ask, tell = sampler
    at_rung: dict[int, dict[int, Values]] = {rung: {} for rung in world.rungs}
    weights: dict[int, float] = {}
    ends, course, epochs, left = dict[int, Values](), list[tuple[int, float]](), 0, [*range(len(world.values))]
    while left:
        number, point = ask()
        found = world.nearest(point, left)
        left.remove(found)
        worth = [_pair(each) for each in world.values[found]]
        stopped = _stopped_at(world, worth, number, rule, at_rung, weights, ends, seed, least_tau)
        epochs += world.epochs if stopped is None else stopped
        if stopped is None:
            ends[number] = worth[-1]
            tell(number, {"state": "COMPLETE", "values": dict(zip(OBJECTIVES, worth[-1], strict=True))})
        else:
            tell(number, {"state": "PRUNED", "values": None})
        course.append((epochs, hypervolume(np.array([*ends.values()]), world.reference) if ends else 0.0))
    return course


def _pair(values: NDArray[np.float64]) -> Values:
    return float(values[0]), float(values[1])


def _stopped_at(
    world: World,
    worth: Sequence[Values],
    number: int,
    rule: Rule | None,
    at_rung: dict[int, dict[int, Values]],
    weights: dict[int, float],
    ends: dict[int, Values],
    seed: int,
    least_tau: float,
) -> int | None:
    """Return the rung at which a trial is stopped; None for one that goes to its end."""
    for own, rung in zip(worth, world.rungs, strict=False):
        if rule is None:
            return None
        said = judge(own, [*at_rung[rung].values()], rule, world.images)
        finished = [Finished(at, ends[n], weights.get(n, 1.0)) for n, at in at_rung[rung].items() if n in ends]
        at_rung[rung][number] = own
        if said.condemned and distrust(finished, rule, least_tau) is None:
            if not is_spared(seed_of(seed, "spared", number) / 2**63):
                return rung
            weights[number] = 1 / SPARED
    return None


def epochs_to(course: Sequence[tuple[int, float]], target: float) -> int | None:
    """Return the epochs at which a search first has a hypervolume; None if it never does."""
    return next((epochs for epochs, area in course if area >= target), None)


def compare(world: World, seeds: int) -> list[dict[str, Any]]:
    """Run every arm over the seeds; the target is what the unstopped search reaches, all recorded trials."""
    random_space, tpe_space = (
        replace(world.space, sampler=world.space.sampler.model_copy(update={"name": name}))
        for name in ("random", "tpe")
    )
    samplers: dict[str, Callable[[int], tuple[Ask, Tell]]] = {
        "random": lambda seed: ours(random_space, seed),
        "tpe": lambda seed: ours(tpe_space, seed),
        "stock Optuna": lambda seed: stock(world.space, seed),
    }
    rules: dict[str, tuple[World, Rule | None, float]] = {
        "none": (world, None, LEAST_TAU),
        "mo-asha": (world, Rule("mo-asha"), LEAST_TAU),
        "mo-asha, last rung alone": (world.last_rung_alone, Rule("mo-asha"), LEAST_TAU),
        "mo-asha, never switched off": (world, Rule("mo-asha"), -1.0),
        "asha": (world, Rule("asha"), LEAST_TAU),
        "median": (world, Rule("median"), LEAST_TAU),
    }
    target, rows = SHARE * world.area, list[dict[str, Any]]()
    for name, make in samplers.items():
        base: list[int | None] = []
        for stopping, (seen, rule, least_tau) in rules.items():
            if rule is not None and name == "stock Optuna":
                continue
            courses = [search(seen, make(seed), rule, seed, least_tau) for seed in range(seeds)]
            spent = [epochs_to(course, target) for course in courses]
            base = base or spent
            rows.append({"sampler": name, "early_stopping": stopping} | _row(spent, base, courses, world))
            print(rows[-1], flush=True)
    return rows


def _row(
    spent: Sequence[int | None], base: Sequence[int | None], courses: Sequence[list[tuple[int, float]]], world: World
) -> dict[str, Any]:
    reached = [each for each in spent if each is not None]
    ratios = [b / e for b, e in zip(base, spent, strict=True) if b and e]
    return {
        "epochs": [*spent],
        "reached": len(reached),
        "median": statistics.median(reached) if reached else None,
        "times_fewer": round(statistics.median(ratios), 2) if ratios else None,
        "epochs_of_the_whole_search": statistics.median(course[-1][0] for course in courses),
        "share_of_hypervolume_in_the_end": round(
            statistics.median(course[-1][1] for course in courses) / world.area, 3
        ),
    }


def main() -> None:
    """Replay and print; write the file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="recorded searches")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    replays = [replay(folder, options.seeds) for folder in options.folders]
    record = {
        "schema": 1,
        "measured": time.strftime("%Y-%m-%d"),
        "provenance": provenance(),
        "share": SHARE,
        "goal": GOAL,
        "seeds": options.seeds,
        "replays": replays,
    }
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def replay(folder: Path, seeds: int) -> dict[str, Any]:
    """Replay one recording."""
    ledger = Ledger(folder)
    study = ledger.document("study.json") or {}
    world = read_world(ledger, study)
    told = {
        "command": study["command"],
        "schedule": world.space.train.schedule,
        "epochs": world.epochs,
        "images": world.images,
        "recorded": len(world.values),
        "tau": world.tau(),
    }
    print(told, flush=True)
    return told | {"rows": compare(world, seeds)}


if __name__ == "__main__":
    main()
