"""Our attacks against three other implementations, with equal hyper-parameters."""

import foolbox
import pytest
import torch
import torchattack
from pyautoattack.autoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.square import SquareAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchattack.pgdl2 import PGDL2

from nodekd import streams
from nodekd.attacks.autoattack import apgd, apgd_targeted, square
from nodekd.attacks.cascade import worst_case
from nodekd.attacks.catalog import NORMS, Norm
from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import Trace, cross_entropy, fgsm, pgd
from nodekd.attacks.spec import correct
from nodekd.attacks.threat import Threat
from nodekd.attacks.tiers import AUTOATTACK

EPSILON: dict[Norm, float] = {"linf": 1 / 16, "l2": 0.4}
STEPS = 8


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network with smooth activations, trained a little, and images it classifies correctly."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    targets = torch.tensor(labels, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(60):
        rows = slice(20 * step, 20 * step + 128)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), targets[rows]).backward()
        optimizer.step()
    network.eval().requires_grad_(False)
    right = correct(network, images, targets, 512).nonzero().flatten()[-48:]
    assert len(right) == 48
    return network, images[right], targets[right]


def iterate_kept(iterates: list[Tensor], trace: Trace) -> Tensor:
    """Choose from another library's iterates (step 0 first) the one our rule keeps."""
    step = torch.where(trace.broken_at >= 0, trace.broken_at, trace.loss.argmax(dim=0))
    return torch.stack(iterates)[step, torch.arange(len(step))]


def ours(network: nn.Module, images: Tensor, labels: Tensor, norm: Norm, start: Tensor | None = None) -> Trace:
    threat = Threat(norm, EPSILON[norm])
    size = EPSILON[norm] / 4
    return pgd(
        network,
        images,
        labels,
        threat,
        loss=cross_entropy,
        steps=STEPS,
        step_size=size,
        start=start,
        keep_going=True,
    )


def losses(network: nn.Module, iterates: list[Tensor], labels: Tensor) -> Tensor:
    return torch.stack([nn.functional.cross_entropy(network(x), labels, reduction="none") for x in iterates])


def assert_same_run(network: nn.Module, trace: Trace, iterates: list[Tensor], labels: Tensor) -> None:
    torch.testing.assert_close(trace.loss, losses(network, iterates, labels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trace.images, iterate_kept(iterates, trace), rtol=0, atol=2e-6)
    torch.testing.assert_close(trace.last, iterates[-1], rtol=0, atol=2e-6)
    assert 3 < (trace.broken_at >= 0).sum() < len(labels) - 3


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_takes_the_steps_of_torchattack(digits: tuple[nn.Module, Tensor, Tensor], norm: Norm) -> None:
    network, images, labels = digits
    theirs = torchattack.PGD if norm == "linf" else PGDL2
    settings = {"eps": EPSILON[norm], "alpha": EPSILON[norm] / 4, "random_start": False, "device": torch.device("cpu")}
    iterates = [images] + [
        theirs(network, steps=step, **settings)(images, labels).detach() for step in range(1, STEPS + 1)
    ]
    assert_same_run(network, ours(network, images, labels, norm), iterates, labels)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_takes_the_steps_of_foolbox_from_an_equal_start(
    digits: tuple[nn.Module, Tensor, Tensor], norm: Norm
) -> None:
    network, images, labels = digits
    start = Threat(norm, EPSILON[norm]).random_start(images, torch.Generator().manual_seed(1))
    base = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD

    class SameStart(base):
        def get_random_start(self, x0, epsilon):
            return x0 * 0 + type(x0)(start)

    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    iterates = [start] + [
        SameStart(abs_stepsize=EPSILON[norm] / 4, steps=step, random_start=True).run(
            wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=EPSILON[norm]
        )
        for step in range(1, STEPS + 1)
    ]
    assert_same_run(network, ours(network, images, labels, norm, start), iterates, labels)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_is_the_step_of_both_libraries(digits: tuple[nn.Module, Tensor, Tensor], norm: Norm) -> None:
    network, images, labels = digits
    trace = fgsm(network, images, labels, Threat(norm, EPSILON[norm]))
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.Misclassification(labels)
    base = foolbox.attacks.FGSM() if norm == "linf" else foolbox.attacks.FGM()
    theirs = base.run(wrapped, images, criterion, epsilon=EPSILON[norm])
    torch.testing.assert_close(trace.images, iterate_kept([images, theirs], trace), rtol=0, atol=2e-6)
    if norm == "linf":
        other = torchattack.FGSM(network, eps=EPSILON[norm], device=torch.device("cpu"))(images, labels).detach()
        torch.testing.assert_close(trace.images, iterate_kept([images, other], trace), rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True], ids=["ce", "t"])
def test_apgd_finds_what_pyautoattack_finds(
    digits: tuple[nn.Module, Tensor, Tensor], norm: Norm, targeted: bool
) -> None:
    network, images, labels = digits
    threat = Threat(norm, EPSILON[norm] * 0.8)
    settings = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": threat.epsilon, "n_iter": 10, "seed": 7}
    with frozen(network):
        if targeted:
            made = apgd_targeted(network, images, labels, threat, steps=10, restarts=1, targets=3, seed=7)
            theirs = APGDAttack_targeted(network, n_target_classes=3, device="cpu", **settings).perturb(images, labels)
        else:
            made = apgd(network, images, labels, threat, steps=10, restarts=2, seed=7)
            theirs = APGDAttack(network, n_restarts=2, device="cpu", **settings).perturb(images, labels)
    broken = ~correct(network, theirs, labels, 512)
    assert torch.equal(broken, ~correct(network, made, labels, 512))
    torch.testing.assert_close(made[broken], theirs[broken], rtol=0, atol=1e-6)
    assert 3 < broken.sum() < len(labels) - 3


@pytest.mark.parametrize("norm", NORMS)
def test_square_finds_what_pyautoattack_finds(digits: tuple[nn.Module, Tensor, Tensor], norm: Norm) -> None:
    network, images, labels = digits
    threat = Threat(norm, EPSILON[norm] * 1.5)
    theirs = SquareAttack(
        network, norm={"linf": "Linf", "l2": "L2"}[norm], eps=threat.epsilon, n_queries=80, seed=7, device="cpu"
    )
    with frozen(network):
        made = square(network, images, labels, threat, queries=80, restarts=1, seed=7)
        found = theirs.perturb(images, labels)
    broken = ~correct(network, found, labels, 512)
    assert torch.equal(broken, ~correct(network, made, labels, 512))
    torch.testing.assert_close(made[broken], found[broken], rtol=0, atol=1e-6)
    assert 3 < broken.sum() < len(labels) - 3


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_the_cascade_of_the_standard_set_leaves_the_survivors_of_autoattacks_driver(
    digits: tuple[nn.Module, Tensor, Tensor], norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images, labels = digits
    monkeypatch.setattr(streams, "seed_of", lambda *parts: 0)
    driver = AutoAttack(network, norm={"linf": "Linf", "l2": "L2"}[norm], eps=EPSILON[norm], seed=0)
    with torch.random.fork_rng(devices=[]):
        theirs, _ = driver.run_standard_evaluation(images, labels, batch_size=len(images))
    with frozen(network):
        survivors = correct(network, theirs, labels, 64)
    found = worst_case(network, images, labels, Threat(norm, EPSILON[norm]), AUTOATTACK, seed=0)
    assert 0 < int(survivors.sum()) < len(images) - 4
    assert torch.equal(found.survivors, survivors)
    torch.testing.assert_close(found.images[~survivors], theirs[~survivors], atol=1e-6, rtol=0)
