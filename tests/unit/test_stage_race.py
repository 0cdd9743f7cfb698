"""The race on val_front: parts in order, who goes on, what is written, and that a resumed race decides the same."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from nodekd.checkpoint import save_weights
from nodekd.data.dataset import DataConfig, load
from study.durable import read_json
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.errors import EnvironmentFault, Interrupted
from study.jobs.networks import student_of
from study.jobs.race import in_parts, read_robust, run_race
from study.jobs.survivors import SURVIVORS
from study.jobs.work import Work
from study.ledger import Ledger
from study.results import load as load_results
from study.space.reader import read_space
from study.stages import front, race
from study.stages.batch import Batch
from study.stages.context import Context, Facts
from study.stages.pipeline import Pipeline
from study.stages.search import trial_key
from study.stages.teachers import front_pool_key, reference_point, undistilled

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
IMAGES = 1200
ENDS = (100, 250, 500, 1000, 1200)


class Silent:
    """An observer that remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __getattr__(self, name):
        return lambda *_: None


@dataclass
class Truth:
    """What each candidate would keep of all images, and how many it gets right unchanged."""

    robust: np.ndarray
    clean: list[int]
    masked: frozenset[int] = frozenset()
    """Whose gradients lie."""
    crashing: frozenset[int] = frozenset()
    """Whose checks crash."""

    def check(self, ledger: Ledger, job: Job) -> None:
        n, payload = 20, job.payload
        trial = int(payload["network"].rpartition("/")[2])
        if trial in self.crashing:
            ledger.commit(job.key, {"state": "FAIL", "reason": "error: out of memory", "metrics": {}})
            return
        correlation = 0.5 if trial in self.masked else 0.999
        folder = ledger.folder(job.key)
        folder.mkdir(parents=True, exist_ok=True)
        bits = {"image_id": np.arange(n), "clean_correct": np.ones(n, bool), "broken": np.zeros((1, 1, n), bool)}
        np.savez(folder / "diagnosis.npz", attacks=np.array(["pgd-20"]), **bits)
        said = {"id": "G2", "epsilon": None, "value": correlation, "count": None, "n": None, "said": "low"}
        metrics = {"epsilons": payload["epsilons"], "measured": [said], "n": n}
        ledger.commit(job.key, {"state": "COMPLETE", "metrics": payload["identity"] | metrics})

    def run(self, ledger: Ledger, job: Job) -> None:
        if job.kind == "check":
            self.check(ledger, job)
            return
        trial, part = int(job.key.split("/")[1]), job.payload["shard"]
        start, end = (0, *ENDS)[part], ENDS[part]
        bits = self.robust[trial, start:end]
        folder = ledger.folder(job.key)
        folder.mkdir(parents=True, exist_ok=True)
        none = np.zeros_like(bits)
        np.savez(folder / SURVIVORS, image_id=np.arange(start, end), clean_correct=~none, broken=~bits[None, None])
        entry = {"epsilon": job.payload["epsilon"], "norm": "linf", "survivors": int(bits.sum()), "n": len(bits)}
        metrics = {"shard": part, "shards": len(ENDS), "n": len(bits), "nfe": 8.0, "accuracy": 1.0, "robust": [entry]}
        clean = {"clean": {"correct": self.clean[trial], "n": IMAGES}} if part == 0 else {}
        ledger.commit(job.key, {"state": "COMPLETE", "metrics": {**metrics, **clean}})


def a_context(folder: Path, trials: int, *overrides: str) -> Context:
    ledger = Ledger(folder)
    space = read_space(KD, list(overrides))
    context = Context(space, ledger, Facts(10, "f" * 64, {"val_front": IMAGES, "test": 449}, 1), Silent())
    ledger.commit(front_pool_key("teacher"), {"state": "COMPLETE", "metrics": {}})
    for number in range(trials):  # a front of the search on which everybody stands
        values = {"accuracy": 0.9 - 0.001 * number, "adversarial_accuracy": 0.4 + 0.001 * number}
        outcome = {"state": "COMPLETE", "values": values, "metrics": {"n": 100, "n_adversarial": 100}}
        ledger.commit(trial_key(number), outcome)
    return context


@pytest.fixture
def truth() -> Truth:
    rng = np.random.default_rng(0)
    robust = rng.random((6, IMAGES)) < np.array([0.8, 0.75, 0.3, 0.5, 0.62, 0.9])[:, None]
    # 2, 3, 4 are beaten by 0, the sooner the worse; 1 pays for its robustness, 5 is most robust and least accurate.
    return Truth(robust, [1100, 1110, 1050, 1090, 1100, 900])


def run(context: Context, truth: Truth, engine=None) -> list[str]:
    done: list[str] = []

    def execute(job: Job) -> None:
        if context.ledger.outcome(job.key) is None:
            done.append(job.key)
            truth.run(context.ledger, job)

    (engine or InlineEngine()).run(Pipeline(front.stages(context)), execute)
    return done


