"""The page of a designed study: contrast first, sections only where data exist, figures that plotly accepts."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from study.comparisons import effects, gain
from study.designs import design
from study.report.canvas import rounded
from study.report.page import render
from study.report.probe_tables import FLOW_MARGIN
from study.results import load
from tests.design_folder import DesignPlan, write_design
from tests.study_folder import Plan, write_study

SYSTEMS = ("horizon", "methods-used", "likeness", "calibration", "solvers", "damping", "perturbed")
FACTORS = {"method": ["none", "kd"], "horizon": [0.5, 2.0]}
PLAN = DesignPlan(factors=FACTORS, seeds=(0, 1), teachers=(0,), images=32)
DAMPED = replace(PLAN, factors={"dynamics": ["damped", "lambda-damped"], "damping": [0.0, 1.0, "learned"]})
HOSTILE = "</script><img src=x onerror=alert(1)>"
Write = Callable[[DesignPlan], str]


@pytest.fixture(autouse=True)
def no_plotly_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.report.page.plotly_script", lambda: "/* plotly */")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return lambda plan: render(load(write_design(tmp_path, plan)))


def _figures(page: str) -> dict[str, list[dict[str, Any]]]:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])["figures"]


def _sections(page: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)"', page)


def _text(page: str, section: str) -> str:
    body = page.split(f'<section id="{section}">')[1].split("</section>", maxsplit=1)[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("\u00a0", " ")


class _Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.plots: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found["href"])] if "href" in found else []
        self.plots += [found] if found.get("class") == "plot" else []
        if tag not in {"meta", "input", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_contrast_comes_before_every_other_word(write: Write) -> None:
    page = write(PLAN)
    first, second = re.findall(r'<p class="finding">(.*?)</p>', page)[:2]
    assert first.startswith("Primary contrast, named before the first trial: robust accuracy of method kd less none")
    assert "smallest detectable difference" in first
    assert "keeps the highest robust accuracy" in second
    assert _sections(page)[0] == "design"
    assert "exploratory" in _text(page, "design")


def test_contrast_without_replicates_has_no_interval(write: Write) -> None:
    assert "without an interval, as there is 1 run" in write(replace(PLAN, seeds=(0,)))


def test_contrast_without_pairs_says_so(write: Write) -> None:
    page = write(replace(PLAN, drop=range(4)))
    assert "not answered yet" in page


def test_a_design_without_contrast_is_all_exploratory(write: Write) -> None:
    page = write(replace(PLAN, contrast=None))
    assert "named no contrast" in _text(page, "design")
    assert "Primary contrast" not in page


@pytest.mark.parametrize("plan", [PLAN, DAMPED, replace(PLAN, attacked=False), replace(PLAN, drop=(0, 3))])
def test_page_is_well_formed_and_plotly_takes_every_figure(write: Write, plan: DesignPlan) -> None:
    page = write(plan)
    parser = _Ids()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert {link.removeprefix("#") for link in parser.links} <= set(parser.ids)
    figures = _figures(page)
    assert {plot["data-figure"] for plot in parser.plots} == set(figures)
    assert all(plot["aria-label"] for plot in parser.plots)
    for variants in figures.values():
        for figure in variants:
            go.Figure(figure)
    assert "NaN" not in json.dumps(figures)


def test_sections_stand_only_where_their_data_exist(write: Write, tmp_path: Path) -> None:
    whole = _sections(write(PLAN))
    assert [name for name in SYSTEMS if name != "damping"] == [name for name in whole if name in SYSTEMS]
    bare = _sections(write(replace(PLAN, name="bare", attacked=False, probed=False)))
    assert [name for name in bare if name in SYSTEMS] == ["horizon", "methods-used"]
    plain = _sections(render(load(write_study(tmp_path, Plan(trials=6, attacked=1, epochs=1)))))
    assert not set(plain) & {"design", *SYSTEMS}
    nothing = _sections(render(load(write_study(tmp_path, Plan(name="nothing", stages=())))))
    assert not set(nothing) & {"design", *SYSTEMS}


def test_gains_stand_in_points_and_in_per_cent(write: Write, tmp_path: Path) -> None:
    text = _text(write(PLAN), "design")
    found = gain(design(load(tmp_path / PLAN.name)), "accuracy", "method", ("kd", "none"))
    points = f"{100 * found.over_seeds.difference.value:+.1f} points"
    relative = f"{100 * found.over_seeds.relative.value:+.1f} %"
    row = text[text.index("kd less none accuracy (test)") :].replace("\u2212", "-")
    assert points in row
    assert relative in row


def test_forest_is_drawn_in_points(write: Write, tmp_path: Path) -> None:
    figure = _figures(write(PLAN))["effects"][0]
    of = effects(design(load(tmp_path / PLAN.name)), "accuracy")
    drawn = [value for trace in figure["data"] for value in trace["x"]]
    assert sorted(drawn) == pytest.approx(sorted(100 * e.estimate.value for e in of.effects), rel=1e-4)
    assert [trace["name"] for trace in figure["data"]] == ["main effect", "interaction"]
    assert "method kd against none" in figure["data"][0]["y"]


def test_horizon_has_a_panel_per_arm(write: Write) -> None:
    arms = ["steps", "step_size", "evaluations"]
    figure = _figures(write(replace(PLAN, factors=FACTORS | {"discretisation": arms}, probed=False)))["horizon"][0]
    titles = [note["text"] for note in figure["layout"]["annotations"]]
    assert titles == ["fixed steps", "fixed step size", "fixed evaluations"]
    assert {trace["name"] for trace in figure["data"]} == {"labels only", "kd"}
    assert sorted(trace.get("xaxis", "x") for trace in figure["data"]) == ["x", "x", "x2", "x2", "x3", "x3"]
    assert all(trace["x"] == [0.5, 2] for trace in figure["data"])


def test_what_is_not_finite_becomes_null() -> None:
    assert rounded({"y": [1 / 3, float("nan"), (float("inf"), 2)]}) == {"y": [0.33333, None, [None, 2]]}


def test_horizon_panels_measure_what_the_variant_says(write: Write) -> None:
    figures = _figures(write(PLAN))["horizon"]
    assert [figure["layout"]["yaxis"]["title"]["text"].split(" ")[0] for figure in figures] == [
        "accuracy",
        "robust",
        "evaluations",
        "relative",
        "path",
    ]
    assert figures[2]["data"][0]["y"] == [4, 16]


def test_gain_against_training_length(write: Write) -> None:
    page = write(replace(PLAN, factors={"method": ["none", "kd"], "epochs": [20, 60]}, images=400))
    figure = _figures(page)["length"][0]
    assert [(trace["name"], trace["x"]) for trace in figure["data"]] == [("kd less none", [20, 60])]


UNEVEN = replace(PLAN, factors={"method": ["none", "kd", "self"], "epochs": [20, 60]}, teachers=(0,), images=400)
SHORT_SELF = [at for at, point in enumerate(UNEVEN.points()) if (point["method"], point["epochs"]) == ("self", 20)]
SHORT = replace(UNEVEN, name="short", drop=SHORT_SELF)


def test_a_control_at_one_length_changes_no_other_methods_gain(write: Write) -> None:
    whole, part = (_figures(write(plan))["length"][0]["data"] for plan in (UNEVEN, SHORT))
    assert [(trace["name"], trace["x"]) for trace in part] == [("kd less none", [20, 60]), ("self less none", [60])]
    assert part[0]["y"] == whole[0]["y"]


def test_methods_are_compared_at_settings_that_they_share(write: Write) -> None:
    whole, part = (_figures(write(plan))["methods-compared"][0] for plan in (UNEVEN, SHORT))
    assert {trace["name"] for trace in whole["data"]} == {"labels only", "kd", "self"}
    lengths = {f"{method}, epochs {epochs}" for method in ("labels only", "kd") for epochs in (20, 60)}
    assert {trace["name"] for trace in part["data"]} == lengths | {"self, epochs 60"}
    assert "kd, epochs 20" in _text(write(replace(SHORT, name="again")), "methods-used")


def test_a_student_that_drops_is_no_flow(write: Write) -> None:
    assert FLOW_MARGIN == 0.02
    text = _text(write(PLAN), "solvers")
    assert "Students trained with rk4, 8 evaluations, horizon 0.5 lose 10.0 points" in text
    assert "solved by dopri5, rtol 1e-05: they are no flows but networks of their solver" in text
    assert "12.0 % change class" in text


def test_a_student_that_holds_is_a_flow(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.report.probe_tables.FLOW_MARGIN", 0.2)
    assert "they are still flows by this measure" in _text(write(PLAN), "solvers")


def test_published_pgd_admits_that_it_leaves_the_ball(write: Write) -> None:
    text = _text(write(PLAN), "perturbed")
    assert "It left the epsilon ball in 8 of 8 measurements and reached 1.92 epsilon (at epsilon 1/16)" in text


def test_damping_figure_ends_with_learned(write: Write) -> None:
    figures = _figures(write(DAMPED))
    figure = figures["damping"][0]
    assert figure["layout"]["xaxis"]["categoryarray"] == ["0", "1", "learned"]
    names = {trace["name"] for trace in figure["data"]}
    assert names == {"odenet-stem, norm group, damped", "odenet-stem, norm group, lambda-damped"}
    learned = [trace["y"] for trace in figures["lambda"][0]["data"]]
    assert learned == [[0.2, 0.3]] * 4


def test_landscape_has_a_band_and_a_map(write: Write) -> None:
    figures = _figures(write(PLAN))
    names = [trace.get("name") for trace in figures["landscape"][0]["data"]]
    assert names.count(None) == 2 * len([name for name in names if name])
    assert figures["landscape"][0]["data"][1]["fill"] == "tonexty"
    assert figures["surface"][0]["data"][0]["z"][1] == [1, 2, 3, 4]


def test_every_point_names_its_method(write: Write) -> None:
    plan = replace(PLAN, factors={"method": ["none", "kd", "feed-parallel"], "ensemble": [1, 3]}, images=16)
    text = _text(write(plan), "methods-used")
    assert "feed-parallel, 3 teachers" in text
    assert "labels only" in text
    assert "3.0 % with 3 teachers" in text


def test_alpha_zero_counts_as_labels_only(write: Write) -> None:
    page = write(replace(PLAN, contrast=None, fixed={"method": "kd"}, factors={"alpha": [0.0, 0.9]}))
    assert "labels only (alpha 0)" in _text(page, "methods-used")
    assert "distilled less not" in _text(page, "design")


def test_partial_probes_leave_gaps_not_errors(tmp_path: Path) -> None:
    folder = write_design(tmp_path, PLAN)
    for trial, keep in enumerate(("calibration", "trajectory", "test_solvers", "noise", "landscape", "teacher")):
        path = folder / f"probes/student-{trial:06d}/outcome.json"
        record = json.loads(path.read_text())
        record["metrics"] = {k: v for k, v in record["metrics"].items() if k in ("model", "trial", keep)}
        if keep == "landscape":
            record["metrics"]["landscape"] = {"epsilon": 0.1, "distances": [0, 1], "loss": {"median": [1, 2]}}
        path.write_text(json.dumps(record))
    (folder / "probes/student-000007/outcome.json").write_text("{")
    page = render(load(folder))
    assert "Left out" in page
    for variants in _figures(page).values():
        for figure in variants:
            go.Figure(figure)


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    folder = write_design(tmp_path, replace(PLAN, contrast={"measure": HOSTILE, "factor": HOSTILE, "levels": [1, 2]}))
    for path in folder.glob("probes/*/outcome.json"):
        record = json.loads(path.read_text())
        record["metrics"]["noise"][0]["noise"] = HOSTILE
        record["metrics"]["test_solvers"][0]["solver"] = HOSTILE
        path.write_text(json.dumps(record))
    page = render(load(folder))
    assert HOSTILE not in page
    assert "<img" not in page


def test_an_adaptive_search_with_a_contrast_is_called_what_it_is(write: Write) -> None:
    text = _text(write(replace(PLAN, sampler="tpe")), "design")
    assert "traces of a search, not an experiment" in text
    assert "No factorial effects" in text
