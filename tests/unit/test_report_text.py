"""The page as text: whole, honest about what is missing, closed to the network, safe against hostile names."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from study.report import figures
from study.report.drawing import front_svg
from study.report.page import render, write_front_svg, write_report
from study.report.palette import BLUE, DARK, FAINT, GREEN, INK, ORANGE, PAPER, PURPLE, SERIES, SKY, SYMBOLS, VERMILION
from study.results import Results, load
from study.statistics import wilson
from tests.study_folder import SPECIFICATION, Plan, attacked, candidates, write_study

PLAN = Plan()
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028&\"'"
STAGE_SETS = [(), ("teachers",), ("teachers", "search"), ("teachers", "search", "front"), ("teachers", "robustness")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load(write_study(tmp_path_factory.mktemp("studies"), PLAN))


@pytest.fixture(autouse=True)
def no_plotly_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep 5 MB of library out of every page but where it is asked for."""
    monkeypatch.setattr("study.report.page.plotly_script", lambda: "/* plotly */")


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("study.report.page.plotly_script", lambda: "/* plotly */")
        return render(results)


def _payload(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_every_figure_stands_in_the_payload(page: str) -> None:
    payload = _payload(page)
    assert {name: len(variants) for name, variants in payload["figures"].items()} == {
        "search": 1,
        "parameters": 2,
        "robustness": 2,
        "history": 3,
        "epsilons": 1,
        "optimism": 1,
        "proxy": 2,
    }


def test_nothing_can_leave_the_page(page: str) -> None:
    config = _payload(page)["config"]
    assert (config["showSendToCloud"], config["plotlyServerURL"], config["displaylogo"]) == (False, "", False)
    assert "default-src 'none'" in page
    without_namespaces = page.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?://[^\s\"'<]+", without_namespaces) == []
    assert re.findall(r"<(?:link|img|iframe|object|embed)\b|<script[^>]*\bsrc", page) == []


def test_plotly_is_embedded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(figures.plotly_script()) > 1_000_000


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(trials=8, attacked=2, epochs=1, failures={1: ("FAIL", HOSTILE)}))
    study = json.loads((folder / "study.json").read_text())
    study |= {"name": HOSTILE, "command": HOSTILE}
    (folder / "study.json").write_text(json.dumps(study))
    for config in folder.glob("trials/*/config.json"):
        record = json.loads(config.read_text())
        record["params"]["solver"] = HOSTILE
        config.write_text(json.dumps(record))
    page = render(load(folder))
    assert "<img src=x" not in page
    assert "\u2028" not in re.search(r'id="payload">(.*?)</script>', page, re.S)[1]  # type: ignore[index]
    assert page.count("</script") == 3
    assert "<img" not in front_svg(load(folder))
    hovers = [text for t in _payload(page)["figures"]["search"][0]["data"] for text in t.get("hovertext", [])]
    assert hovers
    assert not any("<img" in text for text in hovers)


def test_points_carry_their_trial_and_whole_configuration(page: str, results: Results) -> None:
    traces = _payload(page)["figures"]["robustness"][0]["data"]
    student = next(t for t in traces if t["name"].startswith("student (") and t["mode"] == "markers+text")
    assert student["customdata"] == attacked(PLAN)
    for part in ("temperature", "solver", "learning_rate", "95 % interval", "of 449"):
        assert part in student["hovertext"][0]
    search = _payload(page)["figures"]["search"][0]["data"]
    drawn = sorted(trial for t in search for trial in t.get("customdata", []))
    complete = results.trials[results.trials["state"] == "COMPLETE"]["trial"].tolist()
    assert drawn == complete


