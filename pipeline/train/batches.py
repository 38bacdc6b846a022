"""Batches: which rows go through the model together, and when; drawn anew for each epoch, by arithmetic alone.

A plan follows from the index, the recipe and (seed, stage, epoch). It knows nothing of processes: a step has
`per_step` passes, and of n processes the r-th takes passes r, r+n, ... of each step. So resuming, on any number of
processes, is to make the plan again and begin at another step.

Every step is whole: where the number of batches is no multiple of `per_step`, the largest are halved. Only where no
batch has two rows that could be parted has the last step empty passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xxhash

from pipeline.model.base import RowError
from pipeline.plugins import nearest
from pipeline.seeds import derive
from pipeline.train.bucketing import Entries, bucketed, mixed, packed, shuffled, sorting, whole_steps
from pipeline.train.index import Index, Ints
from schemas.arrow import SAMPLING_RATE
from schemas.training import BatchSpec

VERSION = 2
"""Of the arithmetic here and in `bucketing`. A run that began with another would repeat rows and lose others."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What goes through the model in a step, or in all of them; over all processes together."""

    rows: int
    targets: int
    """Tokens of responses."""
    positions: int
    """Of the LLM, padding left out."""
    padded_positions: int
    samples: int
    """Of audio, padding left out."""
    padded_samples: int

    @property
    def padding(self) -> float:
        """Share of the LLM's positions that are padding."""
        return 1 - self.positions / self.padded_positions if self.padded_positions else 0.0

    @property
    def audio_padding(self) -> float:
        """Share of the audio that is padding."""
        return 1 - self.samples / self.padded_samples if self.padded_samples else 0.0

    @property
    def audio_seconds(self) -> float:
        """Padding left out."""
        return self.samples / SAMPLING_RATE


@dataclass(frozen=True)
class Plan:
    """An epoch: M passes of M / per_step steps. All passes of all processes are in it."""

    index: Index
    rows: Ints
    """E. Row numbers, pass after pass."""
    starts: Ints
    """M + 1. Where each pass begins in `rows`; equal neighbours are an empty pass."""
    per_step: int
    packed: bool

    def __len__(self) -> int:
        """Steps."""
        return (len(self.starts) - 1) // self.per_step

    def rows_of(self, number: int) -> Ints:
        """The rows of a pass."""
        return self.rows[self.starts[number] : self.starts[number + 1]]

    def passes(self, step: int, rank: int = 0, world: int = 1) -> range:
        """The numbers of the passes that a process takes in a step: as many as any other.

        Args:
            step: From 0.
            rank: Of the process.
            world: How many processes.

        Raises:
            ValueError: The processes do not share a step's passes evenly.
        """
        if self.per_step % world:
            raise ValueError(
                f"{world} processes cannot share the {self.per_step} passes of a step evenly: "
                f"set `batches.per_step` to a multiple of {world}, or start another number of processes"
            )
        return range(step * self.per_step + rank, (step + 1) * self.per_step, world)

    @cached_property
    def digest(self) -> str:
        """Equal for equal plans."""
        return xxhash.xxh3_128_hexdigest(
            self.rows.tobytes() + self.starts.tobytes() + bytes(str(self.per_step), "utf-8")
        )

    @cached_property
    def shapes(self) -> dict[str, Ints]:
        """M each: what every pass has, by name.

        `rows`, `positions`, `longest` (row, in positions), `padded_positions`, `targets`, `sounds`, `samples`,
        `longest_sound` (in samples), `padded_samples`.
        """
        index, rows = self.index, self.rows
        counts = np.diff(self.starts)

        def over(values: Ints, join: np.ufunc) -> Ints:
            joined = np.zeros(len(counts), np.int64)
            full = counts > 0
            joined[full] = join.reduceat(values, self.starts[:-1][full])
            return joined

        taken = {
            name: getattr(index, name)[rows].astype(np.int64) for name in ("positions", "targets", "sounds", "samples")
        }
        shapes = {name: over(values, np.add) for name, values in taken.items()}
        longest = over(taken["positions"], np.maximum)
        longest_sound = over(index.longest[rows], np.maximum)
        return shapes | {
            "rows": counts,
            "longest": longest,
            "padded_positions": shapes["positions"] if self.packed else counts * longest,
            "longest_sound": longest_sound,
            "padded_samples": shapes["sounds"] * longest_sound,
        }

    def facts(self, step: int | None = None) -> Facts:
        """Of a step, or of all."""
        passes = slice(None) if step is None else slice(step * self.per_step, (step + 1) * self.per_step)
        names = ("rows", "targets", "positions", "padded_positions", "samples", "padded_samples")
        return Facts(*(int(self.shapes[name][passes].sum()) for name in names))

    def extremes(self) -> dict[str, int]:
        """The passes that are the largest of all in some way, for a trial; by what they have most of."""
        return {name: int(values.argmax()) for name, values in self.shapes.items()}


