"""The section about attacked networks: its numbers are the record's, its pictures decode, its text is escaped."""

import base64
import io
import json
import re
import zlib
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from study.records import FAILED, Record, read_record
from study.report.png import png
from study.report.record_figures import MOST_RECORDS, drawn_records, record_charts, record_labels
from study.report.record_gallery import Pictures, amplification, gallery
from study.report.record_section import record_section
from tests.record_folder import arrays, metrics, write_record

HOSTILE = "</script><img src=x onerror=alert(1)>"


def a_record(folder: Path, seed: int = 0, *, changes: dict[str, Any] | None = None, **named: Any) -> Record:
    shape = {name: named.pop(name) for name in ("shape", "classes", "ode", "pairs") if name in named}
    written = arrays(seed, **shape) | (changes or {})
    record, problems = read_record(write_record(folder / str(seed), written), metrics(**named))
    assert problems == []
    assert record is not None
    return record


def figure(record: Record, name: str) -> dict[str, Any]:
    drawn = {chart.name: chart for chart in record_charts([record])}
    return drawn[f"record-{name}"].variants[0][1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (2, 4, 4)])
@pytest.mark.parametrize("smooth", [False, True])
def test_pictures_hold_the_pixels(shape: tuple[int, int, int], smooth: bool) -> None:
    image = np.random.default_rng(0).uniform(-0.2, 1.2, shape)
    if smooth:
        image = np.linspace(0, 1, shape[2]) + 0.1 * np.arange(shape[1])[:, None] + np.zeros(shape)
    seen = np.asarray(Image.open(io.BytesIO(png(image))), dtype=float)
    expected = 255 * image.clip(0, 1)
    assert np.abs(seen - (expected.transpose(1, 2, 0) if shape[0] == 3 else expected[0])).max() <= 0.5


@pytest.mark.parametrize(("filtered", "across"), [(1, (1, 0)), (2, (0, 1))])
def test_a_ramp_is_stored_as_differences(filtered: int, across: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 64)
    y, x = np.mgrid[0:64, 0:64]
    image = ((3 * x * across[0] + 3 * y * across[1] + (noise[y] if across[0] else noise[x])) % 256 / 255)[None]
    file = png(image)
    start = file.index(b"IDAT") + 4
    assert zlib.decompressobj().decompress(file[start:])[0] == filtered
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), np.rint(255 * image[0]))


def test_the_gallery_shows_each_picture_once_and_says_what_was_seen(tmp_path: Path) -> None:
    changes = {"predicted": arrays()["predicted"].copy(), "pair_margin": arrays()["pair_margin"].copy()}
    changes["predicted"][1, 2], changes["pair_margin"][1, 2] = FAILED, np.nan
    first, second = a_record(tmp_path, changes=changes), a_record(tmp_path, 1)
    pictures = Pictures()
    text = gallery(first, pictures)
    assert text.count("<figure") == 16
    assert text.count("<use ") == 48
    words = [unescape(found) for found in re.findall(r"<figcaption>(.*?)</figcaption>", text)]
    pairs = first.pairs
    assert words[0].startswith(f"Image {pairs.image_id[0]}, class {pairs.label[0]}: taken for {pairs.predicted[0][0]},")
    assert f"attacked for {pairs.predicted[1][0]}; margin {pairs.margin[0][0]:.2g}" in words[0].replace("\u2212", "-")
    assert "attacked for no answer;" in words[2]
    assert words[2].endswith("to unknown.")
    right, broken = pairs.predicted[0] == pairs.label, pairs.predicted[1] != pairs.label
    assert text.count("class=fooled") == int((right & broken).sum())
    gallery(second, pictures)
    stored = re.findall(r'<symbol id="picture-(\d+)".*?base64,(.*?)"', pictures.html())
    assert [int(number) for number, _ in stored] == list(range(16 + 2 * 32))
    shown = re.findall(r'href="#picture-(\d+)"', text)
    for place in range(16):
        clean = Image.open(io.BytesIO(base64.b64decode(stored[int(shown[3 * place])][1])))
        assert np.abs(np.asarray(clean, float) - 255 * pairs.clean[place][0]).max() <= 0.5


