"""Every chart of the report as an SVG file, for a paper or a README; drawn by Kaleido in a Chrome or Chromium."""

import re
from pathlib import Path

import kaleido
from kaleido.errors import BrowserFailedError, ChromeNotFoundError

from study.designs import design
from study.durable import make_own_folder
from study.errors import EnvironmentFault
from study.report.chart import Chart
from study.report.payload import charts
from study.report.stats import headline_epsilon
from study.results import Results

WIDTH = 900
"""Pixels; the height is that of the figure on the page."""


def write_images(folder: Path | str, results: Results) -> list[Path]:
    """Write report/figures/NAME.svg for every chart, one file for each of its variants.

    Args:
        folder: The study's folder.
        results: The study.

    Returns:
        The files, in the order of the page.

    Raises:
        EnvironmentFault: If neither Chrome nor Chromium is found, or it does not start.
    """
    place = Path(folder) / "report" / "figures"
    drawn = charts(results, design(results, headline_epsilon(results)))
    named = {place / name: figure for chart in drawn.values() for name, figure in _files(chart)}
    make_own_folder(place.parent)
    make_own_folder(place)
    for path in named:
        path.unlink(missing_ok=True)  # Kaleido would write through a link
    try:
        kaleido.write_fig_from_object_sync(
            [
                {"fig": figure, "path": path, "opts": {"format": "svg", "width": WIDTH, "height": _height(figure)}}
                for path, figure in named.items()
            ],
            kopts={"mathjax": False},  # the only thing that it would fetch from the network
        )
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise EnvironmentFault(
            "Figures as files are drawn by Chrome or Chromium, and none was found that starts. Install one (on Debian: "
            "apt install chromium) or name it in BROWSER_PATH; the page report/index.html needs none."
        ) from error
    return list(named)


def _files(chart: Chart) -> list[tuple[str, dict]]:
    """Name each variant's file: `history.svg`, or with several `robustness-1-16.svg`."""
    if len(chart.variants) == 1:
        return [(f"{chart.name}.svg", chart.variants[0][1])]
    return [(f"{chart.name}-{_slug(label)}.svg", figure) for label, figure in chart.variants]


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-")


def _height(figure: dict) -> int:
    return int(figure["layout"].get("height") or 480)
