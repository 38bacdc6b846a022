"""Mapped: a shard in memory, if it is as its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline import shards
from schemas.arrow import SCHEMA
from schemas.manifest import SCHEMA_VERSION, ShardFile

AGAIN = "build it again: `earwitness build RECIPE --out {folder}` makes only what is missing"
_END = 8  # bytes that end an Arrow stream


class DataError(ValueError):
    """A dataset cannot be trained on as it lies; the message names the file and the cure."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of rows."""

    folder: Path
    """The dataset's."""
    file: ShardFile
    dataset: int
    """The dataset's place among those that were given."""
    first: int
    """The number of its first row."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        return shards.local(self.folder, self.file)

    @property
    def cure(self) -> str:
        """What to do if something is wrong with it."""
        return AGAIN.format(folder=self.folder)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A shard in memory."""

    content: pa.Buffer
    schema: pa.Schema
    starts: list[int]
    """Where each record batch begins."""
    firsts: list[int]
    """The number of its first row in the shard."""

    def batch(self, number: int) -> pa.RecordBatch:
        """One of them, 0.02 ms."""
        return pa.ipc.read_record_batch(_message(self.content, self.starts[number]), self.schema)


def _message(content: pa.Buffer, at: int) -> pa.Message:
    return pa.ipc.read_message(pa.BufferReader(content.slice(at)))


def check(shard: Shard) -> None:
    """Compares a file's content with its manifest.

    Raises:
        DataError: It is damaged.
    """
    check_size(shard)
    if shards.digest_of(shard.path) != shard.file.digest:
        raise DataError(
            f"{shard.path} is damaged: its content is not what its manifest says. Delete it and {shard.cure}"
        )


def check_size(shard: Shard) -> None:
    """Whether the file is there, as long as it was written.

    Raises:
        DataError: It is not.
    """
    try:
        size = shard.path.stat().st_size
    except OSError as error:
        raise DataError(f"{shard.path} cannot be read ({error.strerror}): {shard.cure}") from error
    if size != shard.file.bytes:
        raise DataError(
            f"{shard.path} is damaged: it has {size:,} bytes, its manifest says {shard.file.bytes:,}. "
            f"Delete it and {shard.cure}"
        )


def mapped(shard: Shard) -> Mapped:
    """Maps a file.

    Raises:
        DataError: It is damaged, or of another version.
    """
    check_size(shard)
    starts, firsts, rows = [], [], 0
    try:
        with pa.memory_map(str(shard.path)) as file:  # the mapping outlives the handle: thousands may be open
            content = file.read_buffer()
        reader = pa.BufferReader(content)
        schema = pa.ipc.read_schema(pa.ipc.read_message(reader))
        _check_schema(shard, schema)
        while (at := reader.tell()) < content.size - _END:
            starts.append(at)
            firsts.append(rows)
            rows += pa.ipc.read_record_batch(pa.ipc.read_message(reader), schema).num_rows
    except (OSError, EOFError, pa.ArrowException) as error:
        raise DataError(f"{shard.path} cannot be read ({error}). Delete it and {shard.cure}") from error
    if rows != shard.file.rows:
        raise DataError(f"{shard.path} has {rows} rows, not {shard.file.rows} as it should. Delete it and {shard.cure}")
    return Mapped(content, schema, starts, firsts)


def _check_schema(shard: Shard, schema: pa.Schema) -> None:
    for wanted in SCHEMA:
        if wanted.name not in schema.names:
            raise DataError(f"{shard.path} lacks the column {wanted.name!r}. Delete it and {shard.cure}")
        found = schema.field(wanted.name).type
        if found != wanted.type:
            raise DataError(
                f"{shard.path}: the column {wanted.name!r} is not as schema version {SCHEMA_VERSION} has it "
                f"({_difference(wanted.type, found)}). Delete it and {shard.cure}"
            )


def _difference(wanted: pa.DataType, found: pa.DataType) -> str:
    """What a column's type lacks, if it is only fields of its structs; else both types."""
    inner, other = (kind.value_type if pa.types.is_list(kind) else kind for kind in (wanted, found))
    if pa.types.is_struct(inner) and pa.types.is_struct(other):
        lacks = sorted({field.name for field in inner} - {field.name for field in other})
        if lacks:
            return f"it lacks {', '.join(lacks)}"
    return f"{found} in place of {wanted}"
