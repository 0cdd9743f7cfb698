"""Records read back: what was written, and a sentence for everything that is damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.records import FAILED, read_record
from tests.record_folder import arrays, metrics, write_record


def test_everything_written_is_read(tmp_path: Path) -> None:
    written = arrays(pairs=5, shape=(3, 6, 4), classes=7)
    written["accepted_steps"] = np.full((2, 64), 2, np.float32)
    written["predicted"][1, 2] = FAILED
    record, problems = read_record(write_record(tmp_path, written), metrics())
    assert problems == []
    assert record is not None
    assert (record.model, record.kind, record.trial, record.n) == ("student-000003", "student", 3, 200)
    assert (record.norm, record.epsilon, record.split) == ("linf", 1 / 16, "test")
    assert record.classes == tuple("0123456")
    assert np.allclose(record.pairs.clean, written["clean"] / 255)
    parts = {"pair_margin": record.pairs.margin, "confusion": record.confusions.counts}
    parts |= {"margin_edge": record.margins.edges, "margin_count": record.margins.counts}
    for name in ("image_id", "label", "adversarial", "predicted"):
        parts[name] = getattr(record.pairs, name)
    for name in ("distance", "loss", "margin", "attack_axis", "random_axis", "plane_loss", "plane_margin"):
        parts[name] = getattr(record.landscape, name)
    assert record.trajectories is not None
    for name in ("time", "state_norm", "speed", "start_norm"):
        parts[name] = getattr(record.trajectories, name)
    assert record.nfe is not None
    assert record.accepted_steps is not None
    parts |= {"nfe": record.nfe, "accepted_steps": record.accepted_steps, "failed": record.confusions.failed}
    assert set(parts) == set(written) - {"clean", "levels", "classes"}
    for name, part in parts.items():
        assert np.array_equal(part, written[name]), name
    assert record.sources == {"stored": 120, "pgd-20-margin": 80}


def test_levels_give_the_pixels_their_range(tmp_path: Path) -> None:
    written = arrays() | {"levels": np.array(16), "clean": np.full((16, 1, 8, 8), 16, np.uint8)}
    record, _ = read_record(write_record(tmp_path, written), metrics(trial=None, kind="teacher"))
    assert record is not None
    assert (record.pairs.clean == 1).all()
    assert record.trial is None


def test_without_an_ode_there_are_no_trajectories(tmp_path: Path) -> None:
    record, problems = read_record(write_record(tmp_path, arrays(ode=False)), metrics())
    assert problems == []
    assert record is not None
    assert (record.trajectories, record.nfe, record.accepted_steps) == (None, None, None)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another number of pairs": ({"label": np.zeros(3, np.int16)}, "label has shape"),
    "a class too many": ({"confusion": np.zeros((2, 11, 11), np.int32)}, "confusion has shape"),
    "an axis too few": ({"loss": np.zeros((3, 51))}, "loss should have 3 axes"),
    "two quartiles": ({"loss": np.zeros((2, 2, 51))}, "should have size 3"),
    "too few edges": ({"margin_edge": np.zeros(40)}, "40 bins should have 41 edges"),
    "text for numbers": ({"image_id": np.array(["a"] * 16)}, "image_id should hold numbers"),
    "no levels": ({"levels": np.array(0)}, "levels should be at least 1"),
    "a label that is no class": ({"label": np.full(16, 10, np.int16)}, "label should lie from 0 to 9"),
    "a prediction that is no class": ({"predicted": np.full((2, 16), -2, np.int16)}, "predicted should lie from -1"),
    "a pixel that is no number": ({"adversarial": np.full((16, 1, 8, 8), np.nan)}, "adversarial should hold finite"),
    "objects": ({"classes": np.array([{}] * 10, dtype=object)}, "allow_pickle"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(tmp_path: Path, case: str) -> None:
    change, sentence = WRONG[case]
    folder = write_record(tmp_path / "student-000003" / "abc-record", arrays() | change)
    record, problems = read_record(folder, metrics())
    assert record is None
    assert len(problems) == 1
    assert problems[0].startswith("student-000003/abc-record has no records to show: ")
    assert sentence in problems[0]


def test_missing_files_arrays_and_metrics_are_named(tmp_path: Path) -> None:
    assert "No such file" in read_record(tmp_path, metrics())[1][0]
    found = arrays()
    del found["loss"]
    folder = write_record(tmp_path, found)
    assert "should hold loss, but does not" in read_record(folder, metrics())[1][0]
    told = metrics()
    del told["epsilon"]
    assert "epsilon" in read_record(write_record(tmp_path, arrays()), told)[1][0]


def test_a_damaged_file_is_a_sentence_wherever_the_damage_is(tmp_path: Path) -> None:
    whole = (write_record(tmp_path, arrays(pairs=2)) / "record.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole[: rng.integers(0, len(whole))] if rng.random() < 0.2 else whole)
        for place in rng.integers(0, max(1, len(data)), 3):
            data[place : place + 1] = bytes([int(rng.integers(0, 256))])
        (tmp_path / "record.npz").write_bytes(data)
        record, problems = read_record(tmp_path, metrics())
        assert (record is None) == (len(problems) == 1)
