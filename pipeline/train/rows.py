"""Rows: finished datasets as one long sequence of samples, read where they lie.

What there is, the manifests say; nothing is listed, and files that no manifest names are not seen. Shards are mapped
into memory at their first row, so opening a million rows costs as much as reading their manifests. Of a shard that is
open only the places of its record batches are held, and a few batches: each takes 40 KB, whatever is in it.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash
from pydantic import ValidationError

from pipeline import mirror
from pipeline.shards import BUILD
from pipeline.train.mapped import AGAIN, DataError, Mapped, Shard, check, check_size, mapped
from schemas.arrow import SAMPLING_RATE, from_batch, message_from
from schemas.conversation import ToolSpec
from schemas.manifest import SCHEMA_VERSION, DatasetManifest
from schemas.sample import Sample
from schemas.training import DataSpec
from schemas.utterance import Audio, Utterance

__all__ = ["DataError", "RowId", "Rows"]

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
_RECENT = 256  # record batches that are held, 10 MB


class RowId(NamedTuple):
    """Which row it is, for messages and logs."""

    dataset: str
    """The dataset's folder."""
    id: str
    position: int
    """In its unit."""

    def __str__(self) -> str:
        return f"row {self.id!r} of {self.dataset}"


class Rows(Sequence[Sample]):
    """The kept rows of a split of some datasets, in the order of the datasets and of their manifests.

    Args:
        datasets: Their folders, or URLs.
        split: `train` or `test`.

    Raises:
        StoreError: A store refuses, or its shards take more room than there may be.
        DataError: A folder holds no finished dataset, or one of another version; a file is gone or has another size;
            there is no row at all.
    """

    def __init__(self, datasets: Sequence[DataSpec | Path | str], split: str = "train") -> None:
        self.split = split
        self.folders = [mirror.folder(d.path if isinstance(d, DataSpec) else d) for d in datasets]
        self.manifests = [_manifest(folder) for folder in self.folders]
        self.shards: list[Shard] = []
        self._length = 0
        for number, (folder, manifest) in enumerate(zip(self.folders, self.manifests, strict=True)):
            summary = manifest.splits.get(split)
            mirror.local_all(folder, summary.shards if summary is not None else ())
            for file in summary.shards if summary is not None else ():
                self.shards.append(Shard(folder, file, number, self._length))
                self._length += file.rows
        if not self._length:
            names = ", ".join(map(str, self.folders))
            raise DataError(f"{names}: the split {split!r} has no rows; change the recipe's `split`, or give more data")
        for shard in self.shards:
            check_size(shard)
        self._firsts = [shard.first for shard in self.shards]
        self._open: dict[int, Mapped] = {}
        self._recent: dict[tuple[int, int], pa.RecordBatch] = {}

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
        """A row with what a model reads and hears, and nothing else: half the time.

        Raises:
            DataError: Its shard is damaged.
            IndexError: There is no such row.
        """
        batch, place = self._find(row)
        utterances = batch["utterances"][place].values
        return _brief_sample(
            {name: batch[name][place].as_py() for name in _READ},
            {name: utterances.field(name).to_pylist() for name in _HEARD},
        )

    def identity(self, row: int) -> RowId:
        """Which row it is."""
        batch, place = self._find(row)
        folder = self.folders[self.shards[self._shard(row)].dataset]
        return RowId(mirror.address(folder), batch["id"][place].as_py(), batch["position"][place].as_py())

    def batches(self, shard: int) -> list[pa.RecordBatch]:
        """The record batches of a shard, mapped into memory.

        Raises:
            DataError: It is damaged, or of another version.
        """
        found = self._mapped(shard)
        return [found.batch(number) for number in range(len(found.firsts))]

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
        shard = self._mapped(number)
        place = row - self._firsts[number]
        which = bisect.bisect_right(shard.firsts, place) - 1
        batch = self._recent.get((number, which))
        if batch is None:
            batch = self._recent[number, which] = shard.batch(which)
            while len(self._recent) > _RECENT:
                self._recent.pop(next(iter(self._recent)), None)
        return batch, place - shard.firsts[which]

    def _mapped(self, number: int) -> Mapped:
        if number not in self._open:
            self._open[number] = mapped(self.shards[number])
        return self._open[number]


def _brief_sample(row: dict[str, Any], utterances: dict[str, list[Any]]) -> Sample:
    found = []
    for place, audio in enumerate(row["audios"]):
        known = {name: values[place] for name, values in utterances.items()}
        seconds, digest = known.pop("seconds"), known.pop("digest")
        heard = None
        if audio is not None and audio["bytes"] is not None:
            heard = Audio(audio["bytes"], seconds, digest=digest, **_UNMEASURED)
        found.append(Utterance(corpus="", audio=heard, **known))
    return Sample(
        id=row["id"],
        utterances=tuple(found),
        split=row["split"],
        task=row["task"],
        language=row["language"],
        messages=tuple(map(message_from, row["messages"])),
        tools=tuple(ToolSpec(**tool["function"]) for tool in row["tools"]),
    )


def _manifest(folder: Path) -> DatasetManifest:
    place = folder / _FINISHED
    mirror.fetch(folder, _FINISHED)
    try:
        content = place.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        state = "is not finished" if (folder / BUILD).is_dir() else "is no dataset of ours"
        where = mirror.address(folder)
        raise DataError(f"{where} {state}, {place.name} is not there: {AGAIN.format(folder=where)}") from error
    found = _version(content)
    if found is not None and found != SCHEMA_VERSION:
        raise DataError(
            f"{place}: schema version {found}, this program reads {SCHEMA_VERSION}: "
            f"{'update this program' if found > SCHEMA_VERSION else AGAIN.format(folder=folder)}"
        )
    try:
        return DatasetManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise DataError(f"{place} is damaged ({where}: {first['msg']}): {AGAIN.format(folder=folder)}") from error


def _version(content: bytes) -> int | None:
    """Of a manifest, whatever else it holds."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    version = found.get("schema_version") if isinstance(found, dict) else None
    return version if isinstance(version, int) else None
