"""Charts: the geometry of plain SVG figures. The template draws what is computed here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

WIDTH = 360  # units of the view box; about pixels on a narrow screen
_LETTER = 7.5  # width of one, in a wide font
_PITCH = 22
_BAR = 10
_MOST_BARS = 12
_LABEL_LENGTH = 22  # characters that fit the column
_HEIGHT = 150  # of histograms: the bars' room
_TOP, _FOOT, _LEFT = 16, 34, 34
_MOST_BINS = 20
_DIGIT = 5.4  # width of a digit above a histogram's bar


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with what it stands for."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """A class of the style sheet: `kept` or `rejected`."""
    told: str
    """What a pointer at it reads."""


@dataclass(frozen=True, slots=True)
class Word:
    """A text and its place."""

    x: float
    y: float
    text: str
    kind: str
    anchor: str = "start"
    whole: str = ""
    """The text uncut, where it had to be cut."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A finished figure."""

    title: str
    note: str
    """What is counted, or the figures that sum it up."""
    height: float
    boxes: list[Box]
    words: list[Word]
    rules: list[float] = field(default_factory=list)
    """Heights of horizontal lines."""
    legend: bool = False
    """Whether both kinds of boxes are in it."""

    @property
    def told(self) -> str:
        """All values, for those who do not see the figure."""
        return f"{self.title}: " + "; ".join(box.told for box in self.boxes)


def number(value: float) -> str:
    """A count with its thousands apart."""
    return f"{value:,.0f}".replace(",", "\u202f")


def time(seconds: float) -> str:
    """Hours, minutes or seconds, whichever reads best."""
    if seconds >= 36_000:
        return f"{number(seconds / 3600)} h"
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def bars(
    title: str, counts: Mapping[str, float], note: str, *, kind: str = "kept", shown: Mapping[str, str] | None = None
) -> Chart | None:
    """A bar for each name, the longest first; None where there is nothing to count.

    Args:
        title: Of the figure.
        counts: By name.
        note: What is counted.
        kind: A class of the style sheet.
        shown: How the value of a name is written; as a count where it is not said.
    """
    if not counts:
        return None
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) > _MOST_BARS:
        rest = ordered[_MOST_BARS - 1 :]
        ordered = ordered[: _MOST_BARS - 1]
        note += f"; {len(rest)} more names with {number(sum(count for _, count in rest))} are not drawn"
    longest = max(count for _, count in ordered) or 1
    values = {name: (shown or {}).get(name) or number(count) for name, count in ordered}
    names = {name: name if len(name) <= _LABEL_LENGTH else name[: _LABEL_LENGTH - 1] + "…" for name, _ in ordered}
    left = round(10 + max(map(len, names.values())) * _LETTER)
    room = WIDTH - left - 12 - max(map(len, values.values())) * _LETTER
    boxes, words = [], []
    for place, (name, count) in enumerate(ordered):
        middle = place * _PITCH + _PITCH / 2
        width = max(1.5, count / longest * room) if count else 0.0
        cut = names[name]
        words.append(Word(0, middle + 4, cut, "label", whole=name if cut != name else ""))
        boxes.append(Box(left, middle - _BAR / 2, round(width, 1), _BAR, kind, f"{name} {values[name]}"))
        words.append(Word(round(left + width + 7, 1), middle + 4, values[name], "value"))
    return Chart(title, note, len(ordered) * _PITCH, boxes, words)


