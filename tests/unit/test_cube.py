"""The cube train solver x attack solver x scoring solver: what is measured, planned, read and drawn (S21)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nodekd.attacks.spec import PGD_20
from nodekd.attacks.threat import Threat
from nodekd.checks.optimisation import Climber
from nodekd.checks.preflight import preflight
from nodekd.checks.protocol import subject_of
from nodekd.checks.solver_matrix import SolverMatrix
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.ode.solver_text import parse_solver
from study.cube import FOLDER, identifier, read_cube
from study.durable import replace_json
from study.jobs.arrays import write_arrays
from study.ledger import Ledger
from study.stages.cube import under

SOLVERS = ("rk4:8", "euler:2", "dopri5:1e-2")
THREAT = Threat("linf", 0.1)
IMAGES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def student(strength: float) -> OdeStudent:
    """A student whose dynamics are so many times as strong as at the start of training; at 0 nothing flows."""
    config = StudentConfig(arch="odenet-stem", channels=8)
    shape = {"shape": (1, 8, 8), "classes": 5, "mean": (0.5,), "std": (0.3,), "seed": 0}
    made = build_student(config, Integrator("rk4", horizon=1.0, steps=2), **shape).eval()
    assert isinstance(made, OdeStudent)
    with torch.no_grad():
        for weight in made.blocks.parameters():
            weight.mul_(strength)
    return made


def answer(network: OdeStudent, solver: str, images: Tensor) -> Tensor:
    """Classify one image at a time."""
    judge = network.with_integrator(parse_solver(solver, 1.0))
    with torch.no_grad():
        return torch.cat([judge(image[None]).argmax(dim=1) for image in images])


def measured(network: OdeStudent, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return who is right (s n), and who is broken through solver i under solver j (s s n)."""
    solvers = {text: parse_solver(text, 1.0) for text in SOLVERS}
    first = network.with_integrator(solvers[SOLVERS[0]])
    matrix = SolverMatrix(subject_of(first, first, preflight(first, IMAGES)), solvers, IMAGES, labels, seed=3)
    return torch.stack([column.right for column in matrix.columns]), matrix.broken(THREAT)


def test_where_nothing_flows_every_solver_attacks_and_judges_alike() -> None:
    network = student(0.0)
    right, broken = measured(network, answer(network, SOLVERS[0], IMAGES))
    assert right.all()
    assert 0 < broken[0, 0].sum() < len(IMAGES)
    assert (broken == broken[0, 0]).all()


def test_an_entry_is_what_one_solver_makes_and_another_judges() -> None:
    network = student(4.0)
    labels = answer(network, SOLVERS[0], IMAGES)
    right, broken = measured(network, labels)
    for place, attacker in enumerate(SOLVERS[:2]):  # of fixed steps, so batch mates change nothing
        source = network.with_integrator(parse_solver(attacker, 1.0))
        rows = right[place].nonzero().flatten()
        made = Climber(source, source, 3).climb(PGD_20, IMAGES[rows], labels[rows], THREAT, keep_going=True)
        assert (made.last - IMAGES[rows]).abs().max() <= THREAT.epsilon + 1e-6
        for other, judge in enumerate(SOLVERS):
            fooled = torch.zeros(len(IMAGES), dtype=torch.bool)
            for images in (made.images, made.last):
                fooled[rows] |= answer(network, judge, images) != labels[rows]
            assert torch.equal(broken[place, other], fooled & right[other]), (attacker, judge)
    assert not torch.equal(broken[0, 0], broken[1, 0]), "through another solver other images are made"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("rk4:8", {"solver": "rk4", "steps": 2}),
        ("dopri5:1e-2", {"solver": "dopri5", "rtol": 0.01, "atol": 0.01}),
    ],
)
def test_a_network_of_the_cube_differs_from_the_reference_in_its_solver_alone(
    text: str, keys: dict[str, object]
) -> None:
    reference = {"arch": "odenet-stem", "channels": 8, "horizon": 2.0, "solver": "euler", "evaluations": 16}
    found = under(reference, text)
    assert found.items() >= {**keys, "arch": "odenet-stem", "channels": 8, "horizon": 2.0}.items()
    assert "evaluations" not in found


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A cube of two solvers whose second network was measured first, and a slice of earlier checks."""
    made = Ledger(tmp_path / "s")
    names = ["euler:4", "rk4:16"]
    replace_json(made.root / "robustness" / "specification.json", {"checks": "abc", "cube": names, "models": {}})
    for trained, of in (("rk4:16", "abc"), ("euler:4", "abc"), ("euler:4", "old")):
        key = f"{FOLDER}/{trained.replace(':', '-')}-{identifier(of, names)}"
        correct = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
        broken = np.array([[[1, 1, 0, 0], [1, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 0]]], bool)
        write_arrays(made.folder(key) / "cube.npz", solvers=names, correct=correct, broken=broken)
        metrics = {"trained": trained, "epsilon": 0.1, "specification": identifier(of, names)}
        made.commit(key, {"kind": "cube", "state": "COMPLETE", "metrics": metrics})
    return made


def test_the_slices_in_force_are_read_in_the_order_of_the_solvers(ledger: Ledger) -> None:
    problems: list[str] = []
    first, second = read_cube(ledger, problems)
    assert (first.trained, second.trained, problems) == ("euler:4", "rk4:16", [])
    assert first.accuracy.tolist() == [0.75, 1.0]
    assert first.robust_accuracy.tolist() == [[0.25, 0.75], [0.75, 0.25]], "right and not broken, of all images"
    assert (first.solvers, first.n, first.epsilon) == (("euler:4", "rk4:16"), 4, 0.1)


def test_a_damaged_slice_is_left_out_and_named(ledger: Ledger) -> None:
    (path,) = ledger.root.glob("cube/slices/rk4-16-*/cube.npz")
    path.write_bytes(path.read_bytes()[:40])
    problems: list[str] = []
    assert [each.trained for each in read_cube(ledger, problems)] == ["euler:4"]
    assert path.parent.name in problems[0]
