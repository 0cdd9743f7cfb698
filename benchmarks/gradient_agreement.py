"""How often G2 complains of healthy students, and of coarse adjoints, by how many images it spares.

    .venv/bin/python -m study.launch search_spaces/kd.yaml --output build/kd
    .venv/bin/python benchmarks/gradient_agreement.py build/kd --output benchmarks/gradient_agreement_<yyyymm>.json

All finished students of a study are taken as they are, some of them solved by dopri5 as well, and with a backward pass
of few Euler steps. G2 looks at their images of val_front in groups as large as `robustness.check_images` of kd.yaml.
About 5 minutes on one core.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nodekd.checks.controls import with_coarse_adjoint
from nodekd.checks.gradients import SPARED, differences
from nodekd.data.dataset import DataConfig, Dataset, load
from nodekd.models.student import OdeStudent
from nodekd.ode.solver_text import CAP
from nodekd.scoring import correct
from study.checks.rules import RULES
from study.jobs.networks import trained_network
from study.jobs.work import Work
from study.ledger import Ledger
from study.provenance import provenance

GROUP, GROUPS = 24, 9
"""Images of which G2 makes one number, and numbers per network."""
SOLVED_ANEW = 8
"""Students that are looked at under dopri5 and with coarse adjoints, too."""
RTOLS = (1e-3, 1e-2, 1e-1)
ADJOINT_STEPS = (4, 2, 1)


def students(ledger: Ledger, config: DataConfig, dataset: Dataset) -> Iterator[OdeStudent]:
    """Yield the control that was trained under dopri5, then the finished trials."""
    payload = {"data": vars(config), "split_hash": dataset.split_hash}
    controls = [key for key in ledger.keys("controls") if key.startswith("controls/dopri5")]
    for key in [*controls, *ledger.keys("trials")]:
        if (ledger.outcome(key) or {}).get("state") == "COMPLETE":
            network = trained_network(Work(ledger, "benchmark", payload, "cpu"), key, dataset)
            assert isinstance(network, OdeStudent), f"{key} is no ODE student"
            yield network


def variants(student: OdeStudent) -> Iterator[tuple[str, nn.Module]]:
    """Yield a student as it is, under dopri5, and broken in its backward pass."""
    yield "as trained", student
    for rtol in RTOLS:
        adaptive = replace(
            student.integrator,
            solver="dopri5",
            steps=None,
            rtol=rtol,
            atol=rtol,
            error_control="image",
            max_evaluations=CAP,
        )
        yield f"dopri5 {rtol:g}", student.with_integrator(adaptive).eval()
    for steps in ADJOINT_STEPS:
        yield f"adjoint {steps}", with_coarse_adjoint(student, steps).eval()


def correlations(network: nn.Module, dataset: Dataset, spared: int) -> list[float]:
    """Return G2's number for groups of images that a network gets right."""
    split = dataset.splits["val_front"]
    images, labels = split.images(slice(None)), split.labels
    right = correct(network, images, labels)
    groups = zip(images[right].split(GROUP), labels[right].split(GROUP), strict=True)
    return [differences(network, *group, seed=0, spared=spared).correlation for group in islice(groups, GROUPS)]


def summary(found: list[float]) -> dict[str, Any]:
    """Return how many groups there are, how many raise the check, and the smallest and middle correlation."""
    said = [RULES["G2"].limit(each) for each in found]
    ordered = sorted(found)
    return {
        "groups": len(found),
        "raised": len(said) - said.count("pass"),
        "failed": said.count("fail"),
        "least": round(ordered[0], 4),
        "median": round(ordered[len(ordered) // 2], 4),
    }


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(options.study)
    config = DataConfig(**(ledger.document("study.json") or {})["space"]["data"])
    dataset = load(config, splits=("train", "val_front"))
    found: dict[tuple[str, int], list[float]] = {}
    for place, student in enumerate(students(ledger, config, dataset)):
        for name, network in islice(variants(student), None if place < SOLVED_ANEW else 1):
            for spared in (0, SPARED):
                found.setdefault((name, spared), []).extend(correlations(network, dataset, spared))
    rows = [{"student": name, "spared": spared, **summary(values)} for (name, spared), values in found.items()]
    for row in rows:
        print(row, flush=True)
    document = {
        "schema": 1,
        "measured": datetime.now(UTC).date().isoformat(),
        "provenance": provenance(),
        "images": GROUP,
        "rows": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
