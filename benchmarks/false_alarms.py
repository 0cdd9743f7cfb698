"""How often the checks complain of healthy students, and from which dose on they notice a broken one (S22).

    .venv/bin/python -m study.launch search_spaces/kd.yaml --output build/kd
    .venv/bin/python benchmarks/false_alarms.py build/kd --output benchmarks/false_alarms_<yyyymm>.json

The healthy students are the finished trials of a study, at least 20, with gradients straight through their solver. They
are examined on val_front; test is not touched. For A11 all are shown each other's images and the teacher's, and what is
left is attacked through its features for A14; for A15 they are solved by dopri5 at rtol 1e-3. Doses are laid on the
first student with rk4 and on the first with dopri5.
About an hour on 2 cores; `--only PART ...` measures some parts and keeps what the file says of the others.
The rates go into `study/checks/false_alarms.py`, and both tables into docs/warnings.md.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from math import nan
from multiprocessing import get_context
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from attacked_students import as_row, handed, of_others, of_solver
from numpy.typing import NDArray
from torch import Tensor, nn

from nodekd.attacks.sources import Rescaled
from nodekd.attacks.threat import Threat
from nodekd.checks.controls import BatchStatistics, InputNoise, Quantised, with_coarse_adjoint
from nodekd.checks.solver_matrix import named_solvers
from nodekd.data.dataset import DataConfig, Dataset, load
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import Integrator, per_image
from nodekd.ode.solver_text import CAP, solver_text
from study.checks.reading import Checked, read_checked
from study.checks.rules import RULES
from study.checks.verdicts import Measured, judge
from study.durable import read_json
from study.jobs.check import Sample, examine
from study.jobs.integrators import training_integrator
from study.jobs.networks import trained_network
from study.jobs.subset import subset
from study.jobs.work import Work
from study.ledger import Ledger
from study.provenance import provenance

FEWEST = 20
SCALES = (1.0, 10.0, 100.0, 1000.0)
RTOL = 1e-3
RTOLS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ADJOINT_STEPS = (64, 16, 4, 2, 1)
LEVELS = (256, 64, 16, 4)
DEVIATIONS = (1e-4, 1e-3, 1e-2, 5e-2)
SHARES = (0.01, 0.05, 0.1, 0.5)
OFFSETS = (1e2, 1e4, 1e6, 1e8)
DOSES = (
    ("logits", SCALES, "rk4"),
    ("adjoint", ADJOINT_STEPS, "rk4"),
    ("rtol", RTOLS, "dopri5"),
    ("levels", LEVELS, "rk4"),
    ("noise", DEVIATIONS, "rk4"),
    ("company", SHARES, "rk4"),
    ("offset", OFFSETS, "rk4"),
)
BRIEF = ("noise", "company", "offset")
"""Doses that concern no long attack."""
PARTS = ("healthy", "attacked", "adaptive", *(dose for dose, _, _ in DOSES))
PROCESSES = 2


@dataclass(frozen=True)
class Case:
    """One network to examine."""

    study: str
    key: str
    images: int
    epsilons: tuple[float, ...]
    dose: str | None = None
    """None leaves the student as it is; otherwise the axis, see `DOSES`."""
    amount: float = 0.0


@final
class Offset(nn.Module):
    """Adds a constant to all logits, which leaves probabilities alone and takes digits away."""

    def __init__(self, network: nn.Module, amount: float) -> None:
        super().__init__()
        self.network, self.amount = network, amount

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (b k), all larger by the amount."""
        return self.network(images) + self.amount


@cache
def _data(study: str) -> tuple[DataConfig, Dataset]:
    stored = (read_json(Path(study) / "study.json") or {})["space"]["data"]
    config = DataConfig(**stored)
    return config, load(config, splits=("train", "val_front"))


def healthy(study: Path) -> list[str]:
    """Return the finished trials whose gradients go straight through their solver, none of them infeasible."""
    ledger = Ledger(study)
    found = []
    for key in ledger.keys("trials"):
        outcome, config = ledger.outcome(key) or {}, ledger.config(key) or {}
        student = config.get("settings", {}).get("student", {})
        if outcome.get("state") == "COMPLETE" and student.get("gradient", "direct") == "direct":
            found.append(key)
    if len(found) < FEWEST:
        raise SystemExit(
            f"A rate needs at least {FEWEST} healthy students, but {study} has {len(found)}; run more trials."
        )
    return found


