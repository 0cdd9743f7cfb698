"""What stands beside a paper: the paper's side holds the four known gains and nothing else, this run's is computed."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodekd.data.catalog import DATASETS
from study.paper_table import compare
from study.paper_values import MEASURES
from study.papers import OTHER, PAPERS
from study.results import load
from tests.study_folder import Plan, write_shards

ROOT = Path(__file__).parents[2]
TIMES = {"attempt": 0, "started": "2025-11-20T10:00:00+00:00", "seconds": 1.0}
ROWS = [(paper, row) for paper in PAPERS.values() for row in paper.rows]


def write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def outcome(folder: Path, key: str, metrics: Mapping[str, Any], values: Mapping[str, float] | None = None) -> None:
    record = {"schema": 1, "key": key, "state": "COMPLETE", "reason": None, "values": values, "metrics": dict(metrics)}
    write(folder / key / "outcome.json", record | TIMES)


def study(root: Path, trials: Sequence[Mapping[str, Any]], data: str = "digits", sampler: str = "grid") -> Path:
    """Write a study; a trial is `params`, `accuracy`, and optionally `metrics`, `probe` and `teachers`."""
    folder = root / "run"
    levels = {
        name: list(dict.fromkeys(t["params"][name] for t in trials))
        for name in ("method", "dynamics")
        if trials and name in trials[0]["params"]
    }
    searched = {name: {"kind": "choice", "choices": found} for name, found in levels.items()}
    space = {"data": {"name": data}, "sampler": {"name": sampler}, "space": searched}
    identity = {"schema": 1, "name": "run", "space": space, "data": data, "epsilon": 0.0625, "norm": "linf"}
    write(folder / "study.json", identity | {"reference_point": [0.1, 0.0], "smoke": False})
    events = [
        {"schema": 1, "seq": i, "ts": TIMES["started"], "type": t} for i, t in enumerate(("launched", "finished"))
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    for number, trial in enumerate(trials):
        add(folder, number, trial)
    return folder


def add(folder: Path, number: int, trial: Mapping[str, Any]) -> None:
    params, key = trial["params"], f"trials/{number:06d}"
    settings: dict[str, Any] = {
        "student": {"horizon": 1.0},
        "distill": {"method": "none"},
        "seed": params.get("seed", 0),
    }
    for name, value in params.items():
        section = "distill" if name in ("method", "alpha", "ensemble", "beta") else "student"
        settings |= {} if name == "seed" else {section: settings[section] | {name: value}}
    config = {"schema": 1, "number": number, "params": params, "settings": settings, "seed": settings["seed"]}
    write(folder / key / "config.json", config | {"teachers": trial.get("teachers", []), "seen": []})
    values = {"accuracy": trial["accuracy"], "adversarial_accuracy": 0.5}
    outcome(folder, key, {"parameter_count": 100, **trial.get("metrics", {})}, values)
    if "probe" in trial:
        identity = {"kind": "student", "trial": number, "split": "test"}
        outcome(folder, f"probes/student-{number:06d}", identity | trial["probe"])


def crossed(arms: Mapping[str, Sequence[float]], name: str = "method", **more: Any) -> list[dict[str, Any]]:
    """Give one trial per arm and seed."""
    return [
        {"params": {name: arm, "seed": seed, **more}, "accuracy": accuracy}
        for arm, accuracies in arms.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def rows(folder: Path, paper: str) -> dict[str, dict[str, Any]]:
    return {row["quantity"]: row for row in compare(load(folder), PAPERS[paper])["rows"]}


def measured(folder: Path, paper: str, quantity: str) -> dict[str, dict[str, Any]]:
    return {entry["arm"]: entry for entry in rows(folder, paper)[quantity]["measured"] or []}


KD = {"none": [0.5, 0.6, 0.7], "kd": [0.6, 0.75, 0.75]}
"""Differences 0.10, 0.15, 0.05: mean 0.10, deviation 0.05; Student's t for 2 degrees and 95 % is 4.302653."""
HALF = 4.302653 * 5 / 3**0.5


