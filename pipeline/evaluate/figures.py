"""Figure: a number with its interval and the protocol by which it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.evaluate.intervals import Numbers, bootstrap, ratio, wilson

NONE = "–"
"""Stands where there is no value."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    """`wer`, `accuracy`, ...: unique within a family."""
    value: float | None
    """None where nothing was there to measure it by."""
    low: float | None
    """End of the 95 % interval; None where the figure has none."""
    high: float | None
    count: int
    """Of rows, or of what else the protocol names."""
    protocol: str
    """Id and definition: figures of different protocols do not compare."""
    better: str = "higher"
    """Which way is good: `higher`, `lower`, or `` where neither is."""

    @property
    def scale(self) -> float:
        """By which the value is multiplied where it is shown: BLEU and chrF go to 100, shares are shown per cent."""
        return 1.0 if self.name.startswith(("bleu", "chrf")) else 100.0

    def written(self, interval: bool = True) -> str:
        """As it is read: `71.2 % (64.0–77.5)`."""
        if self.value is None:
            return NONE
        text = f"{self.scale * self.value:.1f}{' %' if self.scale > 1 else ''}"
        if not interval or self.low is None or self.high is None:
            return text
        return f"{text} ({self.scale * self.low:.1f}–{self.scale * self.high:.1f})"

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def share(name: str, right: Iterable[float], protocol: str, better: str = "higher") -> Figure:
    """The share of rows that are right, by Wilson's interval."""
    verdicts = list(right)
    if not verdicts:
        return Figure(name, None, None, None, 0, protocol, better)
    hits = sum(verdicts)
    return Figure(name, hits / len(verdicts), *wilson(hits, len(verdicts)), len(verdicts), protocol, better)


def of_sums(
    name: str,
    sums: Sequence[Sequence[float]],
    protocol: str,
    *,
    statistic: Callable[[Numbers], Numbers] | None = None,
    better: str = "higher",
    count: int | None = None,
) -> Figure:
    """A figure that follows from sums over rows, by the bootstrap.

    Args:
        name: Of the figure.
        sums: N, K.
        protocol: By which it is measured.
        statistic: From sums (R, K) to figures (R); the first over the second if omitted.
        better: Which way is good.
        count: What the figure says it was measured on; the rows if omitted.
    """
    rows = np.asarray(sums, np.float64)
    figure = statistic or ratio()
    count = len(rows) if count is None else count
    value = float(figure(rows.sum(0, keepdims=True))[0]) if len(rows) else math.nan
    if math.isnan(value):
        return Figure(name, None, None, None, count, protocol, better)
    low, high = bootstrap(rows, figure)
    return Figure(name, value, low, high, count, protocol, better)


def mean(name: str, values: Iterable[float], protocol: str, better: str = "higher") -> Figure:
    """The mean of a score of rows that lies between 0 and 1, by the bootstrap."""
    return of_sums(name, [(value, 1.0) for value in values], protocol, better=better)