def plan(
    index: Index,
    spec: BatchSpec,
    *,
    seed: int,
    stage: str,
    epoch: int,
    rows: Ints | None = None,
    tasks: Mapping[str, float] | None = None,
    weights: Sequence[float] | None = None,
) -> Plan:
    """An epoch of a stage.

    Args:
        index: Of all rows.
        spec: The budget. Its `longest`, if any, is checked.
        seed: The recipe's.
        stage: Its name.
        epoch: From 0, of the stage.
        rows: Numbers of the rows that may be used; all if omitted.
        tasks: Which tasks, and their shares of the epoch; all as they come if omitted. The epoch stays as long as the
            rows of these tasks: one that has too few for its share is repeated, of one that has too many some wait for
            the epochs to come.
        weights: How often the rows of each dataset are seen in an epoch; once if omitted.

    Raises:
        RowError: No row is left, a task has none, or rows are longer than `spec.longest`.
    """
    chosen = np.arange(len(index)) if rows is None else np.asarray(rows, np.int64)
    drawn = _drawn(index, chosen, seed, stage, epoch, tasks, weights)
    if not len(drawn):
        raise RowError(f"stage {stage!r} has no rows to train on in epoch {epoch}: raise the weights of its datasets")
    longest = int(index.positions[drawn].max())
    if spec.longest is not None and longest > spec.longest:
        raise RowError(f"a row takes {longest:,} positions, `batches.longest` allows {spec.longest:,}")
    drawn = drawn[sorting(mixed(np.arange(len(drawn)), derive(seed, "order", stage, epoch)) >> np.uint64(24))]
    entries = Entries.of(index, drawn)
    seeded = derive(seed, "batches", stage, epoch)
    order, starts = packed(entries, spec) if spec.packing else bucketed(entries, spec, seeded)
    starts = whole_steps(starts, spec.per_step)
    order, starts = shuffled(order, starts, seeded)
    return Plan(index, drawn[order], starts, spec.per_step, spec.packing)


def _drawn(
    index: Index,
    rows: Ints,
    seed: int,
    stage: str,
    epoch: int,
    tasks: Mapping[str, float] | None,
    weights: Sequence[float] | None,
) -> Ints:
    """The rows of an epoch, as often as they are seen in it.

    A row that is seen r times an epoch is seen floor(r (e + 1) + u) - floor(r e + u) times in epoch e, where u is its
    place in a random order of the rows of its task and dataset, from 0 to 1. So of r < 1 all rows are seen in turn,
    none twice before all were seen once, and the shares of tasks are exact, to a row, in each epoch.
    """
    rate = np.ones(len(index.tasks)), np.asarray(weights if weights is not None else [1.0], float)
    dataset = index.dataset[rows] if weights is not None else np.zeros(len(rows), np.int16)
    if tasks is not None:
        known = {name: number for number, name in enumerate(index.tasks)}
        count = np.bincount(index.task[rows], rate[1][dataset], minlength=len(known))
        for name in tasks:
            if name not in known or not count[known[name]]:
                there = [task for task, number in known.items() if count[number]]
                raise RowError(
                    f"stage {stage!r}: there are no rows of task {name!r}.{nearest(name, there)} "
                    f"There are: {', '.join(there)}"
                )
        rate[0][:] = 0
        whole, shares = sum(count[known[name]] for name in tasks), sum(tasks.values())
        for name, share in tasks.items():
            rate[0][known[name]] = share / shares * whole / count[known[name]]
    of_task, of_dataset = rate
    if np.all(of_task == 1) and np.all(of_dataset == 1):
        return rows
    group = index.task[rows].astype(np.int64) * len(of_dataset) + dataset
    order = sorting(mixed(rows, derive(seed, "draw", stage)) >> np.uint64(24))
    order = order[sorting(group[order])]
    sizes = np.bincount(group, minlength=len(of_task) * len(of_dataset))
    firsts = np.cumsum(sizes) - sizes
    grouped = group[order]
    place = (np.arange(len(rows)) - firsts[grouped]) / sizes[grouped]
    rates = np.outer(of_task, of_dataset).ravel()[grouped]
    times = np.floor(rates * (epoch + 1) + place) - np.floor(rates * epoch + place)
    counts = np.zeros(len(rows), np.int64)
    counts[order] = times
    return np.repeat(rows, counts)
