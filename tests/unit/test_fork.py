"""Resuming with a changed space: what may change goes on, what may not is named, `--fork` takes over what still holds.

No network is trained; how good one is follows from its settings. What was trained is told by the jobs that were run.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study import driver, launch
from study.engine.inline import InlineEngine
from study.errors import EnvironmentFault, ResumeConflict
from study.ledger import Ledger
from study.number_ranges import numbers_in
from study.order import Order
from study.results import load
from study.space.parameters import Parameter
from study.space.reader import read_space
from study.stages import fork as forking
from study.stages.context import Facts
from tests.made_up_world import KD, SIZES, World

TRIALS = 6
ALWAYS = (f"budget.trials={TRIALS}", "robustness.tier=screen", "robustness.racing=false", "robustness.controls=false")
FACTS = Facts(10, "f" * 64, SIZES, 1)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "study_facts", lambda _: FACTS)


def order(*overrides: str, **changes: Any) -> Order:
    space = read_space(KD, [*ALWAYS, *overrides])
    words = ["python", "-m", "study.launch", str(KD), *overrides]
    words += [f"--{name}={changes[name]}" for name in ("output", "fork") if name in changes]
    given: dict[str, Any] = {"space": space, "source": KD, "command": shlex.join(words), "part": "search"}
    return Order(**{**given, **changes})


def launched(*overrides: str, **changes: Any) -> tuple[Ledger, list[str]]:
    """Run a search, and give its ledger and the trials that were run for it."""
    asked = order(*overrides, **changes)
    worlds: list[World] = []

    def execute(job: Any) -> None:
        if not worlds:
            worlds.append(World(Ledger(Path(job.study))))
        worlds[0](job)
        Path(job.study, job.key, "weights.pt").write_bytes(job.key.encode())

    engine = InlineEngine()
    engine_run = engine.run
    engine.run = lambda source, _: engine_run(source, execute)  # type: ignore[method-assign]
    driver.drive(asked, engine)
    folder = Path(worlds[0].ledger.root) if worlds else driver.study_folder(asked)
    return Ledger(folder), [key for key in (worlds[0].done if worlds else []) if key.startswith("trials/")]


def configs(ledger: Ledger) -> list[dict[str, Any]]:
    return [ledger.config(key) or {} for key in ledger.keys("trials")]


def copied(ledger: Ledger) -> list[int]:
    """Give the old numbers of the trials that were taken over, in their new order."""
    return [config["copied_from"]["trial"] for config in configs(ledger) if "copied_from" in config]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose search is over; do not change it."""
    folder = tmp_path_factory.mktemp("first") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(driver, "study_facts", lambda _: FACTS)
        launched(output=folder)
    return folder


@pytest.fixture
def kept(first: Path, at_home: None) -> Ledger:
    """The same, to do with as one likes, in the folder `kept`."""
    shutil.copytree(first, "kept")
    return Ledger(Path("kept"))


# ---------------------------------------------------------------- what may change


@pytest.mark.parametrize(
    ("override", "trained"),
    [
        *(("study.name=other", 0), ("budget.trials=8", 2), ("budget.concurrency=2", 0), ("resources.cpus=2", 0)),
        *(("robustness.images=10", 0), ("probes.calibration=true", 0), ("progress.refresh_s=2", 0), ("data.root=x", 0)),
    ],
)
def test_what_may_change_goes_on(kept: Ledger, override: str, trained: int) -> None:
    ledger, run = launched(override, output=Path("kept"))
    assert ledger.root == Path("kept").resolve() or ledger.root == Path("kept")
    assert len(run) == trained


CHANGES = [
    ("train.epochs=3", "train.epochs was 40 and is now 3"),
    ("space.temperature.float=[1, 30]", "space.temperature.high was 20.0 and is now 30.0"),
    ("sampler.name=random", 'sampler.name was "tpe" and is now "random"'),
    ("early_stopping.name=mo-asha", 'early_stopping.name was "none" and is now "mo-asha"'),
    ("study.seed=1", "study.seed was 0 and is now 1"),
]


