"""Choice: which rows a page shows. It depends on the seed and the rows, and on nothing else."""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import NamedTuple

from pipeline import seeds
from pipeline.page.columns import Glance

REJECTED_SHARE = 1 / 3
"""Of a page's rows, where there are that many and kept ones are shown too."""

Cell = tuple[str, ...]
Trait = tuple[str, str]


class Place(NamedTuple):
    """Where a row lies."""

    file: int
    """Place of its shard among those of the dataset, kept ones first."""
    row: int
    """In its shard."""


class _Drawn(NamedTuple):
    key: int
    place: Place
    traits: tuple[Trait, ...]
    rejected: bool


class Choice:
    """Draws rows while they pass: some of each kind, so that rare kinds are seen beside frequent ones.

    Rows of one task, language, split, outcome, situation and reason are a kind. Of each kind only as
    many are remembered as a page can show, so memory does not grow with the dataset.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._kinds: dict[Cell, list[tuple[int, Place]]] = defaultdict(list)
        self._traits: dict[Cell, tuple[Trait, ...]] = {}

    def add(self, place: Place, row: Glance) -> None:
        """Takes one row into account."""
        kind = (row.reason or "", row.task, row.language, row.outcome, row.situation, row.split)
        drawn = self._kinds[kind]
        if not drawn:
            names = ("reason", "task", "language", "outcome", "situation", "split")
            self._traits[kind] = tuple((name, value) for name, value in zip(names, kind, strict=True) if value)
        key = seeds.derive(self._seed, row.id, "page")
        entry = (-key, Place(-place.file, -place.row))  # the heap's first is the one to give way
        if len(drawn) < self._rows:
            heapq.heappush(drawn, entry)
        else:
            heapq.heappushpop(drawn, entry)

    def chosen(self) -> tuple[list[Place], list[str]]:
        """The places of the chosen rows in their order, and what is in the dataset but on no chosen row."""
        rows = self._in_turn()
        places: list[Place] = []
        missing: set[Trait] = {trait for traits in self._traits.values() for trait in traits}
        # First what shows something that no other has shown yet, reasons before all.
        for name in ("reason", "task", "language", "outcome", "situation", "split"):
            for row in rows:
                if len(places) < self._rows and any(t in missing for t in row.traits if t[0] == name):
                    places.append(row.place)
                    missing.difference_update(row.traits)
        taken = set(places)
        kept = [row.place for row in rows if not row.rejected and row.place not in taken]
        rejected = [row.place for row in rows if row.rejected and row.place not in taken]
        aside = sum(row.rejected for row in rows if row.place in taken)
        room = self._rows - len(places)
        wanted = max(0, round(self._rows * REJECTED_SHARE) - aside)
        wanted = max(min(wanted, room), room - len(kept))
        places += rejected[:wanted]
        places += kept[: self._rows - len(places)]
        return sorted(places), [f"{name} {value}" for name, value in sorted(missing)]

    def _in_turn(self) -> list[_Drawn]:
        """All that were drawn: one of each kind, then a second of each, and so on."""
        turns: list[tuple[int, _Drawn]] = []
        for kind, drawn in self._kinds.items():
            for turn, (key, place) in enumerate(sorted(drawn, reverse=True)):
                row = _Drawn(-key, Place(-place.file, -place.row), self._traits[kind], bool(kind[0]))
                turns.append((turn, row))
        return [row for _, row in sorted(turns)]