def dosed(student: OdeStudent, dose: str | None, amount: float) -> nn.Module:
    """Return the student, or what a dose makes of it."""
    if dose == "logits":
        return Rescaled(student, amount).eval()
    if dose == "rtol":
        coarse = replace(student.integrator, rtol=amount, atol=amount, max_evaluations=CAP)
        return student.with_integrator(coarse).eval()
    if dose == "adjoint":
        return with_coarse_adjoint(student, int(amount)).eval()
    broken = {
        "levels": lambda: Quantised(student, int(amount)),
        "noise": lambda: InputNoise(student, amount),
        "company": lambda: BatchStatistics(student, amount),
        "offset": lambda: Offset(student, amount),
    }
    return student if dose is None else broken[dose]().eval()


def loaded(study: str, key: str, images: int) -> tuple[nn.Module, Sample]:
    """Return one trained network of a study, and images of val_front."""
    torch.set_num_threads(1)
    config, dataset = _data(study)
    payload = {"data": vars(config), "split_hash": dataset.split_hash}
    network = trained_network(Work(Ledger(Path(study)), "benchmark", payload, "cpu"), key, dataset)
    split = dataset.splits["val_front"]
    rows = subset(split, images)
    return network, Sample(split.images(rows), split.labels[rows], split.ids[rows])


def examined(case: Case) -> dict[str, Any]:
    """Examine one network, and return what its checks measured and said, by epsilon."""
    student, sample = loaded(case.study, case.key, case.images)
    assert isinstance(student, OdeStudent), f"{case.key} is no ODE student"
    network = dosed(student, case.dose, case.amount)
    settings = (Ledger(Path(case.study)).config(case.key) or {})["settings"]
    solvers = (
        named_solvers(network.integrator, training_integrator(settings["student"]))
        if isinstance(network, OdeStudent)
        else {}
    )
    threats = tuple(Threat("linf", epsilon) for epsilon in case.epsilons)
    with tempfile.TemporaryDirectory() as folder:
        brief = case.dose in BRIEF
        metrics = examine(Path(folder), network, network, sample, threats, case.epsilons[0], 0, solvers, brief=brief)
        problems: list[str] = []
        found = read_checked(Path(folder), {**metrics, "epsilons": list(case.epsilons)}, None, problems)
        assert not problems, problems
    return {
        "part": case.dose or "healthy",
        "student": case.key,
        "solver": solver_text(student.integrator),
        "dose": case.dose,
        "amount": case.amount,
        "accuracy": metrics["accuracy"],
        "checks": {f"{epsilon:g}": _said(checked) for epsilon, checked in found.items()},
    }


def handed_on(case: Case) -> list[NDArray[np.float32]]:
    """Return what a network hands on, by epsilon."""
    network, sample = loaded(case.study, case.key, case.images)
    return handed(network, sample, _threats(case))


def attacked(given: tuple[Case, Mapping[str, list[NDArray[np.float32]]]]) -> dict[str, Any]:
    """Show a student all others' images, then attack its features."""
    case, shown = given
    student, sample = loaded(case.study, case.key, case.images)
    assert isinstance(student, OdeStudent), f"{case.key} is no ODE student"
    found = {}
    for level, threat in enumerate(_threats(case)):
        others = {f"transfer-{key}": made[level] for key, made in shown.items() if key != case.key}
        found[f"{threat.epsilon:g}"] = of_others(student, sample, threat, others)
    return as_row(case.key, solver_text(student.integrator), "attacked", found)


def solved(case: Case) -> dict[str, Any]:
    """Measure how much longer an adaptive solver works on attacked images, with a student's weights."""
    student, sample = loaded(case.study, case.key, case.images)
    assert isinstance(student, OdeStudent), f"{case.key} is no ODE student"
    integrator = per_image(Integrator("dopri5", horizon=student.integrator.horizon, steps=None, rtol=RTOL, atol=RTOL))
    adaptive = student.with_integrator(integrator).eval()
    found = {f"{threat.epsilon:g}": of_solver(adaptive, sample, threat) for threat in _threats(case)}
    return as_row(case.key, solver_text(integrator), "adaptive", found)


def _threats(case: Case) -> tuple[Threat, ...]:
    return tuple(Threat("linf", epsilon) for epsilon in case.epsilons)


def _said(checked: Checked) -> dict[str, Any]:
    return {
        each.measured.id: {
            "value": each.measured.value if each.measured.value == each.measured.value else None,
            "count": each.measured.count,
            "n": each.measured.n,
            "verdict": each.verdict,
        }
        for each in checked.judged
    }


def plain(study: Path, images: int) -> list[Case]:
    """Return every healthy student of a study, at both epsilons."""
    epsilons = (float((read_json(study / "study.json") or {})["epsilon"]), 0.1)
    return [Case(str(study), key, images, epsilons) for key in healthy(study)]


