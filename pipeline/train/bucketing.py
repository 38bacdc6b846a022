"""Bucketing: puts rows of like length together, by sorts and arithmetic on whole arrays.

The epoch's rows, in a random order, are cut into windows of two thousand batches. Within a window they are sorted by
their longest audio and cut into groups, and these are sorted by their positions and cut into batches by the budget, so
that rows of a batch are alike in both. The batches are shuffled.

All processes of a run make their plans apart, on machines that may differ. So no random generator of a library is used,
no sort whose order of equals depends on the processor, and of floating point only what IEEE 754 rounds exactly.

Shapes: E entries, the rows of an epoch in a random order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.train.index import Index, Ints
from schemas.arrow import SAMPLING_RATE
from schemas.training import BatchSpec

WINDOW = 2048  # batches
GROUPS = 1.5
"""Groups of a window, by the root of its batches. More of them trade padding of sound for padding of positions, and
their sum hardly changes; measured so that clips of 3 to 8 s and their texts stay under 2 % and 5 %."""


def mixed(numbers: npt.NDArray[np.integer], seed: int) -> npt.NDArray[np.uint64]:
    """Numbers as uniform 64-bit ones: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def sorting(values: npt.NDArray[np.integer]) -> Ints:
    """What sorts values that are not negative; equals stay in their order.

    Each value and its place go into one number, and numbers are sorted: several times as fast as `argsort`.
    """
    bits = max(1, int(len(values) - 1).bit_length())
    if len(values) and int(values.max()).bit_length() + bits > 64:
        return np.argsort(values, kind="stable")
    keys = (values.astype(np.uint64) << np.uint64(bits)) | np.arange(len(values), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << bits) - 1)).astype(np.int64)


@dataclass(frozen=True)
class Entries:
    """E each."""

    positions: Ints
    sounds: Ints
    longest: Ints
    """Samples of the longest sound."""

    @classmethod
    def of(cls, index: Index, rows: Ints) -> Entries:
        """Of these rows."""
        return cls(*(getattr(index, name)[rows].astype(np.int64) for name in ("positions", "sounds", "longest")))

    def __getitem__(self, which: Ints | slice) -> Entries:
        return Entries(self.positions[which], self.sounds[which], self.longest[which])

    def __len__(self) -> int:
        return len(self.positions)


def _window_of(entries: Entries, spec: BatchSpec) -> tuple[Ints, float]:
    """The window that each entry is in, and about how many batches a window makes."""
    audio = int((entries.sounds * entries.longest).sum()) / SAMPLING_RATE
    batches = min(len(entries), max(int(entries.positions.sum()) / spec.tokens, audio / spec.seconds))
    windows = max(1, round(batches / WINDOW))
    return np.arange(len(entries)) * windows // len(entries), batches / windows