def test_no_value_of_a_paper_is_known_but_four_gains():
    known = {(paper.key, row.data): [(k.version, k.percent) for k in row.known] for paper, row in ROWS if row.known}
    assert known == {
        ("chu2022", "svhn"): [("arXiv", 5), ("IET", 5.17)],
        ("chu2022", "cifar10"): [("arXiv", 24), ("IET", 24.75)],
        ("chu2022", "cifar100"): [("IET", 7.20)],
        ("chu2022", "food101"): [("IET", 8.99)],
    }


def test_the_words_of_a_paper_hold_no_result():
    for paper, row in ROWS:
        assert not re.search(r"\d\s*%|\d\.\d", " ".join([*paper.claims, row.quantity, row.note, row.place])), row


def test_papers_are_in_the_bibliography_and_rows_have_what_they_name():
    known = re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text(encoding="utf-8"), flags=re.M)
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    for paper in PAPERS.values():
        assert paper.citation in known
        assert paper.key in text
        assert paper.arxiv in text
        assert {row.run.split()[0] for row in paper.rows} <= set(re.findall(r"search_spaces/[a-z-]+\.yaml", text))
    assert {row.measure for _, row in ROWS} == set(MEASURES)
    assert {row.data for _, row in ROWS if row.data} <= {*DATASETS, OTHER, "imagenet"}


def test_a_gain_is_paired_over_seeds_in_points_and_relative(tmp_path: Path):
    gain = measured(study(tmp_path, crossed(KD)), "chu2022", "This run's data: accuracy gained by distillation")["kd"]
    assert gain["points"] == pytest.approx(10)
    assert [gain["low"], gain["high"]] == pytest.approx([10 - HALF, 10 + HALF], abs=1e-4)
    assert gain["relative_percent"] == pytest.approx(100 * (0.7 / 0.6 - 1))
    assert (gain["pairs"], gain["replicates"], gain["split"]) == (3, "3 seeds", "val_search")
    assert gain["text"].startswith("kd: +10.0 points (-2.4 to +22.4), +16.7 % relative (")


def test_the_papers_value_stands_beside_the_data_set_it_is_about(tmp_path: Path):
    found = rows(study(tmp_path, crossed(KD), data="cifar10"), "chu2022")
    own = found["CIFAR-10: accuracy gained by distillation into a Neural ODE"]
    assert [entry["points"] for entry in own["measured"]] == pytest.approx([10])
    assert [known["percent"] for known in own["paper"]] == [24, 24.75]
    other = found["SVHN: accuracy gained by distillation into a Neural ODE"]
    assert other["measured"] is None
    assert other["run"] == "search_spaces/chu-horizon.yaml data.name=svhn"
    assert "This run's data: accuracy gained by distillation" not in found


def test_only_trials_that_differ_in_nothing_else_are_paired(tmp_path: Path):
    lonely = crossed({"kd": [0.99, 0.99, 0.99]}, horizon=4.0)
    trials = [*crossed(KD, horizon=1.0), *lonely]
    gain = measured(study(tmp_path, trials), "chu2022", "This run's data: accuracy gained by distillation")["kd"]
    assert gain["points"] == pytest.approx(10)
    assert gain["pairs"] == 3


def test_alpha_zero_is_no_distillation_and_other_alphas_are_arms(tmp_path: Path):
    trials = []
    for alpha, accuracies in {0.0: KD["none"], 0.5: KD["none"], 0.9: KD["kd"]}.items():
        trials += crossed({"kd": accuracies}, alpha=alpha)
    found = measured(study(tmp_path, trials), "chu2022", "This run's data: accuracy gained by distillation")
    assert {arm: entry["points"] for arm, entry in found.items()} == pytest.approx(
        {"kd, alpha 0.5": 0, "kd, alpha 0.9": 10}
    )


def test_a_single_seed_has_no_interval(tmp_path: Path):
    trials = crossed({"none": [0.5], "kd": [0.6]})
    gain = measured(study(tmp_path, trials), "chu2022", "This run's data: accuracy gained by distillation")["kd"]
    assert (gain["points"], gain["low"], gain["replicates"]) == (pytest.approx(10), None, "no replicates")


