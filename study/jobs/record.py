"""Records of one attacked network for the explorer: pairs of images, confusions, margins, landscape, norms, costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, sqrt
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import logit_scale, margin
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import Dataset, Split
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import Integrator
from nodekd.probes.landscape import Quartiles, around, quartiles, random_direction
from nodekd.probes.numbers import plain
from nodekd.probes.trajectory import Norms, norms_along
from nodekd.scoring import logits_of
from nodekd.shapes import Images, Labels, Logits
from nodekd.streams import seed_of
from study.jobs.arrays import write_arrays
from study.jobs.attacked_images import Attacked, attacked_images
from study.jobs.networks import attack_source, trained_network
from study.jobs.subset import nested
from study.jobs.work import Result, Work

RECORD = "record.npz"
PAIRS = 16
"""Images shown with their attacked versions, and those behind the plane."""
GRID_IMAGES = 64
"""Images behind lines, trajectories and evaluations, at most."""
DISTANCES = tuple(-0.5 + 0.05 * step for step in range(51))
"""Along a direction; 0 is the clean image, and 1 the attacked one."""
ATTACK_AXIS = tuple(-0.5 + 0.125 * step for step in range(21))
RANDOM_AXIS = tuple(-1.25 + 0.125 * step for step in range(21))
INTERVALS = 16
"""Of each ODE block, at whose ends norms are kept."""
LARGEST_SIDE = 32
"""Of the images that are shown, in pixels; of larger ones every second, third, ... pixel is kept."""
BINS = 40
"""Of the margins' histogram."""

Arrays = dict[str, NDArray[Any]]


def run_record(work: Work) -> Result:
    """Write `record.npz`: what an attacked network looks like at one epsilon.

    The payload names the network's job, the split and how many of its images, the norm, the epsilon, the seed, the
    network's identity, and the jobs of its attack cascade (`shards`), whose stored images are used where they are.
    """
    payload = work.payload
    dataset = work.dataset("train", payload["split"])
    split = dataset.splits[payload["split"]]
    network = trained_network(work, payload["network"], dataset)
    rows = nested(split, payload["images"], payload["of_images"])
    images, labels = split.images(rows), split.labels[rows]
    source = attack_source(work, payload["network"], network)
    attacked = attacked_images(work, network, source, images, labels, split.ids[rows])
    with frozen(network):
        view = View(network, images, attacked.images, labels)
        arrays = _arrays(view, dataset, split, rows, Threat(payload["norm"], payload["epsilon"]), payload["seed"])
    write_arrays(work.folder / RECORD, **arrays)
    return Result(metrics=_metrics(payload, view, attacked, arrays))


@final
@dataclass(frozen=True)
class View:
    """A network with clean and attacked versions (n c h w) of the same images; call it inside `frozen`."""

    network: nn.Module
    clean: Images
    attacked: Images
    labels: Labels

    def some(self, most: int) -> Tensor:
        """Return at most so many positions (m,), evenly spaced; the same ones for every network."""
        count = min(most, len(self.labels))
        return torch.linspace(0, len(self.labels) - 1, count).round().long().to(self.labels.device)

    @cached_property
    def logits(self) -> tuple[Logits, Logits]:
        """Logits (n k), clean and attacked; a row that fails alone is NaN."""
        return logits_of(self.network, self.clean), logits_of(self.network, self.attacked)

    @property
    def predicted(self) -> Tensor:
        """(2 n) classes, clean and attacked; -1 where the solve failed."""
        return torch.stack([torch.where(z.isfinite().all(dim=1), z.argmax(dim=1), -1) for z in self.logits])

    @property
    def margins(self) -> Tensor:
        """(2 n) lead of the true class, in standard deviations of the clean logits; NaN where a solve failed."""
        scale = logit_scale(self.logits[0])
        leads = [-margin(torch.nan_to_num(z), self.labels, scale) for z in self.logits]
        failed = [~z.isfinite().all(dim=1) for z in self.logits]
        return torch.stack([lead.masked_fill(bad, torch.nan) for lead, bad in zip(leads, failed, strict=True)])


def _arrays(view: View, dataset: Dataset, split: Split, rows: Tensor, threat: Threat, seed: int) -> Arrays:
    return {
        "classes": np.array(dataset.class_names),
        **_pairs(view, split, rows),
        **_confusions(view, dataset.classes),
        **_margins(view, dataset.classes),
        **_landscape(view, threat, seed),
        **_trajectories(view),
        **_evaluations(view),
    }


def _pairs(view: View, split: Split, rows: Tensor) -> Arrays:
    chosen = view.some(PAIRS)
    stride = ceil(max(view.clean.shape[-2:]) / LARGEST_SIDE)
    return {
        "image_id": _array(split.ids[rows][chosen], np.int64),
        "label": _array(view.labels[chosen], np.int16),
        "levels": np.array(split.levels, np.int16),
        "clean": _array(split.pixels[rows][chosen][..., ::stride, ::stride], np.uint8),
        "adversarial": _array(view.attacked[chosen][..., ::stride, ::stride], np.float32),
        "predicted": _array(view.predicted[:, chosen], np.int16),
        "pair_margin": _array(view.margins[:, chosen], np.float32),
    }


def _confusions(view: View, classes: int) -> Arrays:
    """Count images by true class (row) and predicted one (column); failed solves have a column of their own."""
    cells = view.labels * (classes + 1) + torch.where(view.predicted < 0, classes, view.predicted)
    counts = torch.stack([torch.bincount(each, minlength=classes * (classes + 1)) for each in cells])
    table = _array(counts, np.int32).reshape(2, classes, classes + 1)
    return {"confusion": table[..., :classes], "failed": table[..., classes]}