def test_error_bars_are_wilsons_both_ways(page: str, results: Results) -> None:
    traces = _payload(page)["figures"]["robustness"][1]["data"]
    student = next(t for t in traces if t["name"].startswith("student (") and t["mode"] == "markers+text")
    row = results.robustness[
        (results.robustness["trial"] == attacked(PLAN)[0]) & (results.robustness["epsilon"] == 0.1)
    ]
    first = row[row["kind"] == "student"].iloc[0]
    for axis, k in (("x", first["clean_correct"]), ("y", first["survivors"])):
        low, high = wilson(int(k), 449)
        bars = student[f"error_{axis}"]
        assert bars["array"][0] == pytest.approx(high - k / 449, rel=1e-3)
        assert bars["arrayminus"][0] == pytest.approx(k / 449 - low, rel=1e-3)


def test_twins_are_joined_to_their_students(page: str) -> None:
    traces = _payload(page)["figures"]["robustness"][0]["data"]
    joints = next(t for t in traces if t["name"] == "student and its twin")
    points = [(t, i) for t in traces if t["mode"] != "lines" for i in range(len(t["x"]))]
    at = {(t["name"], t["customdata"][i]): (t["x"][i], t["y"][i]) for t, i in points}
    for place, trial in enumerate(attacked(PLAN)[:-1]):
        ends = list(zip(joints["x"], joints["y"], strict=True))[3 * place : 3 * place + 3]
        assert ends[0] == at["student (number: trial)", trial]
        assert ends[1] == at["its twin with alpha = 0", trial]
        assert ends[2] == (None, None)


def test_the_search_front_is_a_staircase_through_its_points(page: str) -> None:
    data = _payload(page)["figures"]["search"][0]["data"]
    line = next(t for t in data if t.get("mode") == "lines")
    assert line["line"]["shape"] == "vh"
    assert line["x"] == sorted(line["x"])
    assert line["y"] == sorted(line["y"], reverse=True)


def test_learning_curves_cover_every_trial(page: str) -> None:
    curves = _payload(page)["figures"]["history"][0]["data"]
    assert sorted(t["meta"] for t in curves) == list(range(24))
    assert all(len(t["x"]) == PLAN.epochs for t in curves)


