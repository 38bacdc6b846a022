"""Charts: figures with their intervals, confusions and curves as SVG, within a page or as files of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 460  # units of the view box
_ROW, _HEAD = 17, 22
_LETTER = 6.4  # width of one at 12 units, about
_RIGHT = 92  # for the value's text
_CELL = 74
KINDS = ("end_to_end", "cascade", "oracle", "reading", "shuffled", "silent", "text_only", "other")

STYLE = """
text {
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  fill: light-dark(#1c2126, #e4e7ea); font-variant-numeric: tabular-nums;
}
text.muted { fill: light-dark(#58626b, #9ca6af); }
text.small { font-size: 10.5px; }
text.strong { font-weight: 600; }
.rule { stroke: light-dark(#e1e4e6, #2c3238); stroke-width: 1; }
.whisker { stroke-width: 2; }
polyline.curve { fill: none; stroke-width: 1.6; }
.faint { opacity: 0.35; }
.cell { fill: light-dark(#21707a, #62b6c0); }
""" + "\n".join(
    f".{kind} {{ fill: {colour}; stroke: {colour}; }}"
    for kind, colour in zip(
        KINDS,
        (
            *("light-dark(#21707a, #62b6c0)", "light-dark(#ad4a20, #e59166)", "light-dark(#2e6b3c, #7fc191)"),
            *("light-dark(#6a4c93, #b79ae0)", "light-dark(#8a8f94, #868d94)", "light-dark(#a9aeb3, #6c7379)"),
            *("light-dark(#bfa76a, #a8935c)", "light-dark(#3d5a80, #8fb3dd)"),
        ),
        strict=True,
    )
)
"""Of the marks, in both colour schemes."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A finished figure."""

    name: str
    """Of its file."""
    title: str
    note: str
    width: float
    height: float
    marks: str
    """SVG elements."""
    told: str
    """All values, for those who do not see it."""

    def svg(self, alone: bool = False) -> str:
        """The drawing; `alone` with its style, to stand in a file."""
        style = f"<style>:root {{ color-scheme: light dark; }}{STYLE}</style>" if alone else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.told)}">{style}{self.marks}</svg>'
        )


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval."""

    label: str
    kind: str
    """Of `KINDS`: its colour."""
    value: float
    low: float | None
    high: float | None
    shown: str
    """The value as it is written."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of values."""

    label: str
    kind: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    """Whether each point is marked."""


def forest(
    name: str, title: str, note: str, groups: Sequence[tuple[str, Sequence[Dot]]], most: float = 1.0
) -> Chart | None:
    """Values with whiskers, a line each, under the headings of their groups; None where there is none."""
    groups = [(head, dots) for head, dots in groups if dots]
    if not groups:
        return None
    labels = [dot.label for _, dots in groups for dot in dots]
    left = min(176.0, 14 + max(map(len, labels)) * _LETTER)
    right = WIDTH - _RIGHT
    scale = _Scale(0.0, most, left, right)
    marks, said, y = [], [], 4.0
    for head, dots in groups:
        if head:
            marks.append(_text(0, y + 13, head, "strong"))
            y += _HEAD
        for dot in dots:
            middle = y + _ROW / 2
            marks.append(_text(10 if head else 0, middle + 4, _cut(dot.label, 25), "", whole=dot.label))
            if dot.low is not None and dot.high is not None:
                marks.append(_line(scale(dot.low), middle, scale(dot.high), middle, f"whisker {dot.kind} faint"))
            tip = f"{head + ': ' if head else ''}{dot.label} {dot.shown}"
            marks.append(_circle(scale(dot.value), middle, 3.6, dot.kind, tip))
            marks.append(_text(right + 10, middle + 4, dot.shown, "muted small"))
            said.append(tip)
            y += _ROW
        y += 5
    rules = []
    for tick in _ticks(most):
        rules.append(_line(scale(tick), 2, scale(tick), y, "rule"))
        rules.append(_text(scale(tick), y + 13, f"{100 * tick:g}", "muted small", "middle"))
    rules.append(_text(WIDTH, y + 13, "%", "muted small", "end"))
    return Chart(name, title, note, WIDTH, y + 20, "".join(rules + marks), f"{title}: {'; '.join(said)}")


def matrix(name: str, title: str, note: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Chart | None:
    """How often each of some classes (a row) was taken for each (a column); None where there is nothing to count."""
    if not sum(map(sum, counts)):
        return None
    left, top = 14 + max(map(len, names)) * _LETTER, 46.0
    marks = [_text(left + len(names) * _CELL / 2, 11, "given", "muted small", "middle")]
    said = []
    for column, given in enumerate(names):
        first, _, rest = given.replace("_", " ").partition(" ")
        for line, text in enumerate((first, rest)):
            marks.append(_text(left + (column + 0.5) * _CELL, top - 18 + 12 * line, text, "small", "middle"))
    for row, right in enumerate(names):
        total = sum(counts[row])
        y = top + row * _CELL / 2
        marks.append(_text(left - 8, y + _CELL / 4 + 4, right.replace("_", " "), "small", "end"))
        for column, given in enumerate(names):
            count, x = counts[row][column], left + column * _CELL
            share = count / total if total else 0.0
            tip = f"{right} taken for {given}: {count} of {total}"
            marks.append(
                f'<rect class="cell" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{_CELL - 2}" height="{_CELL / 2 - 2}" '
                f'rx="2" fill-opacity="{0.07 + 0.55 * share:.3f}"><title>{escape(tip)}</title></rect>'
            )
            marks.append(
                _text(x + _CELL / 2, y + _CELL / 4 + 4, f"{count}", "strong" if row == column else "", "middle")
            )
            said.append(tip)
    width = max(left + len(names) * _CELL, WIDTH)
    return Chart(
        name, title, note, width, top + len(names) * _CELL / 2 + 4, "".join(marks), f"{title}: {'; '.join(said)}"
    )


def curves(
    name: str, title: str, note: str, lines: Sequence[Curve], borders: Sequence[tuple[float, str]] = ()
) -> Chart | None:
    """Lines over steps; None where there is no point.

    Args:
        borders: Steps at which something begins, and what.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    height, left, right = 210.0, 40.0, float(WIDTH) - 8
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    most = max(sorted(values)[min(len(values) - 1, int(0.99 * len(values)))], 1e-9) * 1.08
    x_scale = _Scale(0.0, max(x for line in lines for x, _ in line.points) or 1.0, left, right)
    y_scale = _Scale(0.0, most, height - 26, 26.0)
    marks, said = [], []
    for tick in _ticks(most):
        marks.append(_line(left, y_scale(tick), right, y_scale(tick), "rule"))
        marks.append(_text(left - 6, y_scale(tick) + 4, f"{tick:g}", "muted small", "end"))
    marks += [_text(x_scale(t), height - 10, f"{t:g}", "muted small", "middle") for t in _ticks(x_scale.high)]
    for step, label in borders:
        marks.append(_line(x_scale(step), 26, x_scale(step), height - 26, "rule"))
        marks.append(_text(x_scale(step) + 4, 36, _cut(label, 18), "muted small"))
    x = left
    for line in lines:
        path = " ".join(f"{x_scale(a):.1f},{y_scale(min(b, most)):.1f}" for a, b in line.points if math.isfinite(b))
        marks.append(f'<polyline class="curve {line.kind}" points="{path}"/>')
        if line.dots:
            marks += [
                _circle(x_scale(a), y_scale(min(b, most)), 2.6, line.kind, f"step {a:g}: {b:.4g}")
                for a, b in line.points
                if math.isfinite(b)
            ]
        marks.append(_line(x, 10, x + 14, 10, f"whisker {line.kind}"))
        marks.append(_text(x + 19, 14, line.label, "small"))
        x += 34 + len(line.label) * 5.8
        said.append(f"{line.label} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}")
    return Chart(name, title, note, WIDTH, height, "".join(marks), f"{title}: {'; '.join(said)}")


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.begin + (inside - self.low) / (self.high - self.low or 1.0) * (self.end - self.begin)


def _ticks(most: float) -> list[float]:
    """Round values from 0, three to six of them."""
    power = 10 ** math.floor(math.log10(most))
    step = next(s * power / 10 for s in (1, 2, 2.5, 5, 10, 20) if most / (s * power / 10) <= 5.001)
    return [round(step * i, 10) for i in range(int(most / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start", whole: str = "") -> str:
    title = f"<title>{escape(whole)}</title>" if whole and whole != text else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}{title}</text>'


def _circle(x: float, y: float, radius: float, kind: str, told: str) -> str:
    title = f"<title>{escape(told)}</title>"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
