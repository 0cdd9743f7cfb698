"""What early stopping saves: student epochs until a search has 98 % of the hypervolume that it reaches unstopped.

    python -m study.launch search_spaces/kd.yaml --stage search --output results/curves sampler.name=random
        budget.trials=64 early_stopping.name=mo-asha early_stopping.spared=1 early_stopping.rungs=[4,13]
    .venv/bin/python benchmarks/early_stopping.py results/curves [--output benchmarks/early_stopping_<yyyymm>.json]

The first command (one line) records: every condemned trial is spared, so each has its values at all rungs and at its
end. The second replays: a forest of regression trees, fitted to the recorded trials, says for any point what it is
worth at each rung and at the end, and a recorded trial's residuals, drawn by the point, are added to both, so that rung
and end err together. On this made-up but realistic objective every sampler searches with every rule of stopping.
Hypervolume is measured without noise: of the points that ended, by what the forest says of them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from nodekd.streams import seed_of
from study.fronts import hypervolume
from study.ledger import Ledger
from study.points import Parameter, walk
from study.provenance import provenance
from study.rungs import Finished, Rule, RuleName, distrust, is_spared, judge, values_of
from study.samplers import distribution_of
from study.sampling import StudyView
from study.space.reader import read_space
from study.space.settings import Space

KD = Path(__file__).resolve().parents[1] / "search_spaces" / "kd.yaml"
SHARE = 0.98
"""Of the unstopped search's hypervolume."""
GOAL = 2.0
"""Times fewer epochs."""
IMAGES = (270, 64)
"""Behind accuracy and adversarial accuracy at a rung."""


@dataclass(frozen=True)
class World:
    """The recorded trials as a function of the point."""

    parameters: tuple[Parameter, ...]
    forest: RandomForestRegressor
    residuals: NDArray[np.float64]
    """(n, 2r + 2) of the recorded trials."""
    rungs: tuple[int, ...]
    epochs: int

    def worth(self, point: dict[str, Any], *, noise: bool = True) -> NDArray[np.float64]:
        """Return accuracy and adversarial accuracy after each rung and at the end, (r + 1, 2)."""
        found = self.forest.predict([_encoded(self.parameters, point)])[0]
        if noise:
            found = found + self.residuals[seed_of(0, json.dumps(point, sort_keys=True)) % len(self.residuals)]
        return np.clip(found, 0.0, 1.0).reshape(-1, 2)


def read_world(folder: Path, space: Space) -> World:
    """Fit the forest to a recorded search."""
    ledger, rows, targets, rungs = Ledger(folder), [], [], ()
    for key in ledger.keys("trials"):
        config, outcome = ledger.config(key), ledger.outcome(key)
        records = [json.loads(path.read_text()) for path in sorted(ledger.folder(key).glob("rung-*.json"))]
        if config is None or outcome is None or outcome["state"] != "COMPLETE" or not records:
            continue
        rungs = tuple(record["epoch"] for record in records)
        rows.append(_encoded(space.parameters, config["params"]))
        targets.append(
            [*(value for each in records for value in values_of(each["values"])), *values_of(outcome["values"])]
        )
    table, values = np.array(rows), np.array(targets)
    forest = RandomForestRegressor(300, min_samples_leaf=2, oob_score=True, random_state=0, n_jobs=1)
    forest.fit(table, values)
    return World(space.parameters, forest, values - forest.oob_prediction_, rungs, space.train.epochs)


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
    world: World, sampler: tuple[Ask, Tell], rule: Rule | None, trials: int, seed: int
) -> list[tuple[int, float]]:
    """Search one trial after the other; return epochs spent and hypervolume reached after each trial."""
    ask, tell = sampler
    at_rung: dict[int, list[tuple[int, tuple[float, float], bool]]] = {rung: [] for rung in world.rungs}
    ends: dict[int, tuple[float, float]] = {}
    true, course, epochs = list[NDArray[np.float64]](), list[tuple[int, float]](), 0
    for _ in range(trials):
        number, point = ask()
        worth = world.worth(point)
        stopped = _stopped_at(world, worth, number, rule, at_rung, ends, seed)
        epochs += world.epochs if stopped is None else stopped
        if stopped is None:
            ends[number] = (float(worth[-1, 0]), float(worth[-1, 1]))
            true.append(world.worth(point, noise=False)[-1])
            values = dict(zip(("accuracy", "adversarial_accuracy"), ends[number], strict=True))
            tell(number, {"state": "COMPLETE", "values": values})
        else:
            tell(number, {"state": "PRUNED", "values": None})
        course.append((epochs, hypervolume(np.array(true), (0.1, 0.0)) if true else 0.0))
    return course


