"""One picture of a dataset's figures, for its card."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.plugins import require
from pipeline.publish.card import small
from pipeline.publish.facts import SECONDS, Facts
from schemas.manifest import DatasetManifest

_BARS = 12
_KEPT, _ASIDE, _ALSO = "#3b6ea5", "#b5543c", "#a9c4de"
_Panel = tuple[str, Sequence[tuple[str, float]], str]


def picture(dataset: DatasetManifest, facts: Facts) -> bytes:
    """Bars of all that there is to see. PNG; equal figures give equal bytes."""
    matplotlib = require("matplotlib.figure", extra="publish", what="the picture of a dataset's figures")
    agreement = [f"{one.language}, {one.voice}" for one in dataset.agreement]
    panels = [panel for panel in _panels(dataset, facts) if panel[1]]
    columns = 2 if len(panels) + bool(agreement) > 1 else 1
    places = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    heights = [max(min(len(bars), _BARS) for _, bars, _ in line) + 2.0 for line in places]
    if agreement:
        heights.append(min(len(agreement), _BARS) + 2.5)
    figure = matplotlib.Figure(figsize=(5.5 * columns, 0.27 * sum(heights) + 0.3), dpi=110, layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for line, some in enumerate(places):
        slots = max(len(bars) for _, bars, _ in some)
        for column, (title, bars, colour) in enumerate(some):
            _bars(figure.add_subplot(grid[line, column]), title, bars, colour, slots)
    if agreement:
        _agreement(figure.add_subplot(grid[len(places), :]), dataset)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def _panels(dataset: DatasetManifest, facts: Facts) -> list[_Panel]:
    ends = [*(f"{end:g}" for end in SECONDS[1:]), ""]
    durations = [
        (f"{begin:g} to {end} s" if end else f"{begin:g} s and more", count)
        for begin, end, count in zip(SECONDS, ends, facts.durations, strict=True)
    ]
    while durations and not durations[-1][1]:
        durations.pop()
    while durations and not durations[0][1]:
        durations.pop(0)
    hours = {name: seconds / 3600 for name, seconds in dataset.languages.items()}
    voices = {engine: seconds / 3600 for engine, seconds in dataset.voices.items()}
    return [
        ("Rows by task", _most(dataset.tasks), _KEPT),
        ("Rows by seconds of speech", durations, _KEPT),
        ("Hours of source audio by language", _most(hours), _KEPT),
        ("Rows set aside, by reason", _most(dataset.reasons), _ASIDE),
        ("Hours of synthetic speech, by engine", _most(voices), _KEPT),
    ]


def _most(counts: Mapping[str, float]) -> list[tuple[str, float]]:
    """The largest, and the sum of the others if there are too many to show."""
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(found) > _BARS:
        rest = found[_BARS - 1 :]
        found = [*found[: _BARS - 1], (f"{len(rest)} others", sum(value for _, value in rest))]
    return [(name.replace("_", " "), value) for name, value in found]


def _bars(axis: Any, title: str, bars: Sequence[tuple[str, float]], colour: str, slots: int) -> None:
    found = axis.barh([name for name, _ in bars], [value for _, value in bars], color=colour, height=0.7)
    axis.bar_label(found, [small(value) if isinstance(value, float) else f"{value:,}" for _, value in bars], padding=3)
    _plain(axis, title, slots)


def _agreement(axis: Any, dataset: DatasetManifest) -> None:
    """Median and 90th percentile of the WER, or of the CER where words are not parted by spaces."""
    some = sorted(dataset.agreement, key=lambda one: -one.rows)[:_BARS]
    names = [f"{one.language}, {one.voice}{'' if one.wer else ' (CER)'}" for one in some]
    pairs = [one.wer or one.cer for one in some]
    high = axis.barh(names, [100 * pair[1] for pair in pairs], color=_ALSO, height=0.7)
    axis.barh(names, [100 * pair[0] for pair in pairs], color=_KEPT, height=0.35)
    axis.bar_label(high, [f"{100 * m:.1f} %, {100 * h:.1f} %" for m, h in pairs], padding=3)
    _plain(axis, "Word error rate of what a recogniser heard: median (dark), 90th percentile (light)", len(some))


def _plain(axis: Any, title: str, slots: int) -> None:
    axis.set_title(title, loc="left", fontsize=10)
    axis.margins(x=0.18)
    axis.set_xticks([])
    axis.set_ylim(slots - 0.5, -0.6)  # bars of panels in one line are equally thick
    axis.tick_params(length=0, labelsize=8)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