def test_accuracy_by_horizon_needs_several_and_orders_them_by_size(tmp_path: Path):
    trials = [trial for horizon in (2.0, 10.0, 0.5) for trial in crossed({"none": [0.5, 0.7]}, horizon=horizon)]
    found = measured(study(tmp_path / "many", trials), "chu2022", "Accuracy by time horizon")
    assert list(found) == ["none, horizon 0.5", "none, horizon 2", "none, horizon 10"]
    assert found["none, horizon 2"]["mean"] == pytest.approx(0.6)
    assert not measured(study(tmp_path / "one", crossed(KD)), "chu2022", "Accuracy by time horizon")


def bits(survivors: int, n: int = 8) -> dict[str, Any]:
    """Give bits of a model that is right everywhere; of its images so many survive 1/16, and none survives 0.1."""
    broken = np.zeros((2, 1, n), bool)
    broken[0, 0, survivors:] = True
    broken[1] = True
    arrays = {"image_id": np.arange(n), "label": np.zeros(n, int), "clean_correct": np.ones(n, bool)}
    return arrays | {"columns": np.array(["fgsm"]), "broken": broken, "attempted": np.ones((2, 1, n), bool)}


def test_robust_accuracy_is_counted_from_the_bits(tmp_path: Path):
    folder = study(
        tmp_path, [t for h in (1.0, 2.0) for t in crossed({"none": [0.5, 0.5], "kd": [0.5, 0.5]}, horizon=h)]
    )
    for trial, survivors in enumerate((1, 2, 3, 4, 2, 3, 6, 7)):
        meta = {
            "kind": "student",
            "trial": trial,
            "split": "test",
            "norm": "linf",
            "epsilons": [0.0625, 0.1],
            "nfe": 8.0,
        }
        meta |= {"attacks": [{"name": "fgsm"}]}
        write_shards(folder, f"student-{trial:06d}", meta, bits(survivors), Plan(images=8, shard=8))
    gain = measured(folder, "chu2022", "Robust accuracy gained by distillation")["kd, epsilon 1/16"]
    assert gain["points"] == pytest.approx(100 * (2 / 8 + 4 / 8) / 2)
    assert gain["relative_percent"] == pytest.approx(100 * (20 / 8 - 1))
    found = measured(folder, "chu2022", "Robust accuracy by time horizon")
    assert found["kd, horizon 2, epsilon 1/16"]["mean"] == pytest.approx(6.5 / 8)
    assert found["kd, horizon 2, epsilon 1/16"]["split"] == "test"
    assert found["kd, horizon 2, epsilon 0.1"]["mean"] == 0


def damped(arm: str, seed: int, noise: float, damping: Sequence[float]) -> dict[str, Any]:
    heard = [{"noise": "gaussian", "severity": s, "accuracy": noise - 0.1 * s} for s in (1, 3)]
    attacks = [
        {"attack": "pgd", "epsilon": 8 / 255, "accuracy": noise / 2},
        {"attack": "pgd-legacy", "epsilon": 8 / 255},
    ]
    attacks[1]["accuracy"] = 0.25
    loss = {"median": [0.0, 1.0, 3.0], "q25": [0, 0, 0], "q75": [9, 9, 9]}
    probe = {"noise": heard, "published_attacks": attacks, "landscape": {"distances": [-1.0, 0.5, 1.0], "loss": loss}}
    point = {"params": {"dynamics": arm, "seed": seed}, "accuracy": 0.5 + 0.1 * len(damping), "probe": probe}
    return point | {"metrics": {"damping": damping}}


@pytest.fixture(scope="module")
def innet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trials = [
        damped(arm, s, 0.8 + 0.1 * s, [0.2, 0.4] if arm != "plain" else [])
        for arm in ("plain", "damped")
        for s in (0, 1)
    ]
    return study(tmp_path_factory.mktemp("papers"), trials)


def test_damping_is_compared_clean_under_noise_and_under_attack(innet: Path):
    assert measured(innet, "innet2020", "Clean accuracy gained by damping")["damped"]["points"] == pytest.approx(20)
    clean = measured(innet, "innet2020", "Accuracy on clean images")
    assert {arm: entry["mean"] for arm, entry in clean.items()} == pytest.approx({"plain": 0.5, "damped": 0.7})
    assert list(clean) == ["plain", "damped"]
    assert measured(innet, "innet2020", "Accuracy under gaussian noise")["damped"]["mean"] == pytest.approx(0.65)
    assert measured(innet, "innet2020", "Accuracy under PGD")["damped, epsilon 8/255"]["mean"] == pytest.approx(0.425)
    legacy = rows(innet, "innet2020")["Accuracy under PGD as published"]
    assert [entry["mean"] for entry in legacy["measured"]] == pytest.approx([0.25, 0.25])
    assert "2*epsilon" in legacy["note"]