def notes_of(context: Context) -> list[str]:
    assert isinstance(context.observer, Silent)
    return context.observer.notes


def selection_of(context: Context) -> dict:
    return read_json(context.ledger.root / front.SELECTION) or {}


def test_the_surely_beaten_are_not_attacked_further(tmp_path: Path, truth: Truth) -> None:
    context = a_context(tmp_path / "s", 6)
    done = run(context, truth)
    done = [key for key in done if not key.startswith("front/checks/")]
    parts = {number: sum(key.startswith(f"front/{number:06d}/") for key in done) for number in range(6)}
    assert parts[0] == parts[1] == parts[5] == len(ENDS)
    assert parts[2] == 1
    assert 1 <= parts[3] <= 3
    assert parts[4] <= 4
    found = selection_of(context)
    assert found["front"] == [0, 1, 5]
    assert found["candidates"] == found["attacked"] == [0, 1, 5]
    left = {each["trial"]: each for each in found["race"]["left"]}
    assert set(left) == {2, 3, 4}
    assert left[2]["n"] == 100
    assert left[2]["beaten_by"] in (0, 1)
    assert left[2]["said"] == f"raced out at n = 100, beaten by {left[2]['beaten_by']}"
    for each in left.values():
        ours, theirs = (truth.robust[each[who], : each["n"]] for who in ("trial", "beaten_by"))
        lost, won = int((~ours & theirs).sum()), int((ours & ~theirs).sum())
        assert each["p_value"] == pytest.approx(binomtest(lost, lost + won, alternative="greater").pvalue)
        assert truth.clean[each["beaten_by"]] >= truth.clean[each["trial"]]
    race_of = found["race"]
    assert race_of["looks"] == [100, 250, 500, 1000]
    assert race_of["images"] == IMAGES
    assert race_of["attacked"] == sum(np.diff((0, *ENDS))[int(key[-1])] for key in done)
    assert race_of["attacked"] < race_of["of"] == 6 * IMAGES
    assert "not attacked further" in found["rule"]


def test_who_is_unreliable_on_val_front_sends_nobody_off_and_is_not_chosen(tmp_path: Path, truth: Truth) -> None:
    """0 beats 2, 3 and 4; with its gradients masked it is not measured, and 4 beats the other two."""
    masked = replace(truth, masked=frozenset({0}))
    context = a_context(tmp_path / "s", 6)
    done = run(context, masked)
    found = selection_of(context)
    assert not any(key.startswith("front/000000") for key in done)
    assert 0 not in {*found["front"], *found["candidates"], *found["attacked"]}
    assert 0 not in {each["beaten_by"] for each in found["race"]["left"]}
    assert "whom a check calls unreliable there is left out" in found["rule"]
    assert list(found["doubted"]) == ["000000"]
    assert found["doubted"]["000000"][0].startswith("G2")
    assert [note[:35] for note in notes_of(context)] == ["trials/000000 cannot be chosen: G2 "]
    assert run(context, masked) == [], "resumed, it is decided alike"
    assert selection_of(context) == found


def test_masked_ones_far_ahead_in_the_search_do_not_hide_the_honest(tmp_path: Path, truth: Truth) -> None:
    """0 and 1 dominate the others by far, and so does 2 the rest; all three are masked."""
    context = a_context(tmp_path / "s", 6)
    points = [(0.95, 0.9), (0.95, 0.9), (0.9, 0.5), (0.8, 0.3), (0.79, 0.31), (0.78, 0.32)]
    for number, (accuracy, proxy) in enumerate(points):
        values = {"accuracy": accuracy, "adversarial_accuracy": proxy}
        context.ledger.reopen(trial_key(number))
        outcome = {"state": "COMPLETE", "values": values, "metrics": {"n": 1000, "n_adversarial": 1000}}
        context.ledger.commit(trial_key(number), outcome)
    done = run(context, replace(truth, masked=frozenset({0, 1, 2})))
    found = selection_of(context)
    checked = [key.split("/")[2][:6] for key in done if key.startswith("front/checks/")]
    assert checked == ["000000", "000001", "000002", "000003", "000004", "000005"]
    assert found["doubted"].keys() == {"000000", "000001", "000002"}
    assert {*found["candidates"]} | {each["trial"] for each in found["race"]["left"]} == {3, 4, 5}
    assert run(context, truth) == [], "resumed, it is decided alike"
    assert selection_of(context) == found


def test_whose_checks_crash_is_not_chosen(tmp_path: Path, truth: Truth) -> None:
    context = a_context(tmp_path / "s", 6)
    run(context, replace(truth, crashing=frozenset({0})))
    found = selection_of(context)
    assert found["doubted"] == {"000000": ["its checks ended without a result: error: out of memory"]}
    assert 0 not in {*found["front"], *found["candidates"], *found["attacked"]}
    run(context, truth)
    assert not selection_of(context)["doubted"], "the same command tries them again"


