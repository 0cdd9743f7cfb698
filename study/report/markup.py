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


def figure(chart: Chart, caption: str) -> str:
    """Give the place of a chart, with its choices and its caption."""
    name = escape(chart.name, quote=True)
    return (
        f'{choice(chart)}<figure><div class="plot" id="plot-{name}" data-figure="{name}" role="img" '
        f'aria-label="{escape(chart.alt, quote=True)}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def choice(chart: Chart) -> str:
    """Give the buttons that choose between a chart's variants; nothing where there is one."""
    if len(chart.variants) < 2:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="{chart.name}" value="{place}"{" checked" if place == 0 else ""}> '
        f"{escape(label)}</label>"
        for place, (label, _) in enumerate(chart.variants)
    )
    return f'<fieldset class="choice"><legend>{escape(chart.choice)}</legend>{buttons}</fieldset>'


def details(summary: str, body: str) -> str:
    """Fold a part of the page away."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def paragraphs(texts: Sequence[str]) -> str:
    """Give each text as a paragraph, escaped."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def missing(sentence: str) -> str:
    """Say what is not there yet."""
    return f'<p class="missing">{escape(sentence)}</p>'
