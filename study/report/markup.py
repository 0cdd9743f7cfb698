"""Pieces of the page as HTML: figures with captions, folded parts, sections; every text is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from study.report.chart import Chart


@dataclass(frozen=True)
class Section:
    """A part of the page that stands only where its data exist."""

    identifier: str
    title: str
    body: str
    """HTML."""

    @property
    def html(self) -> str:
        """The section as HTML."""
        return f'<section id="{self.identifier}"><h2>{escape(self.title)}</h2>{self.body}</section>'

    @property
    def link(self) -> str:
        """Its entry in the page's navigation."""
        return f'<a href="#{self.identifier}">{escape(self.title)}</a> '


def figure(chart: Chart, caption: str, follows: str = "") -> str:
    """Give the place of a chart, with its caption and its choices, or following those of that name elsewhere."""
    name = escape(chart.name, quote=True)
    own, led = ("", f' data-choice="{escape(follows, quote=True)}"') if follows else (choice(chart), "")
    return (
        f'{own}<figure><div class="plot" id="plot-{name}" data-figure="{name}"{led} role="img" '
        f'aria-label="{escape(chart.alt, quote=True)}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def choice(chart: Chart) -> str:
    """Give the buttons that choose between a chart's variants; nothing where there is one."""
    return choices(chart.name, chart.choice, [label for label, _ in chart.variants])


def choices(name: str, legend: str, labels: Sequence[str]) -> str:
    """Give the buttons of one choice, the first of them pressed; nothing where there is nothing to choose."""
    if len(labels) < 2:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{place}"{" checked" if place == 0 else ""}> '
        f"{escape(label)}</label>"
        for place, label in enumerate(labels)
    )
    return f'<fieldset class="choice"><legend>{escape(legend)}</legend>{buttons}</fieldset>'


def details(summary: str, body: str) -> str:
    """Fold a part of the page away."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def paragraphs(texts: Sequence[str]) -> str:
    """Give each text as a paragraph, escaped."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def warning(sentence: str | None) -> str:
    """Say what keeps a figure from being read as it looks; nothing where there is nothing to say."""
    return "" if sentence is None else f'<p class="banner">{escape(sentence)}</p>'


def missing(sentence: str) -> str:
    """Say what is not there yet."""
    return f'<p class="missing">{escape(sentence)}</p>'
