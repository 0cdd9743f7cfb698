"""Which network an attack looks through, and what is left out where there is none to look through."""

import torch
from torch import Tensor, nn

from nodekd.attacks.sources import Expectation, Rescaled, StraightThrough
from nodekd.attacks.tiers import SETS
from nodekd.gradient_sources import euler_of, is_randomised, looks_through, other_solves, through
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator, finer
from nodekd.ode.solver_text import parse_solver

IMAGES, LABELS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)


def student(integrator: Integrator) -> OdeStudent:
    config = StudentConfig(channels=4)
    network = build_student(config, integrator, shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.3,), seed=0).eval()
    assert isinstance(network, OdeStudent)
    return network


class Linear(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


class Noisy(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.randn(len(x), 10)


def test_an_ode_is_looked_through_by_every_attack_of_every_tier():
    target = student(Integrator("rk4", steps=4))
    for name, attacks in SETS.items():
        assert through(attacks, target, target, IMAGES, LABELS).attacks == attacks, name
    sources = through(SETS["adaptive"], target, target, IMAGES, LABELS).sources
    fine, euler = sources["pgd-20-fine"], sources["pgd-20-euler"]
    assert isinstance(fine, OdeStudent)
    assert isinstance(euler, OdeStudent)
    assert (fine.integrator.fixed, fine.integrator.evaluations >= 32) == (True, True)
    assert (euler.integrator.solver, euler.integrator.evaluations) == ("euler", 16)
    assert isinstance(sources["straight-through-pgd-100"], StraightThrough)
    assert isinstance(sources["rescaled-apgd-ce"], Rescaled)
    torch.testing.assert_close(sources["feature-l1"](IMAGES), target.stem(target.normalise(IMAGES)).flatten(1))
    torch.testing.assert_close(sources["straight-through-pgd-100"](IMAGES), target(IMAGES))
    assert "apgd-ce" not in sources


def test_euler_has_as_many_evaluations_and_is_left_out_where_it_is_the_own_solver():
    assert euler_of(Integrator("midpoint", horizon=2.0, steps=3)).steps == 6
    assert euler_of(Integrator("dopri5", steps=None, rtol=1e-3, atol=1e-3)).steps == 32
    target = student(Integrator("euler", steps=8))
    names = [attack.name for attack in through(SETS["standard"], target, target, IMAGES, LABELS).attacks]
    assert names == ["fgsm", "pgd-20", "pgd-20-fine", "apgd-ce", "apgd-t"]


def test_a_network_without_a_solver_is_spared_what_needs_one():
    target = Linear()
    found = through(SETS["adaptive"], target, target, IMAGES, LABELS)
    names = {attack.name for attack in found.attacks}
    left_out = {"pgd-20-fine", "pgd-20-euler", "apgd-ce-fine", "straight-through-pgd-100", "feature-l1", "feature-l2"}
    assert names == {attack.name for attack in SETS["adaptive"]} - left_out
    assert set(found.sources) == {"rescaled-apgd-ce"}


def test_a_randomised_network_is_looked_at_through_its_expectation():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert is_randomised(Noisy(), IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert not is_randomised(Linear(), IMAGES)
    assert not is_randomised(Linear(), IMAGES[:0])
    found = through(SETS["screen"], Noisy(), Noisy(), IMAGES, LABELS)
    assert all(isinstance(found.sources[attack.name], Expectation) for attack in found.attacks)


def test_a_record_says_what_its_attack_looked_through():
    target = student(Integrator("rk4", steps=4))
    found = through(SETS["adaptive"], target, target, IMAGES, LABELS)
    records = {record["name"]: record for record in found.records()}
    assert parse_solver(records["pgd-20-fine"]["gradient_of"], 1.0) == finer(target.integrator)
    assert records["straight-through-pgd-100"]["gradient_of"] == records["pgd-20-fine"]["gradient_of"]
    assert records["pgd-20-euler"]["gradient_of"] == "euler:16"
    rescaled = found.sources["rescaled-apgd-ce"]
    assert isinstance(rescaled, Rescaled)
    assert records["rescaled-apgd-ce"]["logits_times"] == rescaled.factor
    assert records["feature-l1"]["through"] == "features"
    assert "through" not in records["apgd-ce"]
    for attack in found.attacks:
        assert attack.record().items() <= records[attack.name].items()
        assert looks_through(attack).items() <= records[attack.name].items(), "what is hashed is what is recorded"


def test_a_record_of_a_randomised_network_says_over_how_many_draws():
    noisy = Noisy()
    records = through(SETS["standard"], noisy, noisy, IMAGES, LABELS).records()
    assert {record["draws_per_answer"] for record in records} == {10}


def test_the_rules_for_other_solves_show_in_examples():
    assert other_solves() == {
        "fine": ["rk4_classic:32", "rk4_classic:64"],
        "euler": ["euler:16", "euler:32"],
    }
