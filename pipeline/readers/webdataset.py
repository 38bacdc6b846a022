"""WebDataset tar files.

Source: github.com/webdataset/webdataset; WeNet shards, ESPnet, NeMo tarred sets and many Hub
datasets. Licence: the corpus's. Members of one sample share a path up to the first dot:

    test/resources/dataset/librispeech-1995-1837-0001.txt   IT WAS THE FIRST GREAT SORROW OF HIS LIFE ...
    test/resources/dataset/librispeech-1995-1837-0001.wav

The transcript is a `.txt` member, or a field of a `.json` one, whose other fields are known by
their usual names.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from pipeline import storage
from pipeline.audio import HEADERLESS, SUFFIXES
from pipeline.readers._fields import LABELS, Chosen, guess, labels_of, number
from pipeline.readers.base import ARCHIVE_LIMIT, CorpusError, Reader, files, printable
from schemas.utterance import AudioSource, Utterance

log = logging.getLogger("earwitness")

_TEXT_LIMIT = 2**20  # bytes of a text or JSON member
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, MemoryError)
"""What a damaged tar file can raise; the last where a header of names claims terabytes."""
_TEXTS = ("transcript", "speaker", "language", "recording", "split", "licence")


class WebDataset(Reader):
    """One tar file, or a folder of them. Nothing is unpacked."""

    fields: Chosen = {}
    """What the fields of a `.json` member are called, e.g. `{transcript: caption}`."""
    text_suffixes: list[str] = [".txt", ".lab", ".transcript"]

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        tars = [path] if path.suffix.lower() == ".tar" else sorted(path.glob("*.tar")) if path.is_dir() else []
        for tar in tars:
            try:
                with storage.opened(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                    if any(_suffix(m) in SUFFIXES for m in archive):
                        return {}
            except _TAR_ERRORS:
                continue
        return None

    def utterances(self) -> Iterator[Utterance]:
        path = storage.place(self.path)
        found = list(files(path)) if self.root == path else [path]
        compressed = [p for p in found if p.name.lower().endswith(_COMPRESSED)]
        tars = [p for p in found if p.suffix.lower() == ".tar" or p == path]
        if not set(tars) - set(compressed):
            raise CorpusError(f"{path}: no *.tar below it; compressed ones must be unpacked first")
        for tar in compressed:
            name = tar.relative_to(self.root).as_posix()
            yield self.utterance(f"{name}!", problem=f"audio_unreadable: {tar} is compressed: unpack it to a *.tar")
        for tar in tars:
            yield from self._tar(tar)

    def _tar(self, path: Path) -> Iterator[Utterance]:
        relative = path.relative_to(self.root).as_posix()
        last = ""
        if not path.is_file():
            yield self.utterance(f"{relative}!", problem=f"audio_unreadable: {path} is no file")
            return
        try:
            # Uncompressed only: members are read from where they lie, without unpacking.
            with storage.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for sample in _samples(archive):
                    last = f" after {printable(sample[-1].name)}"
                    yield from self._sample(relative, archive, sample)
        except storage.StoreError:
            raise
        except _TAR_ERRORS as error:
            problem = f"audio_unreadable: {path} is damaged{last}: {str(error) or 'a header is longer than memory'}"
            yield self.utterance(f"{relative}!damaged", problem=problem)

    def _sample(self, tar: str, archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> Iterator[Utterance]:
        """The utterances of a sample: one for each of its audio files."""
        audio = [m for m in members if _suffix(m) in SUFFIXES | HEADERLESS]
        used: set[str] = set()
        for member in audio:
            key = _key(member) if len(audio) == 1 else member.name  # a.left.wav beside a.right.wav
            texts = _beside(member, [m for m in members if m not in audio], alone=len(audio) == 1)
            used |= {m.name for m in texts.values()}
            said, problem = self._said(tar, archive, texts)
            source: AudioSource | None = None
            if member.isreg():
                known = f"{member.size}-{member.mtime:g}-{member.chksum}"
                name = printable(member.name)
                source = AudioSource(tar, name, offset=member.offset_data, size=member.size, identity=known)
                if member.size > ARCHIVE_LIMIT:
                    problem = f"audio_unreadable: {tar}!{name} is over {ARCHIVE_LIMIT // 2**20} MB: cut it up first"
            else:
                problem = f"audio_unreadable: {tar}!{printable(member.name)} is a link: pack the file itself"
            yield self.utterance(printable(key), source=source, problem=problem, **said)
        rest: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in members:
            if member not in audio and member.name not in used and _suffix(member) in (*self.text_suffixes, ".json"):
                rest.setdefault(printable(member.name.rpartition(".")[0]), {})[_suffix(member)] = member
        for key, texts in rest.items():
            problem = f"audio_missing: {tar}!{key} has no audio member"
            yield self.utterance(key, problem=problem, **self._said(tar, archive, texts)[0])

    def _said(
        self, tar: str, archive: tarfile.TarFile, texts: dict[str, tarfile.TarInfo]
    ) -> tuple[dict[str, Any], str | None]:
        """What the members beside the audio say, and what is wrong with them."""
        said: dict[str, Any] = {}
        name = ""
        try:
            if ".json" in texts:
                name = texts[".json"].name
                said = self._record(orjson.loads(self._read(archive, texts[".json"])))
            for suffix in self.text_suffixes:
                if suffix in texts:
                    name = texts[suffix].name
                    said["transcript"] = self._read(archive, texts[suffix]).decode("utf-8-sig")
        except (ValueError, TypeError) as error:
            return said, f"malformed_row: {tar}!{printable(name)}: {error}"
        return said, None

    def _record(self, record: Any) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise TypeError("a JSON object is expected")
        names = guess(record, self.fields)
        missing = next((n for n in self.fields.values() if n not in record), None)
        if missing is not None:
            raise ValueError(f"there is no field {missing!r}; there are: {', '.join(record)}")
        get = {what: record[name] for what, name in names.items()}
        said: dict[str, Any] = {k: str(get[k]) for k in _TEXTS if get.get(k) is not None}
        said["duration"] = number(get.get("duration"))
        said["sampling_rate"] = number(get.get("sampling_rate"), int)
        return said | {"labels": labels_of(record, LABELS)}

    def _read(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        if not member.isreg():
            raise ValueError("it is a link or a device: pack the file itself")
        if member.size > _TEXT_LIMIT:
            raise ValueError(f"{member.name} is over 1 MB")
        stream = archive.extractfile(member)
        assert stream is not None  # it is a regular file
        return stream.read()


def _samples(archive: tarfile.TarFile) -> Iterator[list[tarfile.TarInfo]]:
    """The members of each sample, without hidden ones.

    Raises:
        TarError, OSError, EOFError: The rest of the file is damaged.
    """
    group: list[tarfile.TarInfo] = []
    try:
        for member in archive:
            if member.isdir() or Path(member.name).name.startswith("."):
                continue
            if group and _key(member) != _key(group[0]):
                yield group
                group = []
            group.append(member)
    except _TAR_ERRORS:
        if group:
            yield group
        raise
    if group:
        yield group
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a bad header for the end
        raise tarfile.ReadError("a header is expected")


def _beside(audio: tarfile.TarInfo, others: list[tarfile.TarInfo], *, alone: bool) -> dict[str, tarfile.TarInfo]:
    """The members that speak of an audio file, by suffix.

    Before all others those that share its name up to the last dot; then the ones of the sample, or
    any if the audio is alone in it.
    """
    stem = audio.name.rpartition(".")[0]
    stems = [(m.name.rpartition(".")[0], m) for m in others if m.isreg()]
    common = [m for s, m in stems if alone or s == _key(m)]
    return {_suffix(m): m for m in (*common, *(m for s, m in stems if s == stem))}


def _suffix(member: tarfile.TarInfo) -> str:
    return Path(member.name).suffix.lower()


def _key(member: tarfile.TarInfo) -> str:
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.split('.', 1)[0]}" if folder else name.split(".", 1)[0]
