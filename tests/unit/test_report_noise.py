"""What the report says of noise and stretch, asked back from a synthetic study whose numbers are known."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from study.designs import Design, design
from study.report.probe_tables import noise_models_table, noise_table, relative_errors, stretch_table
from study.results import Results, load
from tests.design_folder import DesignPlan, write_design
from tests.study_folder import write_outcome

PLAN = DesignPlan(factors={"method": ["none", "kd"]}, seeds=(0, 1), teachers=(0,), images=32)
SIGMA = 12.5


def entry(noise: str, severity: int, correct: list[int], always: int, source: str = "own") -> dict[str, Any]:
    return {
        "noise": noise,
        "severity": severity,
        "accuracy": sum(correct) / (100 * len(correct)),
        "worst_accuracy": always / 100,
        "correct": correct,
        "always_correct": always,
        "draws": len(correct),
        "n": 100,
        "source": source,
    }


OWN = [entry("gaussian", 1, [90, 92], 86), entry("gaussian", 5, [80, 82], 70), entry("blur", 1, [60], 60)]
TEACHER = [entry("gaussian", 1, [95, 97], 94), entry("gaussian", 5, [86, 82], 80), entry("blur", 1, [80], 80)]


def written(tmp_path: Path, own: list[dict[str, Any]], teacher: list[dict[str, Any]]) -> tuple[Results, Design]:
    folder = write_design(tmp_path, PLAN)
    for path in folder.glob("probes/student-*/outcome.json"):
        record = json.loads(path.read_text())
        record["metrics"] |= {"noise": own, "stretch": stretch(record["metrics"]["trial"])}
        path.write_text(json.dumps(record))
    write_outcome(
        folder, "probes/teacher-0", {"model": "teacher-0", "kind": "teacher", "trial": None, "noise": teacher}
    )
    results = load(folder)
    return results, design(results)


def stretch(trial: int) -> dict[str, Any] | None:
    found = {"sigma": SIGMA, "sigma_high": 20.0, "relative": 0.5, "relative_high": None, "exponent": 2.53, "n": 9}
    return None if trial % 2 else found


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\u00a0", " ")


def test_errors_are_summed_over_severities_before_they_are_divided() -> None:
    reference = {("gaussian", 1, "own"): 0.96, ("gaussian", 5, "own"): 0.84, ("blur", 1, "own"): 1.0}
    found = relative_errors([*OWN, entry("shot", 1, [1], 1)], reference)
    assert found == {"gaussian, corruption-like": pytest.approx((0.09 + 0.19) / (0.04 + 0.16))}


def test_files_and_noise_of_our_own_are_never_divided_by_each_other() -> None:
    assert relative_errors([entry("blur", 1, [60], 60, "file")], {("blur", 1, "own"): 0.8}) == {}


def test_mean_worst_and_relative_error_are_shown_with_their_words(tmp_path: Path) -> None:
    shown = text(noise_table(*written(tmp_path, OWN, TEACHER)))
    assert "gaussian, corruption-like blur, corruption-like" in shown
    assert "86.0 %" in shown  # mean over draws and severities: (91 + 81) / 2
    assert "gaussian, corruption-like, 2 draws blur, corruption-like, 1 draw" in shown
    assert "78.0 %" in shown  # worst of the draws: (86 + 70) / 2
    assert "mean over noises (mCE-like)" in shown
    assert "1.7" in shown  # (0.28 / 0.20 + 0.40 / 0.20) / 2
    assert "may not be compared with theirs" in shown


def test_every_network_has_its_counts_and_intervals(tmp_path: Path) -> None:
    results, _ = written(tmp_path, OWN, TEACHER)
    shown = text(noise_models_table(results))
    assert "severity 1 severity 5" in shown
    assert "91.0 % 83.8 to 95.2, n = 100, worst of 2: 86.0 %" in shown  # Wilson's interval of 91 of 100
    assert "60.0 % 50.2 to 69.1, n = 100" in shown
    assert "worst of 1" not in shown
    assert "teacher-0" in shown


def test_published_files_are_not_called_like_them(tmp_path: Path) -> None:
    own = [entry("gaussian", 1, [90], 90, "file")]
    assert "corruption-like" not in text(noise_table(*written(tmp_path, own, []))).replace("Corruption-like noise", "")


def test_numbers_of_an_older_probe_are_shown_without_draws(tmp_path: Path) -> None:
    older = [{"noise": "shot", "severity": 3, "accuracy": 0.7, "n": 50, "source": "own"}]
    shown = text(noise_table(*written(tmp_path, older, [])))
    assert "70.0 %" in shown
    assert "Worst of the draws" not in shown


def test_stretch_is_shown_of_students_that_have_one(tmp_path: Path) -> None:
    shown = text(stretch_table(*written(tmp_path, OWN, TEACHER)))
    assert "FTLE" in shown
    assert f"{SIGMA:g}" in shown
    assert "2.53" in shown
    assert "not measured" in shown


def test_without_probes_there_is_no_table(tmp_path: Path) -> None:
    results = load(write_design(tmp_path, DesignPlan(factors={"method": ["none", "kd"]}, probed=False)))
    of = design(results)
    assert (noise_table(results, of), stretch_table(results, of)) == ("", "")
