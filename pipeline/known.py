"""Known utterances: what earlier runs have planned, and what a new listing says of it.

All is held as hashes, some fifty bytes an utterance, and looked up a few thousand at a time.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import planfile
from pipeline.shards import SPLITS, explained, sync
from schemas.utterance import Utterance

AT_ONCE = 8192  # utterances that are looked up together
FATES = ("", "withdrawn", "corpus_removed", "changed", "superseded", "disappeared")
"""Why an utterance was taken out; the first means that it is still there."""
GONE = "gone.arrow"
_GONE = pa.schema(
    {"generation": pa.int32(), "split": pa.int8(), "row": pa.int64(), "fate": pa.int8(), "by": pa.uint64()}
)
_NONE = np.zeros(0, np.uint64)


class Withdrawn(msgspec.Struct, frozen=True):
    """What a recipe takes out by name, whether it is still listed or not."""

    speakers: frozenset[str] = frozenset()
    utterances: frozenset[str] = frozenset()
    recordings: frozenset[str] = frozenset()
    licences: frozenset[str] = frozenset()

    @property
    def names(self) -> list[tuple[str, str]]:
        """All of them, with the column that each is looked for in."""
        kinds = (("speaker", self.speakers), ("id", self.utterances), ("recording", self.recordings))
        return [(kind, name) for kind, names in (*kinds, ("licence", self.licences)) for name in sorted(names)]

    def named(self, utterance: Utterance) -> list[tuple[str, str]]:
        """By which of its names an utterance is taken out."""
        own = (
            ("speaker", utterance.speaker, self.speakers),
            ("id", utterance.id, self.utterances),
            ("recording", utterance.recording, self.recordings),
            ("licence", utterance.licence, self.licences),
        )
        return [(kind, name) for kind, name, names in own if name is not None and name in names]


@dataclass(frozen=True, slots=True)
class Rules:
    """What becomes of what a later run finds otherwise than an earlier one left it."""

    disappeared: Literal["keep", "withdraw"] = "keep"
    changed: Literal["keep", "supersede", "withdraw"] = "supersede"
    withdrawn: Withdrawn = field(default_factory=Withdrawn)


@dataclass(slots=True)
class Piece:
    """One plan file, and where its rows begin among all known ones."""

    generation: int
    split: str
    begin: int
    rows: int
    path: Path


@dataclass(slots=True)
class Known:
    """What earlier runs have planned."""

    folder: Path
    pieces: list[Piece] = field(default_factory=list)
    key: Any = field(default_factory=lambda: _NONE)
    name: Any = field(default_factory=lambda: _NONE)
    listed: Any = field(default_factory=lambda: _NONE)
    place: Any = field(default_factory=lambda: _NONE)
    who: Any = field(default_factory=lambda: _NONE)
    fate: Any = field(default_factory=lambda: np.zeros(0, np.int8))
    """By `FATES`, of each."""
    by: Any = field(default_factory=lambda: _NONE)
    """Of what was withdrawn a hash of the name that did it, else 0."""
    before: Any = field(default_factory=lambda: np.zeros(0, np.int8))
    """The same as it was when the run began."""
    found: Any = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Whether the listing still has it."""
    moves: planfile.Moves = field(default_factory=planfile.Moves)
    _order: Any = None
    _sorted: Any = None
    _used: Any = None
    _whos: Any = None
    _splits: Any = None

    @classmethod
    def load(cls, folder: Path, generations: Sequence[int]) -> Known:
        """Those of a plan's generations.

        Raises:
            OSError, ArrowInvalid: A file of the plan is not there, or damaged.
        """
        self, begin = cls(folder), 0
        tables = []
        for generation, split in itertools.product(generations, SPLITS):
            path = plan_path(folder, generation, split)
            tables.append(planfile.columns(path, planfile.HASHES))
            self.pieces.append(Piece(generation, split, begin, tables[-1].num_rows, path))
            begin += tables[-1].num_rows
        if tables:
            table = pa.concat_tables(tables)
            for name in planfile.HASHES:
                setattr(self, name, np.array(table[name].to_numpy(), np.uint64))  # the file may be replaced
        self.fate, self.by = np.zeros(begin, np.int8), np.zeros(begin, np.uint64)
        for piece, away in zip(self.pieces, _gone_of(folder, self.pieces), strict=True):
            rows = piece.begin + away["row"].to_numpy()
            self.fate[rows], self.by[rows] = away["fate"].to_numpy(), away["by"].to_numpy()
        self.before, self.found = self.fate.copy(), np.zeros(begin, np.bool_)
        self._prepare()
        return self

    def _prepare(self) -> None:
        live = np.flatnonzero(self.fate == 0)
        self._order = live[np.argsort(self.key[live], kind="stable")]
        self._sorted = self.key[self._order]
        self._used = np.zeros(len(live), np.int32)
        self._whos, first = np.unique(self.who, return_index=True)
        test = np.zeros(len(self.fate), np.bool_)
        for piece in self.pieces:
            test[piece.begin : piece.begin + piece.rows] = piece.split == "test"
        self._splits = test[first]

    def __len__(self) -> int:
        return len(self.fate)

    def split_of(self, drawn_by: str) -> str | None:
        """The split that an earlier run gave to a speaker or a recording."""
        who = planfile.hashed(drawn_by)
        at = int(np.searchsorted(self._whos, who)) if len(self) else 0
        if at == len(self._whos if len(self) else ()) or self._whos[at] != who:
            return None
        return SPLITS[int(self._splits[at])]

    def unknown(self, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
        """Those of a listing that are new. Of equal ones so many are known as there were; the next is another."""
        stream = iter(utterances)
        while chunk := list(itertools.islice(stream, AT_ONCE)):
            keys = np.fromiter(map(planfile.key_of, chunk), np.uint64, len(chunk))
            at = self._looked_up(keys)
            known = np.flatnonzero(at >= 0)
            self._note_moves(at[known], [chunk[i] for i in known.tolist()])
            yield from (chunk[i] for i in np.flatnonzero(at < 0).tolist())

    def _looked_up(self, keys: Any) -> Any:
        """For each key the known utterance that has it and was not found yet, or -1."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        left = np.searchsorted(self._sorted, ordered)
        right = np.searchsorted(self._sorted, ordered, side="right")
        fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        rank = np.arange(len(keys)) - np.maximum.accumulate(np.where(fresh, np.arange(len(keys)), 0))
        there = left < right
        target = left + rank
        target[there] += self._used[left[there]]
        there &= target < right
        np.add.at(self._used, left[there], 1)
        found = np.full(len(keys), -1, np.int64)
        found[order[there]] = self._order[target[there]]
        return found

    def _note_moves(self, at: Any, utterances: list[Utterance]) -> None:
        self.found[at] = True
        places = np.fromiter(map(planfile.place_of, utterances), np.uint64, len(utterances))
        moved = np.flatnonzero(self.place[at] != places)
        if len(moved):
            those = [utterances[i] for i in moved.tolist()]
            self.moves.add(at[moved].tolist(), those)
            self.listed[at[moved]] = [planfile.hashed(u.id) for u in those]

    def judge(self, rules: Rules, corpora: Iterable[str], fresh: Any) -> set[tuple[str, str]]:
        """Says of each known utterance whether it stays, once the listing has been read.

        Args:
            rules: The recipe's.
            corpora: Names of all that it has.
            fresh: Hashes of the ids that unknown utterances are listed under.

        Returns:
            The names by which something was withdrawn, each with its column.
        """
        live = self.fate == 0
        lost = live & ~self.found
        renewed = lost & np.isin(self.listed, fresh)
        if rules.changed != "keep":
            self.fate[renewed] = FATES.index("superseded" if rules.changed == "supersede" else "changed")
        if rules.disappeared == "withdraw":
            self.fate[lost & ~renewed] = FATES.index("disappeared")
        met: set[tuple[str, str]] = set()
        names = rules.withdrawn.names
        here = pa.array(sorted(corpora), pa.string())
        for piece in self.pieces:
            part = slice(piece.begin, piece.begin + piece.rows)
            wanted = ["corpus", *{kind for kind, _ in names}]
            table = planfile.columns(piece.path, wanted)
            removed = ~pc.is_in(table["corpus"], here).to_numpy()
            self.fate[part][removed & live[part]] = FATES.index("corpus_removed")
            for kind in wanted[1:]:
                those = [name for other, name in names if other == kind]
                which = pc.index_in(table[kind], pa.array(those, pa.string())).fill_null(-1).to_numpy()
                meant = np.flatnonzero((which >= 0) & live[part])
                self.fate[part][meant] = FATES.index("withdrawn")
                self.by[part][meant] = np.array([hash_of(kind, name) for name in those], np.uint64)[which[meant]]
                met |= {(kind, those[i]) for i in np.unique(which[meant]).tolist()}
        keys, by = self.withdrawn(rules)
        same = np.flatnonzero((self.fate == 0) & np.isin(self.key, keys))  # the same again is withdrawn with it
        self.fate[same] = FATES.index("withdrawn")
        self.by[same] = by[np.searchsorted(keys, self.key[same])]
        return met

    def withdrawn(self, rules: Rules) -> tuple[Any, Any]:
        """Keys of what is withdrawn by names that the recipe still has, in order; and hashes of these names."""
        hashes = np.array([hash_of(*name) for name in rules.withdrawn.names], np.uint64)
        those = np.flatnonzero((self.fate == FATES.index("withdrawn")) & np.isin(self.by, hashes))
        keys, first = np.unique(self.key[those], return_index=True)
        return keys, self.by[those][first]

    @property
    def going(self) -> Any:
        """Places of those that are taken out by this run."""
        return np.flatnonzero(self.fate != self.before)

    def save(self) -> int:
        """Writes what is gone, then where the others lie now. Of what is gone nothing but hashes stays.

        Returns:
            How many files were written.
        """
        written, going = 0, self.going
        if len(going):
            _write_gone(self.folder, self.pieces, self.fate, self.by)
            written += 1
        moved = np.frombuffer(self.moves.rows, np.int64) if len(self.moves.rows) else going[:0]
        for piece in self.pieces:
            end = piece.begin + piece.rows
            emptied = np.flatnonzero(self.fate[piece.begin : end])
            if ((moved >= piece.begin) & (moved < end)).any() or _says_something(piece.path, emptied):
                planfile.rewrite(piece.path, self.moves.between(piece.begin, end), emptied)
                written += 1
        return written


def _says_something(path: Path, rows: Any) -> bool:
    """Whether one of some rows of a plan file is more than hashes."""
    if not len(rows):
        return False
    ids = planfile.columns(path, ["id"])["id"].take(pa.array(rows))
    return bool(pc.any(pc.not_equal(ids, "")).as_py())


def hash_of(kind: str, name: str) -> int:
    """A hash of a name that is withdrawn, which must not stay itself."""
    return planfile.hashed(f"{kind} {name}")


def plan_path(folder: Path, generation: int, split: str) -> Path:
    """Where a plan file lies."""
    return folder / str(generation) / f"{split}.arrow"


def gone(folder: Path) -> pa.Table:
    """What was taken out of a plan: generation, split (by number), row and fate (by number)."""
    try:
        with pa.memory_map(str(folder / GONE)) as source, pa.ipc.open_file(source) as file:
            return file.read_all()
    except FileNotFoundError:
        return _GONE.empty_table()


def _gone_of(folder: Path, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
    table = gone(folder)
    for piece in pieces:
        yield rows_gone(table, piece.generation, piece.split)


def rows_gone(table: pa.Table, generation: int, split: str) -> pa.Table:
    """Of what is gone, the rows of one plan file."""
    own = pc.equal(table["generation"], generation)
    return table.filter(pc.and_(own, pc.equal(table["split"], SPLITS.index(split))))


def _write_gone(folder: Path, pieces: Sequence[Piece], fate: Any, by: Any) -> None:
    parts = []
    for piece in pieces:
        rows = np.flatnonzero(fate[piece.begin : piece.begin + piece.rows])
        same = (np.full(len(rows), n) for n in (piece.generation, SPLITS.index(piece.split)))
        values = (*same, rows, fate[piece.begin + rows], by[piece.begin + rows])
        parts.append(
            pa.RecordBatch.from_arrays([pa.array(v, f.type) for v, f in zip(values, _GONE, strict=True)], schema=_GONE)
        )
    place = folder / GONE
    temporary = place.with_name(f".{GONE}.{os.getpid()}.tmp")
    with explained(place):
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _GONE) as writer:
            writer.write_table(pa.Table.from_batches(parts, _GONE))
        sync(temporary)
        os.replace(temporary, place)


def _is_lost(utterance: Utterance) -> bool:
    return utterance.problem is not None and (utterance.source is None or not utterance.source.identity)


class Spool:
    """Utterances set down in a file, to be read again in their order."""

    def __init__(self, path: Path) -> None:
        self.path, self.ids = path, array("Q")
        """With hashes of the ids of those whose sound is there: without it, it is only lost, and not changed."""

    def fill(self, utterances: Iterator[Utterance]) -> None:
        """Takes all of a stream."""
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "wb") as stream:
                while chunk := list(itertools.islice(utterances, AT_ONCE)):
                    self.ids.extend(planfile.hashed(u.id) for u in chunk if not _is_lost(u))
                    content = msgspec.msgpack.encode(chunk)
                    stream.write(len(content).to_bytes(8, "little") + content)

    def __iter__(self) -> Iterator[Utterance]:
        decode = msgspec.msgpack.Decoder(list[Utterance]).decode
        with open(self.path, "rb") as stream:
            while size := stream.read(8):
                yield from decode(stream.read(int.from_bytes(size, "little")))
