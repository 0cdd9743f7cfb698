"""Who is scored how, whose answer hangs on its company, what a solver has to do, and which solvers are compared."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.sources import Expectation
from nodekd.checks.preflight import Preflight, preflight
from nodekd.checks.protocol import COUPLED, Alone, Subject, changed_by_company, subject_of
from nodekd.checks.solver_matrix import named_solvers
from nodekd.checks.solver_work import SolverWork, solver_work
from nodekd.gradient_sources import RANDOMISED
from nodekd.ode.integrator import Integrator
from nodekd.ode.solver_text import parse_solver, solver_text
from tests.known_networks import AboveTheMean, Decay, Noisy, Stiffer, flowing, linear

WEIGHT = torch.tensor([3.0, -1.0])
IMAGES = torch.rand(12, 1, 1, 2, generator=torch.Generator().manual_seed(4))
RK4 = Integrator("rk4", 1.0, steps=2)
ADAPTIVE = Integrator("dopri5", 1.0, steps=None, rtol=1e-3, atol=1e-3, error_control="image")


def chosen(network: nn.Module, source: nn.Module | None = None) -> Subject:
    return subject_of(network, source or network, preflight(network, IMAGES))


@pytest.mark.parametrize(
    ("network", "protocol"),
    [
        (linear(WEIGHT), "batch"),
        (flowing(Decay(), RK4, WEIGHT), "fixed grid"),
        (flowing(Decay(), ADAPTIVE, WEIGHT), "batch"),
    ],
)
def test_who_answers_the_same_twice_and_in_any_company_plays_every_role(network: nn.Module, protocol: str) -> None:
    assert chosen(network) == Subject(network, network, network, network, protocol, 1)
    source = linear(WEIGHT)
    assert chosen(network, source) == Subject(network, source, network, network, protocol, 1)


def test_who_answers_otherwise_in_company_is_scored_alone_and_attacked_in_batches() -> None:
    network, source = AboveTheMean(), linear(WEIGHT)
    found = chosen(network, source)
    assert (found.network, found.source, found.judge) == (network, source, network)
    assert (found.protocol, found.draws) == ("alone", 1)
    assert isinstance(found.target, Alone)
    assert found.target.network is network
    assert torch.equal(found.target(IMAGES), torch.tensor([[1e-3, 0.0]]).expand(12, 2))
    coupled = flowing(Stiffer(), replace(ADAPTIVE, rtol=0.5, atol=0.5, error_control="batch"), WEIGHT)
    assert chosen(coupled).protocol == "alone", "the images of a batch share an adaptive solver's steps"


def test_who_answers_otherwise_twice_is_followed_and_scored_in_expectation() -> None:
    network, source = Noisy(nn.Flatten()), Noisy(nn.Flatten())
    found = chosen(network)
    assert (found.protocol, found.draws, found.network) == ("batch", 10, network)
    assert isinstance(found.source, Expectation)
    assert found.source is found.judge is found.target
    assert (found.source.network, found.source.draws) == (network, 10)
    other = chosen(network, source)
    assert (other.source.network, other.source.draws, other.target.network) == (source, 10, network)
    assert other.judge is other.target


def test_the_limits_of_repeat_and_company_belong_to_the_calm_side() -> None:
    network = linear(WEIGHT)
    calm = Preflight(0, RANDOMISED, COUPLED, 0, False, False, 1.0, 2, 0, 12)
    assert subject_of(network, network, calm).protocol == "batch"
    assert subject_of(network, network, replace(calm, batch=COUPLED * 1.01)).protocol == "alone"
    both = replace(calm, batch=1.0, repeat=RANDOMISED * 1.01)
    assert subject_of(network, network, both).draws == 10, "a randomised network has no answer of its own alone"


def test_predictions_that_change_in_a_batch_are_counted() -> None:
    images = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.4, 0.4, 0.4, 0.8, 0.6]).view(-1, 1, 1, 1)
    assert changed_by_company(AboveTheMean(), images) == 3, "0.9, 0.8 and 0.6 lie above 0.456"
    assert changed_by_company(AboveTheMean(), images, batch_size=4) == 2, "0.9 and 0.8; the last is alone anyway"
    assert changed_by_company(AboveTheMean(), images, batch_size=3) == 3, "0.3, 0.9 and 0.8"
    assert changed_by_company(AboveTheMean(), images, batch_size=1) == 0
    assert changed_by_company(linear(WEIGHT), IMAGES) == 0


class Fails(nn.Module):
    """Gives no finite answer on dark images, `together` for their whole batch, or only where they are alone."""

    def __init__(self, *, together: bool) -> None:
        super().__init__()
        self.together = together

    def forward(self, images: Tensor) -> Tensor:
        bright = images.flatten(1)[:, 0]
        failed = (bright < 0.3).any().expand(len(images)) if self.together else (bright < 0.3) & (len(images) == 1)
        return torch.where(failed[:, None], torch.nan, torch.stack([bright, 0 * bright], dim=1))


def test_a_failed_solve_is_a_class_of_its_own_and_takes_nobody_along() -> None:
    images = torch.tensor([0.1, 0.2, 0.5, 0.9]).view(-1, 1, 1, 1)
    assert changed_by_company(Fails(together=True), images) == 0, "a batch that fails is asked again, one by one"
    assert changed_by_company(Fails(together=False), images) == 2, "the dark ones have an answer in company alone"


def by_hand(field: Decay, images: Tensor, integrator: Integrator) -> float:
    """Count the evaluations that images need on average, by asking for one at a time."""
    network, before = flowing(field, integrator, WEIGHT), field.asked
    for image in images:
        network(image[None])
    return (field.asked - before) / len(images)


@pytest.mark.parametrize("control", ["image", "batch"])
@torch.no_grad()
def test_the_work_of_an_adaptive_solver_is_its_mean_over_images(control: str) -> None:
    integrator = replace(ADAPTIVE, error_control=control)
    field = Stiffer()
    network = flowing(field, integrator, WEIGHT)
    clean = torch.full((5, 1, 1, 2), 0.9)
    clean[..., 1] = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.8])[:, None, None]
    attacked = clean.clone()
    attacked[:3, ..., 1] = 0.8
    found = solver_work(network, clean, attacked)
    counted = by_hand(field, clean, integrator), by_hand(field, attacked, integrator)
    assert (found.clean, found.attacked, found.n) == (*map(pytest.approx, counted), 5)
    easy, hard = by_hand(field, clean[:1], integrator), by_hand(field, clean[4:], integrator)
    assert hard > 2 * easy
    assert (found.clean, found.attacked) == pytest.approx(((4 * easy + hard) / 5, (easy + 4 * hard) / 5))
    assert found.change == pytest.approx(3 * (hard - easy) / (4 * easy + hard))
    assert solver_work(network, clean, clean).change == 0


def test_work_that_is_halved_changes_by_a_half() -> None:
    assert SolverWork(40.0, 20.0, 3).change == 0.5
    assert SolverWork(40.0, 60.0, 3).change == 0.5


def test_only_the_first_images_of_an_adaptive_solver_are_asked() -> None:
    images = torch.full((70, 1, 1, 2), 0.9)
    images[64:, ..., 1] = 0.8
    images[:64, ..., 1] = 0.2
    found = solver_work(flowing(Stiffer(), ADAPTIVE, WEIGHT), images[:64], images[:64])
    assert solver_work(flowing(Stiffer(), ADAPTIVE, WEIGHT), images, images) == found
    assert found.n == 64
    assert solver_work(flowing(Stiffer(), RK4, WEIGHT), images, images) is None, "fixed steps are always as many"
    assert solver_work(flowing(Stiffer(), ADAPTIVE, WEIGHT), images[:0], images[:0]) is None


def test_the_solvers_of_the_matrix_are_the_deployed_a_finer_one_euler_the_training_s_and_a_tighter_one() -> None:
    training = Integrator("midpoint", 1.0, steps=3)
    fixed = named_solvers(Integrator("rk4", 1.0, steps=4), training)
    assert list(fixed) == ["rk4:16", "rk4_classic:32", "euler:16", "midpoint:6", "rk4:32"]
    assert fixed["midpoint:6"] is training
    adaptive = replace(ADAPTIVE, max_evaluations=50)
    found = named_solvers(adaptive, adaptive)
    assert list(found) == ["dopri5:0.001", "rk4_classic:64", "euler:32", "dopri5:0.0001"]
    assert found["dopri5:0.001"] is adaptive
    tighter = found["dopri5:0.0001"]
    assert (tighter.rtol, tighter.atol, tighter.max_evaluations) == (pytest.approx(1e-4), pytest.approx(1e-4), 2000)
    coarse = named_solvers(Integrator("euler", 2.0, steps=2), None)
    assert list(coarse) == ["euler:2@2", "rk4_classic:32@2", "euler:4@2"]
    assert all(each.horizon == 2 for each in coarse.values())


@pytest.mark.parametrize("text", ["rk4:16", "euler:4", "dopri5:1e-05", "bosh3:0.01"])
def test_the_name_of_a_solver_reads_back(text: str) -> None:
    assert solver_text(parse_solver(text, 1.0)) == text
    assert solver_text(parse_solver(text, 0.5)) == f"{text}@0.5"
