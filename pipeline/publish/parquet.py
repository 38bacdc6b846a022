"""Parquet as the Hub and its viewer want it, from finished shards, each of which is read once.

Source: huggingface.co/docs/hub/datasets-libraries and the viewer's limits: row groups under 100 MB (sized by
bytes here, since rows of audio differ), audio neither compressed nor in dictionaries, a page index, files of
300 to 500 MB.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline import shards
from pipeline.publish.errors import DamagedShard
from schemas.arrow import FEATURES, SAMPLING_RATE, SCHEMA
from schemas.manifest import DatasetManifest, ShardFile

FILE_BYTES = 400 * 2**20  # of shards that go into one file
GROUP_BYTES = 64 * 2**20  # of rows in memory that go into one row group
WRITER = 1  # raised when the same rows would become other bytes
_PLAIN = "NONE"  # FLAC is compressed already
_TEXT = "ZSTD"
DEFAULT, REJECTED = "default", "rejected"
_AUDIO = {"sampling_rate": SAMPLING_RATE, "_type": "Audio"}


@dataclass(frozen=True, slots=True)
class Part:
    """Shards that become one Parquet file."""

    config: str
    split: str
    number: int
    shards: tuple[ShardFile, ...]
    single: bool
    """Whether every row of the dataset has exactly one audio: then the column is `audio`, which the viewer plays."""

    @property
    def path(self) -> str:
        """In the repository. No count of all files is in it, so that one more file renames none."""
        return f"{self.config}/{self.split}-{self.number:05d}.parquet"

    @property
    def key(self) -> str:
        """Digest of all that decides the file's bytes."""
        told = [str(WRITER), f"pyarrow {pa.__version__}", str(self.single), *(file.digest for file in self.shards)]
        return xxhash.xxh3_128_hexdigest("\n".join(told).encode())

    @property
    def rows(self) -> int:
        """Of all its shards."""
        return sum(file.rows for file in self.shards)


def parts(dataset: DatasetManifest, *, single: bool, rejected: bool) -> list[Part]:
    """The files of a dataset. Shards that are added later change the last file of a split, and no other."""
    found: list[Part] = []
    for split, summary in dataset.splits.items():
        found += _filled(DEFAULT, split, summary.shards, single)
    if rejected:
        for split in sorted({_split_of(file) for file in dataset.rejected}, reverse=True):
            found += _filled(REJECTED, split, [f for f in dataset.rejected if _split_of(f) == split], single=False)
    return found


def _split_of(file: ShardFile) -> str:
    return Path(file.path).name.partition("-")[0]


def _filled(config: str, split: str, files: Sequence[ShardFile], single: bool) -> Iterator[Part]:
    some: list[ShardFile] = []
    number = size = 0
    for file in files:
        if some and size + file.bytes > FILE_BYTES:
            yield Part(config, split, number, tuple(some), single)
            some, number, size = [], number + 1, 0
        some.append(file)
        size += file.bytes
    if some:
        yield Part(config, split, number, tuple(some), single)


def has_single_audios(folder: Path, dataset: DatasetManifest) -> bool:
    """Whether every kept row has exactly one audio. Reads no audio."""
    files = [file for split in dataset.splits.values() for file in split.shards]
    return bool(files) and all(
        _lengths_are_one(batch["audios"]) for file in files for batch in shards.batches(folder / file.path, ["audios"])
    )


def _lengths_are_one(audios: pa.ListArray) -> bool:
    return audios.null_count == 0 and bool((audios.value_lengths().to_numpy() == 1).all())


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


def write(folder: Path, part: Part) -> bytes:
    """A file's bytes. They are made in memory: what is uploaded is read from the disk once, and written never.

    Raises:
        DamagedShard: A shard is missing or its bytes have changed.
    """
    made, sink = schema(part.single), io.BytesIO()
    columns = _columns(made)
    audio = [name for name in columns if name.startswith(("audio.", "audios."))]
    with pq.ParquetWriter(
        sink,
        made,
        compression={name: _PLAIN if name in audio else _TEXT for name in columns},
        use_dictionary=[name for name in columns if name not in audio],
        write_statistics=[name for name in columns if name not in audio],
        write_page_index=True,
        use_content_defined_chunking=True,  # so that the Hub's storage finds again what has only moved
    ) as writer:
        for group in _groups(_rows(folder, part, made)):
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    return sink.getvalue()


def _columns(made: pa.Schema) -> list[str]:
    """The names of a schema's leaves, as Parquet has them."""
    probe = io.BytesIO()
    pq.write_table(made.empty_table(), probe)
    found = pq.ParquetFile(probe).schema
    return [found.column(index).path for index in range(len(found))]


def _rows(folder: Path, part: Part, made: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in part.shards:
        path = folder / file.path
        cure = "`earwitness build` makes it again"
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise DamagedShard(f"{path} is missing or not of the size that its manifest says: {cure}")
        if shards.digest_of(path) != file.digest:
            raise DamagedShard(f"{path} has changed since it was made: {cure}")
        for batch in shards.batches(path):
            columns = {name: batch[name] for name in batch.schema.names}
            audios = columns.pop("audios")
            columns["audio" if part.single else "audios"] = audios.flatten() if part.single else audios
            yield pa.record_batch([columns[name] for name in made.names], schema=made)


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows in groups of about as many bytes; a batch that is larger is divided."""
    some: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        pieces = -(-batch.nbytes // GROUP_BYTES) or 1
        step = -(-batch.num_rows // pieces) or 1
        for begin in range(0, batch.num_rows, step):
            piece = batch.slice(begin, step)
            if some and size + piece.nbytes > GROUP_BYTES:
                yield pa.Table.from_batches(some)
                some, size = [], 0
            some.append(piece)
            size += piece.nbytes
    if some:
        yield pa.Table.from_batches(some)
