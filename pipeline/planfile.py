"""Plan files: the utterances of one split and one generation of a plan, a record batch a unit.

Beside what an utterance is, a row holds hashes by which a later run knows it again.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from msgspec.structs import replace

from pipeline.shards import explained, sync
from pipeline.splits import drawn_by
from schemas.utterance import AudioSource, Utterance

_TEXT = (
    *("id", "corpus", "transcript", "language", "speaker", "recording", "licence", "split", "voice", "problem"),
    "catalogue",
)
_SOURCE = {
    "path": pa.string(),
    "member": pa.string(),
    "start": pa.float64(),
    "duration": pa.float64(),
    "channel": pa.int32(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "identity": pa.string(),
}
HASHES = ("key", "name", "listed", "place", "who")
"""Of its content; of its id; of the id and of the place that its corpus lists it under; of what its split was drawn
by, which is 0 for what was text."""
SCHEMA = pa.schema(
    {
        **{name: pa.string() for name in _TEXT},
        "duration": pa.float64(),
        "sampling_rate": pa.int32(),
        "labels": pa.list_(pa.struct({"name": pa.string(), "value": pa.string()})),
        **{f"source_{name}": kind for name, kind in _SOURCE.items()},
        **{name: pa.uint64() for name in HASHES},
    }
)
MOVING = ("source_path", "source_member", "source_offset", "listed", "place")
"""What may change while an utterance stays the same: where it lies, and what it is called there."""
_CONTENT = [name for name in SCHEMA.names if name not in MOVING]
_TELLING = [name for name in SCHEMA.names if name not in (*HASHES, "corpus", "language")]
"""What says something of an utterance, and goes when that is taken out."""
_NO_SOURCE = AudioSource("")


def hashed(text: str) -> int:
    """64 bits that stand for a text."""
    return xxhash.xxh3_64_intdigest(text.encode())


def key_of(utterance: Utterance) -> int:
    """What tells an utterance from others by its content, wherever it lies and whatever its file is called.

    One whose sound nobody can find is known by its id; so is a request for tools, which is drawn by it. Of a sentence
    that several voices speak the voice's number counts.
    """
    source, problem = utterance.source, utterance.problem
    if source is not None and source.identity:
        sound = f"{source.identity}|{source.start}|{source.duration}|{source.channel}|{source.size}"
    else:
        _, _, voice = utterance.id.rpartition("#")
        sound = utterance.id if problem or utterance.catalogue else voice if voice.isdecimal() else ""
    parts = (
        *(utterance.corpus, sound, utterance.transcript, utterance.language or "", utterance.speaker or ""),
        *(utterance.licence or "", utterance.split or "", utterance.catalogue or ""),
        *(str(utterance.duration), str(utterance.sampling_rate), problem.partition(":")[0] if problem else ""),
        *itertools.chain.from_iterable(utterance.labels.items()),
    )
    return hashed("\x1f".join(parts))


def place_of(utterance: Utterance) -> int:
    """Where its corpus has it, as a hash."""
    source = utterance.source or _NO_SOURCE
    return hashed(f"{utterance.id}\x1f{source.path}\x1f{source.member}\x1f{source.offset}")


class PlanFile:
    """The utterances of one split; a record batch a unit."""

    def __init__(self, path: Path, per_unit: int) -> None:
        self.path, self.per_unit = path, per_unit
        self.names = array("Q")
        """Hashes of the utterances' ids."""
        self.units: list[tuple[str, int]] = []
        """Digest and size of each unit. Where a file lies is no part of the digest."""
        self.seconds = 0.0
        self.of_no_language: Counter[str] = Counter()
        """Speech whose language nobody knows, by corpus."""
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = pa.OSFile(str(path), "wb")
            self._file = pa.ipc.new_file(self._sink, SCHEMA)
        self._waiting: list[Utterance] = []
        self._hashes: dict[str, array[int]] = {name: array("Q") for name in HASHES}

    def add(self, utterance: Utterance, name: int, listed: Utterance) -> None:
        """Takes one.

        Args:
            utterance: As it is to be made.
            name: The hash of its id.
            listed: As its corpus lists it.
        """
        self._waiting.append(utterance)
        self.names.append(name)
        who = 0 if utterance.voice else hashed(drawn_by(listed))
        values = (key_of(listed), name, hashed(listed.id), place_of(listed), who)
        for column, value in zip(self._hashes.values(), values, strict=True):
            column.append(value)
        if len(self._waiting) == self.per_unit:
            self._flush()

    def _flush(self) -> None:
        batch = self._to_batch(self._waiting)
        with explained(self.path):
            self._file.write_batch(batch)
        self.seconds += sum(u.duration for u in self._waiting if u.duration)
        self.of_no_language.update(u.corpus for u in self._waiting if u.language is None and u.is_speech)
        digest = xxhash.xxh3_64_hexdigest(memoryview(batch.select(_CONTENT).serialize()))
        self.units.append((digest, batch.num_rows))
        self._waiting = []
        self._hashes = {name: array("Q") for name in HASHES}

    def _to_batch(self, utterances: Sequence[Utterance]) -> pa.RecordBatch:
        columns = [pa.array(list(map(attrgetter(name), utterances)), pa.string()) for name in _TEXT]
        columns.append(pa.array([u.duration for u in utterances], pa.float64()))
        columns.append(pa.array([u.sampling_rate for u in utterances], pa.int32()))
        columns.append(_labels(utterances))
        sources = [u.source or _NO_SOURCE for u in utterances]
        for name, kind in _SOURCE.items():
            columns.append(pa.array(list(map(attrgetter(name), sources)), kind))
        columns += [pa.array(np.frombuffer(self._hashes[name], np.uint64)) for name in HASHES]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

    def close(self) -> None:
        """Writes what is waiting; then all is on disk."""
        if self._waiting:
            self._flush()
        with explained(self.path):
            self._file.close()
            self._sink.close()
            sync(self.path)


