"""Curves: how a run went, as a picture and a page, drawn from what `watch.py` has written down."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.plugins import require
from pipeline.shards import write_atomically
from pipeline.text import unmarked
from pipeline.train.watch import METRICS, SAMPLES, Line, lines

PICTURE, DRAWING, PAGE, TEXT = "curves.png", "curves.svg", "report.html", "report.md"
_POINTS = 1500  # of a curve: more are not told apart
_SHOWN = 12  # decoded rows
_COLOURS = ("#2f6f9f", "#c2571a", "#3f8f4f", "#8a4fa0", "#7a6a1f", "#555555")
_GREY = "#8c8c8c"

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """What a run has told, each step and validation once, in their order."""

    steps: list[Line] = field(default_factory=list)
    validations: list[Line] = field(default_factory=list)
    stages: list[Line] = field(default_factory=list)
    """The first beginning of each."""
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def read(out: Path) -> History:
        """From a run's folder."""
        kinds: dict[str, dict[Any, Line]] = {"step": {}, "validation": {}, "stage": {}, "note": {}}
        for number, line in enumerate(lines(out / METRICS)):
            key = {"stage": line.get("number"), "note": number}.get(line["kind"], (line.get("stage"), line.get("step")))
            kinds[line["kind"]].setdefault(key, line)
        order: Callable[[Line], int] = lambda line: line["overall"]  # noqa: E731
        return History(
            sorted(kinds["step"].values(), key=order),
            sorted(kinds["validation"].values(), key=order),
            sorted(kinds["stage"].values(), key=order),
            [line["text"] for line in kinds["note"].values()],
        )

    def series(self, value: Callable[[Line], float | None], of: str = "steps") -> tuple[Numbers, Numbers]:
        """Overall steps and values, where there are such."""
        found = [(line["overall"], value(line)) for line in getattr(self, of)]
        kept = [(x, y) for x, y in found if y is not None]
        return np.array([x for x, _ in kept], float), np.array([y for _, y in kept], float)

    def names(self, key: str, of: str = "steps") -> list[str]:
        """The names under a key, in the order of their appearance."""
        return list(dict.fromkeys(name for line in getattr(self, of) for name in line[key]))


