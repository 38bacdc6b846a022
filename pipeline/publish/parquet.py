"""Parquet as the Hub and its viewer want it, from finished shards, each of which is read once.

Source: huggingface.co/docs/hub/datasets-libraries and the viewer's limits: row groups under 100 MB (sized by
bytes here, since rows of audio differ), audio neither compressed nor in dictionaries, a page index, files of
300 to 500 MB.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline import shards
from pipeline.publish.errors import DamagedShard
from pipeline.publish.layout import Part
from schemas.arrow import FEATURES, SAMPLING_RATE, SCHEMA
from schemas.manifest import ShardFile

GROUP_BYTES = 64 * 2**20  # of rows in memory that go into one row group
_PLAIN = "NONE"  # FLAC is compressed already
_TEXT = "ZSTD"
_AUDIO = {"sampling_rate": SAMPLING_RATE, "_type": "Audio"}


@dataclass(frozen=True, slots=True)
class Made:
    """A file's bytes."""

    content: bytes
    rows: int
    memory: int
    """Bytes of its rows as Arrow has them in memory."""


def schema(single: bool) -> pa.Schema:
    """The schema of a file, with the features by which `datasets` and the viewer know the audio."""
    features: dict[str, Any] = {}
    fields = []
    for field in SCHEMA:
        if field.name == "audios":
            name, kind = ("audio", field.type.value_type) if single else (field.name, field.type)
            features[name] = _AUDIO if single else {"feature": _AUDIO, "_type": "List"}
            fields.append(pa.field(name, kind))
        else:
            features[field.name] = FEATURES[field.name]
            fields.append(field)
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write(folder: Path, part: Part) -> Iterator[Made]:
    """The bytes of a part's files, one after another.

    They are made in memory: what is uploaded is read from the disk once, and written never.

    Raises:
        DamagedShard: A shard is missing or its bytes have changed. It comes after the last file at the latest, so
            nothing that was made may be shown before the end.
    """
    made, piece = schema(part.single), 0
    ends = [part.shards[0].rows * (n + 1) // part.pieces for n in range(part.pieces)] if part.pieces > 1 else []
    writer, begun = _Writer(made), 0
    for batch in _rows(folder, part, made):
        while piece < len(ends) - 1 and begun + batch.num_rows > ends[piece]:  # a large shard is divided by rows
            writer.add(batch.slice(0, ends[piece] - begun))
            batch = batch.slice(ends[piece] - begun)
            yield writer.close()
            writer, begun, piece = _Writer(made), ends[piece], piece + 1
        writer.add(batch)
        begun += batch.num_rows
    yield writer.close()


class _Writer:
    """Writes one file into memory, in row groups of about as many bytes."""

    def __init__(self, made: pa.Schema) -> None:
        columns = _columns(made)
        audio = [name for name in columns if name.startswith(("audio.", "audios."))]
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._sink,
            made,
            compression={name: _PLAIN if name in audio else _TEXT for name in columns},
            use_dictionary=[name for name in columns if name not in audio],
            write_statistics=[name for name in columns if name not in audio],
            write_page_index=True,
            use_content_defined_chunking=True,  # so that the Hub's storage finds again what has only moved
        )
        self._waiting: list[pa.RecordBatch] = []
        self._size = self._rows = self._memory = 0

    def add(self, batch: pa.RecordBatch) -> None:
        pieces = -(-batch.nbytes // GROUP_BYTES) or 1  # a batch that is larger than a group is divided
        step = -(-batch.num_rows // pieces) or 1
        for begin in range(0, batch.num_rows, step):
            piece = batch.slice(begin, step)
            if self._waiting and self._size + piece.nbytes > GROUP_BYTES:
                self._flush()
            self._waiting.append(piece)
            self._size += piece.nbytes

    def _flush(self) -> None:
        if self._waiting:
            group = pa.Table.from_batches(self._waiting)
            self._writer.write_table(group, row_group_size=max(1, group.num_rows))
            self._rows += group.num_rows
            self._memory += self._size
        self._waiting, self._size = [], 0

    def close(self) -> Made:
        self._flush()
        self._writer.close()
        return Made(self._sink.getvalue(), self._rows, self._memory)


def _columns(made: pa.Schema) -> list[str]:
    """The names of a schema's leaves, as Parquet has them."""
    probe = io.BytesIO()
    pq.write_table(made.empty_table(), probe)
    found = pq.ParquetFile(probe).schema
    return [found.column(index).path for index in range(len(found))]


def _rows(folder: Path, part: Part, made: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in part.shards:
        for batch in _verified(shards.local(folder, file), file):
            columns = {name: batch[name] for name in batch.schema.names}
            audios = columns.pop("audios")
            columns["audio" if part.single else "audios"] = audios.flatten() if part.single else audios
            yield pa.record_batch([columns[name] for name in made.names], schema=made)


class _Digested(io.RawIOBase):
    """A file that is read once, and its digest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with this object
        self.digest, self.size = xxhash.xxh3_128(), 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = []
        while size and (block := self._file.read(size)):  # the system hands out no more than 2 GB at once
            found.append(block)
            size -= len(block) if size > 0 else 0
        whole = found[0] if len(found) == 1 else b"".join(found)
        self.digest.update(whole)
        self.size += len(whole)
        return whole

    def close(self) -> None:
        self._file.close()
        super().close()


def _verified(path: Path, file: ShardFile) -> Iterator[pa.RecordBatch]:
    """The batches of a shard, whose digest is compared at its end."""
    cure = "`earwitness build --verify` makes it again"
    if not path.is_file() or path.stat().st_size != file.bytes:
        raise DamagedShard(f"{path} is missing or not of the size that its manifest says: {cure}")
    with _Digested(path) as source:
        try:
            with pa.ipc.open_stream(pa.PythonFile(source, mode="r")) as reader:
                for batch in reader:
                    batch.validate(full=True)  # offsets that are damaged would be followed to anywhere
                    yield batch
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's, not Arrow's
                raise
            raise DamagedShard(f"{path} has changed since it was made: {cure}") from error
        source.read()
        if source.digest.hexdigest() != file.digest:
            raise DamagedShard(f"{path} has changed since it was made: {cure}")