def _stopped_at(
    world: World,
    worth: NDArray[np.float64],
    number: int,
    rule: Rule | None,
    at_rung: dict[int, list[tuple[int, tuple[float, float], bool]]],
    ends: dict[int, tuple[float, float]],
    seed: int,
) -> int | None:
    for place, rung in enumerate(world.rungs if rule is not None else ()):
        assert rule is not None, "only then there are rungs"
        own = (float(worth[place, 0]), float(worth[place, 1]))
        said = judge(own, [values for _, values, _ in at_rung[rung]], rule, IMAGES)
        finished = [Finished(values, ends[n], condemned) for n, values, condemned in at_rung[rung] if n in ends]
        at_rung[rung].append((number, own, said.condemned))
        spared = is_spared(seed_of(seed, "spared", number) / 2**63)
        if said.condemned and not spared and distrust(finished, rule) is None:
            return rung
    return None


def epochs_to(course: Sequence[tuple[int, float]], target: float) -> int | None:
    """Return the epochs at which a search first has a hypervolume; None if it never does."""
    return next((epochs for epochs, area in course if area >= target), None)


def compare(world: World, space: Space, trials: int, seeds: int) -> list[dict[str, Any]]:
    """Run every arm over the seeds; the target is set by TPE unstopped under the same seed."""
    random_space = replace(space, sampler=space.sampler.model_copy(update={"name": "random"}))
    rules: tuple[RuleName, ...] = ("mo-asha", "asha", "median")
    arms: dict[str, tuple[Callable[[int], tuple[Ask, Tell]], Rule | None]] = {
        "tpe": (lambda seed: ours(space, seed), None),
        **{f"tpe, {name}": (lambda seed: ours(space, seed), Rule(name)) for name in rules},
        "random": (lambda seed: ours(random_space, seed), None),
        "random, mo-asha": (lambda seed: ours(random_space, seed), Rule("mo-asha")),
        "stock Optuna": (lambda seed: stock(space, seed), None),
    }
    targets, rows = dict[int, tuple[float, int]](), list[dict[str, Any]]()
    for name, (make, rule) in arms.items():
        spent: list[int | None] = []
        for seed in range(seeds):
            unstopped = rule is None and name == "tpe"
            course = search(world, make(seed), rule, trials if unstopped else 3 * trials, seed)
            if unstopped:
                targets[seed] = (SHARE * course[-1][1], trials * world.epochs)
            spent.append(epochs_to(course, targets[seed][0]))
        reached = [each for each in spent if each is not None]
        base = rows[0]["epochs"] if rows else spent
        ratios = [b / e for b, e in zip(base, spent, strict=True) if b and e]
        rows.append(
            {"arm": name, "epochs": spent, "reached": len(reached)}
            | {"times_fewer": statistics.median(ratios) if ratios else None}
            | {"median": statistics.median(reached) if reached else None}
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Replay and print; write the file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a recorded search")
    parser.add_argument("--trials", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = read_space(KD)
    world = read_world(options.folder, space)
    explained = float(world.forest.oob_score_)
    print(f"{len(world.residuals)} recorded trials, rungs {world.rungs}, out-of-bag R2 {explained:.2f}")
    rows = compare(world, space, options.trials, options.seeds)
    record = {
        "schema": 1,
        "measured": time.strftime("%Y-%m-%d"),
        "provenance": provenance(),
        "recorded": len(world.residuals),
        "rungs": world.rungs,
        "epochs": world.epochs,
        "trials": options.trials,
        "share": SHARE,
        "goal": GOAL,
        "out_of_bag_r2": explained,
        "rows": rows,
    }
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