class Distribution:
    """Numbers counted in fine steps, so that a million of them take no more room than a thousand."""

    def __init__(self, step: float) -> None:
        self._step = step
        self.kept: Counter[int] = Counter()
        self.rejected: Counter[int] = Counter()

    def add(self, value: float, rejected: bool = False) -> None:
        """Counts one number."""
        (self.rejected if rejected else self.kept)[math.floor(value / self._step + 1e-6)] += 1

    def quantile(self, share: float) -> float:
        """The value that this share of all numbers does not exceed, exact to a step."""
        both = self.kept + self.rejected
        left = share * both.total()
        for step in sorted(both):
            left -= both[step]
            if left <= 1e-9:
                return step * self._step
        return 0.0

    def histogram(self, title: str, note: str, widths: Iterable[float], unit: str, *, scale: float = 1) -> Chart | None:
        """The figure; None where nothing was counted.

        Args:
            title: Of the figure.
            note: What is counted, and what sums it up.
            widths: That a bin may have, narrow ones first, in the numbers' own unit.
            unit: Written after the axis's numbers.
            scale: From the numbers' own unit to the one that is written.
        """
        both = self.kept + self.rejected
        if not both:
            return None
        low, high = min(both) * self._step, self.quantile(0.99)
        widths = list(widths)
        width = next((w for w in widths if (high - low) / w < _MOST_BINS - 1), widths[-1])
        first = math.floor(low / width + 1e-6)
        last = max(math.floor(high / width + 1e-6), first)
        beyond = (max(both) + 1) * self._step > (last + 1) * width + 1e-6  # the outermost share the last bin

        def binned(counts: Counter[int]) -> list[int]:
            filled = [0] * (last - first + 1)
            for step, count in counts.items():
                filled[min(math.floor(step * self._step / width + 1e-6), last) - first] += count
            return filled

        edges = [f"{(first + i) * width * scale:g}" for i in range(last - first + 2)]
        return _histogram(title, note, binned(self.kept), binned(self.rejected), edges, unit, beyond)


def _histogram(
    title: str, note: str, kept: list[int], rejected: list[int], edges: list[str], unit: str, beyond: bool
) -> Chart:
    both = [a + b for a, b in zip(kept, rejected, strict=True)]
    ticks = _ticks(max(both))
    top, floor = ticks[-1], _TOP + _HEIGHT
    pitch = min((WIDTH - _LEFT - 8) / len(both), 40)
    boxes, words = [], []
    for i, total in enumerate(both):
        x = round(_LEFT + i * pitch + 0.75, 1)
        to = "and more" if beyond and i == len(both) - 1 else f"to {edges[i + 1]}{unit}"
        y = float(floor)
        for count, kind, called in ((kept[i], "kept", "kept"), (rejected[i], "rejected", "set aside")):
            height = round(max(count / top * _HEIGHT, 1.5) if count else 0.0, 1)
            y = round(y - height, 1)
            if count:
                said = f"{edges[i]}{unit} {to}: {number(count)}" + (f" {called}" if any(rejected) else "")
                boxes.append(Box(x, y, round(pitch - 1.5, 1), height, kind, said))
        if total and (len(number(total)) * _DIGIT <= pitch or total == max(both)):
            words.append(Word(round(x + pitch / 2 - 0.75, 1), y - 4, number(total), "count", "middle"))
    heights = [round(tick / top * _HEIGHT, 1) for tick in ticks]
    words += [
        Word(_LEFT - 7, floor - height + 3.5, number(tick), "tick", "end")
        for tick, height in zip(ticks, heights, strict=True)
    ]
    every = max(1, math.ceil(len(edges) * (max(map(len, edges)) * 6 + 9) / (pitch * len(both))))
    for i in range(0, len(edges), every):
        text = edges[i] + ("+" if beyond and i == len(edges) - 1 else "")
        words.append(Word(round(_LEFT + i * pitch, 1), floor + 15, text, "tick", "middle"))
    axis = {"%": "per cent"}.get(unit.strip(), unit.strip())
    words.append(Word(round(_LEFT + pitch * len(both) / 2, 1), floor + 30, axis, "tick", "middle"))
    rules = [floor - height for height in heights]
    return Chart(title, note, _TOP + _HEIGHT + _FOOT, boxes, words, rules, any(kept) and any(rejected))


def _ticks(most: int) -> list[int]:
    """Round counts from 0 to just above the highest bar, three to five of them."""
    for step in (m * 10**e for e in range(12) for m in (1, 2, 5)):
        if most <= 4 * step:
            return [step * i for i in range(math.ceil(most / step) + 1)]
    raise AssertionError(f"a count of {most}")
