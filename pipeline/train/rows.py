"""Rows: finished datasets as one long sequence of samples, read where they lie.

What there is, the manifests say; nothing is listed, and files that no manifest names are not seen. Shards are mapped
into memory at their first row, so opening a million rows costs as much as reading their manifests.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash
from pydantic import ValidationError

from pipeline import shards
from schemas.arrow import SAMPLING_RATE, SCHEMA, from_batch, message_from
from schemas.conversation import ToolSpec
from schemas.manifest import SCHEMA_VERSION, DatasetManifest, ShardFile
from schemas.sample import Sample
from schemas.training import DataSpec
from schemas.utterance import Audio, Utterance

_FINISHED = "dataset.json"
_READ = ("id", "split", "task", "language", "messages", "tools", "audios")
_HEARD = ("id", "transcript", "spoken", "language", "seconds", "digest")
_UNMEASURED: dict[str, Any] = {
    "sampling_rate": SAMPLING_RATE,
    "channels": 1,
    "format": "FLAC",
    "peak_dbfs": 0.0,
    "speech_dbfs": 0.0,
    "clipped": 0.0,
    "fingerprint": b"",
}
_AGAIN = "build it again: `earwitness build RECIPE --out {folder}` makes only what is missing"


class DataError(ValueError):
    """A dataset cannot be trained on as it lies; the message names the file and the cure."""


class RowId(NamedTuple):
    """Which row it is, for messages and logs."""

    dataset: str
    """The dataset's folder."""
    id: str
    position: int
    """In its unit."""

    def __str__(self) -> str:
        return f"row {self.id!r} of {self.dataset}"


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
        return self.folder / self.file.path

    @property
    def cure(self) -> str:
        """What to do if something is wrong with it."""
        return _AGAIN.format(folder=self.folder)


