"""Intervals: how far a figure may be from what more rows would give, 95 % of the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
RESAMPLES = 1000
_REMEMBERED = 2**24  # weights of 4 bytes


def wilson(right: float, count: int) -> tuple[float, float]:
    """Of a share `right / count` of rows that are right or wrong.

    Wilson's score interval (J. Am. Stat. Assoc. 22, 1927): it holds for few rows and for shares near 0 and 1, too.
    """
    if not count:
        return 0.0, 1.0
    share, square = right / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    # At 0 and at 1 rounding would leave the interval just beside the share.
    return (0.0 if right == 0 else max(0.0, middle - half)), (1.0 if right == count else min(1.0, middle + half))


def bootstrap(
    sums: npt.ArrayLike, statistic: Callable[[Numbers], Numbers], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Of a figure that follows from sums over rows, such as a WER or an F1.

    The percentile bootstrap (Efron, 1979): rows are drawn anew with replacement, as many as there are.

    Args:
        sums: N, K. What each row adds to each sum. What belongs together (the turns of a dialogue) is one row.
        statistic: From sums (R, K) to figures (R); NaN where the figure is not defined.
        resamples: How often rows are drawn.
        seed: Draws them.
    """
    rows = np.asarray(sums, np.float64)
    assert rows.ndim == 2
    count = len(rows)
    if not count:
        return math.nan, math.nan
    if count * resamples <= _REMEMBERED:
        drawn = _weights(count, resamples, seed) @ rows
    else:
        generator, size = np.random.default_rng(seed), max(1, _REMEMBERED // count)
        sizes = [min(size, resamples - begin) for begin in range(0, resamples, size)]
        drawn = np.concatenate([_draw(generator, count, some) @ rows for some in sizes])
    found = statistic(drawn)
    found = found[~np.isnan(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


@lru_cache(maxsize=4)  # one figure after the other is of the same rows
def _weights(count: int, resamples: int, seed: int) -> npt.NDArray[np.float32]:
    return _draw(np.random.default_rng(seed), count, resamples)


def _draw(generator: np.random.Generator, count: int, resamples: int) -> npt.NDArray[np.float32]:
    """R, N; how often each row is drawn."""
    return generator.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float32)


def ratio(above: int = 0, below: int = 1) -> Callable[[Numbers], Numbers]:
    """The statistic of one sum over another."""

    def divided(sums: Numbers) -> Numbers:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(sums[:, below] > 0, sums[:, above] / sums[:, below], np.nan)

    return divided
