"""The report in a real browser, from file://: it draws, keeps to itself, and answers to mouse, keyboard and theme.

Needs the system's Chromium; without one the tests are skipped, or fail where REQUIRE_BROWSER is set (CI).
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from study.designs import design
from study.report.images import write_images
from study.report.page import write_report
from study.report.palette import BLUE, DARK
from study.report.payload import charts
from study.report.stats import headline_epsilon
from study.results import load
from tests.design_folder import DesignPlan, write_design
from tests.study_folder import Plan, attacked, write_study

pytestmark = pytest.mark.browser
CHROME = os.environ.get("CHROME_PATH") or next(
    (path for name in ("chromium-headless-shell", "chromium", "google-chrome") if (path := shutil.which(name))), None
)
PLAN = Plan()
HOSTILE = "</script><img src=x onerror=alert(1)>"


@dataclass
class Heard:
    """What the page said and asked for while it was open."""

    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROME:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)("no Chromium found")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROME, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_study(tmp_path_factory.mktemp("studies"), PLAN))


def _open(context: BrowserContext, path: Path, heard: Heard | None = None) -> Page:
    page = context.new_page()
    if heard is not None:
        page.on("console", lambda message: heard.messages.append(message.text))
        page.on("pageerror", lambda error: heard.messages.append(str(error)))
        page.on("dialog", lambda dialog: heard.messages.append(dialog.message))
        page.on("request", lambda request: heard.requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("window.reportReady === true")
    return page


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    yield _open(context, report)
    context.close()


@pytest.fixture(autouse=True)
def cleared(request: pytest.FixtureRequest) -> None:
    if "page" in request.fixturenames:
        request.getfixturevalue("page").keyboard.press("Escape")


def _plot(page: Page, name: str, expression: str) -> Any:
    return page.evaluate(f"(() => {{ const plot = document.getElementById('plot-{name}'); return {expression}; }})()")


def test_the_page_draws_silently_and_asks_for_nothing_but_itself(browser: Browser, report: Path) -> None:
    heard, context = Heard(), browser.new_context()
    page = _open(context, report, heard)
    page.mouse.wheel(0, 5000)
    assert page.locator(".plot .main-svg").count() >= 4
    assert heard.messages == []
    assert heard.requests == [report.as_uri()]
    context.close()


def test_a_designed_study_draws_silently(browser: Browser, tmp_path: Path) -> None:
    factors = {"method": ["none", "kd"], "horizon": [0.5, 2.0], "dynamics": ["damped", "lambda-damped"]}
    plan = DesignPlan(seeds=(0, 1), teachers=(0,), factors=factors, fixed={"damping": "learned"})
    heard, context = Heard(), browser.new_context()
    report = write_report(write_design(tmp_path, plan))
    page = _open(context, report, heard)
    drawn = page.locator(".plot").evaluate_all("plots => plots.map(p => p.querySelectorAll('.main-svg').length > 0)")
    assert len(drawn) >= 10
    assert all(drawn)
    for choice in page.locator("fieldset.choice input").all():
        choice.check()
    assert heard.messages == []
    assert heard.requests == [report.as_uri()]
    context.close()


def test_every_chart_becomes_a_file_that_asks_for_nothing(report: Path) -> None:
    results = load(report.parents[1])
    written = write_images(report.parents[1], results)
    drawn = charts(results, design(results, headline_epsilon(results)))
    assert len(set(written)) == sum(len(chart.variants) for chart in drawn.values())
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "xtitle" in text or "legendtext" in text
        assert not [url for url in re.findall(r'(?:href|src)="([^"]+)"', text) if not url.startswith(("#", "data:"))]


def test_no_upload_button_and_no_logo(page: Page) -> None:
    titles = page.locator(".modebar-btn").evaluate_all("buttons => buttons.map(b => b.dataset.title || '')")
    assert titles
    assert [t for t in titles if "share" in t.lower() or "cloud" in t.lower() or "produced" in t.lower()] == []
    assert page.locator(".modebar-btn--logo").count() == 0


def test_the_choice_of_epsilon_changes_picture_and_words(page: Page) -> None:
    before = _plot(page, "robustness", "[plot.layout.yaxis.title.text, plot.data[1].y]")
    assert page.locator("[data-variant='robustness-0']").is_visible()
    page.get_by_label("0.1", exact=True).check()
    after = _plot(page, "robustness", "[plot.layout.yaxis.title.text, plot.data[1].y]")
    assert "epsilon 1/16" in before[0]
    assert "epsilon 0.1" in after[0]
    assert all(small >= large for small, large in zip(before[1], after[1], strict=True))
    assert page.locator("[data-variant='robustness-0']").is_hidden()
    assert "At epsilon 0.1" in page.locator("[data-variant='robustness-1']").inner_text()
    page.get_by_label("1/16", exact=True).check()


def test_a_point_marks_its_trial_everywhere(page: Page) -> None:
    trial = attacked(PLAN)[0]
    place = _plot(
        page,
        "robustness",
        f"""(() => {{
          const trace = plot.data.find((t) => t.name.startsWith('student (') && t.mode !== 'lines');
          const i = trace.customdata.indexOf({trial});
          plot.scrollIntoView({{behavior: 'instant', block: 'center'}});
          const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
          const {{xaxis, yaxis}} = plot._fullLayout;
          return [box.x + xaxis.d2p(trace.x[i]), box.y + yaxis.d2p(trace.y[i])];
        }})()""",
    )
    page.mouse.move(place[0] + 1, place[1])
    page.wait_for_selector(".hovertext")
    assert "temperature" in page.locator(".hovertext").first.text_content()
    page.mouse.click(*place)
    page.wait_for_selector("tr.picked", state="attached")
    picked = page.locator("tr.picked").evaluate_all("rows => [...new Set(rows.map(r => r.dataset.trial))]")
    assert picked == [str(trial)]
    assert f"Trial {trial} is marked" in page.locator("#selection").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("tr.picked").count() == 0


def test_rows_answer_to_the_keyboard(page: Page) -> None:
    row = page.locator("#table-attacked tbody tr[data-trial]").first
    row.focus()
    page.keyboard.press("Enter")
    assert row.get_attribute("aria-selected") == "true"
    marked = _plot(page, "search", "plot.data.filter(t => (t.selectedpoints || []).length).length")
    assert marked == 1
    page.keyboard.press("Enter")
    assert page.locator("tr.picked").count() == 0


def test_tables_sort_by_number_with_empty_cells_last(page: Page) -> None:
    header = page.locator("#table-attacked th").nth(2)
    for direction, reverse in (("descending", True), ("ascending", False)):
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == direction
        values = page.locator("#table-attacked tbody tr").evaluate_all(
            "rows => rows.map(r => r.cells[2].dataset.value)"
        )
        numbers = [float(value) for value in values if value is not None]
        assert numbers == sorted(numbers, reverse=reverse)
        assert values[-2:] == [None, None]


def test_dark_swaps_colours_and_the_button_overrules_the_system(browser: Browser, report: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    page = _open(context, report)
    colour = "plot.data.find(t => t.name === 'search front').marker.color"
    assert _plot(page, "search", colour) == DARK[BLUE]
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(23, 23, 27)"
    page.locator("#theme").click()
    page.wait_for_function(f"document.getElementById('plot-search').data.some(t => t.marker?.color === '{BLUE}')")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    context.close()


def test_without_scripts_the_picture_and_the_tables_are_there(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("noscript svg").is_visible()
    assert page.locator("#table-attacked").is_visible()
    assert page.locator("[data-variant='robustness-1']").is_visible()
    context.close()


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(trials=8, attacked=2, epochs=1, failures={1: ("FAIL", HOSTILE)}))
    study = json.loads((folder / "study.json").read_text()) | {"name": HOSTILE, "command": HOSTILE}
    (folder / "study.json").write_text(json.dumps(study))
    for config in folder.glob("trials/*/config.json"):
        record = json.loads(config.read_text())
        record["params"]["solver"] = HOSTILE
        config.write_text(json.dumps(record))
    heard, context = Heard(), browser.new_context()
    page = _open(context, write_report(folder), heard)
    assert heard.messages == []
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("h1").inner_text()
    context.close()


@pytest.mark.parametrize("stages", [(), ("teachers", "search")])
def test_partial_studies_open(browser: Browser, tmp_path: Path, stages: tuple[str, ...]) -> None:
    folder = write_study(tmp_path, Plan(stages=stages, state="interrupted", trials=6, attacked=1, epochs=2))
    heard, context = Heard(), browser.new_context()
    page = _open(context, write_report(folder), heard)
    assert heard.messages == []
    assert "INCOMPLETE" in page.locator(".banner").first.inner_text()
    context.close()


def test_every_chart_says_what_it_is(page: Page) -> None:
    plots = page.locator(".plot")
    labels = plots.evaluate_all("plots => plots.map(p => [p.getAttribute('role'), p.getAttribute('aria-label')])")
    assert len(labels) == 7
    assert all(role == "img" and label for role, label in labels)
