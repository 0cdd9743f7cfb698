"""Optimisers and schedules against their update rules, written out for networks of one weight."""

import pytest
import torch

from nodekd.models.damping import damping_values
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.optimization import Optimization, TrainConfig


def quadratic(weight=2.0):
    """A network of one weight; its gradient is put in by hand."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, weight)
    return network


def length(network):
    return float(torch.cat([p.detach().flatten() for p in network.parameters()]).norm())


@pytest.mark.parametrize("updates", [1, 2, 3, 8, 100])
def test_the_step_schedule_is_a_tenth_after_a_half_and_after_three_quarters(updates):
    network = quadratic()
    optimization = Optimization([network], TrainConfig("sgd", 1.0, schedule="step"), updates)
    for update in range(updates):
        wanted = 1.0 if update < updates / 2 else 0.1 if update < 3 * updates / 4 else 0.01
        assert optimization.optimizer.param_groups[0]["lr"] == pytest.approx(wanted), update
        network.weight.grad = torch.zeros(1, 1)
        optimization.step()


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_nesterovs_or_plain(nesterov):
    """v <- m v + g; p <- p - lr (g + m v) with Nesterov, p - lr v without."""
    network = quadratic()
    config = TrainConfig("sgd", 0.1, weight_decay=0.0, momentum=0.5, schedule="constant", nesterov=nesterov)
    optimization = Optimization([network], config, 10)
    p, v = 2.0, 0.0
    for _ in range(3):
        network.weight.grad = network.weight.detach().clone()
        optimization.step()
        g = p
        v = 0.5 * v + g
        p -= 0.1 * (g + 0.5 * v if nesterov else v)
    assert float(network.weight.detach()) == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("decay", [True, False])
def test_weight_decay_acts_on_damping_only_where_it_is_asked_to(optimizer, decay):
    config = StudentConfig(channels=8, dynamics="damped", damping_decay=decay)
    integrator = Integrator(solver="euler", horizon=1.0, steps=2)
    network = build_student(config, integrator, shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=0)
    config = TrainConfig(optimizer, 0.1, weight_decay=0.5, momentum=0.0, schedule="constant")
    k, norm = 1 - damping_values(network)[0], length(network)
    optimization = Optimization([network], config, 1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimization.step()
    shrink = 1 - 0.1 * 0.5
    assert 1 - damping_values(network)[0] == pytest.approx(k * shrink if decay else k, rel=1e-5)
    assert length(network) == pytest.approx(norm * shrink, rel=1e-3)


def test_gradients_of_translators_are_clipped_apart():
    """A translator's large gradient takes nothing from the student's."""
    first, second = quadratic(), quadratic()
    config = TrainConfig("sgd", 1.0, weight_decay=0.0, momentum=0.0, schedule="constant", clip=1.0)
    optimizations = [Optimization([network], config, 1) for network in (first, second)]
    first.weight.grad, second.weight.grad = torch.full((1, 1), 0.5), torch.full((1, 1), 1e3)
    for optimization in optimizations:
        optimization.step()
    assert float(first.weight.detach()) == pytest.approx(1.5)
    assert float(second.weight.detach()) == pytest.approx(1.0, rel=1e-4)