def test_checks_that_cannot_be_read_stop_the_choice(tmp_path: Path, truth: Truth) -> None:
    context = a_context(tmp_path / "s", 2)
    run(context, truth)
    (file, *_) = sorted(context.ledger.folder("front/checks").glob("*/diagnosis.npz"))
    file.write_bytes(b"torn")
    with pytest.raises(EnvironmentFault, match=rf"Delete front/checks/{file.parent.name} in the study's folder"):
        run(context, truth)


def test_where_everybody_is_doubted_all_are_measured(tmp_path: Path, truth: Truth) -> None:
    context = a_context(tmp_path / "s", 6)
    run(context, replace(truth, masked=frozenset(range(6))))
    found = selection_of(context)
    assert found["front"] == [0, 1, 5]
    assert len(found["doubted"]) == 6
    assert found["rule"].count("a check calls every completed trial unreliable there, so nobody is left out") == 1
    assert all("may be chosen, as a check speaks up about every trial" in note for note in notes_of(context))
    assert len(notes_of(context)) == 6


@pytest.mark.parametrize("tier", ["screen", "standard"])
def test_a_first_look_and_a_smoke_study_check_nobody(tmp_path: Path, truth: Truth, tier: str) -> None:
    context = replace(a_context(tmp_path / "s", 6, f"robustness.tier={tier}"), smoke=tier != "screen")
    first = next(front.stages(context))
    assert isinstance(first, Batch)
    assert next(iter(first.keys)) == "front/000000/part-0"


def test_the_front_is_that_of_measuring_everybody_whole(tmp_path: Path, truth: Truth) -> None:
    context = a_context(tmp_path / "s", 6)
    run(context, truth)
    points = np.column_stack([truth.clean, truth.robust.sum(1)])
    assert selection_of(context)["front"] == np.flatnonzero(front.non_dominated(points)).tolist()


class Stopping:
    """Runs so many jobs, then stops as if killed."""

    def __init__(self, after: int) -> None:
        self.after = after

    def run(self, source, execute) -> None:
        while not source.finished and (job := source.next()) is not None:
            if self.after == 0:
                raise Interrupted("stopped")
            self.after -= 1
            execute(job)
            source.settled(job, None)


@pytest.mark.parametrize("after", [0, 7, 15])
def test_a_resumed_race_decides_what_an_uninterrupted_one_does(tmp_path: Path, truth: Truth, after: int) -> None:
    whole = a_context(tmp_path / "whole", 6)
    everything = run(whole, truth)
    cut = a_context(tmp_path / "cut", 6)
    with pytest.raises(Interrupted):
        run(cut, truth, Stopping(after))
    assert not selection_of(cut)
    rest = run(cut, truth)
    assert len(rest) == len(everything) - after
    assert selection_of(cut) == selection_of(whole)
    # And once more: nothing is left to run, and the choice stays.
    assert run(cut, truth) == []
    assert selection_of(cut) == selection_of(whole)


def test_results_join_the_parts_and_leave_out_who_left(tmp_path: Path, truth: Truth) -> None:
    context = a_context(tmp_path / "s", 6)
    run(context, truth)
    (context.ledger.root / "study.json").write_text('{"name": "s", "reference_point": [0.1, 0.0]}')
    frame = load_results(context.ledger.root).front.set_index("trial")
    assert frame.index.tolist() == [0, 1, 5]
    for trial in (0, 1, 5):
        row = frame.loc[trial]
        assert row["accuracy"] == pytest.approx(truth.clean[trial] / IMAGES)
        assert row["adversarial_accuracy"] == pytest.approx(truth.robust[trial].mean())
        assert (row["n"], row["n_adversarial"], row["survivors"]) == (IMAGES, IMAGES, truth.robust[trial].sum())
        assert row["on_front"]
        assert row["attacked"]


def test_a_candidate_whose_job_failed_neither_races_nor_beats(tmp_path: Path, truth: Truth) -> None:
    context = a_context(tmp_path / "s", 6)
    diverged = {"state": "FAIL", "reason": "capped"}
    context.ledger.commit(race.part_key(trial_key(5), 1), diverged)
    context.ledger.commit(race.part_key(trial_key(0), 0), diverged)
    run(context, truth)
    found = selection_of(context)
    assert found["front"] == [1]
    assert 0 not in found["candidates"]
    assert {each["trial"] for each in found["race"]["left"]} == {2, 3, 4}
    assert 0 not in {each["beaten_by"] for each in found["race"]["left"]}


