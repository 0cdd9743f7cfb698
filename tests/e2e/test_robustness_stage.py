"""The robustness stage as a whole: masking is told, resuming changes no bit, and no number depends on an order."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from brief_checks import shorten_checks, shorter

from study import driver
from study.attacked import SPECIFICATION
from study.controls import read_controls
from study.engine.inline import InlineEngine
from study.errors import Interrupted
from study.jobs import execute as worker
from study.jobs.attack import ATTACK_SETS
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.space.reader import read_space
from study.stages.models import Model
from study.stages.robustness import LARGEST_POOL, pool_of
from tests.stopping_engine import StoppingEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SPACE = """
study:    {name: masked}
teachers: [{arch: resnet20, train: {epochs: 6}}]
student:  {arch: odenet-stem, channels: 8, solver: rk4, horizon: 4, steps: 4, adjoint_steps: 1}
distill:  {method: none}
train:    {optimizer: adamw, learning_rate: 0.02, batch_size: 64, epochs: 25}
attack:   {gradient: trained}
search:   {images: 32}
space:
  gradient: {choice: [direct, adjoint]}
sampler:  {name: grid}
budget:   {trials: 2}
robustness: {tier: standard, select: all, images: 48, shard: 48, check_images: 40, epsilons: [1/16, 0.1]}
"""


def launch(folder: str, engine=None, **changes: object) -> int:
    """Run the space in a folder, with overrides of the robustness section."""
    source = Path("masked.yaml")
    source.write_text(SPACE, encoding="utf-8")
    overrides = [f"robustness.{name}={value}" for name, value in changes.items()]
    order = Order(
        space=read_space(source, overrides),
        source=source,
        command="python -m study.launch masked.yaml",
        output=Path(folder),
        smoke=False,
    )
    return driver.drive(order, engine or InlineEngine())


@pytest.fixture(scope="module", autouse=True)
def brief_attacks():
    """Shorten what takes long on two cores; which attacks there are, and what follows from them, stays the same."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_checks(patch)
        for name in ("standard", "longer"):
            patch.setitem(ATTACK_SETS, name, tuple(map(shorter, ATTACK_SETS[name])))
        yield


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Run the study once, with its controls."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("masked"))
    assert launch("s/masked") == 0
    yield Path.cwd() / "s" / "masked"
    os.chdir(before)


def trial_of(results, gradient: str) -> str:
    rows = results.trials[results.trials["params_gradient"] == gradient]
    return f"student-{int(rows['trial'].iloc[0]):06d}"


def test_a_masked_student_is_called_unreliable_and_its_worst_case_counts_the_transfer(masked: Path):
    results = load(masked)
    attacked, name = results.attacked, trial_of(results, "adjoint")
    for epsilon in (1 / 16, 0.1):
        checked = attacked.checks_of(name, epsilon)
        assert checked is not None
        assert checked.trust.word == "unreliable"
        assert {each.measured.id for each in checked.judged if each.verdict == "fail"} & {"G2", "G3"}
    bits = attacked.survivors[name]
    by_transfer = np.logical_or.reduce([*bits.alone(1 / 16, "transfer-").values()])
    by_solvers = np.logical_or.reduce([*bits.alone(1 / 16, "pgd-20-").values()])
    assert (by_transfer | by_solvers).sum() > 0
    assert not bits.robust(1 / 16)[by_transfer | by_solvers].any()
    assert any(column == "square-20000" for column in bits.columns)


def test_its_healthy_twin_is_not(masked: Path):
    results = load(masked)
    checked = results.attacked.checks_of(trial_of(results, "direct"), 1 / 16)
    assert checked is not None
    assert checked.trust.word != "unreliable", checked.trust.reasons
    assert "square-20000" not in results.attacked.survivors[trial_of(results, "direct")].columns


def test_the_controls_are_told_rightly(masked: Path):
    problems: list[str] = []
    controls = read_controls(Ledger(masked), problems)
    assert problems == []
    assert controls.faults == []
    assert len(controls.found) == 10
    (said,) = [event for event in Ledger(masked).events() if event["type"] == "controls"]
    assert said["faults"] == []


def test_every_network_is_shown_the_images_of_all_others_and_the_record_holds_the_pools_hash(masked: Path):
    ledger = Ledger(masked)
    models = set(json.loads((masked / SPECIFICATION).read_text())["models"])
    hashes: set[str] = set()
    for key in ledger.keys("robustness"):
        metrics = (ledger.outcome(key) or {})["metrics"]
        if metrics["part"] == "transfer":
            assert set(metrics["pool"]["columns"]) == {f"transfer-{name}" for name in models - {metrics["model"]}}
            hashes.add(metrics["pool"]["hash"])
    assert len(hashes) == 1, "one per shard"


def found(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """Return every array that the stage stored, byte for byte."""
    arrays: dict[str, tuple[bytes, ...]] = {}
    for path in sorted(folder.glob("robustness/*/*/*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            arrays[str(path.relative_to(folder))] = tuple(stored[name].tobytes() for name in sorted(stored.files))
    return arrays


def test_a_resumed_stage_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    brief = {"controls": "false", "check_images": 8, "images": 24, "shard": 12, "epsilons": "[0.1]"}
    assert launch("whole/s", **brief) == 0
    for after in (1, 3, 4, 6):
        with pytest.raises(Interrupted):
            launch("parts/s", StoppingEngine(after, "robustness", "controls/checks"), **brief)
    assert launch("parts/s", **brief) == 0
    whole, parts = found(Path("whole/s")), found(Path("parts/s"))
    assert len(whole) > 8
    assert whole == parts


def test_the_pool_is_the_same_in_whatever_order_the_networks_come():
    models = [Model(f"student-{i:06d}", "student", i, f"trials/{i:06d}") for i in range(50)]
    models += [Model("teacher-a", "teacher", None, "teachers/a")]
    pool = pool_of(models)
    assert list(pool) == list(pool_of(models[::-1]))
    assert "teacher-a" in pool
    assert 20 < len(pool) <= LARGEST_POOL
    assert len(pool_of(models[:10])) == 10


def test_an_attack_that_fails_costs_that_network_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = worker.RUNNERS["attack"]

    def failing(work):
        if work.key.startswith("robustness/student-000001"):
            raise ValueError("made to fail")
        return real(work)

    monkeypatch.setitem(worker.RUNNERS, "attack", failing)
    brief = {"controls": "false", "check_images": 8, "images": 16, "shard": 16, "epsilons": "[0.1]"}
    assert launch("s/kd", **brief) == 1, "the same command tries it again"
    results = load("s/kd")
    assert "student-000001" not in results.survivors
    assert "student-000000" in results.survivors
    assert any("made to fail" in problem for problem in results.problems)