def doses(parts: Sequence[str], study: Path, images: int) -> list[Case]:
    """Return the doses along the axes that are asked for, at the headline."""
    healthy_ones = plain(study, images)
    keys = [case.key for case in healthy_ones]
    first = {solver: _first(Ledger(study), solver, keys) for solver in ("rk4", "dopri5")}
    epsilons = healthy_ones[0].epsilons[:1]
    return [
        Case(str(study), first[solver], images, epsilons, dose, amount)
        for dose, amounts, solver in DOSES
        if dose in parts
        for amount in amounts
    ]


def measurements(parts: Sequence[str], study: Path, images: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of some parts, as they are measured."""
    with get_context("spawn").Pool(PROCESSES) as pool:
        if "healthy" in parts:
            yield from pool.imap(examined, plain(study, images))
        yield from pool.imap(examined, doses(parts, study, images))
        if "attacked" in parts:
            teacher = next(key for key in Ledger(study).keys("teachers"))
            cases = plain(study, images)
            givers = [*cases, replace(cases[0], key=teacher)]
            shown = dict(zip((case.key for case in givers), pool.imap(handed_on, givers), strict=True))
            yield from pool.imap(attacked, [(case, shown) for case in cases])
        if "adaptive" in parts:
            yield from pool.imap(solved, plain(study, images))


def _first(ledger: Ledger, solver: str, keys: list[str]) -> str:
    """Return the first healthy student with a solver; where the search chose none, the control is one."""
    controls = [key for key in ledger.keys("controls") if key.startswith(f"controls/{solver}")]
    for key in [*keys, *controls]:
        if (ledger.config(key) or {})["settings"]["student"]["solver"] == solver:
            return key
    raise SystemExit(f"Doses are laid on a student with {solver}, but {ledger.root} has none; run more trials.")


def rates(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Pool healthy students: the share of images of which each counted check complains, where any does."""
    counts, asked = Counter[str](), Counter[str]()
    for row in rows:
        for checks in row["checks"].values():
            for name, each in checks.items():
                if RULES[name].counted and each["n"]:
                    counts[name] += each["count"]
                    asked[name] += each["n"]
    return {name: round(counts[name] / asked[name], 5) for name in asked if counts[name]}


def judge_again(rows: list[dict[str, Any]], false_alarms: dict[str, float]) -> None:
    """Put the verdicts under these rates into the rows."""
    for row in rows:
        for checks in row["checks"].values():
            measured = [
                Measured(name, nan if each["value"] is None else each["value"], each["count"], each["n"])
                for name, each in checks.items()
            ]
            for each in judge(measured, false_alarms):
                checks[each.measured.id]["verdict"] = each.verdict


def summary(rows: list[dict[str, Any]], false_alarms: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Per check: images that complain, and (student, epsilon) pairs of which it speaks."""
    found: dict[str, dict[str, Any]] = {}
    for name in RULES:
        of = [checks[name] for row in rows for checks in row["checks"].values() if name in checks]
        heard = [each for each in of if each["verdict"] != "absent"]
        spoke = [each["verdict"] for each in heard if each["verdict"] in ("warn", "fail")]
        if heard:
            found[name] = {
                "count": sum(each["count"] or 0 for each in heard),
                "n": sum(each["n"] or 0 for each in heard),
                "rate": false_alarms.get(name, 0.0),
                "asked": len(heard),
                "spoke": len(spoke),
                "failed": spoke.count("fail"),
            }
    return found


def spoken(row: dict[str, Any]) -> list[str]:
    """Name the checks that speak of a network, with their verdicts."""
    return [
        f"{name} {each['verdict']}"
        for checks in row["checks"].values()
        for name, each in checks.items()
        if each["verdict"] in ("warn", "fail")
    ]


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    earlier = (read_json(options.output) or {"rows": []})["rows"] if options.output is not None else []
    rows = [row for row in earlier if row["part"] not in options.only]
    for row in measurements(options.only, options.study, options.images):
        rows.append(row)
        print(*(row[key] for key in ("part", "student", "solver", "dose", "amount")), flush=True)
    rows.sort(key=lambda row: PARTS.index(row["part"]))
    document = judged(rows, options.images)
    for row in document["rows"]:
        print(row["student"], row["solver"], row["dose"], row["amount"], "; ".join(spoken(row)), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def judged(rows: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """Work out the rates, judge every network under them, and return the whole document."""
    undosed = [row for row in rows if row["dose"] is None]
    false_alarms = rates(undosed)
    judge_again(rows, false_alarms)
    return {
        "schema": 1,
        "measured": datetime.now(UTC).date().isoformat(),
        "provenance": provenance(),
        "images": images,
        "rates": summary(undosed, false_alarms),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
