"""What each tier of attacks costs: forwards and backwards per image, against APGD-CE followed by nine-target APGD-T.

    .venv/bin/python benchmarks/attack_cost.py --tiers screen standard --images 96 [--output ...]
    .venv/bin/python benchmarks/attack_cost.py --tiers full adaptive --images 16 --epsilons 0.0625 [--output ...]

Counts, not times: how many images go forwards and backwards through the network, whatever the machine, and how many
evaluations of the ODE's right-hand side that takes (an attack through a finer solver costs more of them). Small
students and a ResNet are trained on digits first. `full` and `adaptive` take by far the longest (thousands of queries
one after the other, however few the images): the file is written after every row, so that a run may be ended early.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import Survival, worst_case
from nodekd.attacks.spec import APGD_CE, APGD_T_9, Attack
from nodekd.attacks.threat import Threat
from nodekd.attacks.tiers import SETS
from nodekd.data.dataset import DataConfig, Dataset, load
from nodekd.gradient_sources import through
from nodekd.models.resnet import build_teacher
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.train import TrainConfig, train
from study.provenance import provenance

EPSILONS = (1 / 16, 0.1)
BASELINE = (APGD_CE, APGD_T_9)
GOAL = 0.5
"""Forwards of the standard tier over those of the baseline, at equal robust accuracy."""
STUDENTS = {
    "euler-8": Integrator("euler", steps=8),
    "rk4-16": Integrator("rk4", steps=4),
    "dopri5-1e-3": Integrator("dopri5", steps=None, rtol=1e-3, atol=1e-3, error_control="image"),
}


@dataclass
class Count:
    """Images that went through a network."""

    forwards: int = 0
    backwards: int = 0
    evaluations: float = 0.0

    def per_image(self, n: int) -> dict[str, float]:
        """Return the counts divided by the number of clean images."""
        return {name: round(value / n, 1) for name, value in vars(self).items()}


@contextmanager
def counted(network: nn.Module) -> Iterator[Count]:
    """Count what goes through a network and its views under other solvers, which share its hooks."""
    count = Count()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        images = len(inputs[0])
        count.forwards += images
        if isinstance(module, OdeStudent):
            count.evaluations += module.mean_nfe * images
        if output.requires_grad:
            output.register_hook(lambda gradient: _note_backward(count, gradient))

    handle = network.register_forward_hook(note)
    try:
        yield count
    finally:
        handle.remove()


def _note_backward(count: Count, gradient: Tensor) -> None:
    count.backwards += len(gradient)


def networks(digits: Dataset) -> Iterator[tuple[str, nn.Module]]:
    """Train the networks that are attacked."""
    shape = {"shape": digits.shape, "classes": digits.classes, "mean": digits.mean, "std": digits.std, "seed": 0}
    teacher = build_teacher("resnet20", **shape)
    yield "resnet20", _trained(teacher, digits, TrainConfig(epochs=30, batch_size=128, learning_rate=0.02))
    for name, integrator in STUDENTS.items():
        student = build_student(StudentConfig(channels=16), integrator, **shape)
        yield name, _trained(student, digits, TrainConfig(epochs=60, batch_size=128, learning_rate=0.02))


def _trained(network: nn.Module, digits: Dataset, config: TrainConfig) -> nn.Module:
    train(network, digits.splits["train"], config, augmentation=digits.augmentation, seed=0)
    return network.eval()


def measured(
    network: nn.Module, attacks: tuple[Attack, ...], digits: Dataset, n: int, epsilons: Sequence[float]
) -> dict[str, Any]:
    """Attack a network at ascending epsilons, each beginning with what the one before broke; count each."""
    split = digits.splits["val_front"]
    images, labels = split.images(slice(0, n)), split.labels[:n]
    found: dict[str, Any] = {}
    before: Survival | None = None
    for level, epsilon in enumerate(epsilons):
        looked = through(attacks, network, network, images, labels)
        with counted(network) as count:
            before = worst_case(
                network,
                images,
                labels,
                Threat("linf", epsilon),
                looked.attacks,
                sources=looked.sources,
                seed=level,
                carried=None if before is None else before.broken.any(dim=0),
            )
        found[f"{epsilon:g}"] = count.per_image(len(images)) | {
            "robust_accuracy": round(float(before.survivors.float().mean()), 4),
            "accuracy": round(float(before.clean_correct.float().mean()), 4),
            "n": len(images),
        }
    return found


def main() -> None:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", type=int, default=64, help="of val_front; counts are per image")
    parser.add_argument("--epsilons", nargs="+", type=float, default=EPSILONS, help="ascending")
    parser.add_argument("--tiers", nargs="+", default=list(SETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = load(DataConfig())
    trained = dict(networks(digits))
    rows = {
        name: {"apgd-ce + apgd-t-9": measured(network, BASELINE, digits, options.images, options.epsilons)}
        for name, network in trained.items()
    }
    for tier in options.tiers:
        for name, network in trained.items():
            rows[name][tier] = measured(network, SETS[tier], digits, options.images, options.epsilons)
            _print(name, tier, rows[name])
            if options.output is not None:
                _write(options.output, rows)


def _write(path: Path, rows: dict[str, Any]) -> None:
    document = {
        "schema": 1,
        "measured": datetime.now(UTC).date().isoformat(),
        "provenance": provenance(),
        "goal": {"standard forwards / baseline forwards": GOAL},
        "rows": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _print(name: str, tier: str, rows: dict[str, Any]) -> None:
    for epsilon, row in rows[tier].items():
        base = rows["apgd-ce + apgd-t-9"][epsilon]
        print(
            f"{name:12} {tier:9} eps {epsilon:7} forwards {row['forwards']:8} backwards {row['backwards']:7} "
            f"evaluations {row['evaluations']:9}  RA {row['robust_accuracy']:.3f} (base {base['robust_accuracy']:.3f}) "
            f"forwards / baseline {row['forwards'] / base['forwards']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