def test_many_learning_curves_are_sampled_and_that_is_said(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_FAINT_CURVES", 5)
    text = render(results)
    front = set(results.trials[results.trials["on_front"]]["trial"])
    drawn = {t["meta"] for t in _payload(text)["figures"]["history"][0]["data"]}
    assert front < drawn
    assert len(drawn) == len(front) + 5
    assert f"{len(drawn)} of 24 curves are drawn" in text


def test_parameter_panels_leave_inactive_parameters_out(page: str, results: Results) -> None:
    figure = _payload(page)["figures"]["parameters"][0]
    titles = {
        v["title"]["text"]: name for name, v in figure["layout"].items() if name.startswith("xaxis") and "title" in v
    }
    axis = titles["rtol"].replace("xaxis", "x")
    shown = [trial for t in figure["data"] if t.get("xaxis") == axis for trial in t["customdata"]]
    assert shown
    assert {results.params(trial)["solver"] for trial in shown} == {"dopri5"}
    assert figure["layout"][titles["temperature"]]["type"] == "log"
    assert "type" not in figure["layout"][titles["alpha"]]


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self._table: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = str(dict(attrs)["id"])
            self.rows[self._table] = []
        elif tag == "tr" and self._table:
            self.rows[self._table].append([])
        elif tag in {"td", "th"} and self._table:
            self.rows[self._table][-1].append("")
        elif tag == "small" and self._table:
            self.rows[self._table][-1][-1] += " | "

    def handle_endtag(self, tag: str) -> None:
        self._table = None if tag == "table" else self._table

    def handle_data(self, data: str) -> None:
        if self._table and self.rows[self._table] and self.rows[self._table][-1]:
            self.rows[self._table][-1][-1] += data


def _tables(page: str) -> dict[str, list[list[str]]]:
    parser = _Tables()
    parser.feed(page)
    return parser.rows


def test_the_table_of_attacked_models_counts_what_was_stored(page: str, results: Results) -> None:
    rows = _tables(page)["table-attacked"]
    assert len(rows) == 1 + 8 + 2
    assert all(len(row) == len(rows[0]) for row in rows)
    first = results.robustness.iloc[0]
    assert rows[1][0].startswith(f"student {first['trial']}")
    assert rows[1][2].startswith(f"{100 * first['robust_accuracy']:.1f} % | {first['survivors']} of 449, ")
    assert rows[-2][:3] == ["SVM", "94.9 % | n = 449", "not attacked"]


def test_survivors_per_attack_add_up(page: str) -> None:
    header, *rows = _tables(page)["table-attacks"]
    for row in rows:
        right, broken = int(row[2]), [int(cell.split(" | ")[0]) for cell in row[3:-1]]
        assert f" {right - sum(broken)} of 449" in row[-1]
    assert "broken: apgd-t" in header


def test_no_rate_of_zero_stands_without_its_n(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(epsilons=(0.0625, 0.9), trials=10, attacked=2, epochs=1))
    page = render(load(folder))
    assert "0 of 449" in page
    for found in re.finditer(r"(?<![\d.])0\.0(?:\u00a0| )%", page):
        assert re.search(r"of \d+|n = ", page[found.end() : found.end() + 40]), page[found.start() - 60 : found.end()]


@pytest.mark.parametrize("stages", STAGE_SETS)
def test_partial_studies_say_what_is_missing(tmp_path: Path, stages: tuple[str, ...]) -> None:
    folder = write_study(tmp_path, Plan(stages=stages, state="interrupted", trials=6, attacked=1, epochs=1))
    page = render(load(folder))
    assert "INCOMPLETE: the study was interrupted" in page
    expected = {
        "No model has been attacked on test yet": "robustness" not in stages,
        "No trial has finished yet": "search" not in stages,
        "No learning curve has been stored yet": "search" not in stages,
        "No attack has been run on test yet": "robustness" not in stages,
    }
    assert {sentence: sentence in page for sentence in expected} == expected
    ElementTree.fromstring(front_svg(load(folder)))


def test_banners(page: str, tmp_path: Path) -> None:
    assert 'class="banner" role="status"' not in page
    folder = write_study(tmp_path, Plan(trials=8, attacked=1, epochs=1))
    study = json.loads((folder / "study.json").read_text()) | {"smoke": True}
    (folder / "study.json").write_text(json.dumps(study))
    student = next((folder / "robustness").glob("student-*"))
    (student / f"{SPECIFICATION}-001" / "outcome.json").write_text("{")
    page = render(load(folder, state="running"))
    for said in ("INCOMPLETE: the study is still running", "SMOKE RUN", "PARTIAL: not all shards", "Left out: "):
        assert said in page


def test_methods_name_what_a_reader_must_know(page: str) -> None:
    methods = page.split('<section id="methods">')[1]
    said = ["adversarial_accuracy", "robust_accuracy", "never mixed", "0123456789abcdef", "808", "apgd-t", "2.10.0"]
    said += [
        "1 by this study; 1 by 1 study of its results folder",
        "python -m study.launch",
        "c0ffee1",
        "within one standard error",
        "pgd-10-ce",
    ]
    assert [text for text in said if text not in methods] == []


def test_private_facts_stay_out_of_the_page(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers",)))
    study = json.loads((folder / "study.json").read_text())
    study["provenance"] |= {"hostname": "secret-box", "data_root": "/home/secret", "torch": "2.10.0"}
    study["command"] = "python -m study.launch /home/secret/kd.yaml --output=/mnt/secret/kd space.solver=rk4"
    (folder / "study.json").write_text(json.dumps(study))
    page = render(load(folder))
    assert "secret" not in page
    assert "python -m study.launch .../kd.yaml --output=.../kd space.solver=rk4" in page
    assert "2.10.0" in page


def test_without_scripts_picture_and_tables_remain(page: str) -> None:
    noscript = re.search(r"<noscript>(.*?)</noscript>", page, re.S)
    assert noscript is not None
    assert "<svg" in noscript[1]
    assert "<table" in page.split("<noscript>")[1]


def test_the_picture_is_an_svg_with_everything_drawn(results: Results) -> None:
    root = ElementTree.fromstring(front_svg(results))
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(t.itertext()) for t in root.iter(f"{space}text")]
    assert root.attrib["role"] == "img"
    assert {str(trial) for trial in attacked(PLAN)} <= set(texts)
    assert len([c for c in root.iter(f"{space}circle") if c.attrib.get("r")]) == 4 + 1
    assert len(list(root.iter(f"{space}polygon"))) == 3 + 1 + 2
    assert len([e for e in root.iter(f"{space}line") if e.attrib.get("class") == "joint"]) == 3
    text = " ".join(texts)
    for said in ("Wilson 95 %", "n = 449", "upper bound", "SVM", "robust accuracy at epsilon 1/16", "L-inf"):
        assert said in text
    assert "prefers-color-scheme: dark" in front_svg(results)
    assert "<script" not in front_svg(results)


def test_points_of_the_picture_lie_where_the_rates_are(results: Results) -> None:
    """Ticks and points share one scale: read a point's rate off between two ticks."""
    root = ElementTree.fromstring(front_svg(results))
    space = "{http://www.w3.org/2000/svg}"
    grid = [e.attrib for e in root.iter(f"{space}line") if e.attrib.get("class") == "grid"]
    xs = sorted({float(e["x1"]) for e in grid if e["x1"] == e["x2"]})
    words = [(t.attrib.get("x"), "".join(t.itertext())) for t in root.iter(f"{space}text")]
    ticks = sorted((float(x), float(w[:-2]) / 100) for x, w in words if x and w.endswith(" %") and float(x) in xs)
    (x1, v1), (x2, v2) = ticks[0], ticks[-1]
    students = results.robustness[results.robustness["kind"] == "student"].drop_duplicates("model")
    circles = [float(c.attrib["cx"]) for c in root.iter(f"{space}circle")][: len(students)]
    drawn = sorted(v1 + (cx - x1) / (x2 - x1) * (v2 - v1) for cx in circles)
    assert drawn == pytest.approx(sorted(students["clean_accuracy"]), abs=2e-4)


def test_files_are_written_whole(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers",)))
    page = write_report(folder)
    picture = write_front_svg(folder)
    assert (page, picture) == (folder / "report" / "index.html", folder / "report" / "front.svg")
    assert sorted(p.name for p in (folder / "report").iterdir()) == ["front.svg", "index.html"]
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def _contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen_on_both_papers() -> None:
    dark_paper = DARK[PAPER]
    assert _contrast(INK, PAPER) > 7
    assert _contrast(DARK[INK], dark_paper) > 7
    for colour in (BLUE, VERMILION, GREEN, FAINT):
        assert _contrast(colour, PAPER) >= 3
    for colour in (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, FAINT):
        assert _contrast(DARK.get(colour, colour), dark_paper) >= 3
    assert len(set(SYMBOLS)) == len(SYMBOLS) >= len(SERIES) == len(set(SERIES))


def test_report_rooms_load_neither_torch_nor_ray_nor_optuna_nor_nodekd() -> None:
    code = (
        "import sys, study.report.page, study.results, study.show, study.explore;"
        "bad = {'torch', 'ray', 'optuna', 'nodekd'} & set(sys.modules); print(sorted(bad)); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_figures_knows_plotly() -> None:
    sources = Path(figures.__file__).parents[1].rglob("*.py")
    speakers = [p.name for p in sources if re.search(r"^\s*(import|from) plotly", p.read_text(), re.M)]
    assert speakers == ["figures.py"]


def test_candidates_are_drawn_from_the_plan() -> None:
    assert set(attacked(PLAN)) <= set(candidates(PLAN))
