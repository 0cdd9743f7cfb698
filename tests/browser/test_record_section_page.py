"""Records of attacked networks in a real browser: one choice moves every chart and the gallery, silently."""

import os
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from string import Template

import pytest
from playwright.sync_api import Page, sync_playwright

from study.records import Record, read_record
from study.report.figures import plotly_script
from study.report.payload import payload_json
from study.report.record_figures import record_charts
from study.report.record_section import record_section
from tests.record_folder import arrays, metrics, write_record

pytestmark = pytest.mark.browser
CHROME = os.environ.get("CHROME_PATH") or next(
    (path for name in ("chromium-headless-shell", "chromium", "google-chrome") if (path := shutil.which(name))), None
)


def _records(folder: Path) -> list[Record]:
    kinds = ("student", "twin", "teacher")
    found = []
    for seed, kind in enumerate(kinds):
        place = write_record(folder / kind, arrays(seed, ode=kind != "teacher"))
        record, problems = read_record(place, metrics(f"{kind}-x", kind, None if kind == "teacher" else 3))
        assert problems == []
        assert record is not None
        found.append(record)
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page of the one section, in the report's own frame."""
    folder = tmp_path_factory.mktemp("records")
    records = _records(folder)
    drawn = {chart.name: chart for chart in record_charts(records)}
    section = record_section(records, drawn)
    assert section is not None
    asset = files("study.report").joinpath
    frame = Template(asset("page.html").read_text(encoding="utf-8"))
    parts = dict.fromkeys(frame.get_identifiers(), "") | {"systems": section.html, "payload": payload_json(drawn)}
    parts |= {"plotly": plotly_script().replace("</script", "<\\/script")}
    parts |= {"script": asset("page.js").read_text(encoding="utf-8"), "style": asset("page.css").read_text("utf-8")}
    (folder / "page.html").write_text(frame.substitute(parts), encoding="utf-8")
    return folder / "page.html"


@pytest.fixture
def page(path: Path) -> Iterator[Page]:
    if not CHROME:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)("no Chromium found")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROME, args=["--no-sandbox"])
        opened = chromium.new_page(viewport={"width": 1200, "height": 900})
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: said.append(request.url))
        opened.goto(path.as_uri())
        opened.wait_for_function("window.reportReady === true")
        yield opened
        assert said == [path.as_uri()]
        chromium.close()


def _shown(page: Page) -> dict[str, str]:
    return page.locator(".plot").evaluate_all(
        "plots => Object.fromEntries(plots.map(p => [p.dataset.figure, JSON.stringify(p.data.map(t => t.z ?? t.y))]))"
    )


def test_one_choice_moves_every_chart_and_the_gallery(page: Page) -> None:
    first = _shown(page)
    assert len(first) == 5
    assert page.locator("[data-variant='record-0']").is_visible()
    page.get_by_label("twin 3", exact=True).check()
    page.locator("[data-variant='record-2']").wait_for()
    second = _shown(page)
    assert page.locator("[data-variant]:visible").count() == 1
    assert page.locator("[data-variant='record-2'] h3").inner_text().startswith("twin 3")
    for name in ("record-confusion", "record-margins", "record-lines", "record-norms"):
        assert first[name] != second[name], name
    page.get_by_label("teacher", exact=True).check()
    assert "no ODE" in page.locator("#plot-record-norms").inner_text()
    page.get_by_label("student 3", exact=True).check()
    assert _shown(page) == first


def test_the_pictures_are_drawn(page: Page) -> None:
    place = page.locator("[data-variant='record-0'] .pairs svg").first
    box = place.bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (68, 68)
    loaded = page.locator("symbol image").evaluate_all("images => images.map(i => i.getAttribute('href').slice(0, 14))")
    assert set(loaded) == {"data:image/png"}
    light = page.evaluate(
        """async () => {
          const image = new Image();
          image.src = document.querySelector('symbol image').getAttribute('href');
          await image.decode();
          return [image.naturalWidth, image.naturalHeight];
        }"""
    )
    assert light == [8, 8]
