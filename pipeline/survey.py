"""Survey: which corpora lie below a path, how they can be read, and what is wrong with them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import audio, plugins
from pipeline.readers.base import CorpusError, Reader, audio_files, files
from pipeline.text import is_placeholder, without_tags
from schemas.utterance import Utterance

log = logging.getLogger("earwitness")

_LAST = "audio_text"  # takes any audio, so it is asked when all others have declined
_DEEPEST = 8  # folders below the path
_ARCHIVES = (".zip", ".tar")


@dataclass(slots=True)
class Found:
    """A corpus, as a recipe would name it."""

    reader: str
    path: Path
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Survey:
    """What is in a corpus."""

    found: Found
    utterances: int = 0
    with_transcript: int = 0
    seconds: float = 0.0
    speakers: set[str] = field(default_factory=set)
    languages: Counter[str] = field(default_factory=Counter)
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=dict)
    """By reason: what a person needs to know of each."""
    notes: list[str] = field(default_factory=list)
    """What the reader warned of."""

    def complain(self, reason: str, detail: str) -> None:
        """Adds a problem."""
        self.problems.setdefault(reason, []).append(detail)

    @property
    def recipe(self) -> str:
        """The entry for a recipe's `corpora`."""
        lines = [f"- reader: {self.found.reader}", f"  path: {self.found.path}"]
        lines += [f"  {key}: {_yaml(value)}" for key, value in self.found.options.items()]
        if not self.languages:
            lines.append("  language: ??        # the corpus does not say")
        return "\n".join(lines)


def _yaml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # JSON is YAML


def find(path: Path, depth: int = 0) -> Iterator[Found]:
    """The corpora below a path: the nearest folders that a reader recognises. Hidden ones are left out."""
    own = list(_recognised(path))
    if own:
        yield from own
        if path.is_dir():  # what lies packed beside a listing is a corpus of its own
            yield from (found for p in files(path) if p.suffix.lower() in _ARCHIVES for found in _recognised(p))
        return
    if not path.is_dir():
        return
    inside = sorted(p for p in path.iterdir() if not p.name.startswith(".") and p.name != "__pycache__")
    folders = [p for p in inside if p.is_dir()] if depth < _DEEPEST else []
    packed = [f for p in inside if p.suffix.lower() in _ARCHIVES and p.is_file() for f in _recognised(p)]
    below = [f for folder in folders for f in find(folder, depth + 1)]
    layouts = [*packed, *(f for f in below if f.reader != _LAST)]
    if not layouts:  # nothing but audio: one corpus, however it is divided into folders
        options = plugins.load("readers", _LAST).recognise(path)
        if options is not None:
            yield Found(_LAST, path, options)
        return
    yield from packed
    yield from below


def _recognised(path: Path) -> Iterator[Found]:
    for name in plugins.names("readers"):
        if name == _LAST:
            continue
        try:
            options = plugins.load("readers", name).recognise(path)
        except (CorpusError, OSError, UnicodeDecodeError):
            continue
        if options is not None:
            yield Found(name, path, options)


def survey(found: Found, *, headers: bool = True) -> Survey:
    """Reads a corpus and, unless told otherwise, the header of each file.

    Raises:
        CorpusError: It cannot be read at all.
        MissingExtra: Its reader needs a package that is not installed.
    """
    result = Survey(found)
    reader: Reader = plugins.load("readers", found.reader)(name="corpus", path=str(found.path), **found.options)
    with _noted(result):
        named = set()
        for utterance in reader.utterances():
            result.utterances += 1
            _count(result, utterance)
            if utterance.source is not None and utterance.source.member is None:
                named.add(utterance.source.path)
            if utterance.problem is not None:
                reason, _, detail = utterance.problem.partition(": ")
                result.complain(reason, detail)
            elif headers and utterance.source is not None:
                _look(result, reader, utterance)
        if found.reader != _LAST and found.path.is_dir():
            _unlisted(result, found.path, named)
    return result


def _count(result: Survey, utterance: Utterance) -> None:
    text = without_tags(utterance.transcript)
    if not text and utterance.is_speech:
        result.complain("transcript_empty", str(utterance.source or utterance.id))
    elif text and is_placeholder(utterance.transcript):
        result.complain("transcript_placeholder", f"{utterance.id}: {utterance.transcript}")
    else:
        result.with_transcript += bool(text)
    if utterance.speaker:
        result.speakers.add(utterance.speaker)
    if utterance.language:
        result.languages[utterance.language] += 1
    result.labels.update(utterance.labels.keys())


def _look(result: Survey, reader: Reader, utterance: Utterance) -> None:
    source = utterance.source
    assert source is not None
    try:
        head = audio.header(reader.audio(source), reader.raw_format(source))
    except (audio.AudioError, OSError, plugins.MissingExtra) as error:
        result.complain("audio_unreadable", f"{source}: {error}")
        return
    if source.start >= head.seconds > 0:
        result.complain("audio_unreadable", f"{source}: the file lasts {head.seconds:g} s")
        return
    seconds = head.seconds - source.start if source.duration is None else source.duration
    result.seconds += max(0.0, seconds)
    result.rates[head.sampling_rate] += 1
    result.channels[head.channels] += 1
    result.formats[head.format] += 1
    if utterance.sampling_rate not in (None, head.sampling_rate):
        text = f"{source}: {utterance.sampling_rate} Hz are claimed, the file has {head.sampling_rate} Hz"
        result.complain("wrong_rate_claimed", text)


def _unlisted(result: Survey, root: Path, named: Iterable[str]) -> None:
    known = {_real(root / name) for name in named}
    for path in audio_files(root):
        if _real(path) not in known:
            result.complain("not_listed", str(path.relative_to(root)))


def _real(path: Path) -> Path:
    """Where a path leads; itself if it leads nowhere: links in a circle, or no path that a system could have."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


class _noted(logging.Handler):  # noqa: N801 - reads as a verb
    """Takes the reader's warnings into the survey while the context lasts."""

    def __init__(self, result: Survey) -> None:
        super().__init__(logging.WARNING)
        self._result = result

    def emit(self, record: logging.LogRecord) -> None:
        self._result.notes.append(record.getMessage())

    def __enter__(self) -> None:
        self._propagate, log.propagate = log.propagate, False
        log.addHandler(self)

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self)
        log.propagate = self._propagate
