"""Slices: the same rows by language, voice, noise, duration and situation."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.evaluate import wer
from pipeline.evaluate.figures import mean, share
from pipeline.evaluate.items import Item
from pipeline.evaluate.scoring import goodness
from schemas.sample import Sample

GOODNESS = (
    "goodness/earwitness-1: mean over rows of F1 where an answer may be partly right, else of whether it is right; "
    "transcription is left out"
)
SNR_EDGES = (5.0, 10.0, 15.0, 20.0)  # dB
SECOND_EDGES = (2.0, 4.0, 8.0, 16.0)
_MOST_VOICES = 16
_FEWEST = 2  # bins that make a slice worth showing


@dataclass(frozen=True, slots=True)
class Slice:
    """A figure of the rows that have something in common."""

    by: str
    """`language`, `voice`, `noise`, `duration`, `situation`."""
    bin: str
    system: str
    decoding: str
    figure: str
    """`answers` (goodness) or `wer`."""
    value: float
    low: float
    high: float
    count: int

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def language(sample: Sample) -> str:
    """Of the speech."""
    return (sample.utterances[-1].language if sample.utterances else sample.language) or "unknown"


def snr(sample: Sample) -> str:
    """The least signal-to-noise ratio that noise was added at."""
    found = [float(u.effects["snr_db"]) for u in sample.utterances if "snr_db" in u.effects]
    return _binned(min(found), SNR_EDGES, "dB") if found else "no noise added"


def duration(sample: Sample) -> str:
    """Of all that is heard until the answer."""
    seconds = sum(u.audio.seconds for u in sample.utterances if u.audio)
    return _binned(seconds, SECOND_EDGES, "s") if sample.utterances else "no speech"


def _binned(value: float, edges: Sequence[float], unit: str) -> str:
    below = next((i for i, edge in enumerate(edges) if value < edge), len(edges))
    if below == 0:
        return f"under {edges[0]:g} {unit}"
    return (
        f"{edges[-1]:g} {unit} and more" if below == len(edges) else f"{edges[below - 1]:g} to {edges[below]:g} {unit}"
    )


def voices(samples: Sequence[Sample]) -> Callable[[Sample], str]:
    """By preset; by engine where there are too many to be told apart."""

    def preset(sample: Sample) -> str:
        last = sample.utterances[-1] if sample.utterances else None
        return "no speech" if last is None else last.voice or "recording"

    def engine(sample: Sample) -> str:
        last = sample.utterances[-1] if sample.utterances else None
        return "no speech" if last is None else last.delivery.engine if last.delivery else "recording"

    return preset if len({preset(sample) for sample in samples}) <= _MOST_VOICES else engine


_ORDER = {
    name: place
    for edges, unit in ((SNR_EDGES, "dB"), (SECOND_EDGES, "s"))
    for place, name in enumerate(_binned(value, edges, unit) for value in (-math.inf, *edges))
}


def slices(items: Sequence[Item], system: str, decoding: str) -> list[Slice]:
    """All slices of a system's answers that have at least two bins."""
    kinds: dict[str, Callable[[Sample], str]] = {
        "language": language,
        "voice": voices([item.turn.sample for item in items]),
        "noise": snr,
        "duration": duration,
        "situation": lambda sample: sample.situation,
    }
    found = []
    for by, kind in kinds.items():
        for figure, some in (
            ("answers", [i for i in items if i.turn.sample.task != "transcription"]),
            ("wer", [i for i in items if i.turn.sample.task == "transcription"]),
        ):
            bins: dict[str, list[Item]] = defaultdict(list)
            for item in some:
                bins[kind(item.turn.sample)].append(item)
            bins.pop("", None)
            if len(bins) < _FEWEST:
                continue
            for name in sorted(bins, key=lambda name: (_ORDER.get(name, -1), name)):
                found += _slice(by, name, system, decoding, figure, bins[name])
    return found


def _slice(by: str, name: str, system: str, decoding: str, figure: str, items: Sequence[Item]) -> list[Slice]:
    if figure == "wer":
        rates = wer.figures(items)
        measured = rates[0]  # CER in languages whose words are not parted by spaces
    else:
        values = [goodness(item) for item in items]
        measured = (share if set(values) <= {0.0, 1.0} else mean)("answers", values, GOODNESS)
    if measured.value is None or measured.low is None or measured.high is None:
        return []
    return [Slice(by, name, system, decoding, figure, measured.value, measured.low, measured.high, measured.count)]


def counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """What the rows are, for the head of the report."""
    return {
        "tasks": dict(Counter(s.task for s in samples).most_common()),
        "languages": dict(Counter(language(s) for s in samples).most_common()),
    }