def draw(out: Path) -> None:
    """Draws the curves of a run into its folder, with a page and a text about it."""
    history = History.read(out)
    if not history.steps:
        return
    figure = _figure(history)
    for name, kind in ((PICTURE, "png"), (DRAWING, "svg")):
        stream = BytesIO()
        # No date inside: the same run gives the same bytes.
        figure.savefig(stream, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
        write_atomically(out / name, stream.getvalue())
        if kind == "png":
            picture = base64.b64encode(stream.getvalue()).decode()
    samples = lines(out / SAMPLES)
    write_atomically(out / TEXT, _markdown(out, history, samples).encode())
    write_atomically(out / PAGE, _page(out, history, samples, picture).encode())


def _figure(history: History) -> Any:
    figures = require("matplotlib.figure", extra="train", what="drawing curves")
    figure = figures.Figure(figsize=(13, 11), layout="constrained")
    axes = figure.subplots(3, 2)
    _loss(axes[0, 0], history)
    _decoded(axes[0, 1], history)
    for part, colour in zip(history.names("learning_rates"), _COLOURS, strict=False):
        x, y = history.series(lambda line, part=part: line["learning_rates"].get(part))  # type: ignore[misc]
        axes[1, 0].plot(*_thin(x, y), color=colour, label=part)
    axes[1, 0].legend(frameon=False)
    _smoothed(axes[1, 1], *history.series(lambda line: line["gradient_norm"]), "norm")
    axes[1, 1].set_yscale("log")
    _smoothed(axes[2, 0], *history.series(lambda line: line["audio_seconds"] / max(line["seconds"], 1e-9)), "audio")
    axes[2, 0].set_ylim(0, None)
    for name, colour in (("padding", _COLOURS[1]), ("waited", _COLOURS[2])):
        x, y = history.series(lambda line, name=name: 100 * line[name])  # type: ignore[misc]
        axes[2, 1].plot(*_thin(x, y), color=colour, label={"waited": "waiting for data"}.get(name, name))
    axes[2, 1].set_ylim(0, None)
    axes[2, 1].legend(frameon=False)
    titles = (
        *("loss, nats a response token", "decoded validation rows", "learning rate", "norm of the gradients"),
        *("audio heard, seconds a second", "padding and waiting, % of positions and of time"),
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("step")
        axis.set_xlim(0, history.steps[-1]["overall"] * 1.01)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        _stages(axis, history)
    return figure


def _loss(axis: Any, history: History) -> None:
    _smoothed(axis, *history.series(lambda line: line["loss"]), "training")
    x, y = history.series(lambda line: line["losses"].get("loss"), "validations")
    axis.plot(x, y, "o-", color=_COLOURS[1], markersize=4, label="validation")
    top = np.nanquantile(history.series(lambda line: line["loss"])[1], 0.99)
    axis.set_ylim(0, max(float(top) * 1.05, 1e-3))
    axis.legend(frameon=False)


def _decoded(axis: Any, history: History) -> None:
    shown = history.names("figures", "validations")
    for name, colour in zip(shown, _COLOURS, strict=False):
        x, y = history.series(lambda line, name=name: line["figures"].get(name), "validations")  # type: ignore[misc]
        label = {"wer": "WER", "cer": "CER", "correct": "correct", "exact": "exact"}.get(name, name)
        axis.plot(x, 100 * y, "o-", color=colour, markersize=4, label=f"{label}, %")
    best = [line for line in history.validations if line["better"] and line["figure"] in line["figures"]]
    if shown:
        places, values = [line["overall"] for line in best], [100 * line["value"] for line in best]
        axis.plot(places, values, "o", mfc="none", color="black", ms=9, label="best so far")
        axis.set_ylim(0, min(max(axis.get_ylim()[1], 10), 150))
        axis.legend(frameon=False)
    else:
        axis.text(0.5, 0.5, "nothing was decoded", ha="center", transform=axis.transAxes, color=_GREY)


def _smoothed(axis: Any, x: Numbers, y: Numbers, label: str) -> None:
    """A curve, faint as it is and strong as the mean around each step."""
    axis.plot(*_thin(x, y), color=_COLOURS[0], alpha=0.3, linewidth=0.8)
    reach = max(1, len(y) // 100)
    sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(y))])
    low = np.maximum(np.arange(len(y)) - reach, 0)
    high = np.minimum(np.arange(len(y)) + reach + 1, len(y))
    axis.plot(*_thin(x, (sums[high] - sums[low]) / (high - low)), color=_COLOURS[0], linewidth=1.6, label=label)