def _labels(utterances: Sequence[Utterance]) -> pa.Array:
    pairs = [pair for u in utterances for pair in u.labels.items()]
    offsets = list(itertools.accumulate((len(u.labels) for u in utterances), initial=0))
    names, values = (pa.array([pair[i] for pair in pairs], pa.string()) for i in (0, 1))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays([names, values], ["name", "value"])
    )


def from_row(row: Mapping[str, Any]) -> Utterance:
    """A row as the utterance that it was."""
    source = {name: row[f"source_{name}"] for name in _SOURCE}
    return Utterance(
        **{name: row[name] for name in _TEXT},
        duration=row["duration"],
        sampling_rate=row["sampling_rate"],
        labels={pair["name"]: pair["value"] for pair in row["labels"]},
        source=AudioSource(**source) if source["path"] else None,
    )


def columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Some columns of a plan file; they are views of it."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        batches = [file.get_batch(i).select(names) for i in range(file.num_record_batches)]
        schema = pa.schema([file.schema.field(name) for name in names])
    return pa.Table.from_batches(batches, schema)


class Moves:
    """Where known utterances lie by now, as columns: of a corpus that was renamed they are many."""

    def __init__(self) -> None:
        self.rows = array("q")
        """Of each, its place in the plan."""
        self._tables: list[pa.RecordBatch] = []

    def add(self, rows: Sequence[int], utterances: Sequence[Utterance]) -> None:
        """Notes some of them."""
        sources = [u.source or _NO_SOURCE for u in utterances]
        self.rows.extend(rows)
        values = (
            pa.array([s.path for s in sources], pa.string()),
            pa.array([s.member for s in sources], pa.string()),
            pa.array([s.offset for s in sources], pa.int64()),
            pa.array([hashed(u.id) for u in utterances], pa.uint64()),
            pa.array([place_of(u) for u in utterances], pa.uint64()),
        )
        self._tables.append(pa.RecordBatch.from_arrays(list(values), names=list(MOVING)))

    def between(self, begin: int, end: int) -> tuple[Any, pa.Table]:
        """Those of some rows, and what to write there."""
        rows = np.frombuffer(self.rows, np.int64) if len(self.rows) else np.zeros(0, np.int64)
        here = np.flatnonzero((rows >= begin) & (rows < end))
        if not len(here):
            return rows[here], None
        return rows[here] - begin, pa.Table.from_batches(self._tables).take(pa.array(here))


