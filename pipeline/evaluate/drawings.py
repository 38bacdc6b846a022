"""Drawings: which charts an evaluation has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.evaluate import charts
from pipeline.evaluate.charts import Chart, Curve, Dot
from pipeline.evaluate.figures import Figure
from pipeline.evaluate.outcomes import OUTCOMES
from pipeline.evaluate.results import NAMES, Result
from pipeline.train.curves import History, Numbers
from pipeline.train.watch import Line

_MAIN = ("end_to_end", "cascade", "oracle")
_SLICES = {
    "language": "By language",
    "voice": "By voice",
    "noise": "By signal-to-noise ratio",
    "duration": "By duration",
    "situation": "By situation",
}
_POINTS = 400  # of a curve


def drawings(result: Result) -> list[Chart]:
    """All charts of the figures."""
    found: list[Chart | None] = []
    groups = []
    for family in result.families:
        dots = [_dot(run.label, run.system, run.headline(family)) for run in result.runs]
        groups.append((f"{family}: {_headline(result, family)}", [dot for dot in dots if dot is not None]))
    groups = [(head, dots) for head, dots in groups if not head.startswith("joint form")]
    found.append(
        charts.forest("systems", "Systems", "headline figure of each family; whiskers are 95 % intervals", groups)
    )
    for run in result.runs:
        if run.confusion is not None and run.system in _MAIN and run.decoding == "plain":
            title = f"Outcomes, {run.label}"
            note = "first turns of dialogues with tools; rows are what is right"
            found.append(charts.matrix(f"outcomes-{run.system}", title, note, OUTCOMES, run.confusion))
    for by, title in _SLICES.items():
        for figure, what in (("answers", "share of right answers"), ("wer", "WER of transcriptions")):
            found.append(_sliced(result, by, figure, title, what))
    return [chart for chart in found if chart is not None]


def _headline(result: Result, family: str) -> str:
    return next(run.headlines[family] for run in result.runs if family in run.headlines).replace("_", " ")


def _dot(text: str, kind: str, figure: Figure | None) -> Dot | None:
    if figure is None or figure.value is None:
        return None
    scale = figure.scale / 100 if figure.scale > 1 else 0.01  # the axis goes from 0 to 1
    low, high = (None if end is None else scale * end for end in (figure.low, figure.high))
    return Dot(text, _kind(kind), scale * figure.value, low, high, figure.written(interval=False))


def _kind(system: str) -> str:
    return system if system in charts.KINDS else "other"


def _sliced(result: Result, by: str, figure: str, title: str, what: str) -> Chart | None:
    own = [s for s in result.slices if s.by == by and s.figure == figure and s.system in _MAIN]
    groups = []
    for name in dict.fromkeys(s.bin for s in own):
        some = [s for s in own if s.bin == name]
        dots = [
            Dot(NAMES.get(s.system, s.system), _kind(s.system), s.value, s.low, s.high, f"{100 * s.value:.1f} %")
            for s in some
        ]
        groups.append((f"{name.replace('_', ' ')}, n = {max(s.count for s in some)}", dots))
    most = max((s.high for s in own), default=1.0) if figure == "wer" else 1.0
    return charts.forest(f"{by}-{figure}", title, f"{what}; 95 % intervals", groups, max(1.0, min(most, 2.0)))


def learning(training: Path | None) -> list[Chart]:
    """The curves of the run that trained the model."""
    if training is None:
        return []
    history = History.read(training)
    borders = [(float(line["overall"]), str(line["stage"])) for line in history.stages]

    loss = Curve("training", "oracle", _points(history.series(lambda line: line["loss"])))
    checked = history.series(lambda line: line["losses"].get("loss"), "validations")
    both = [loss, Curve("validation", "cascade", _points(checked), dots=True)]
    decoded = [
        Curve(name, kind, _points(history.series(_decoded(name), "validations")), dots=True)
        for name, kind in zip(history.names("figures", "validations"), charts.KINDS, strict=False)
    ]
    found = [
        charts.curves("loss", "Learning curve: loss", "nats a response token, over steps", both, borders),
        charts.curves("decoded", "Learning curve: decoded validation rows", "over steps", decoded, borders),
    ]
    return [chart for chart in found if chart is not None]


def _decoded(name: str) -> Callable[[Line], float | None]:
    return lambda line: line["figures"].get(name)


def _points(series: tuple[Numbers, Numbers]) -> list[tuple[float, float]]:
    every = max(1, len(series[0]) // _POINTS)
    return [(float(x), float(y)) for x, y in zip(series[0][::every], series[1][::every], strict=True)]
