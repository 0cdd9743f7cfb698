"""Draw the robustness front as an SVG file without a browser, from the same marks as the interactive figure.

For a README and for readers without JavaScript: one file, its own paper in light and dark, text as text.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from study.report.flat import flat_text
from study.report.palette import BLUE, DARK, FAINT, GRID, INK, KIND_COLOURS, PAPER, PURPLE, SKY
from study.report.stats import Mark, clean_baselines, headline_epsilon, marks
from study.report.trust_wording import ARROW, UPPER_BOUND
from study.report.wording import epsilon_text, finding, norm_text
from study.results import Results

WIDTH, HEIGHT = 800, 588
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 92, 136
_CAPTION_LINES, _LINE = 4, 17
"""Lines of the caption that there is room for, and how much higher each further one makes the picture."""
_CAPTION_SIZE = 12
_BASELINE_LOOK = {"SVM": (PURPLE, "9 5"), "1-NN": (SKY, "2 4")}
_LEGEND = {"student": "student (number: trial)", "twin": "its twin with alpha = 0", "teacher": "teacher"}
_LIGHT = {"ink": INK, "paper": PAPER, "grid": GRID, "faint": FAINT, **KIND_COLOURS}


@dataclass(frozen=True)
class _Scale:
    """A linear axis: data from low to high onto pixels from start to end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Give the pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def ticks(self) -> list[float]:
        """Give about six round values inside the axis."""
        step = min((10.0**e * m for e in (-4, -3, -2, -1) for m in (1, 2, 5)), key=lambda s: abs(self._count(s) - 6))
        first = math.ceil(self.low / step - 1e-9)
        return [round(step * i, 6) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _count(self, step: float) -> float:
        return (self.high - self.low) / step


def front_svg(results: Results, epsilon: float | None = None) -> str:
    """Draw accuracy against robust accuracy on test.

    Args:
        results: The study.
        epsilon: Where robust accuracy is taken; the headline epsilon by default.

    Returns:
        A whole SVG document. Without attacked models it says so in words.
    """
    epsilon = headline_epsilon(results) if epsilon is None else epsilon
    if epsilon is None:
        return _document(_paragraph(finding(results), 28, HEIGHT / 2, "ink", 15), finding(results), HEIGHT)
    placed, baselines = marks(results, epsilon), clean_baselines(results, "test")
    x, y = _scales(placed, [accuracy for _, accuracy, _ in baselines])
    body = [_axes(x, y, epsilon)]
    baselines = sorted(baselines, key=lambda baseline: baseline[1])
    body += [_baseline(name, accuracy, x, y, place) for place, (name, accuracy, _) in enumerate(baselines)]
    body += [_joint(mark, placed, x, y) for mark in placed if mark.kind == "student" and mark.detailed]
    order = {"twin": 0, "teacher": 1, "student": 2}
    body += [_bars(mark, x, y) for mark in placed if mark.detailed]
    body += [_point(mark, x, y) for mark in sorted(placed, key=lambda m: (m.detailed, order.get(m.kind, 0)))]
    norm = norm_text(next((m.norm for m in results.survivors.values()), ""))
    title = f"Accuracy against robust accuracy on test: epsilon {epsilon_text(epsilon)}, {norm}"
    body += [f'<text x="{_LEFT}" y="28" class="ink title">{escape(title)}</text>', _legend(placed)]
    flat = flat_text(results, epsilon)
    caption = " ".join(filter(None, [flat, _caption(placed, baselines)]))
    body.append(_paragraph(caption, 24, HEIGHT - _BOTTOM + 72, "ink", _CAPTION_SIZE))
    more = max(0, len(_wrapped(caption, 24, _CAPTION_SIZE)) - _CAPTION_LINES)
    return _document("\n".join(body), title, HEIGHT + more * _LINE)


def _scales(placed: Sequence[Mark], cleans: Sequence[float]) -> tuple[_Scale, _Scale]:
    x = _extent([end for m in placed for end in m.clean.interval] + list(cleans))
    y = _extent([end for m in placed for end in m.robust.interval])
    return _Scale(*x, _LEFT, WIDTH - _RIGHT), _Scale(*y, HEIGHT - _BOTTOM, _TOP)


def _extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(0.01, 0.07 * (high - low))
    return max(-0.02, low - room), min(1.02, high + room)


def _axes(x: _Scale, y: _Scale, epsilon: float) -> str:
    parts = []
    for tick in x.ticks():
        at = x(tick)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{y.start}" y2="{y.end}" class="grid"/>')
        parts.append(f'<text x="{at}" y="{y.start + 20}" class="ink" text-anchor="middle">{_percent(tick)}</text>')
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<line x1="{x.start}" x2="{x.end}" y1="{at}" y2="{at}" class="grid"/>')
        parts.append(f'<text x="{x.start - 8}" y="{at + 4}" class="ink" text-anchor="end">{_percent(tick)}</text>')
    middle = (y.start + y.end) / 2
    parts.append(
        f'<text x="{(x.start + x.end) / 2}" y="{y.start + 44}" class="ink" text-anchor="middle">accuracy</text>'
    )
    label = f"robust accuracy at epsilon {epsilon_text(epsilon)}"
    turn = f'transform="rotate(-90 20 {middle})" text-anchor="middle"'
    parts.append(f'<text x="20" y="{middle}" class="ink" {turn}>{label}</text>')
    return "\n".join(parts)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def _baseline(name: str, accuracy: float, x: _Scale, y: _Scale, place: int) -> str:
    colour, dash = _BASELINE_LOOK[name]
    at, left = x(accuracy), place == 0
    anchor, shift = ("end", -4) if left else ("start", 4)
    return (
        f'<line x1="{at}" x2="{at}" y1="{y.start}" y2="{y.end}" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>'
        f'<text x="{at + shift}" y="{y.start - 8}" class="ink small" text-anchor="{anchor}">{name} (clean)</text>'
    )


def _joint(student: Mark, placed: Sequence[Mark], x: _Scale, y: _Scale) -> str:
    twin = next((m for m in placed if m.kind == "twin" and m.trial == student.trial), None)
    if twin is None:
        return ""
    ends = x(student.clean.value), y(student.robust.value), x(twin.clean.value), y(twin.robust.value)
    return '<line x1="{}" y1="{}" x2="{}" y2="{}" class="joint"/>'.format(*ends)


def _bars(mark: Mark, x: _Scale, y: _Scale) -> str:
    cx, cy = x(mark.clean.value), y(mark.robust.value)
    (x1, x2), (y1, y2) = map(x, mark.clean.interval), map(y, mark.robust.interval)
    upright = "" if mark.is_upper_bound else f'<line x1="{cx}" x2="{cx}" y1="{y1}" y2="{y2}"/>'
    return f'<g class="{mark.kind} bar"><line x1="{x1}" x2="{x2}" y1="{cy}" y2="{cy}"/>{upright}</g>'


def _point(mark: Mark, x: _Scale, y: _Scale) -> str:
    cx, cy = x(mark.clean.value), y(mark.robust.value)
    if mark.is_upper_bound:
        return _upper_bound(mark, cx, cy)
    if not mark.detailed:
        return _shape(mark.kind, cx, cy, 3, hollow=True)
    shape = _shape(mark.kind, cx, cy, 7, hollow=_is_far(mark))
    if mark.kind != "student":
        return shape
    return shape + _number(mark, cx, cy)


def _number(mark: Mark, cx: float, cy: float) -> str:
    return f'<text x="{cx + 10}" y="{cy - 9}" class="ink label">{mark.trial}</text>'


def _upper_bound(mark: Mark, cx: float, cy: float) -> str:
    """Draw an unreliable number: hollow, an arrow below, its reasons where the pointer rests (S25)."""
    size = 7 if mark.detailed else 3
    arrow = f'<path d="M{cx} {cy + size + 2}v15m-5 -6l5 6l5 -6" class="arrow"/>'
    number = _number(mark, cx, cy) if mark.kind == "student" and mark.detailed else ""
    said = escape("; ".join([mark.trust.word, *mark.trust.reasons]))
    return f"<g><title>{said}</title>{_shape(mark.kind, cx, cy, size, hollow=True)}{arrow}{number}</g>"


def _shape(kind: str, cx: float, cy: float, size: float, hollow: bool = False) -> str:
    look = f'class="{kind} {"hollow" if hollow else "mark"}"'
    if kind == "student":
        return f'<circle cx="{cx}" cy="{cy}" r="{size}" {look}/>'
    corners, inner = (4, 1.0) if kind == "twin" else (10, 0.42)
    radii = [size * 1.25 if i % 2 == 0 or kind == "twin" else size * 1.25 * inner for i in range(corners)]
    points = [
        (cx + r * math.sin(2 * math.pi * i / corners), cy - r * math.cos(2 * math.pi * i / corners))
        for i, r in enumerate(radii)
    ]
    text = " ".join(f"{px:.2f},{py:.2f}" for px, py in points)
    return f'<polygon points="{text}" {look}/>'


def _is_far(mark: Mark) -> bool:
    """Tell whether a student is drawn hollow for its clean accuracy."""
    return mark.kind == "student" and mark.detailed and not mark.headlined and not mark.is_upper_bound


def _legend(placed: Sequence[Mark]) -> str:
    parts, at = [], float(_LEFT + 8)
    entries = [(kind, text, False) for kind, text in _LEGEND.items() if any(m.kind == kind for m in placed)]
    if any(_is_far(m) for m in placed):
        entries.insert(1, ("student", "student, not headlined", True))
    bounds = [mark.kind for mark in placed if mark.is_upper_bound]
    entries += [(bounds[0], f"{ARROW} unreliable: an upper bound", True)] if bounds else []
    for kind, text, hollow in entries:
        parts.append(_shape(kind, at, 54, 7, hollow))
        parts.append(f'<text x="{at + 14}" y="58" class="ink">{escape(text)}</text>')
        at += 40 + 7.2 * len(text)
    return "".join(parts)


def _caption(placed: Sequence[Mark], baselines: Sequence[tuple[str, float, int | None]]) -> str:
    n = sorted({mark.robust.n for mark in placed})
    images = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
    sentences = [
        f"Bars: Wilson 95 % intervals over {images} test images; they cover the choice of images, not seeds.",
        "Robust accuracy is the worst case over the attacks that were run, so it is an upper bound.",
    ]
    if any(mark.kind == "twin" for mark in placed):
        sentences.append("Dotted lines join a student to its twin, trained alike without distillation.")
    if not all(mark.detailed for mark in placed):
        sentences.append("Small: students off the front, and their twins; their intervals are in the tables.")
    if any(mark.is_upper_bound for mark in placed):
        sentences.append(UPPER_BOUND)
    if any(_is_far(mark) for mark in placed):
        sentences.append("Hollow without an arrow: more than 10 points below the teacher's clean accuracy.")
    if baselines:
        sentences.append("Vertical lines: baselines that were not attacked.")
    return " ".join(sentences)


def _paragraph(text: str, left: float, top: float, look: str, size: int) -> str:
    lines = _wrapped(text, left, size)
    spans = "".join(
        f'<tspan x="{left}" dy="{0 if i == 0 else size + 5}">{escape(t)}</tspan>' for i, t in enumerate(lines)
    )
    return f'<text y="{top}" class="{look}" style="font-size:{size}px">{spans}</text>'


def _wrapped(text: str, left: float, size: int) -> list[str]:
    return textwrap.wrap(text, int((WIDTH - 2 * left) / (size * 0.52)))


def _document(body: str, title: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">\n<title>{escape(title)}</title>\n<style>\n{_styles()}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" rx="6" class="paper"/>\n{body}\n</svg>\n'
    )


def _styles() -> str:
    dark = {name: DARK.get(colour, colour) for name, colour in _LIGHT.items()}
    fixed = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px}"
        ".title{font-size:16px;font-weight:600}.small{font-size:11px}.label{font-weight:600;paint-order:stroke;"
        "stroke-width:3px}.grid{stroke-width:1}.joint{stroke-width:1.3;stroke-dasharray:2 4}.bar line{stroke-width:1.3}"
        ".mark{stroke-width:1}.hollow{stroke-width:2}"
        ".arrow{fill:none;stroke-width:1.8}\n"
    )
    return fixed + _theme(_LIGHT) + "@media (prefers-color-scheme: dark){\n" + _theme(dark) + "}\n"


def _theme(colours: dict[str, str]) -> str:
    ink, paper, student = colours["ink"], colours["paper"], colours.get("student", BLUE)
    rules = [
        f".paper{{fill:{paper}}}.ink{{fill:{ink}}}",
        f".grid{{stroke:{colours['grid']}}}.joint{{stroke:{ink}}}.label{{stroke:{paper}}}.mark{{stroke:{ink}}}",
        f".hollow{{fill:{paper};stroke:{student}}}.arrow{{stroke:{ink}}}",
    ]
    rules += [f".{kind}.mark{{fill:{colours[kind]}}}.{kind}.bar{{stroke:{colours[kind]}}}" for kind in KIND_COLOURS]
    rules += [f".{kind}.hollow{{stroke:{colours[kind]}}}" for kind in KIND_COLOURS]
    return "\n".join(rules) + "\n"