def test_without_racing_or_after_a_whole_measurement_nobody_races(tmp_path: Path) -> None:
    context = a_context(tmp_path / "off", 3, "robustness.racing=false", "robustness.tier=screen")
    jobs = []
    pipeline = Pipeline(front.stages(context))
    while (job := pipeline.next()) is not None and len(jobs) < 3:
        jobs.append(job)
    assert [job.key for job in jobs] == ["front/000000", "front/000001", "front/000002"]
    assert {job.kind for job in jobs} == {"attack"}
    earlier = a_context(tmp_path / "earlier", 3)
    found = {"accuracy": 0.9, "n": 100, "robust": [{"epsilon": 0.0625, "robust_accuracy": 0.5}]}
    earlier.ledger.commit("front/000001", {"state": "COMPLETE", "metrics": found})
    assert not front.is_race(earlier, front.candidates(earlier)[0])


def test_the_order_is_fixed_complete_and_mixes_the_file(tmp_path: Path) -> None:
    split = load(DataConfig(), splits=("val_front",)).splits["val_front"]
    parts = in_parts(split, "all", [100, 270], "a")
    rows = [row for part in parts for row in part.tolist()]
    assert [len(part) for part in parts] == [100, 170]
    assert sorted(rows) == list(range(270))
    assert rows == [row for part in in_parts(split, "all", [100, 270], "a") for row in part.tolist()]
    assert rows != [row for part in in_parts(split, "all", [100, 270], "b") for row in part.tolist()]
    # The first part comes from all over the file, whose images are ordered by writer.
    thirds = np.bincount(np.array(rows[:100]) // 90, minlength=3)
    assert thirds.min() >= 20
    assert abs(np.corrcoef(rows, np.arange(270))[0, 1]) < 0.2
    few = in_parts(split, 16, [16], "a")
    assert sorted(few[0].tolist()) == np.linspace(0, 269, 16).round().astype(int).tolist()


def test_the_job_counts_clean_images_once_and_shows_the_pool(tmp_path: Path) -> None:
    dataset = load(DataConfig(), splits=("train", "val_front"))
    split, ledger = dataset.splits["val_front"], Ledger(tmp_path)
    space = read_space(KD)
    settings = space.settings(reference_point(space))
    small = {**settings["student"], "channels": 4, "solver": "euler", "evaluations": 2}
    settings = undistilled({**settings, "student": {k: v for k, v in small.items() if k != "rtol"}})
    ledger.write_config("trials/000000", {"settings": settings})
    network = student_of(settings, dataset, "cpu")
    save_weights(network, ledger.folder("trials/000000") / "weights.pt")
    ids, pixels = split.ids.numpy(), split.images().numpy()
    (tmp_path / "pool").mkdir()
    # Shown: the images themselves; had they been mixed up, they would lie outside the ball.
    np.savez(tmp_path / "pool" / "adversarial.npz", image_id=ids, images=pixels[None])
    payload = {
        "data": {"name": "digits", "root": "data", "image_size": None, "shuffle": False},
        "split_hash": dataset.split_hash,
        "network": "trials/000000",
        "split": "val_front",
        "images": 24,
        "ends": [10, 24],
        "norm": "linf",
        "epsilon": 0.05,
        "attacks": "screen",
        "pool": {"transfer-teacher": "pool"},
        "seed": 0,
        "identity": {"model": "student-000000", "kind": "student", "trial": 0},
    }
    found = []
    for shard in (0, 1):
        work = Work(ledger, f"front/000000/part-{shard}", {**payload, "shard": shard}, "cpu")
        work.folder.mkdir(parents=True)
        found.append(run_race(work).metrics)
    assert [metrics["n"] for metrics in found] == [10, 14]
    assert "clean" not in found[1]
    stored = [np.load(ledger.folder(f"front/000000/part-{shard}") / SURVIVORS) for shard in (0, 1)]
    assert found[0]["clean"] == {"correct": sum(int(part["clean_correct"].sum()) for part in stored), "n": 24}
    assert sum(int(part["attempted"][0, 1].sum()) for part in stored) > 0
    assert [metrics["robust"][0]["invalid"]["transfer-teacher"] for metrics in found] == [0, 0]
    assert [str(name) for name in stored[0]["columns"]][:2] == ["carried", "transfer-teacher"]
    met = np.concatenate([part["image_id"] for part in stored])
    rows = np.concatenate([part.numpy() for part in in_parts(split, 24, [10, 24], dataset.split_hash)])
    assert met.tolist() == ids[rows].tolist()
    for shard in (0, 1):
        bits = read_robust(ledger.folder(f"front/000000/part-{shard}"))
        assert int(bits.sum()) == found[shard]["robust"][0]["survivors"]
    np.savez(tmp_path / "pool" / "adversarial.npz", image_id=ids[:5], images=pixels[None, :5])
    with pytest.raises(ValueError, match="must hold every image that is raced on"):
        run_race(replace(work, key="front/000000/part-2"))