class Rows(Sequence[Sample]):
    """The kept rows of a split of some datasets, in the order of the datasets and of their manifests.

    Args:
        datasets: Their folders.
        split: `train` or `test`.

    Raises:
        DataError: A folder holds no finished dataset, or one of another version; a file is gone or has another size;
            there is no row at all.
    """

    def __init__(self, datasets: Sequence[DataSpec | Path | str], split: str = "train") -> None:
        self.split = split
        self.folders = [Path(d.path if isinstance(d, DataSpec) else d) for d in datasets]
        self.manifests = [_manifest(folder) for folder in self.folders]
        self.shards: list[Shard] = []
        self._length = 0
        for number, (folder, manifest) in enumerate(zip(self.folders, self.manifests, strict=True)):
            summary = manifest.splits.get(split)
            for file in summary.shards if summary is not None else ():
                self.shards.append(Shard(folder, file, number, self._length))
                self._length += file.rows
        if not self._length:
            names = ", ".join(map(str, self.folders))
            raise DataError(f"{names}: the split {split!r} has no rows; change the recipe's `split`, or give more data")
        for shard in self.shards:
            _check_size(shard)
        self._firsts = [shard.first for shard in self.shards]
        self._open: dict[int, tuple[list[pa.RecordBatch], list[int]]] = {}
        self._brief: dict[int, pa.RecordBatch] = {}

    def __len__(self) -> int:
        return self._length

    @property
    def digest(self) -> str:
        """Of all rows in their order, as the manifests have it."""
        return xxhash.xxh3_128_hexdigest("".join(shard.file.digest for shard in self.shards).encode())

    def __getitem__(self, row: int) -> Sample:  # type: ignore[override]
        """A row with its audio as FLAC, some 0.1 ms.

        Raises:
            DataError: Its shard is damaged.
            IndexError: There is no such row.
        """
        batch, place = self._find(row)
        return next(from_batch(batch.slice(place, 1)))

    def brief(self, row: int) -> Sample:
        """A row with what a model reads and hears, and nothing else: a fifth of the time.

        Raises:
            DataError: Its shard is damaged.
            IndexError: There is no such row.
        """
        batch, place = self._find(row)
        first = row - place
        if first not in self._brief:
            self._brief[first] = _cut_down(batch)
        (found,) = self._brief[first].slice(place, 1).to_pylist()
        return _brief_sample(found)

    def identity(self, row: int) -> RowId:
        """Which row it is."""
        batch, place = self._find(row)
        folder = self.folders[self.shards[self._shard(row)].dataset]
        return RowId(str(folder), batch["id"][place].as_py(), batch["position"][place].as_py())

    def batches(self, shard: int) -> list[pa.RecordBatch]:
        """The record batches of a shard, mapped into memory.

        Raises:
            DataError: It is damaged, or of another version.
        """
        return self._mapped(shard)[0]

    def check(self) -> None:
        """Reads all files and compares them with their manifests: at the speed of the disk.

        Raises:
            DataError: One is damaged.
        """
        with ThreadPoolExecutor(4) as threads:
            for _ in threads.map(check, self.shards):
                pass

    def _shard(self, row: int) -> int:
        if not 0 <= row < self._length:
            raise IndexError(f"row {row} of {self._length}")
        return bisect.bisect_right(self._firsts, row) - 1

    def _find(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The record batch that it is in, and its place there."""
        number = self._shard(row)
        batches, firsts = self._mapped(number)
        place = row - self._firsts[number]
        batch = bisect.bisect_right(firsts, place) - 1
        return batches[batch], place - firsts[batch]

    def _mapped(self, number: int) -> tuple[list[pa.RecordBatch], list[int]]:
        if number not in self._open:
            batches = _map(self.shards[number])
            firsts = [0]
            for batch in batches[:-1]:
                firsts.append(firsts[-1] + batch.num_rows)
            self._open[number] = batches, firsts
        return self._open[number]


def _cut_down(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with the columns that `brief` needs. Nothing is copied."""
    utterances = batch["utterances"]
    inner = utterances.values
    kept = pa.StructArray.from_arrays([inner.field(name) for name in _HEARD], names=list(_HEARD))
    columns = {name: batch[name] for name in _READ} | {"utterances": pa.ListArray.from_arrays(utterances.offsets, kept)}
    return pa.RecordBatch.from_pydict(columns)


def _brief_sample(row: dict[str, Any]) -> Sample:
    utterances = []
    for utterance, audio in zip(row["utterances"], row["audios"], strict=True):
        heard = None
        if audio is not None and audio["bytes"] is not None:
            heard = Audio(audio["bytes"], utterance["seconds"], digest=utterance["digest"], **_UNMEASURED)
        known = {name: utterance[name] for name in ("id", "transcript", "spoken", "language")}
        utterances.append(Utterance(corpus="", audio=heard, **known))
    return Sample(
        id=row["id"],
        utterances=tuple(utterances),
        split=row["split"],
        task=row["task"],
        language=row["language"],
        messages=tuple(map(message_from, row["messages"])),
        tools=tuple(ToolSpec(**tool["function"]) for tool in row["tools"]),
    )


def check(shard: Shard) -> None:
    """Compares a file's content with its manifest.

    Raises:
        DataError: It is damaged.
    """
    _check_size(shard)
    if shards.digest_of(shard.path) != shard.file.digest:
        raise DataError(
            f"{shard.path} is damaged: its content is not what its manifest says. Delete it and {shard.cure}"
        )


def _manifest(folder: Path) -> DatasetManifest:
    place = folder / _FINISHED
    try:
        content = place.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        state = "is not finished" if (folder / shards.BUILD).is_dir() else "is no dataset of ours"
        raise DataError(f"{folder} {state}, {place.name} is not there: {_AGAIN.format(folder=folder)}") from error
    found = _version(content)
    if found is not None and found != SCHEMA_VERSION:
        raise DataError(
            f"{place}: schema version {found}, this program reads {SCHEMA_VERSION}: "
            f"{'update this program' if found > SCHEMA_VERSION else _AGAIN.format(folder=folder)}"
        )
    try:
        return DatasetManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise DataError(f"{place} is damaged ({where}: {first['msg']}): {_AGAIN.format(folder=folder)}") from error


def _version(content: bytes) -> int | None:
    """Of a manifest, whatever else it holds."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    version = found.get("schema_version") if isinstance(found, dict) else None
    return version if isinstance(version, int) else None


def _check_size(shard: Shard) -> None:
    try:
        size = shard.path.stat().st_size
    except OSError as error:
        raise DataError(f"{shard.path} cannot be read ({error.strerror}): {shard.cure}") from error
    if size != shard.file.bytes:
        raise DataError(
            f"{shard.path} is damaged: it has {size:,} bytes, its manifest says {shard.file.bytes:,}. "
            f"Delete it and {shard.cure}"
        )


def _map(shard: Shard) -> list[pa.RecordBatch]:
    _check_size(shard)
    try:
        # The mapping outlives the file's handle, so that thousands of shards may be open.
        batches = list(shards.batches(shard.path))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{shard.path} cannot be read ({error}). Delete it and {shard.cure}") from error
    if batches:
        _check_schema(shard, batches[0].schema)
    rows = sum(batch.num_rows for batch in batches)
    if rows != shard.file.rows:
        raise DataError(
            f"{shard.path} has {rows} rows, its manifest says {shard.file.rows}. Delete it and {shard.cure}"
        )
    return batches


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