def _thin(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """At most so many points as are told apart, each the mean of its neighbours."""
    if len(x) <= _POINTS:
        return x, y
    cuts = np.linspace(0, len(x), _POINTS + 1).astype(int)[:-1]
    sizes = np.diff(np.append(cuts, len(x)))
    return np.add.reduceat(x, cuts) / sizes, np.add.reduceat(y, cuts) / sizes


def _stages(axis: Any, history: History) -> None:
    """Where each stage begins, by name."""
    for number, line in enumerate(history.stages):
        if number:
            axis.axvline(line["overall"] + 0.5, color=_GREY, linestyle=":", linewidth=1)
        place = (line["overall"] + 0.5, 1.0)
        axis.annotate(
            line["stage"],
            place,
            xycoords=("data", "axes fraction"),
            xytext=(3, -10),
            textcoords="offset points",
            fontsize=8,
            color="#555555",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )


def table(history: History) -> list[tuple[str, ...]]:
    """What each stage came to; the first row names the columns."""
    head = ("stage", "trains", "steps", "loss", "validation", "best", "audio s/s", "padding", "waiting", "hours")
    rows: list[tuple[str, ...]] = [head]
    ends = [line["overall"] for line in history.stages[1:]] + [10**12]
    for line, end in zip(history.stages, ends, strict=True):
        steps = [s for s in history.steps if line["overall"] < s["overall"] <= end]
        checks = [v for v in history.validations if v["stage"] == line["stage"]]
        if not steps:
            continue
        seconds = sum(s["seconds"] for s in steps) or 1e-9
        places = sum(s["positions"] / max(1 - s["padding"], 1e-9) for s in steps) or 1e-9
        last = steps[-max(1, len(steps) // 20) :]
        better = [v for v in checks if v["better"]]
        rows.append(
            (
                line["stage"],
                ", ".join(f"{part} {count:,}" for part, count in line["trains"].items()),
                str(len(steps)),
                f"{np.mean([s['loss'] for s in last]):.3f}",
                _figures(checks[-1]) if checks else "",
                f"{better[-1]['figure']} {better[-1]['value']:.3f} at {better[-1]['step']}" if better else "",
                f"{sum(s['audio_seconds'] for s in steps) / seconds:.1f}",
                f"{1 - sum(s['positions'] for s in steps) / places:.1%}",
                f"{sum(s['waited'] * s['seconds'] for s in steps) / seconds:.1%}",
                f"{seconds / 3600:.2f}",
            )
        )
    return rows


def _figures(line: Line) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in (line["losses"] | line["figures"]).items())


def _last_samples(samples: Sequence[Line]) -> list[Line]:
    """Of the last validation, as many tasks as can be."""
    last = [s for s in samples if s["overall"] == samples[-1]["overall"]] if samples else []
    firsts = {s["task"]: s for s in reversed(last)}
    return [*firsts.values(), *(s for s in last if s not in firsts.values())][:_SHOWN]


def summary(out: Path, history: History) -> str:
    """A run in markdown, without its pictures."""
    return _markdown(out, history, lines(out / SAMPLES), pictured=False)


def _markdown(out: Path, history: History, samples: Sequence[Line], pictured: bool = True) -> str:
    parts = [f"# Training: {out.name}\n", f"![curves]({DRAWING})\n" if pictured else "", markdown_table(history)]
    if history.notes:
        parts.append("\n## Notes\n\n" + "\n".join(f"- {note}" for note in history.notes) + "\n")
    shown = _last_samples(samples)
    if shown:
        parts.append("\n## What it said at the last validation\n")
        parts += [
            f"\n{unmarked(s['id'])}\n\n- reference: {unmarked(_line(s['reference']))}\n"
            f"- response: {unmarked(_line(s['response']))}"
            for s in shown
        ]
    return "\n".join(parts) + "\n"


def markdown_table(history: History) -> str:
    """What each stage came to, as a table of markdown."""
    head, *rows = table(history)
    cells = (head, ("---",) * len(head), *rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells) + "\n"


def validations(history: History) -> list[dict[str, str]]:
    """Each validation, as a row for a table."""
    names = [*history.names("losses", "validations"), *history.names("figures", "validations")]
    return [
        {"stage": v["stage"], "step": str(v["step"]), "best so far": "yes" if v["better"] else ""}
        | {name: f"{value:.4g}" for name in names if (value := (v["losses"] | v["figures"]).get(name)) is not None}
        for v in history.validations
    ]


def _line(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"


def _page(out: Path, history: History, samples: Sequence[Line], picture: str) -> str:
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}"
        "img{width:100%}table{border-collapse:collapse;font-size:13px}td,th{padding:.3em .7em;text-align:left;"
        "border-bottom:1px solid #ddd;vertical-align:top}small{color:#777}"
    )
    said = [(s["id"], _line(s["reference"]), _line(s["response"])) for s in _last_samples(samples)]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in history.notes)
    body = [
        f"<h1>Training: {html.escape(out.name)}</h1>",
        f'<img alt="curves of the run" src="data:image/png;base64,{picture}">',
        "<h2>Stages</h2>",
        *_rows(table(history)),
        f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        "<h2>What it said at the last validation</h2>",
        *(_rows([("row", "reference", "response"), *said]) if said else ["<p>Nothing was decoded.</p>"]),
    ]
    title = f"<title>Training: {html.escape(out.name)}</title>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8">{title}<style>{style}</style>{"".join(body)}</html>\n'


def _rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "<table>"
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        yield "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
    yield "</table>"