@pytest.mark.parametrize(("override", "sentence"), CHANGES)
def test_what_may_not_change_is_named_with_the_command_that_forks(kept: Ledger, override: str, sentence: str) -> None:
    with pytest.raises(ResumeConflict) as refused:
        driver.drive(order(override, output=Path("kept")), InlineEngine())
    said = str(refused.value)
    assert sentence in said
    command = shlex.join(["python", "-m", "study.launch", str(KD), override, "--fork", "kept"])
    assert said.endswith(command)
    options = launch.parser().parse_intermixed_args(shlex.split(command)[3:])
    assert (options.space, options.overrides, options.fork) == (KD, [override], Path("kept"))
    assert refused.value.exit_code == 5


def test_the_command_that_forks_calls_the_interpreter_as_the_user_did_and_no_file_does(kept: Ledger) -> None:
    called = {"interpreter": "/own place/python", "output": Path("kept")}
    launched("budget.trials=7", **called)
    assert not [path for path in kept.root.rglob("*.json*") if "own place" in path.read_text()]
    with pytest.raises(ResumeConflict, match=r"'/own place/python' -m study\.launch .* --fork kept$"):
        driver.drive(order("study.seed=1", **called), InlineEngine())


# ---------------------------------------------------------------- what is taken over


def test_another_sampler_takes_everything_over_and_goes_on(kept: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    new, run = launched("sampler.name=random", "budget.trials=8", fork=Path("kept"))
    assert f"forked from kd: {TRIALS} of {TRIALS} trials taken over\n" in capsys.readouterr().out
    assert new.root.name == "kd"  # kept lies elsewhere, so the study's own name is free
    assert copied(new) == list(range(TRIALS))
    assert run == ["trials/000006", "trials/000007"]
    for number, key in enumerate(kept.keys("trials")):
        theirs, ours = kept.outcome(key) or {}, new.outcome(key) or {}
        assert (ours["values"], ours["metrics"], ours["state"]) == (theirs["values"], theirs["metrics"], "COMPLETE")
        assert ours["copied_from"] == {"study": forking.source_study(kept.root)["id"], "trial": number}
        assert (new.folder(key) / "weights.pt").read_bytes() == key.encode()
    assert (new.config("trials/000007") or {})["seen"] == [[0, 6]]
    assert forking.fork_of(new) is not None
    trials = load(new.root).trials
    assert trials["state"].tolist() == ["COMPLETE"] * 8


def test_the_same_command_goes_on_with_the_fork_and_takes_nothing_twice(
    kept: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    launched("sampler.name=random", fork=Path("kept"))
    before = {path: path.stat().st_mtime_ns for path in Path("results/kd/trials").rglob("*.json")}
    capsys.readouterr()
    new, run = launched("sampler.name=random", "budget.trials=7", fork=Path("kept"))
    assert run == ["trials/000006"]
    assert new.root.name == "kd"
    assert "forked from" not in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    events = [event for event in new.events() if event["type"] == "forked"]
    assert len(events) == 1


def test_only_trials_that_the_new_space_would_have_made_are_taken(
    kept: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Restated from the old points: those inside the new range, renumbered without gaps in their old order."""
    horizons = [config["params"]["horizon"] for config in configs(kept)]
    inside = [number for number, horizon in enumerate(horizons) if 0.5 <= horizon <= 2]
    assert 0 < len(inside) < TRIALS
    new, run = launched("space.horizon.float=[0.5, 2]", fork=Path("kept"))
    assert copied(new) == inside
    assert [config["number"] for config in configs(new)] == list(range(TRIALS))
    assert len(run) == TRIALS - len(inside)
    left = TRIALS - len(inside)
    said = f"{len(inside)} of {TRIALS} trials taken over; {left} left out (horizon does not fit the new space)"
    assert said in capsys.readouterr().out
    for config, number in zip(configs(new), inside, strict=False):
        theirs = kept.config(f"trials/{number:06d}") or {}
        assert (config["params"], config["settings"]) == (theirs["params"], theirs["settings"])
        assert all(seen < config["number"] for seen in numbers_in(config["seen"]))


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.epochs=3", "train.epochs differs"),
        ("distill.kl_scale=none", "distill.kl_scale differs"),
        ("study.seed=1", "seed differs"),
        ("study.seed=1 space.seed=0 teachers.0.seed=0", "study.seed differs"),
        ("search.epsilon=1/8", "search.epsilon differs"),
        ("search.images=100", "search.images differs"),
        ("constraints.nfe=100", "constraints.nfe differs"),
        ("teachers.0.arch=resnet32", "the teachers differ"),
        ("anchors.0.horizon=2.0", "student.horizon of the undistilled anchor, whose images trials are shown, differs"),
    ],
)
def test_what_every_outcome_depends_on_leaves_all_behind(
    kept: Ledger, override: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new, run = launched(*override.split(), fork=Path("kept"))
    assert copied(new) == []
    assert len(run) == TRIALS
    assert f"0 of {TRIALS} trials taken over; {TRIALS} left out ({reason})" in capsys.readouterr().out


def test_a_parameter_that_becomes_fixed_and_one_that_is_sampled_from_now_on(tmp_path: Path) -> None:
    space = read_space(KD, ["space.solver=rk4"])
    settings = space.settings({"temperature": 4.0, "alpha": 0.5, "horizon": 1.0, "evaluations": 8})
    config = {"settings": settings, "params": {"temperature": 4.0, "alpha": 0.5, "horizon": 1.0, "evaluations": 8}}
    wider = read_space(KD).parameters  # samples the solver, too
    assert forking.point_of(wider, config)["solver"] == "rk4"
    fixed = read_space(KD, ["space.solver=rk4", "space.temperature=4", "space.evaluations=8"]).parameters
    assert set(forking.point_of(fixed, config)) == {"alpha", "horizon"}
    seeds = Parameter(name="seed", section="study", kind="int", low=0, high=3)
    assert forking.point_of([seeds], config) == {"seed": 0}
    with pytest.raises(KeyError, match="having no beta"):
        forking.point_of([Parameter(name="beta", section="distill", kind="float", low=0.0, high=1.0)], config)


def settled_as(ledger: Ledger, number: int, **outcome: Any) -> None:
    path = ledger.folder(f"trials/{number:06d}") / "outcome.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | outcome))


def test_crashes_and_unfinished_trials_stay_behind_and_failed_networks_come_along(
    kept: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    settled_as(kept, 1, state="FAIL", reason="crashed: the machine", values=None)
    settled_as(kept, 2, state="FAIL", reason="diverged", values=None)
    (kept.folder("trials/000004") / "outcome.json").unlink()
    new, _ = launched("sampler.name=random", fork=Path("kept"))
    assert copied(new) == [0, 2, 3, 5]
    assert (new.outcome("trials/000001") or {})["reason"] == "diverged"
    assert "4 of 6 trials taken over; 2 left out (1 crashed; 1 unfinished)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "taken"), [("early_stopping.name=median", [0, 2, 3, 4, 5]), ("sampler.name=qmc", None)]
)
def test_pruned_trials_come_along_only_under_the_same_early_stopping(
    kept: Ledger, override: str, taken: list[int] | None
) -> None:
    settled_as(kept, 1, state="PRUNED", values=None)
    new, _ = launched(override, fork=Path("kept"))
    assert copied(new) == (taken or list(range(TRIALS)))


def test_an_anchor_that_a_fork_adds_is_still_tried(kept: Ledger) -> None:
    more = "anchors.1={temperature: 2, alpha: 0.1, solver: euler, evaluations: 4, horizon: 2.0}"
    new, run = launched(more, "budget.trials=8", fork=Path("kept"))
    assert copied(new) == list(range(TRIALS))
    assert run == ["trials/000006", "trials/000007"]
    expected = {"temperature": 2.0, "alpha": 0.1, "solver": "euler", "evaluations": 4, "horizon": 2.0}
    assert configs(new)[6]["params"] == expected
    assert configs(new)[7]["params"] not in (expected, configs(new)[0]["params"])


def test_teachers_come_along(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(output=Path("elsewhere/kept"))
    _, run = launched("sampler.name=random", fork=Path("elsewhere/kept"))
    assert run == []
    teachers = Ledger(Path("results/kd")).keys("teachers")
    assert teachers == Ledger(Path("elsewhere/kept")).keys("teachers")
    weights = [Path(root, teachers[0], "weights.pt").stat().st_ino for root in ("results/kd", "elsewhere/kept")]
    assert weights[0] == weights[1]


# ---------------------------------------------------------------- folders, and what is refused


def test_a_fork_of_the_study_in_its_own_place_gets_the_next_name() -> None:
    launched()
    new, _ = launched("sampler.name=random", fork=Path("results/kd"))
    assert new.root.name == "kd-2"
    again, _ = launched("sampler.name=qmc", fork=Path("results/kd"))
    assert again.root.name == "kd-3"
    same, run = launched("sampler.name=random", "budget.trials=7", fork=Path("results/kd"))
    assert (same.root.name, run) == ("kd-2", ["trials/000006"])


def test_the_old_study_is_left_as_it_was(kept: Ledger) -> None:
    before = {path: path.read_bytes() for path in kept.root.rglob("*") if path.is_file()}
    launched("sampler.name=random", "budget.trials=8", fork=Path("kept"))
    assert {path: path.read_bytes() for path in kept.root.rglob("*") if path.is_file()} == before


def test_other_images_are_refused(kept: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "study_facts", lambda _: Facts(10, "e" * 64, SIZES, 1))
    with pytest.raises(ResumeConflict, match="A fork goes on with the same images, but kept has the split ffff"):
        launched("sampler.name=random", fork=Path("kept"))
    assert not Path("results/kd/study.json").exists()


def test_what_cannot_be_forked_says_so(kept: Ledger) -> None:
    with pytest.raises(EnvironmentFault, match=r"--fork takes a study's folder, but nowhere holds no study\.json"):
        launched("sampler.name=random", fork=Path("nowhere"))
    with pytest.raises(ResumeConflict, match="A fork is a study of its own, but --output is kept"):
        launched("sampler.name=random", fork=Path("kept"), output=Path("kept"))
    launched("sampler.name=random", output=Path("other"))
    with pytest.raises(ResumeConflict, match="other holds a study that was not forked from kept"):
        launched("sampler.name=random", fork=Path("kept"), output=Path("other"))


@pytest.mark.parametrize(
    "words", [["--insecure"], ["--fork", "x", "--resume", "must"], ["--fork", "x", "--resume", "never"]]
)
def test_options_that_contradict_each_other_are_usage_errors(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.main([str(KD), *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


# ---------------------------------------------------------------- a kill at any instant


class KilledError(BaseException):
    """Stands for a kill."""


WRITES = ("replace", "link", "hardlink_to")


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Callable[[], int]:
    """End the process, as it were, before one of the renames and links that make files appear."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > steps:
                raise KilledError
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "hardlink_to", counted(Path.hardlink_to))
    monkeypatch.setattr(os, "link", counted(os.link))
    return lambda: count


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 9, 10, 11, 13, 17, 23])
def test_a_torn_fork_is_completed_by_the_same_command(kept: Ledger, steps: int, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        count = killed_after(patch, steps)
        with pytest.raises(KilledError):
            launched("sampler.name=random", fork=Path("kept"))
        assert count() == steps + 1
    if forking.fork_of(Ledger(Path("results/kd"))) is not None:
        with pytest.raises(ResumeConflict, match=r"was being forked from kd when it was stopped\. Complete"):
            launched("sampler.name=random")
    new, run = launched("sampler.name=random", fork=Path("kept"))
    assert new.root.name == "kd"
    assert run == []
    assert copied(new) == list(range(TRIALS))
    for key in kept.keys("trials"):
        assert (new.outcome(key) or {})["values"] == (kept.outcome(key) or {})["values"]
        assert (new.folder(key) / "weights.pt").read_bytes() == key.encode()
    assert not list(Path("results").glob("kd-*"))