def bucketed(entries: Entries, spec: BatchSpec, seed: int) -> tuple[Ints, Ints]:
    """The order of the entries, and where batches start: for padding."""
    window, batches = _window_of(entries, spec)
    by_audio = sorting(window * (int(entries.longest.max()) + 1) + entries.longest)
    # The sort keeps windows together: the k-th row now is of the k-th's window.
    group = _group_of(entries.longest[by_audio], window, max(1, round(GROUPS * math.sqrt(batches))), seed)
    most = int(entries.positions.max())
    order = by_audio[sorting(group * (most + 1) + most - entries.positions[by_audio])]  # the longest first
    taken = entries[order]
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(begins, append=len(order))
    ends = np.arange(len(order)) + np.maximum(1, spec.tokens // taken.positions)
    ends = np.minimum(ends, np.repeat(begins + sizes, sizes))
    return order, _cut(ends, taken, np.repeat(np.maximum.reduceat(taken.longest, begins), sizes), spec)


def _group_of(longest: Ints, window: Ints, groups: int, seed: int) -> Ints:
    """The group of like audio that each entry is in, counted through all windows.

    Where entries are dense a narrow group has enough of them to be sorted by positions, too; where they are few, or
    short, it has to be wider. Padding of both kinds together is least where a group's relative width goes with one over
    the root of the density and of the length, so the sum of the roots of the steps is cut evenly. Where groups begin is
    random, or the same rows would meet in each epoch.

    Args:
        longest: E, ascending within each window.
        window: E, ascending.
        groups: Of a window, one more at most.
        seed: For where they begin.
    """
    step = np.diff(longest, prepend=longest[:1])
    sizes = np.bincount(window)
    firsts = np.cumsum(sizes) - sizes
    step[firsts] = 0
    run = np.cumsum(np.sqrt(step))
    run -= run[firsts][window]
    whole = run[firsts + sizes - 1]
    offset = mixed(np.arange(len(sizes)), seed) / 2.0**64
    inside = run * (groups / np.maximum(whole, 1e-9))[window] + offset[window]  # 0 to groups + 1
    group: Ints = window * (groups + 2) + inside.astype(np.int64)
    return group


def packed(entries: Entries, spec: BatchSpec) -> tuple[Ints, Ints]:
    """The order of the entries, and where batches start: for packing. Only audio is padded."""
    window, _ = _window_of(entries, spec)
    most = int(entries.longest.max())
    order = sorting(window * (most + 1) + most - entries.longest)
    taken = entries[order]
    filled = np.concatenate([[0], np.cumsum(taken.positions)])
    ends = np.searchsorted(filled, filled[:-1] + spec.tokens, side="right") - 1
    ends = np.maximum(ends, np.arange(len(order)) + 1)
    ends = np.minimum(ends, np.cumsum(np.bincount(window))[window])
    return order, _cut(ends, taken, taken.longest, spec)


def _cut(ends: Ints, taken: Entries, longest: Ints, spec: BatchSpec) -> Ints:
    """Where batches start, and the end of the last.

    Args:
        ends: Where a batch that starts at a row has to end for its positions.
        taken: In order.
        longest: Samples that no sound of that batch is above.
        spec: For the budget of audio.
    """
    budget = int(spec.seconds * SAMPLING_RATE)
    sounds = np.concatenate([[0], np.cumsum(taken.sounds)])
    surely = (sounds[ends] - sounds[:-1]) * longest <= budget  # as for most batches: audio is seldom what ends them
    upto, sure = ends.tolist(), surely.tolist()
    starts = [0]
    at = 0
    while at < len(upto):
        end = upto[at]
        if not sure[at]:
            padded = np.maximum.accumulate(taken.longest[at:end]) * (sounds[at + 1 : end + 1] - sounds[at])
            end = at + max(1, int(np.searchsorted(padded, budget, side="right")))
        starts.append(end)
        at = end
    return np.array(starts, np.int64)


def whole_steps(starts: Ints, per_step: int) -> Ints:
    """Halves the largest batches until `per_step` divides their number; adds empty ones if rows are too few."""
    while missing := -(len(starts) - 1) % per_step:
        sizes = np.diff(starts)
        largest = sorting(int(sizes.max()) - sizes)[:missing]
        largest = largest[sizes[largest] > 1]
        if not len(largest):
            return np.concatenate([starts, np.full(missing, starts[-1])])
        starts = np.sort(np.concatenate([starts, starts[largest] + sizes[largest] // 2]))
    return starts


def shuffled(order: Ints, starts: Ints, seed: int) -> tuple[Ints, Ints]:
    """Batches in a random order; empty ones stay last."""
    sizes = np.diff(starts)
    full = int((sizes > 0).sum())
    batches = np.concatenate([sorting(mixed(np.arange(full), seed) >> np.uint64(24)), np.arange(full, len(sizes))])
    taken = sizes[batches]
    ends = np.cumsum(taken)
    # The place in the old order of each entry of the new one.
    places = np.arange(len(order)) + np.repeat(starts[:-1][batches] - (ends - taken), taken)
    return order[places], np.concatenate([[0], ends])