@pytest.mark.parametrize(("change", "factor"), [(1 / 16, 8), (8 / 255, 15), (0.5 / 255, 250), (1.0, 0.5), (0.0, 0)])
def test_changes_are_amplified_to_half_the_range(tmp_path: Path, change: float, factor: float) -> None:
    clean = np.zeros((16, 1, 8, 8), np.uint8)
    moved = np.full(clean.shape, change, np.float32)
    record = a_record(tmp_path, changes={"clean": clean, "adversarial": moved})
    assert amplification(record) == factor
    said = f"the change, {factor:g} times as large, around grey" if factor else "no change"
    assert said in gallery(record, Pictures())


def test_figures_hold_the_numbers_of_the_record(tmp_path: Path) -> None:
    record = a_record(tmp_path)
    confusion = figure(record, "confusion")
    for place, trace in enumerate(confusion["data"]):
        assert trace["z"] == record.confusions.counts[place].tolist()
        right = int(np.trace(record.confusions.counts[place]))
        assert confusion["layout"]["annotations"][place]["text"].endswith(f": {right} of 200 right")
    assert confusion["layout"]["coloraxis"]["cmax"] == record.confusions.counts.max()
    bars = figure(record, "margins")["data"]
    assert [trace["y"] for trace in bars] == record.margins.counts.tolist()
    assert bars[0]["x"][0] == pytest.approx((record.margins.edges[0] + record.margins.edges[1]) / 2)
    assert bars[0]["width"] == pytest.approx(0.25)
    lines, found = figure(record, "lines")["data"], record.landscape
    for place, trace in enumerate(lines):
        part, rest = divmod(place, 6)
        direction, curve = divmod(rest, 3)
        quartile = (0, 2, 1)[curve]
        assert trace["y"] == pytest.approx((found.loss, found.margin)[part][direction][quartile].tolist(), rel=1e-4)
        assert trace.get("yaxis", "y") == ("y", "y2")[part]
        assert trace.get("name") == (("attack direction", "random signs")[direction] if curve == 2 else None)
    heat = figure(record, "plane")["data"][0]
    assert np.allclose(heat["z"], found.plane_loss, rtol=6e-3)
    assert (heat["x"], heat["y"]) == (found.random_axis.tolist(), found.attack_axis.tolist())
    assert record.trajectories is not None
    norms = figure(record, "norms")["data"]
    assert norms[2]["y"] == pytest.approx(record.trajectories.state_norm[0][1].tolist(), rel=1e-4)
    assert norms[11]["y"] == pytest.approx(record.trajectories.speed[1][1].tolist(), rel=1e-4)


def test_the_boundary_is_drawn_where_there_is_one(tmp_path: Path) -> None:
    kinds = [trace["type"] for trace in figure(a_record(tmp_path), "plane")["data"]]
    assert kinds == ["heatmap", "contour", "scatter"]
    for margin in (np.full((21, 21), 0.5), np.full((21, 21), np.nan)):
        record = a_record(tmp_path, changes={"plane_margin": margin, "plane_loss": np.full((21, 21), np.nan)})
        drawn = figure(record, "plane")
        assert [trace["type"] for trace in drawn["data"]] == ["heatmap", "scatter"]
        json.dumps(drawn, allow_nan=False)


def test_many_classes_are_not_written_out(tmp_path: Path) -> None:
    trace = figure(a_record(tmp_path, classes=100), "confusion")["data"][0]
    assert not {"text", "texttemplate", "x"} & set(trace)
    assert np.shape(trace["z"]) == (100, 100)


def test_networks_without_an_ode_say_so_and_keep_their_place(tmp_path: Path) -> None:
    ode, none = a_record(tmp_path), a_record(tmp_path, 1, ode=False, model="teacher-ab", kind="teacher", trial=None)
    drawn = {chart.name: chart for chart in record_charts([none, ode])}
    assert all([label for label, _ in chart.variants] == ["student 3", "teacher"] for chart in drawn.values())
    assert [len(shown["data"]) for _, shown in drawn["record-norms"].variants] == [12, 0]
    assert "no ODE" in drawn["record-norms"].variants[1][1]["layout"]["annotations"][0]["text"]
    assert "record-norms" not in {chart.name for chart in record_charts([none])}


