"""Records of an attacked network, against closed forms and counts made anew."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nodekd.attacks.threat import Threat
from nodekd.data.dataset import DataConfig, load
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from study.jobs import record
from study.jobs.attacked_images import attacked_images
from study.jobs.record import GRID_IMAGES, PAIRS, RECORD, run_record
from study.jobs.subset import subset
from study.jobs.work import Result, Work
from study.ledger import Ledger

DATA = {"name": "digits", "root": "data", "image_size": None, "shuffle": False}
EPSILON = 1 / 16
DIGITS = load(DataConfig())
IDENTITY = {"model": "student-000003", "kind": "student", "trial": 3, "specification": "abc"}
ROWS = subset(DIGITS.splits["test"], 100)
IMAGES, LABELS = DIGITS.splits["test"].images(ROWS), DIGITS.splits["test"].labels[ROWS]
IDS = DIGITS.splits["test"].ids[ROWS]


class Linear(nn.Module):
    """Ten classes, far enough from chance that some images are right: nearest class means of the images."""

    def __init__(self) -> None:
        super().__init__()
        train = DIGITS.splits["train"]
        x, y = train.images().flatten(1), train.labels
        means = torch.stack([x[y == k].mean(dim=0) for k in range(10)])
        self.weight, self.bias = nn.Parameter(means), nn.Parameter(-(means**2).sum(dim=1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def ode(solver: str = "rk4") -> OdeStudent:
    integrator = Integrator(solver, 1.0, 2) if solver == "rk4" else Integrator(solver, 1.0, None, 0.1, 0.1)
    made = build_student(
        StudentConfig(channels=4), integrator, shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4], seed=0
    )
    assert isinstance(made, OdeStudent)
    return made.eval()


def work(folder: Path, **changes: Any) -> Work:
    payload = {
        "data": DATA,
        "split_hash": DIGITS.split_hash,
        "network": "trials/000003",
        "split": "test",
        "images": 100,
        "of_images": "all",
        "norm": "linf",
        "epsilon": EPSILON,
        "seed": 5,
        "identity": IDENTITY,
        "shards": [],
    }
    return Work(Ledger(folder), "robustness/student-000003/abc-record", payload | changes, "cpu")


def recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, network: nn.Module, **changes: Any
) -> tuple[dict[str, np.ndarray], Result]:
    monkeypatch.setattr(record, "trained_network", lambda *_: network)
    monkeypatch.setattr(record, "attack_source", lambda *_: None)
    job = work(folder, **changes)
    result = run_record(job)
    with np.load(job.folder / RECORD, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}, result


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few points, where a test is about other things and each costs a solve."""
    monkeypatch.setattr(record, "DISTANCES", (0.0, 1.0))
    monkeypatch.setattr(record, "ATTACK_AXIS", (0.0, 1.0))
    monkeypatch.setattr(record, "RANDOM_AXIS", (-1.0, 0.0))


def store(folder: Path, images: Tensor, ids: Tensor = IDS, norm: str = "linf", epsilons: tuple[float, ...] = ()) -> str:
    """Write a shard of a cascade; its second epsilon is the record's."""
    key = "robustness/student-000003/abc-000"
    grid = epsilons or (EPSILON / 2, EPSILON)
    ledger = Ledger(folder)
    ledger.commit(key, {"state": "COMPLETE", "metrics": {"epsilons": grid, "norm": norm}})
    np.savez(ledger.folder(key) / "adversarial.npz", image_id=ids.numpy(), images=torch.stack([images * 0, images]))
    return key


def moved(some: slice = slice(0, 40)) -> Tensor:
    """Images in the corner of the ball that is away from each image's class; those not in `some` are left clean."""
    network = Linear()
    x = IMAGES.clone().requires_grad_(True)
    F.cross_entropy(network(x), LABELS, reduction="sum").backward()
    assert x.grad is not None
    found = IMAGES.clone()
    found[some] = Threat("linf", EPSILON).project(IMAGES + EPSILON * x.grad.sign(), IMAGES)[some]
    return found


