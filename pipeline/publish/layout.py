"""Which shards lie in which Parquet file, so that a later release sends little more than what is new.

A file keeps the shards that it has had: one that is rewritten or withdrawn changes its own file and no other. New
shards go into new files, together with the last ones as long as those are small and no larger than what is new. So a
byte is sent again only when its file at least doubles, and of small files there are never more than a few.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict

from schemas.manifest import DatasetManifest, ShardFile

LEAST, WANTED, MOST = 300 * 2**20, 400 * 2**20, 500 * 2**20
"""Bytes of the shards of one file."""
_A_FOLDER = 1000  # files; the Hub takes 10,000
WRITER = 2  # raised when the same rows would become other bytes
DEFAULT, REJECTED = "default", "rejected"
OURS = (f"{DEFAULT}/", f"{REJECTED}/")
_PATH = re.compile(rf"({DEFAULT}|{REJECTED})/(\w+)-\d+/(\d+)(?:-\d+)?\.parquet")


class File(BaseModel):
    """A Parquet file of a release, as `earwitness.json` there tells it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    key: str
    """Digest of all that decides its bytes."""
    sha256: str
    bytes: int
    rows: int
    memory: int
    """Bytes of its rows as Arrow has them in memory, which the Hub and `datasets` call `num_bytes`."""
    shards: list[str]
    """By their paths in the dataset's folder."""


@dataclass(frozen=True, slots=True)
class Part:
    """Shards that become one Parquet file; or one shard that is too large for a file and becomes several."""

    config: str
    split: str
    number: int
    shards: tuple[ShardFile, ...]
    single: bool
    """Whether every row of the dataset has exactly one audio: then the column is `audio`, which the viewer plays."""

    @property
    def paths(self) -> list[str]:
        """In the repository. No count of all files is in them, so that one more file renames none."""
        stem = f"{self.config}/{self.split}-{self.number // _A_FOLDER:03d}/{self.number:06d}"
        return [f"{stem}{end}.parquet" for end in ([""] if self.pieces == 1 else map("-{:03d}".format, self._pieces))]

    @property
    def _pieces(self) -> range:
        return range(self.pieces)

    @property
    def pieces(self) -> int:
        """Files that it becomes: more than one of a single large shard."""
        return 1 if len(self.shards) > 1 or self.bytes <= MOST else -(-self.bytes // WANTED)

    def key(self, piece: int) -> str:
        """Digest of all that decides a file's bytes."""
        told = [str(WRITER), f"pyarrow {pa.__version__}", str(self.single), f"{piece} of {self.pieces}"]
        return xxhash.xxh3_128_hexdigest("\n".join([*told, *(file.digest for file in self.shards)]).encode())

    @property
    def bytes(self) -> int:
        """Of all its shards."""
        return sum(file.bytes for file in self.shards)


def parts(dataset: DatasetManifest, before: Mapping[str, File], *, single: bool, rejected: bool) -> list[Part]:
    """The files of a release, by configuration, split and number.

    Args:
        dataset: What is released.
        before: The files of the release before, by path.
        single: Whether every kept row has exactly one audio.
        rejected: Whether rows that were set aside are published, too.
    """
    wanted = {(DEFAULT, split): list(summary.shards) for split, summary in dataset.splits.items()}
    if rejected:
        for split in sorted({_split_of(file) for file in dataset.rejected}, reverse=True):
            wanted[REJECTED, split] = [file for file in dataset.rejected if _split_of(file) == split]
    found: list[Part] = []
    for (config, split), files in wanted.items():
        new = {file.path: file for file in files}
        kept = [
            (number, [new.pop(name) for name in names if name in new])
            for number, names in _before(before, config, split)
        ]
        numbered = _with_new([(number, some) for number, some in kept if some], list(new.values()))
        found += [Part(config, split, n, tuple(some), single and config == DEFAULT) for n, some in numbered]
    return found


def _split_of(file: ShardFile) -> str:
    return Path(file.path).name.partition("-")[0]


def _before(before: Mapping[str, File], config: str, split: str) -> list[tuple[int, list[str]]]:
    """Number and shards of the files that a split had, in order."""
    found: dict[int, list[str]] = {}
    for path, file in before.items():
        match = _PATH.fullmatch(path)
        if match is not None and match.group(1, 2) == (config, split):
            found[int(match[3])] = file.shards
    return sorted(found.items())


def _with_new(kept: list[tuple[int, list[ShardFile]]], new: list[ShardFile]) -> list[tuple[int, list[ShardFile]]]:
    """Files and their numbers, when shards are added to those that there are."""
    while new and kept and _bytes(kept[-1][1]) < min(LEAST, _bytes(new) + 1):
        new = [*kept.pop()[1], *new]
    first = kept[-1][0] + 1 if kept else 0
    return [*kept, *enumerate(_filled(new), first)]


def _filled(files: Sequence[ShardFile]) -> Iterator[list[ShardFile]]:
    some: list[ShardFile] = []
    for file in files:
        most = WANTED if _bytes(some) >= LEAST else MOST
        if some and _bytes(some) + file.bytes > most:
            yield some
            some = []
        some.append(file)
    if some:
        yield some


def _bytes(files: Sequence[ShardFile]) -> int:
    return sum(file.bytes for file in files)
