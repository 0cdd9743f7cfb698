"""Documents that hold something of another kind than ours: told with their place or left out, never a traceback."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study.documents import read_document
from study.durable import plain
from study.errors import EnvironmentFault, StudyError
from study.report.page import render
from study.results import load
from study.show import print_results
from tests.strange_folder import RUNG, write_strange

HOSTILE = (None, [], {}, "x", -1, [["x"]], 1e308, True)
CASES = 60


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_strange(tmp_path_factory.mktemp("stranger") / "results")


def places(value: Any, at: tuple[Any, ...] = (), depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """Yield the ways to the values of a document, of a list to its first."""
    inside = value.items() if isinstance(value, dict) else [(0, value[0])] if isinstance(value, list) and value else ()
    for key, item in inside if depth else ():
        yield (*at, key)
        yield from places(item, (*at, key), depth - 1)


def changed(document: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    new = copy.deepcopy(document)
    node: Any = new
    for key in at[:-1]:
        node = node[key]
    node[at[-1]] = value
    return new


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of sums beyond what a float holds
def test_whatever_stands_where_ours_would_stand_ends_in_a_sentence(
    study: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = random.Random(seed)
    documents = sorted(study.rglob("*.json"))
    folder = drawn.choice(sorted({path.relative_to(study).parts[0] for path in documents}))
    path = drawn.choice([each for each in documents if each.relative_to(study).parts[0] == folder])
    text = path.read_text()
    document = json.loads(text)
    at, value = drawn.choice([*places(document)]), drawn.choice(HOSTILE)
    path.write_text(json.dumps(changed(document, at, value)))
    said = str(study)
    try:
        results = load(study)
        json.dumps(plain(results.summary()), allow_nan=False)
        print_results(results)
        if seed % 4 == 0:
            render(results)
    except StudyError as fault:
        said = str(fault)
    finally:
        path.write_text(text)
    assert str(study) in said, (path, at, value)


@pytest.mark.parametrize(
    ("name", "document", "place"),
    [
        ("outcome.json", {"state": ["COMPLETE"]}, "state"),
        ("outcome.json", {"metrics": {}}, "state"),
        ("outcome.json", {"kind": "classical"}, "state"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"infeasible": 3}}, "metrics.infeasible"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"robust": [None]}}, "metrics.robust.0"),
        ("outcome.json", {"state": "COMPLETE", "values": {"accuracy": "x"}}, "values.accuracy"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"n": 1e308}}, "metrics.n"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"robust": [{"n": 3}]}}, "metrics.robust.0.epsilon"),
        (
            "outcome.json",
            {"state": "COMPLETE", "metrics": {"robust": [{"epsilon": 0.1, "survivors": 4, "n": 3}]}},
            "metrics.robust.0",
        ),
        (
            "outcome.json",
            {"state": "COMPLETE", "metrics": {"robust": [{"epsilon": 0.1, "survivors": 4}]}},
            "metrics.robust.0",
        ),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"n_adversarial": -1}}, "metrics.n_adversarial"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"clean": {"correct": 0, "n": 0}}}, "metrics.clean.n"),
        ("outcome.json", {"state": "COMPLETE", "values": {"accuracy": 1.5}}, "values.accuracy"),
        ("outcome.json", {"state": "COMPLETE", "values": {}}, "values.accuracy"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"n": {"test": 3}}}, "metrics.n"),
        ("outcome.json", {"kind": "classical", "state": ["COMPLETE"]}, "state"),
        ("outcome.json", {"kind": "classical", "state": "COMPLETE", "metrics": {"n": 3}}, "metrics.n"),
        ("outcome.json", {"kind": "classical", "state": "COMPLETE", "metrics": {"svm": True}}, "metrics.svm"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"entropy": {"4": []}}}, "metrics.entropy.4"),
        ("config.json", {"params": "x"}, "params"),
        ("config.json", {"params": {"alpha": None}}, "params.alpha"),
        ("config.json", {"settings": {"train": [["x"]]}}, "settings.train"),
        ("config.json", {"seen": ["x"]}, "seen.0"),
        ("config.json", {"seen": [[0, 2**53]]}, "seen.0"),
        ("study.json", {"space": {"study": "x"}}, "space.study"),
        ("study.json", {"split_sizes": {"test": [1]}}, "split_sizes.test"),
        ("study.json", {"space": {"budget": "x"}}, "space.budget"),
        ("study.json", {"reference_point": [0.1]}, "reference_point"),
        ("study.json", {"forked_from": {"study": "x", "name": "y", "left_out": {}}}, "forked_from.trials"),
        ("selection.json", {"front": [["x"]], "attacked": []}, "front.0"),
        ("selection.json", {"front": []}, "attacked"),
        ("selection.json", {"front": [], "attacked": [], "doubted": {"x": ["y"]}}, "doubted.x"),
        ("outcome.json", {"state": "COMPLETE", "metrics": {"classes": float("inf")}}, "metrics.classes"),
        ("warm_start.json", {"points": [{"params": 1}]}, "points.0.params"),
        ("rung-000004.json", {"epoch": 4}, "values"),
        ("rung-000004.json", RUNG | {"values": {"accuracy": 0.5}}, "values.adversarial_accuracy"),
        ("rung-000004.json", RUNG | {"share": -1}, "share"),
        ("rung-000004.json", RUNG | {"stop": 1}, "stop"),
        ("specification.json", {"models": {"student-000001": []}}, "models.student-000001"),
    ],
)
def test_the_place_is_named(name: str, document: dict[str, Any], place: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(document))
    with pytest.raises(EnvironmentFault, match=r"Restore it or delete it\.") as caught:
        read_document(path)
    assert str(path) in str(caught.value)
    assert f"'{place}" in str(caught.value)


def test_a_word_where_the_space_declares_a_number_is_left_out_and_told(study: Path) -> None:
    path = next(study.glob("trials/*/config.json"))
    text = path.read_text()
    path.write_text(json.dumps(changed(json.loads(text), ("params", "temperature"), "warm")))
    results = load(study)
    path.write_text(text)
    assert f"{path.parent.name} has no number as 'temperature', as its space declares" in " ".join(results.problems)
    assert results.params(int(path.parent.name)) == {}
    assert "temperature warm" not in render(results)


@pytest.mark.parametrize("name", ["accuracy", "adversarial_accuracy"])
def test_an_anchor_that_was_not_measured_is_not_drawn(name: str, study: Path) -> None:
    path = study / "baselines" / "anchor" / "outcome.json"
    text = path.read_text()
    measured = {"accuracy": 0.9, "adversarial_accuracy": 0.5}
    drawn = []
    for values in (measured, measured | {name: None}):
        path.write_text(json.dumps(json.loads(text) | {"values": values}))
        drawn.append("undistilled anchor" in render(load(study)))
    path.write_text(text)
    assert drawn == [True, False]


def test_what_a_job_adds_of_its_own_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    document = {"state": "FAIL", "reason": "diverged", "values": None, "metrics": {"n": 3, "own": [1, {}]}}
    path.write_text(json.dumps(document | {"added": []}))
    assert read_document(path) == document | {"added": []}
    assert read_document(tmp_path / "config.json") is None