def _margins(view: View, classes: int) -> Arrays:
    """Count margins in bins of equal width; the first and the last hold what lies beyond, too.

    A network that is certain, with logits 1 and otherwise 0, has margin k / sqrt(k - 1); the edges lie at 1.5 times
    that, whatever the network.
    """
    edge = ceil(1.5 * classes / sqrt(classes - 1))
    edges = np.linspace(-edge, edge, BINS + 1)
    finite = [row[np.isfinite(row)].clip(-edge, edge) for row in _array(view.margins, np.float64)]
    counts = [np.histogram(row, edges)[0] for row in finite]
    return {"margin_edge": edges.astype(np.float32), "margin_count": np.array(counts, np.int32)}


def _landscape(view: View, threat: Threat, seed: int) -> Arrays:
    """Look along the change that the attack made, and along random signs of length epsilon."""
    aside = threat.epsilon * random_direction(view.clean, threat, seed_of(seed, "record"))
    change = view.attacked - view.clean
    lines, few = view.some(GRID_IMAGES), view.some(PAIRS)
    walked = [
        around(view.network, view.clean[lines], view.labels[lines], (a * way[lines] for a in DISTANCES))
        for way in (change, aside)
    ]
    plane = around(view.network, view.clean[few], view.labels[few], _plane(change[few], aside[few]))
    size = (len(ATTACK_AXIS), len(RANDOM_AXIS))
    return {
        "distance": np.array(DISTANCES, np.float32),
        "loss": np.stack([_three(quartiles(each.loss)) for each in walked]),
        "margin": np.stack([_three(quartiles(each.margin)) for each in walked]),
        "attack_axis": np.array(ATTACK_AXIS, np.float32),
        "random_axis": np.array(RANDOM_AXIS, np.float32),
        "plane_loss": np.array(quartiles(plane.loss).median, np.float32).reshape(size),
        "plane_margin": np.array(quartiles(plane.margin).median, np.float32).reshape(size),
    }


def _plane(change: Images, aside: Images) -> Iterator[Images]:
    return (a * change + b * aside for a in ATTACK_AXIS for b in RANDOM_AXIS)


def _trajectories(view: View) -> Arrays:
    """Follow states through an ODE: norms relative to that of the first state; nothing where there is no ODE."""
    if not isinstance(view.network, OdeStudent):
        return {}
    rows = view.some(GRID_IMAGES)
    both = [norms_along(view.network, images[rows], INTERVALS) for images in (view.clean, view.attacked)]
    return {
        "time": np.array(both[0].times, np.float32),
        "state_norm": np.stack([_relative(each, each.state) for each in both]),
        "speed": np.stack([_relative(each, each.speed) for each in both]),
        "start_norm": np.stack([_three(quartiles(each.state[:, :1].T))[:, 0] for each in both]),
    }


def _relative(norms: Norms, values: Tensor) -> NDArray[Any]:
    return _three(quartiles((values / norms.state[:, :1]).T))


def _evaluations(view: View) -> Arrays:
    """Count the evaluations of f for each image; an adaptive solver is given one image at a time."""
    network = view.network
    if not isinstance(network, OdeStudent):
        return {}
    rows = view.some(GRID_IMAGES)
    found: Arrays = {"nfe": np.array([_evaluated(network, x[rows]) for x in (view.clean, view.attacked)], np.float32)}
    if network.integrator.steps is not None:
        taken = network.integrator.steps * len(network.blocks)
        found["accepted_steps"] = np.full((2, len(rows)), taken, np.float32)
    return found


@torch.no_grad()
def _evaluated(student: OdeStudent, images: Images) -> list[float]:
    counts: list[float] = []
    for image in images.split(1)[: 1 if student.integrator.fixed else None]:
        student(image)
        counts.append(float(student.nfe))
    return counts * (len(images) // len(counts))


def _metrics(payload: dict[str, Any], view: View, attacked: Attacked, arrays: Arrays) -> dict[str, Any]:
    right = (view.predicted == view.labels).double().mean(dim=1)
    nfe = arrays["nfe"].mean(axis=1) if "nfe" in arrays else (None, None)
    failed = arrays["failed"].sum(axis=1)
    return {
        **payload["identity"],
        **{name: payload[name] for name in ("split", "norm", "epsilon")},
        "n": len(view.labels),
        "grid_images": len(view.some(GRID_IMAGES)),
        "accuracy": float(right[0]),
        "accuracy_attacked": float(right[1]),
        "failed_clean": int(failed[0]),
        "failed_attacked": int(failed[1]),
        "nfe_clean": None if nfe[0] is None else plain(nfe[0]),
        "nfe_attacked": None if nfe[1] is None else plain(nfe[1]),
        "sources": attacked.sources(),
        "solver": _solver(view.network.integrator) if isinstance(view.network, OdeStudent) else None,
    }


def _solver(integrator: Integrator) -> dict[str, Any]:
    return {name: getattr(integrator, name) for name in ("solver", "horizon", "steps", "rtol", "atol")}


def _three(found: Quartiles) -> NDArray[Any]:
    """Return the lower quartile, the median and the upper one (3 m)."""
    return np.array([found.q25, found.median, found.q75], np.float32)


def _array(values: Tensor | Sequence[float], kind: type[np.generic]) -> NDArray[Any]:
    return torch.as_tensor(values).cpu().numpy().astype(kind)