def test_what_was_not_measured_says_which_run_would(innet: Path):
    for quantity in ("Accuracy under shot noise", "Accuracy under FGSM"):
        row = rows(innet, "innet2020")[quantity]
        assert (row["measured"], row["run"], row["paper"]) == (None, "search_spaces/damped.yaml", None)
        assert "arXiv:2006.05749" in row["read"]


def test_learned_damping_is_averaged_over_blocks_and_given_damping_is_left_out(innet: Path, tmp_path: Path):
    assert measured(innet, "innet2020", "Learned damping")["damped"]["mean"] == pytest.approx(0.3)
    given = damped("damped", 0, 0.8, [0.7])
    given["params"] |= {"damping": 0.7}
    assert not measured(study(tmp_path, [given]), "innet2020", "Learned damping")


def test_the_loss_is_read_between_measured_distances(innet: Path):
    quantity = "Loss at epsilon along the attack direction, less the loss at the image"
    assert measured(innet, "innet2020", quantity)["plain"]["mean"] == pytest.approx(3 - 2 / 3)


def test_errors_of_methods_generations_and_ensembles(tmp_path: Path):
    chain = {"generations": [{"updates": 5, "accuracy": 0.6}, {"updates": 5, "accuracy": 0.7}]}
    trials = crossed({"none": [0.5], "feed-parallel": [0.7], "feed-sequential": [0.8], "ban": [0.6]})
    trials[1] |= {"teachers": ["teachers/a", "teachers/b"], "metrics": {"ensemble_accuracy": 0.9}}
    trials[1] |= {"probe": {"reconstruction": {"l1": 0.2}}}
    trials[2] |= {"metrics": chain | {"parameter_count": 120}}
    trials[3] |= {"metrics": {"generations": [{"updates": 5, "accuracy": 0.1}]}}
    folder = study(tmp_path, trials)
    outcome(folder, "teachers/a", {"arch": "resnet20", "accuracy": 0.75})
    means = {
        q: {a: e["mean"] for a, e in measured(folder, "feed2019", q).items()}
        for q in rows(folder, "feed2019")
        if "gained" not in q
    }
    assert means["Error by method"] == pytest.approx(
        {"none": 0.5, "feed-parallel": 0.3, "feed-sequential": 0.2, "ban": 0.4}
    )
    networks = {"feed-sequential, network 1": 0.4, "feed-sequential, network 2": 0.3, "ban, network 1": 0.9}
    assert means["Error by generation, in sequence"] == pytest.approx(networks)
    assert len(rows(folder, "feed2019")["Error by generation, in sequence"]["measured"]) == len(networks)
    assert means["Error of the teachers' ensemble"] == pytest.approx({"2 teachers": 0.1})
    assert means["Error of each teacher"] == pytest.approx({"resnet20": 0.25})
    assert means["Parameters at test time"] == {"none": 100, "feed-parallel": 100, "feed-sequential": 120, "ban": 100}
    assert means["Reconstruction error (L1)"] == pytest.approx({"feed-parallel": 0.2})
    assert means["ImageNet: top-1 error by method"] == {}


def test_a_search_is_marked_as_one(tmp_path: Path):
    trials = [{"params": {"method": "kd", "alpha": 0.5 + i / 100}, "accuracy": 0.5} for i in range(20)]
    found = compare(load(study(tmp_path, trials, sampler="tpe")), PAPERS["feed2019"])
    assert "tpe" in found["cautions"][0]
    assert found["cautions"][1] == "Averaged over the many values of alpha."


@pytest.mark.parametrize("paper", PAPERS)
def test_a_study_without_trials_measures_nothing(tmp_path: Path, paper: str):
    found = compare(load(study(tmp_path, [])), PAPERS[paper])
    assert all(row["measured"] is None for row in found["rows"])
    json.dumps(found, allow_nan=False)