def rewrite(path: Path, moved: tuple[Any, pa.Table | None], emptied: Any) -> None:
    """Writes a plan file anew, in one step.

    Args:
        path: The file.
        moved: Rows whose place has changed, and the new values of `MOVING`.
        emptied: Rows of which nothing but their hashes is to stay.
    """
    temporary = path.parent.with_name(f".{path.parent.name}-{path.name}.{os.getpid()}.tmp")
    rows, table = moved
    with explained(path):
        with (
            pa.memory_map(str(path)) as source,
            pa.ipc.open_file(source) as file,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as writer,
        ):
            begin = 0
            for index in range(file.num_record_batches):
                batch = file.get_batch(index)
                writer.write_batch(_rewritten(batch, begin, rows, table, emptied))
                begin += batch.num_rows
        sync(temporary)
        os.replace(temporary, path)


def _rewritten(batch: pa.RecordBatch, begin: int, rows: Any, table: pa.Table | None, emptied: Any) -> pa.RecordBatch:
    gone = emptied[(emptied >= begin) & (emptied < begin + batch.num_rows)] - begin
    here = np.flatnonzero((rows >= begin) & (rows < begin + batch.num_rows))
    found = []
    for name in SCHEMA.names:
        column = batch[name]
        if table is not None and len(here) and name in MOVING:
            column = _with(column, rows[here] - begin, table[name].take(pa.array(here)).combine_chunks())
        if len(gone) and name in _TELLING:
            blank: Any = "" if name in ("id", "transcript") else [] if name == "labels" else None
            column = _with(column, gone, pa.array([blank] * len(gone), column.type))
        found.append(column)
    return pa.RecordBatch.from_arrays(found, schema=SCHEMA)


def _with(column: pa.Array, rows: Any, values: pa.Array) -> pa.Array:
    """A column with other values in some rows."""
    order = np.arange(len(column))
    order[rows] = len(column) + np.arange(len(rows))
    return pa.concat_arrays([column, values]).take(pa.array(order))


Told = Iterator[tuple[Utterance, Utterance, int]]
"""Utterances as they are to be made, as they are listed, and hashes of the former's ids."""

AGAIN = "  x"  # two spaces, of which readers leave one: no id of a corpus looks like `c/a  x2`


def told_apart(
    utterances: Iterator[Utterance],
    taken: Callable[[int], bool] = lambda _: False,
    listed: Callable[[int], bool] = lambda _: False,
) -> Told:
    """The same, so that no two have one id: one that comes again gets a number.

    Args:
        utterances: As their corpora list them.
        taken: Whether an utterance of an earlier run has the id of this hash. Files may have changed names since.
        listed: Whether one of an earlier run is listed under it now. An id that a corpus gives twice is a problem.
    """
    seen: set[int] = set()
    again: dict[str, int] = {}
    for utterance in utterances:
        own, name = utterance, hashed(utterance.id)
        twice = name in seen or listed(name)
        if twice or taken(name):
            while name in seen or taken(name):
                again[utterance.id] = again.get(utterance.id, 1) + 1
                numbered = f"{utterance.id}{AGAIN}{again[utterance.id]}"
                name = hashed(numbered)
            problem = f"duplicate_id: {utterance.id} is listed {again[utterance.id]} times" if twice else None
            own = replace(utterance, id=numbered, problem=utterance.problem or problem)
        seen.add(name)
        yield own, utterance, name
