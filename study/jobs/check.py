"""Examine one trained network on the diagnostic subset: every attack alone, and the checks of its gradients (S20)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from nodekd.attacks.threat import Threat
from nodekd.checks.controls import positive_controls
from nodekd.checks.diagnosis import Diagnosed, diagnose
from nodekd.checks.preflight import preflight
from nodekd.checks.protocol import Subject, subject_of
from nodekd.checks.solver_matrix import named_solvers
from nodekd.data.dataset import Dataset
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import Integrator
from nodekd.shapes import Images, Labels
from nodekd.streams import seed_of
from study.jobs.arrays import write_arrays
from study.jobs.integrators import training_integrator
from study.jobs.measured import of_diagnosis, of_gradients, of_network
from study.jobs.networks import attack_source, trained_network
from study.jobs.subset import nested
from study.jobs.work import Result, Work

FILE = "diagnosis.npz"
PREFLIGHT_IMAGES = 64


def run_check(work: Work) -> Result:
    """Write `diagnosis.npz`, who breaks what alone; the metrics hold the checks that do not follow from these bits.

    The payload names the network's job, the split and how many of its images, the norm, the epsilons and the headline
    among them, the seed, the control (null, or which broken twin of the network is examined in its place), and whether
    the long attacks are left out (`brief`).
    """
    payload = work.payload
    dataset = work.dataset("train", payload["split"])
    split = dataset.splits[payload["split"]]
    rows = nested(split, payload["images"], payload["of_images"])
    images, labels, ids = split.images(rows), split.labels[rows], split.ids[rows]
    network, source = _examined(work, dataset)
    threats = tuple(Threat(payload["norm"], epsilon) for epsilon in payload["epsilons"])
    sample = Sample(images, labels, ids)
    seed = seed_of(payload["seed"], "check", payload["split"])
    found = examine(
        work.folder,
        network,
        source,
        sample,
        threats,
        payload["headline"],
        seed,
        _solvers(work, network),
        brief=payload.get("brief", False),
    )
    asked = {name: payload[name] for name in ("split", "norm", "epsilons", "headline", "control")}
    return Result(
        metrics={**payload["identity"], **asked, "classes": dataset.classes, "attack_seed": payload["seed"], **found}
    )


@final
@dataclass(frozen=True)
class Sample:
    """The diagnostic subset."""

    images: Images
    labels: Labels
    ids: Tensor
    """(n,) which images of the split."""


def examine(
    folder: Path,
    network: nn.Module,
    source: nn.Module,
    sample: Sample,
    threats: tuple[Threat, ...],
    epsilon: float,
    seed: int,
    solvers: Mapping[str, Integrator],
    *,
    brief: bool = False,
) -> dict[str, Any]:
    """Write `diagnosis.npz` of one network into a folder, and return the metrics that go with it.

    Args:
        folder: Where the file goes.
        network: As it is scored, in eval mode.
        source: Whose gradients attacks follow; the network itself as a rule.
        sample: Images, n >= 1.
        threats: Balls of one norm.
        epsilon: The headline; the nearest ball gets the long attacks.
        seed: Root seed.
        solvers: See `nodekd.checks.solver_matrix.named_solvers`; empty without an ODE.
        brief: See `nodekd.checks.diagnosis.diagnose`.
    """
    images, labels = sample.images, sample.labels
    headline = min(threats, key=lambda threat: abs(threat.epsilon - epsilon))
    before = preflight(network, images[:PREFLIGHT_IMAGES])
    subject = subject_of(network, source, before)
    found = diagnose(subject, images, labels, threats, headline, seed=seed, solvers=solvers, brief=brief)
    _write(folder / FILE, found, sample)
    right = found.clean_correct.to(images.device)
    gradients = of_gradients(
        subject, (images[right], labels[right]), headline, seed, fine=any(found.solver_converged[:1])
    )
    entries = [*of_network(subject, before, images, found.company), *gradients, *of_diagnosis(found)]
    return _metrics(subject, found) | {"measured": [entry.record() for entry in entries]}


def _examined(work: Work, dataset: Dataset) -> tuple[nn.Module, nn.Module]:
    """Load the network, or make its broken twin, and the network whose gradients attacks follow."""
    key, control = work.payload["network"], work.payload["control"]
    network = trained_network(work, key, dataset)
    if control is None:
        return network, attack_source(work, key, network) or network
    twins = positive_controls(network)
    if control not in twins:
        raise ValueError(f"control must be null or one of {', '.join(twins)} for {key}, but got {control!r}.")
    return twins[control], twins[control]


def _solvers(work: Work, network: nn.Module) -> dict[str, Integrator]:
    if not isinstance(network, OdeStudent):
        return {}
    config = work.ledger.config(work.payload["network"])
    assert config is not None, "a network that is examined was trained"
    return named_solvers(network.integrator, training_integrator(config["settings"]["student"]))


def _write(path: Path, found: Diagnosed, sample: Sample) -> None:
    names = [record["name"] for record in found.attacks]
    arrays: dict[str, Any] = {
        "image_id": sample.ids.cpu().numpy(),
        "label": sample.labels.cpu().numpy(),
        "clean_correct": found.clean_correct.numpy(),
        "attacks": np.array(names),
        "broken": torch.stack([torch.stack([level.broken[name] for name in names]) for level in found.levels]).numpy(),
        "further": torch.stack([level.further for level in found.levels]).numpy(),
    }
    matrices = [level.solvers for level in found.levels if level.solvers is not None]
    if found.solver_correct is not None and matrices:
        arrays |= {
            "solvers": np.array(found.solvers),
            "solver_converged": np.array(found.solver_converged),
            "solver_correct": found.solver_correct.numpy(),
            "solver_broken": torch.stack(matrices).numpy(),
        }
    write_arrays(path, **arrays)


def _metrics(subject: Subject, found: Diagnosed) -> dict[str, Any]:
    return {
        "n": len(found.clean_correct),
        "accuracy": float(found.clean_correct.float().mean()),
        "protocol": subject.protocol,
        "draws": subject.draws,
        "attacks": list(found.attacks),
        "cost": found.effort,
    }
