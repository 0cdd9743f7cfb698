"""How often the checks complain of healthy students, and from which dose on they notice a broken one (S22).

    .venv/bin/python -m study.launch search_spaces/kd.yaml --output build/kd
    .venv/bin/python benchmarks/false_alarms.py build/kd --output benchmarks/false_alarms_<yyyymm>.json

The healthy students are the finished trials of a study, at least 20, with gradients straight through their solver. They
are examined on val_front; test is not touched. Doses are laid on the first of them with rk4 and with dopri5. What needs
others' images (A11) or an adaptive solver (A15) is read from what the study's own robustness stage has stored of the
networks that it attacked, and of its healthy controls.
About 40 minutes on 2 cores. The rates go into `study/checks/false_alarms.py`, and both tables into docs/warnings.md.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from math import nan
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nodekd.attacks.sources import Rescaled
from nodekd.attacks.threat import Threat
from nodekd.checks.controls import with_coarse_adjoint
from nodekd.checks.solver_matrix import named_solvers
from nodekd.data.dataset import DataConfig, Dataset, load
from nodekd.models.student import OdeStudent
from nodekd.ode.solver_text import CAP
from study.attacked import read_attacked
from study.checks.reading import Checked, read_checked
from study.checks.rules import RULES
from study.checks.verdicts import Measured, judge
from study.controls import read_controls
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
RTOLS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ADJOINT_STEPS = (64, 16, 4, 2, 1)
PROCESSES = 2


@dataclass(frozen=True)
class Case:
    """One network to examine."""

    study: str
    key: str
    images: int
    epsilons: tuple[float, ...]
    dose: str | None = None
    """None leaves the student as it is; otherwise the axis: logits, rtol or adjoint."""
    amount: float = 0.0


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
    return with_coarse_adjoint(student, int(amount)).eval() if dose == "adjoint" else student


def examined(case: Case) -> dict[str, Any]:
    """Examine one network, and return what its checks measured and said, by epsilon."""
    torch.set_num_threads(1)
    config, dataset = _data(case.study)
    ledger = Ledger(Path(case.study))
    payload = {"data": vars(config), "split_hash": dataset.split_hash}
    student = trained_network(Work(ledger, "benchmark", payload, "cpu"), case.key, dataset)
    assert isinstance(student, OdeStudent), f"{case.key} is no ODE student"
    network = dosed(student, case.dose, case.amount)
    split = dataset.splits["val_front"]
    rows = subset(split, case.images)
    sample = Sample(split.images(rows), split.labels[rows], split.ids[rows])
    settings = (ledger.config(case.key) or {})["settings"]
    solvers = (
        named_solvers(network.integrator, training_integrator(settings["student"]))
        if isinstance(network, OdeStudent)
        else {}
    )
    threats = tuple(Threat("linf", epsilon) for epsilon in case.epsilons)
    with tempfile.TemporaryDirectory() as folder:
        metrics = examine(Path(folder), network, network, sample, threats, case.epsilons[0], 0, solvers)
        problems: list[str] = []
        found = read_checked(Path(folder), {**metrics, "epsilons": list(case.epsilons)}, None, problems)
        assert not problems, problems
    solver = next(iter(named_solvers(student.integrator, None)))
    return {
        "student": case.key,
        "solver": solver,
        "dose": case.dose,
        "amount": case.amount,
        "accuracy": metrics["accuracy"],
        "checks": {f"{epsilon:g}": _said(checked) for epsilon, checked in found.items()},
    }


def stored(study: Path) -> list[dict[str, Any]]:
    """Return what the study's own stage measured of healthy networks, for the checks that need it."""
    problems: list[str] = []
    ledger = Ledger(study)
    networks = read_attacked(ledger, problems).checked
    controls = {f"control {each.name}": each for each in read_controls(ledger, problems).found if not each.is_broken}
    assert not problems, problems
    rows = [_row(name, checked, ("A11",)) for name, checked in networks.items()]
    rows += [_row(name, {each.checked.epsilon: each.checked}, ("A15",)) for name, each in controls.items()]
    return [row for row in rows if any(row["checks"].values())]


def _row(name: str, checked: Mapping[float, Checked], kept: tuple[str, ...]) -> dict[str, Any]:
    checks = {f"{epsilon:g}": _said(each) for epsilon, each in checked.items()}
    only = {epsilon: {key: said[key] for key in kept if key in said} for epsilon, said in checks.items()}
    return {"student": name, "solver": None, "dose": None, "amount": 0.0, "accuracy": None, "checks": only}


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


def cases(study: Path, images: int) -> Iterator[Case]:
    """Yield every healthy student at both epsilons, then the doses at the headline."""
    document = read_json(study / "study.json") or {}
    epsilons = (float(document["epsilon"]), 0.1)
    keys = healthy(study)
    yield from (Case(str(study), key, images, epsilons) for key in keys)
    for dose, amounts, solver in (
        ("logits", SCALES, "rk4"),
        ("adjoint", ADJOINT_STEPS, "rk4"),
        ("rtol", RTOLS, "dopri5"),
    ):
        base = _first(Ledger(study), solver, keys)
        yield from (Case(str(study), base, images, epsilons[:1], dose, amount) for amount in amounts)


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
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    asked, rows = list(cases(options.study, options.images)), []
    with get_context("spawn").Pool(PROCESSES) as pool:
        for row in pool.imap(examined, asked):
            rows.append(row)
            print(row["student"], row["solver"], row["dose"], row["amount"], "; ".join(spoken(row)), flush=True)
    document = judged([*rows, *stored(options.study)], options.images)
    if options.output is not None:
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def judged(rows: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """Work out the rates, judge every network under them, and return the whole document."""
    plain = [row for row in rows if row["dose"] is None]
    false_alarms = rates(plain)
    judge_again(rows, false_alarms)
    return {
        "schema": 1,
        "measured": datetime.now(UTC).date().isoformat(),
        "provenance": provenance(),
        "images": images,
        "rates": summary(plain, false_alarms),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