def test_students_come_first_names_are_unique_and_few_are_drawn(tmp_path: Path) -> None:
    kinds = ["replicate", "teacher", "twin", "student", "random"]
    records = [
        a_record(tmp_path, i, model=f"{k}-{i}", kind=k, trial=None if k == "teacher" else 1)
        for i, k in enumerate(kinds)
    ]
    assert [record.kind for record in drawn_records(records)] == ["student", "teacher", "twin", "random", "replicate"]
    again = a_record(tmp_path, 5, model="replicate-1-2", kind="replicate", trial=1)
    assert record_labels([*records, again])[0] == "replicate-0"
    assert record_labels([*records, again])[-1] == "replicate-1-2"
    many = [a_record(tmp_path, i, model=f"student-{i:06d}", trial=i) for i in range(MOST_RECORDS + 3)]
    drawn = {chart.name: chart for chart in record_charts(many)}
    assert [label for label, _ in drawn["record-plane"].variants] == [f"student {i}" for i in range(MOST_RECORDS)]
    section = record_section(many, drawn)
    assert section is not None
    assert "3 more networks have records in their folders and are not drawn." in section.html


def test_the_section_has_a_choice_a_gallery_each_and_a_table(tmp_path: Path) -> None:
    adaptive = a_record(tmp_path, changes={"nfe": np.array([[14, 20], [20, 32]]), "failed": np.eye(10, dtype=int)[:2]})
    fixed = a_record(
        tmp_path, 1, changes={"accepted_steps": np.full((2, 64), 2)}, model="twin-000003", kind="twin", solver=None
    )
    drawn = {chart.name: chart for chart in record_charts([adaptive, fixed])}
    section = record_section([adaptive, fixed], drawn)
    assert section is not None
    assert section.html.count('type="radio" name="record"') == 2
    assert re.findall(r'data-variant="(.*?)"', section.html) == ["record-0", "record-1"]
    assert re.findall(r'data-figure="(.*?)" data-choice="record"', section.html) == list(drawn)
    assert "Every network is shown on the same images." in section.html
    rows = re.findall(r"<tr data-trial.*?</tr>", section.html)
    cells = [unescape(re.sub(r"<.*?>", "|", row)) for row in rows]
    assert "|17|14 to 20, n = 2|" in cells[0]
    assert "|26|20 to 32, n = 2|" in cells[0]
    assert "|not told|" in cells[0]
    assert "|1 and 1|of 200|" in cells[0]
    assert "stored 120, pgd-20-margin 80" in cells[0]
    assert "|2 and 2|" in cells[1]
    assert "Where random signs raise the loss" in section.html
    alone = record_section([fixed], {chart.name: chart for chart in record_charts([fixed])})
    assert alone is not None
    assert "radio" not in alone.html
    assert record_section([], {}) is None
    assert record_charts([]) == []


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    names = np.array([HOSTILE, *"123456789"])
    record = a_record(tmp_path, changes={"classes": names, "label": np.zeros(16, int)}, model=HOSTILE, kind=HOSTILE)
    section = record_section([record], {chart.name: chart for chart in record_charts([record])})
    assert section is not None
    assert "<img" not in section.html
    assert "</script" not in section.html


def test_twelve_networks_stay_light(tmp_path: Path) -> None:
    records = [a_record(tmp_path, i, shape=(3, 32, 32), model=f"student-{i:06d}", trial=i) for i in range(12)]
    drawn = {chart.name: chart for chart in record_charts(records)}
    section = record_section(records, drawn)
    assert section is not None
    figures = json.dumps([shown for chart in drawn.values() for _, shown in chart.variants], separators=(",", ":"))
    assert len(section.html) + len(figures) < 1_500_000
