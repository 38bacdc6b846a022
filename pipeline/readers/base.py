"""Reader: a corpus on disk, or in a store, as a stream of utterances, without decoding any audio."""

from __future__ import annotations

import io
import os
import posixpath
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, AnyStr, ClassVar, Literal

import xxhash
from pydantic import PositiveInt, field_validator

from pipeline import storage
from pipeline.audio import HEADERLESS, SUFFIXES, AudioError, RawFormat
from pipeline.storage import place
from pipeline.text import clean, language_tag
from schemas.recipe import Options
from schemas.utterance import AudioSource, Utterance

if TYPE_CHECKING:  # who has no tools need not load them
    from pipeline.tools.catalogue import Catalogue

ARCHIVE_LIMIT = 512 * 2**20  # bytes of one member that is read into memory
LINE_LIMIT = 16 * 2**20  # characters or bytes of one line of a listing; records are a thousandth of it
FETCH_LIMIT = 2 * 2**30  # bytes of a recording in a store, which is read into memory
_SAMPLED = 4096  # bytes, a page: what a disk reads at the least
ZIP_ERRORS = (OSError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged, encrypted or oddly compressed zip file can raise."""


class CorpusError(ValueError):
    """A corpus that cannot be read at all; the message names the file and what was expected."""


class Raw(Options):
    """How to read files that have no header (`.raw`, `.pcm`, `.s16`)."""

    sampling_rate: PositiveInt
    subtype: Literal["PCM_16", "PCM_S8", "PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"] = "PCM_16"
    """libsndfile's name."""
    channels: PositiveInt = 1


class Reader(Options):
    """One corpus layout. Subclasses add their options as fields and say how the layout looks."""

    is_plugin: ClassVar[bool] = True

    name: str
    """Of the corpus: goes before the ids of utterances and speakers."""
    path: str
    """The corpus's folder, or the file that lists it; a URL where it lies in a store."""
    language: str | None = None
    """For utterances that do not say."""
    licence: str | None = None
    """SPDX id or a sentence; travels into every row."""
    labels: dict[str, str] = {}
    """Added to every utterance."""
    speaker: str | None = None
    """For corpora of one speaker that do not name them."""
    speech: bool = True
    """`false` for recordings in which nobody speaks: they become the examples of no speech."""
    split: Literal["train", "test"] | None = None
    """Puts the whole corpus into one split."""
    audio_root: str | None = None
    """The folder that paths in the listing are relative to; found by itself where it is omitted."""
    raw: Raw | None = None
    """For files without a header."""

    @field_validator("language")
    @classmethod
    def _is_language(cls, language: str | None) -> str | None:
        if language is not None and language_tag(language) is None:
            raise ValueError("a BCP-47 tag or the English name of a language is expected, such as pt-BR or German")
        return language

    @abstractmethod
    def utterances(self) -> Iterator[Utterance]:
        """All utterances, in an order that depends on the corpus alone.

        What is wrong with a row is said in its `problem`; nothing is left out.

        Raises:
            CorpusError: The layout is not there at all.
        """

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        """Options with which this reader reads a path, or None if it is not of its layout."""
        return None

    @property
    def catalogues(self) -> Mapping[str, Catalogue]:
        """The tools that are to be asked for, by name, where the corpus consists of such."""
        return {}

    # What follows serves the subclasses.

    @cached_property
    def root(self) -> Path:
        """The folder of the corpus, or the one in which its listing lies.

        Raises:
            CorpusError: There is nothing at `path`.
        """
        path = place(self.path)
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            raise CorpusError(f"{path} is not there; the corpus's folder or the file that lists it is expected")
        return path if is_folder else path.parent

    @cached_property
    def folder(self) -> Path:
        """The folder of a corpus whose layout no single file can name.

        Raises:
            CorpusError: There is no folder at `path`.
        """
        if self.root != place(self.path):
            raise CorpusError(f"{self.path} is a file; the corpus's folder is expected")
        return self.root

    def audio(self, source: AudioSource) -> Path | bytes:
        """The file of an utterance; or the bytes of a member of an archive or of what lies in a store.

        Raises:
            OSError, AudioError: It cannot be read.
            StoreError: Its store refuses or cannot be reached.
        """
        path = self._where(source.path)
        if source.member is None:
            return self._fetched(source, str(path)) if storage.is_url(str(path)) else path
        if source.offset is not None and source.size is not None:
            if source.size > ARCHIVE_LIMIT:
                raise AudioError(_too_large(source.member, path))
            if storage.is_url(str(path)):
                return storage.read(str(path), source.offset, source.offset + source.size)
            with open(path, "rb") as stream:
                stream.seek(source.offset)
                return stream.read(source.size)
        try:
            archive = open_zip(path)
            member = archive.getinfo(source.member)
            if member.file_size > ARCHIVE_LIMIT:
                raise AudioError(_too_large(source.member, path))
            return unzipped(archive, member)
        except storage.StoreError:
            raise
        except ZIP_ERRORS as error:
            raise AudioError(f"{source.member} cannot be read from {path}: {error}") from error

    def comes_alone(self, source: AudioSource) -> bool:
        """Whether a recording lies in a store and is fetched by a request of its own, for itself alone."""
        stretch = source.duration is not None if source.member is None else source.offset is None
        return not stretch and (storage.is_url(source.path) or (self._is_far and not source.path.startswith("/")))

    @cached_property
    def _is_far(self) -> bool:
        return storage.is_url(self._root_text)

    def _where(self, path: str) -> Path:
        """Where a source's file lies: below the corpus's folder, or elsewhere as `audio_root` allows."""
        if storage.is_url(path):
            return place(path)
        if path.startswith("/") or not storage.is_url(self._root_text):
            return Path(posixpath.normpath(posixpath.join(self.root.as_posix(), path)))
        return place(f"{self._root_text}/{path}")

    def _fetched(self, source: AudioSource, url: str) -> bytes:
        """The bytes of a recording in a store."""
        size = (source.identity or "").partition("-")[0]
        if size.isdecimal() and int(size) > FETCH_LIMIT:
            raise AudioError(f"{url} is over {FETCH_LIMIT // 2**30} GB: cut it up, or copy it to a disk")
        # The utterances of a long recording follow each other: it comes once, not with each.
        return storage.read(url) if source.duration is None else _recording(url)

    def raw_format(self, source: AudioSource) -> RawFormat | None:
        """How to read a file without a header; None for one that has a header."""
        name = source.member or source.path
        if self.raw is None or posixpath.splitext(name)[1].lower() not in HEADERLESS:
            return None
        return RawFormat(self.raw.sampling_rate, self.raw.subtype, self.raw.channels)

    def utterance(
        self,
        key: str,
        *,
        source: AudioSource | None = None,
        transcript: str | None = "",
        language: str | None = None,
        speaker: str | None = None,
        recording: str | None = None,
        labels: Mapping[str, str] | None = None,
        problem: str | None = None,
        **claims: Any,
    ) -> Utterance:
        """An utterance of this corpus: names are put under the corpus's, texts are cleaned.

        Args:
            key: Unique in the corpus.
            claims: `duration`, `sampling_rate`, `split`, `licence` as the corpus gives them.
        """
        name, of_all, spoken_by, licence, common = self._common
        if speaker is None:
            speaker = spoken_by
        if problem is None and source is not None and source.identity == "":
            problem = _why_absent(source.path)
        if problem is not None:
            problem = self.portable(problem)
        return Utterance(
            id=f"{name}/{clean(key)}",
            corpus=name,
            transcript=clean(transcript) if transcript else "",
            language=(language_tag(language) if language else None) or of_all,
            speaker=_below(name, speaker) if speaker else None,
            recording=_below(name, recording) if recording else None,
            licence=claims.pop("licence", None) or licence,
            source=source,
            labels=common | {k: v for k, v in labels.items() if v} if labels else common,
            problem=problem,
            **claims,
        )

    @cached_property
    def _common(self) -> tuple[str, str | None, str | None, str | None, dict[str, str]]:
        """What all utterances share; together, since a model's attributes are slow to read."""
        labels = self.labels if self.speech else self.labels | {"speech": "no"}
        language = language_tag(self.language) if self.language else None
        return self.name, language, self.speaker, self.licence, labels

    @property
    def _language(self) -> str | None:
        return self._common[1]

    def source(self, relative: str, **place: Any) -> AudioSource:
        """The source of a file below the corpus's folder; looks whether it is there."""
        name = printable(relative)
        absent = name != relative or leads_out(relative)
        known = "" if absent else identity(f"{self._root_text}/{relative}")
        return AudioSource(name, identity=known, **place)

    def portable(self, text: str) -> str:
        """A message without the path of the corpus: no row depends on where that lies."""
        return text.replace(f"{self._root_text}/", "").replace(self._root_text, self.name)

    @cached_property
    def _root_text(self) -> str:
        return self.root.as_posix()


@lru_cache(maxsize=4096)
def _below(corpus: str, name: str) -> str:
    return f"{corpus}/{clean(name)}"


def _too_large(member: str, path: Path) -> str:
    return f"{member} is over {ARCHIVE_LIMIT // 2**20} MB in {path}: unpack it"


def printable(name: str) -> str:
    """The name of a file as text that any encoder takes: bytes that are not UTF-8 become U+FFFD."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")


def leads_out(path: str) -> bool:
    """Whether a relative path goes above where it begins."""
    return ".." in path and ".." in posixpath.normpath(path).split("/")


def _why_absent(path: str) -> str:
    if leads_out(path):
        return f"path_outside_corpus: {path} leads out of the corpus"
    if "\ufffd" in path:
        return f"audio_unreadable: the name of {path} is not UTF-8: rename the file"
    return f"audio_missing: {path} is not there"


def identity(path: str) -> str:
    """Size of a file and a digest of its first, middle and last 4 KiB; empty if there is none.

    Nothing of when or where it was written: a copy is the same. A change that keeps the size and all
    three places goes unnoticed, as no re-encoded or re-recorded sound does. In a store it is size and
    checksum as its listing has them.
    """
    if storage.is_url(path):
        return storage.identity(path)
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        return ""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe, too, is opened at once
    except OSError:
        return f"{size}-unreadable"
    try:
        if size <= 3 * _SAMPLED:
            seen = os.pread(handle, 3 * _SAMPLED, 0)
        else:
            places = (0, (size - _SAMPLED) // 2, size - _SAMPLED)
            seen = b"".join([os.pread(handle, _SAMPLED, place) for place in places])
    except OSError:  # a folder, a pipe, a broken disk
        return f"{size}-unreadable"
    finally:
        os.close(handle)
    return f"{size}-{xxhash.xxh3_64_hexdigest(seen)}"


def identity_of(content: memoryview) -> str:
    """The same of what lies in memory, or is mapped there: only three places of it are looked at."""
    size = len(content)
    if size <= 3 * _SAMPLED:
        return f"{size}-{xxhash.xxh3_64_hexdigest(content)}"
    places = (0, (size - _SAMPLED) // 2, size - _SAMPLED)
    return f"{size}-{xxhash.xxh3_64_hexdigest(b''.join([content[place : place + _SAMPLED] for place in places]))}"


@lru_cache(maxsize=1)
def _recording(url: str) -> bytes:
    return storage.read(url)


def nonempty(utterances: Iterator[Utterance], complaint: str) -> Iterator[Utterance]:
    """The same utterances.

    Raises:
        CorpusError: There is none.
    """
    first = next(utterances, None)
    if first is None:
        raise CorpusError(complaint)
    yield first
    yield from utterances


def audio_files(folder: Path) -> Iterator[Path]:
    """All files below a folder that go by a name of audio, sorted; hidden folders are left out."""
    return (path for path in files(folder) if path.suffix.lower() in SUFFIXES | HEADERLESS)


def files(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted, without hidden ones. Links to folders elsewhere are followed.

    Raises:
        CorpusError: A folder is not there or cannot be read.
    """
    if storage.is_url(str(folder)):
        yield from storage.below(folder)
        return
    seen = {os.path.realpath(folder)}
    for where, folders, names in os.walk(folder, onerror=_not_listed, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and _is_new(os.path.join(where, f), seen))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(where, name)


def near(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of a folder itself whose names end like this, sorted, without hidden ones."""
    if storage.is_url(str(folder)):
        inside = (p for p in folder.iterdir() if p.name.lower().endswith(endings) and not p.name.startswith("."))
        return sorted(p for p in inside if p.is_file())
    with os.scandir(folder) as entries:
        found = (e for e in entries if e.name.lower().endswith(endings) and not e.name.startswith("."))
        return sorted(Path(e.path) for e in found if e.is_file())


def _is_new(folder: str, seen: set[str]) -> bool:
    """Whether a folder below a walk is no link into what is walked anyway."""
    if not os.path.islink(folder):
        return True
    target = os.path.realpath(folder)
    if any(f"{target}/".startswith(f"{known}/") or f"{known}/".startswith(f"{target}/") for known in seen):
        return False
    seen.add(target)
    return True


def _not_listed(error: OSError) -> None:
    raise CorpusError(f"{error.filename} cannot be read: {error.strerror}") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file with their numbers from 1; a byte order mark is dropped.

    Raises:
        CorpusError: The file is not there, is not UTF-8, or has a line of over 16 MB.
    """
    try:
        with io.TextIOWrapper(storage.opened(path), encoding="utf-8-sig", newline="") as stream:
            for number, line in enumerate(bounded(stream, path), 1):
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}:{_undecodable(path)} is not UTF-8: convert the file with iconv") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error


def bounded(stream: IO[AnyStr], name: Path | str) -> Iterator[AnyStr]:
    """The lines of a file, none of which takes more than 16 MB of memory: without a limit, a file of zeros is one line.

    Raises:
        CorpusError: A line is longer.
    """
    for line in iter(partial(stream.readline, LINE_LIMIT), stream.read(0)):
        if len(line) == LINE_LIMIT:
            raise CorpusError(f"{name} has a line of over {LINE_LIMIT // 2**20} MB: it is no listing")
        yield line


def _undecodable(path: Path) -> int:
    """The first line that is not UTF-8."""
    with storage.opened(path) as content:
        return next(n for n, line in enumerate(content, 1) if not _is_utf8(line))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's content; of one that is longer than it claims, no more is unpacked.

    Raises:
        OSError, RuntimeError, BadZipFile, EOFError, zlib.error: It cannot be read, or is not what it claims.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile("its compression unpacks without a bound: pack it with deflate, or without")
    with archive.open(member) as stream:
        return stream.read(member.file_size + 1)  # `archive.read` would unpack all of it, whatever it claims


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip file, opened once: its directory is read anew only when the file changes.

    Raises:
        OSError, BadZipFile: It is none.
    """
    found = path.stat()
    return _open_zip((str(path), found.st_size, int(found.st_mtime * 1e6), os.getpid()))


@lru_cache(maxsize=8)
def _open_zip(key: tuple[str, int, int, int]) -> zipfile.ZipFile:
    # Not shared between processes: they would move each other's place in it.
    return zipfile.ZipFile(storage.opened(place(key[0])))