def lead(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    others = logits.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return logits[np.arange(len(labels)), labels] - others.max(axis=1)


def test_stored_images_are_used_where_they_attack_and_others_are_crafted(tmp_path: Path) -> None:
    network = Linear()
    job = work(tmp_path, shards=[store(tmp_path, moved())])
    found = attacked_images(job, network, None, IMAGES, LABELS, IDS)
    assert found.stored.tolist() == [True] * 40 + [False] * 60
    assert torch.equal(found.images[:40], moved()[:40])
    assert found.sources() == {"stored": 40, "pgd-20-margin": 60}
    threat = Threat("linf", EPSILON)
    assert threat.contains(found.images, IMAGES).all()
    assert (threat.distance(found.images, IMAGES) > 0).all()
    alone = attacked_images(work(tmp_path), network, None, IMAGES[40:], LABELS[40:], IDS[40:])
    assert torch.equal(alone.images, found.images[40:])


def test_crafted_images_leave_the_margin_smaller(tmp_path: Path) -> None:
    network = Linear()
    found = attacked_images(work(tmp_path), network, None, IMAGES, LABELS, IDS)
    before, after = (lead(network(x).detach().numpy(), LABELS.numpy()) for x in (IMAGES, found.images))
    assert (after < before).all()
    again = attacked_images(work(tmp_path), network, None, IMAGES, LABELS, IDS)
    assert torch.equal(again.images, found.images)
    other = attacked_images(work(tmp_path, seed=6), network, None, IMAGES, LABELS, IDS)
    assert not torch.equal(other.images, found.images)


@pytest.mark.parametrize("fault", ["other epsilon", "other norm", "outside the ball", "damaged", "missing", "size"])
def test_what_does_not_fit_is_not_used(tmp_path: Path, fault: str) -> None:
    images = moved()
    if fault == "outside the ball":
        images = (images + 0.2).clamp(0, 1)
    if fault == "size":
        images = images[:, :, :4]
    epsilons = (0.1, 0.2) if fault == "other epsilon" else ()
    key = store(tmp_path, images, norm="l2" if fault == "other norm" else "linf", epsilons=epsilons)
    path = tmp_path / key / "adversarial.npz"
    if fault == "damaged":
        path.write_bytes(path.read_bytes()[:200])
    if fault == "missing":
        path.unlink()
    found = attacked_images(work(tmp_path, shards=[key]), Linear(), None, IMAGES, LABELS, IDS)
    assert not found.stored.any()
    assert Threat("linf", EPSILON).contains(found.images, IMAGES).all()


def test_another_source_is_followed_and_the_network_decides(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10] * 0

    starts = attacked_images(work(tmp_path), Flat(), None, IMAGES, LABELS, IDS).images
    assert torch.equal(attacked_images(work(tmp_path), Linear(), Flat(), IMAGES, LABELS, IDS).images, starts)


@pytest.mark.usefixtures("coarse")
def test_pairs_are_evenly_spaced_and_the_same_for_every_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = recorded(tmp_path / "a", monkeypatch, Linear())
    second, _ = recorded(tmp_path / "b", monkeypatch, ode(), shards=[store(tmp_path / "b", moved())])
    assert len(first["image_id"]) == PAIRS
    assert first["image_id"].tolist() == second["image_id"].tolist()
    steps = np.diff([IDS.tolist().index(i) for i in first["image_id"]])
    assert set(steps) <= {6, 7}
    places = [IDS.tolist().index(i) for i in first["image_id"]]
    assert np.array_equal(first["clean"] / first["levels"], IMAGES[places].numpy())
    assert np.array_equal(first["label"], LABELS[places].numpy())
    assert np.array_equal(second["adversarial"][:6], moved()[places][:6].numpy())
    assert first["classes"].tolist() == [str(k) for k in range(10)]
    assert all(array.dtype.kind in "ifuU" and array.itemsize <= 8 for name, array in first.items() if name != "classes")


def test_confusions_and_margins_are_counted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Linear()
    found, result = recorded(tmp_path, monkeypatch, network)
    attacked = attacked_images(work(tmp_path), network, None, IMAGES, LABELS, IDS).images
    labels = LABELS.numpy()
    clean = network(IMAGES).detach().double().numpy()
    for place, x in enumerate((IMAGES, attacked)):
        logits = network(x).detach().double().numpy()
        table = np.zeros((10, 10), int)
        for true, predicted in zip(labels, logits.argmax(axis=1), strict=True):
            table[true, predicted] += 1
        assert np.array_equal(found["confusion"][place], table)
        assert found["failed"][place].sum() == 0
        margins = lead(logits, labels) / clean.std(axis=1)
        edges = found["margin_edge"]
        inside = np.clip(margins, edges[0], edges[-1])
        counts = [
            int(((inside >= low) & ((inside < high) | (high == edges[-1]))).sum()) for low, high in pairwise(edges)
        ]
        assert found["margin_count"][place].tolist() == counts
        shown = [IDS.tolist().index(i) for i in found["image_id"]]
        assert found["pair_margin"][place] == pytest.approx(margins[shown], rel=1e-4)
        assert found["predicted"][place].tolist() == logits.argmax(axis=1)[shown].tolist()
        share = (logits.argmax(axis=1) == labels).mean()
        assert result.metrics["accuracy_attacked" if place else "accuracy"] == pytest.approx(share)
    assert result.metrics["accuracy_attacked"] < result.metrics["accuracy"]
    assert found["margin_edge"][[0, -1]].tolist() == [-5, 5]


def test_lines_and_plane_pass_through_the_clean_and_the_attacked_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Linear()
    found, result = recorded(tmp_path, monkeypatch, network)
    attacked = attacked_images(work(tmp_path), network, None, IMAGES, LABELS, IDS).images
    rows = np.linspace(0, 99, GRID_IMAGES).round().astype(int)
    scale = network(IMAGES[rows]).detach().double().numpy().std(axis=1)
    zero, one = (int(np.argmin(np.abs(found["distance"] - d))) for d in (0.0, 1.0))
    assert found["distance"][[0, zero, one, -1]] == pytest.approx([-0.5, 0, 1, 2], abs=1e-6)
    for at, x in ((zero, IMAGES), (one, attacked)):
        logits = network(x[rows]).detach()
        loss = F.cross_entropy(logits, LABELS[rows], reduction="none").double().numpy()
        assert found["loss"][0][:, at] == pytest.approx(np.quantile(loss, [0.25, 0.5, 0.75]), rel=1e-4)
        margins = lead(logits.double().numpy(), LABELS[rows].numpy()) / scale
        assert found["margin"][0][:, at] == pytest.approx(np.quantile(margins, [0.25, 0.5, 0.75]), rel=1e-4)
    assert found["loss"][1][:, zero] == pytest.approx(found["loss"][0][:, zero], rel=1e-5)
    assert found["loss"][0][1, -1] > found["loss"][1][1, -1]
    few = [IDS.tolist().index(i) for i in found["image_id"]]
    zero, one = (int(np.argmin(np.abs(found["attack_axis"] - d))) for d in (0, 1))
    middle = int(np.argmin(np.abs(found["random_axis"])))
    for at, x in ((zero, IMAGES), (one, attacked)):
        loss = F.cross_entropy(network(x[few]).detach(), LABELS[few], reduction="none").numpy()
        assert found["plane_loss"][at, middle] == pytest.approx(np.median(loss), rel=1e-4)
    assert found["plane_loss"].shape == (21, 21)
    assert result.metrics["grid_images"] == GRID_IMAGES


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_random_direction_is_as_long_as_the_attack_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    seen: list[Tensor] = []

    class Watching(Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return super().forward(x)

    monkeypatch.setattr(record, "PAIRS", 1)
    monkeypatch.setattr(record, "ATTACK_AXIS", (0.0,))
    monkeypatch.setattr(record, "RANDOM_AXIS", (0.5,))
    middle = 0.5 + 0 * IMAGES[:1]
    view = record.View(Watching(), middle, middle, LABELS[:1])
    record._landscape(view, Threat(norm, 0.1), 3)
    change = (seen[-1] - middle).flatten()
    length = change.abs().max() if norm == "linf" else change.norm()
    assert length.item() == pytest.approx(0.05, rel=1e-5)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_an_ode_is_followed_from_its_stem_and_its_evaluations_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    network = ode(solver)
    found, result = recorded(tmp_path, monkeypatch, network, images=6)
    rows = subset(DIGITS.splits["test"], 6)
    images, labels = DIGITS.splits["test"].images(rows), DIGITS.splits["test"].labels[rows]
    attacked = attacked_images(work(tmp_path), network, None, images, labels, DIGITS.splits["test"].ids[rows]).images
    for place, x in enumerate((images, attacked)):
        with torch.no_grad():
            start = network.stem(network.normalise(x))
            norms = start.flatten(1).double().norm(dim=1)
            speed = network.blocks[0](0.0, start).flatten(1).double().norm(dim=1) / norms
            counts = []
            for image in x.split(1):
                network(image)
                counts.append(float(network.nfe))
        quartiles = np.quantile(norms.numpy(), [0.25, 0.5, 0.75])
        assert found["start_norm"][place] == pytest.approx(quartiles, rel=1e-4)
        assert found["state_norm"][place][:, 0] == pytest.approx([1, 1, 1], abs=1e-6)
        assert found["speed"][place][:, 0] == pytest.approx(np.quantile(speed.numpy(), [0.25, 0.5, 0.75]), rel=1e-4)
        assert found["nfe"][place].tolist() == counts
        assert result.metrics["nfe_attacked" if place else "nfe_clean"] == pytest.approx(np.mean(counts))
    assert found["time"].shape == (17,)
    assert found["speed"].shape == (2, 3, 17)
    assert ("accepted_steps" in found) == (solver == "rk4")
    if solver == "rk4":
        assert set(found["nfe"].flatten()) == {8.0}
        assert set(found["accepted_steps"].flatten()) == {2.0}


def test_an_adaptive_solver_counts_each_image_by_itself() -> None:
    class Cubic(nn.Module):
        def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
            del t
            return -30 * y**3

    network = ode("dopri5")
    network.stem, network.normalise, network.blocks = nn.Identity(), nn.Identity(), nn.ModuleList([Cubic()])
    network.head = nn.Flatten()
    images = torch.full((3, 1, 8, 8), 0.05)
    images[1] = 1.0
    view = record.View(network, images, images.flip(0), LABELS[:3])
    counts = record._evaluations(view)["nfe"]
    assert counts[0][0] == counts[0][2] < counts[0][1]
    assert counts[1].tolist() == counts[0][::-1].tolist()


def test_a_network_without_an_ode_has_neither_norms_nor_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, result = recorded(tmp_path, monkeypatch, Linear(), images=1)
    assert not {"time", "state_norm", "speed", "nfe", "accepted_steps"} & set(found)
    assert (result.metrics["nfe_clean"], result.metrics["solver"]) == (None, None)
    assert (len(found["image_id"]), result.metrics["n"]) == (1, 1)
    assert {name: result.metrics[name] for name in IDENTITY} == IDENTITY
    assert (result.metrics["split"], result.metrics["epsilon"], result.metrics["norm"]) == ("test", EPSILON, "linf")


@pytest.mark.usefixtures("coarse")
def test_failed_solves_are_wrong_and_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits * torch.where(x[:, 0, 3, 3] > 0.9, torch.nan, 1.0)[:, None]

    found, result = recorded(tmp_path, monkeypatch, Failing())
    failing = (IMAGES[:, 0, 3, 3] > 0.9).numpy()
    assert failing.any()
    assert result.metrics["failed_clean"] == failing.sum()
    assert found["failed"][0].tolist() == np.bincount(LABELS.numpy()[failing], minlength=10).tolist()
    assert (found["confusion"].sum(axis=(1, 2)) + found["failed"].sum(axis=1)).tolist() == [100, 100]
    assert found["margin_count"][0].sum() == 100 - failing.sum()
    shown = [IDS.tolist().index(i) for i in found["image_id"]]
    assert ((found["predicted"][0] == -1) == failing[shown]).all()
    assert (np.isnan(found["pair_margin"][0]) == failing[shown]).all()
    assert np.isfinite(found["loss"]).all()


def test_large_images_are_shown_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LARGEST_SIDE", 3)
    view = record.View(Linear(), IMAGES, moved(slice(None)), LABELS)
    found = record._pairs(view, DIGITS.splits["test"], ROWS)
    assert found["clean"].shape == (16, 1, 3, 3)
    assert np.abs(found["adversarial"] - found["clean"] / 16).max() == pytest.approx(EPSILON, rel=1e-4)


@pytest.mark.usefixtures("coarse")
def test_the_network_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ode()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    recorded(tmp_path, monkeypatch, network, images=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
