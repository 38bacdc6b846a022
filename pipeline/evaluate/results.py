"""Result: all figures of an evaluation, as they are stored in `result.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evaluate.figures import Figure
from pipeline.evaluate.slices import Slice
from pipeline.shards import write_atomically

NAME = "result.json"
NAMES = {
    "end_to_end": "end to end",
    "cascade": "cascade",
    "oracle": "oracle",
    "reading": "reading",
    "shuffled": "shuffled speech",
    "silent": "silence",
    "text_only": "text only",
}
"""What systems are called in reports."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long single questions took, one after another, on the machine of the evaluation."""

    count: int
    median: float
    """Seconds."""
    p90: float
    first: float | None
    """Median seconds until the first token."""


@dataclass(frozen=True, slots=True)
class Gap:
    """How much the oracle is better, in a family's headline figure; below 0 it is worse."""

    value: float
    low: float | None
    """95 % by the bootstrap of paired rows; None where the figure is no mean over rows."""
    high: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One system with one way of decoding."""

    system: str
    decoding: str
    told: str
    families: dict[str, list[Figure]]
    """By task; `tools` for dialogues with tools."""
    headlines: dict[str, str]
    """By family the name of the figure that stands for it."""
    gaps: dict[str, Gap] = field(default_factory=dict)
    """By family, to the oracle."""
    confusion: list[list[int]] | None = None
    """Of outcomes: right ones in rows, given ones in columns."""
    cut: int = 0
    """Answers that were still going on at the end."""
    answers: int = 0
    absent: int = 0
    """Turns that it is not asked."""
    latency: Latency | None = None

    @property
    def label(self) -> str:
        """What it is called in reports."""
        name = NAMES.get(self.system, self.system)
        return name if self.decoding == "plain" else f"{name}, {self.decoding}"

    def figure(self, family: str, name: str) -> Figure | None:
        """A figure by its name."""
        return next((f for f in self.families.get(family, ()) if f.name == name), None)

    def headline(self, family: str) -> Figure | None:
        """The figure that stands for a family."""
        return self.figure(family, self.headlines.get(family, ""))


@dataclass(frozen=True, slots=True)
class Result:
    """An evaluation."""

    model: str
    llm: str
    dataset: str
    split: str
    rows: int
    turns: int
    """Responses that were asked for and scored."""
    settings: dict[str, Any]
    runs: list[Run]
    slices: list[Slice]
    bad: list[tuple[str, str]]
    """Turns that could not be asked, left out for all systems, and why."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    """That this run took; answers of earlier ones are not in it."""

    def run(self, system: str, decoding: str = "plain") -> Run | None:
        """One system with one way of decoding."""
        return next((r for r in self.runs if (r.system, r.decoding) == (system, decoding)), None)

    def value(self, system: str, family: str, name: str, decoding: str = "plain") -> float | None:
        """One number; None where it was not measured."""
        run = self.run(system, decoding)
        figure = run.figure(family, name) if run else None
        return figure.value if figure else None

    @property
    def families(self) -> list[str]:
        """All that was measured, in the order of the runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.families))

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def write(self, folder: Path) -> Path:
        """Writes `result.json`."""
        path = folder / NAME
        write_atomically(path, (json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n").encode())
        return path
