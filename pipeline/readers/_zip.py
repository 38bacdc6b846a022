"""Corpora that lie in a zip file: a table, and the audio that it names. Nothing is unpacked."""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.audio import HEADERLESS, SUFFIXES
from pipeline.readers.base import ARCHIVE_LIMIT, ZIP_ERRORS, CorpusError, open_zip, unzipped
from schemas.utterance import AudioSource

_TABLES = (".csv", ".tsv", ".txt")


def zipped_table(path: Path, name: str | None) -> tuple[str, Iterator[str]]:
    """The lines of the table in a zip file, and what it is called.

    Raises:
        CorpusError: The file cannot be read, or which table it is must be said.
    """
    members = _members(path)
    tables = [m for m in members if m.filename.lower().endswith(_TABLES)]
    chosen = [m for m in members if m.filename == name] if name is not None else tables
    if len(chosen) != 1:
        there = ", ".join(m.filename for m in tables) or "none"
        raise CorpusError(f"{path}: one table is expected; say which with `file`. There are: {there}")
    table = f"{path}!{chosen[0].filename}"
    if chosen[0].file_size > ARCHIVE_LIMIT:
        raise CorpusError(f"{table} is over 512 MB: unpack it")
    try:
        text = unzipped(open_zip(path), chosen[0]).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{table} is not UTF-8 (byte {error.start})") from error
    except ZIP_ERRORS as error:
        raise CorpusError(f"{table} cannot be read: {error}") from error
    return table, (line.rstrip("\r\n") for line in io.StringIO(text, newline=""))


def _members(path: Path) -> list[zipfile.ZipInfo]:
    """All files in a zip file, without hidden ones."""
    try:
        members = open_zip(path).infolist()
    except ZIP_ERRORS as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error
    return [m for m in members if not m.is_dir() and not posixpath.basename(m.filename).startswith(".")]


class Members:
    """Finds the members of a zip file that a table in it names, from its own folder or from the top."""

    def __init__(self, path: Path, table: str) -> None:
        self._path = path
        self._folder = posixpath.dirname(table.partition("!")[2])
        self._known = {m.filename: m for m in _members(path)}
        self._named: set[str] = set()

    def source(
        self, path: str, start: float = 0.0, duration: float | None = None, channel: int | None = None
    ) -> tuple[AudioSource, str | None]:
        """A path of the table as a source, and what is wrong with it."""
        beside = posixpath.normpath(posixpath.join(self._folder, path))
        name = beside if beside in self._known else path
        info = self._known.get(name)
        if info is None:
            return AudioSource(self._path.name, path), f"audio_missing: {path} is not in {self._path.name}"
        self._named.add(name)
        if info.file_size > ARCHIVE_LIMIT:
            return AudioSource(self._path.name, name), f"audio_unreadable: {name} is over 512 MB in {self._path}"
        known = f"{info.file_size}-{info.CRC}"
        return AudioSource(self._path.name, name, start, duration, channel, identity=known), None

    def unlisted(self) -> Iterator[tuple[AudioSource, str | None]]:
        """The audio that the table does not name."""
        for name in sorted(self._known.keys() - self._named):
            if posixpath.splitext(name)[1].lower() in SUFFIXES | HEADERLESS:
                yield self.source(name)
