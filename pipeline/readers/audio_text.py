"""Audio files with a text file each, or with the transcript in their names.

Source: Montreal Forced Aligner (`.lab`, montreal-forced-aligner.readthedocs.io), many FLEURS and TTS
exports (`.txt`), Speech Commands and digit corpora (names). Licence: the corpus's. The whole of
`fleurs-en-004.txt`, beside `fleurs-en-004.ogg`:

    many people don't think about them as dinosaurs because they have feathers and can fly

A text may also lie in another folder under the same name (`wav/a.wav`, `lab/a.lab`). With a
`pattern`, names speak: `(?P<transcript>[a-z]+)/(?P<speaker>[0-9a-f]+)_nohash_` for Speech Commands.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from pydantic import field_validator

from pipeline import storage
from pipeline.audio import HEADERLESS, SUFFIXES, sniff
from pipeline.readers._fields import ALIASES, LABELS, labels_of
from pipeline.readers.base import CorpusError, Reader, audio_files, files, lines, printable
from schemas.utterance import Utterance

log = logging.getLogger("earwitness")

_NOT_AUDIO = frozenset(
    ".txt .lab .json .jsonl .csv .tsv .md .xml .textgrid .ctm .stm .gz .zip .tar .tgz .pdf .html .repo .py".split()
    + ".yaml .yml .list .scp .log .npy .pt .png .jpg".split()
)
_PROSE = re.compile(r"(?i)(readme|licen[cs]e|changelog|copying|notice|authors|requirements)")
_RATE = re.compile(r"(?<![a-z0-9])(\d{1,2}(?:\.\d+)?)\s*k(?:hz)?(?![a-z])", re.IGNORECASE)
_NAMES_TRIED = 1000  # among which Speech Commands are looked for; noise comes first
_SPEECH_COMMANDS = r"(?P<transcript>[a-z]+)/(?P<speaker>[0-9a-f]+)_nohash_\d+$"
_GROUPS = frozenset(ALIASES) - {"audio", "key", "start", "duration", "sampling_rate", "channel"} | set(LABELS)


class AudioText(Reader):
    """Any folder of audio."""

    text_suffixes: list[str] = [".txt", ".lab"]
    """Of the text files: what comes after the name of the audio, so `.normalized.txt` too."""
    pattern: str | None = None
    """A regular expression searched in the path without suffix; its named groups say transcript,
    speaker, language, recording, split or a label."""
    words: dict[str, str] = {}
    """Replaces what stands in the name by what is said: `{"1": "yes", "0": "no"}`."""
    claimed_rates: bool = True
    """Whether `8kHz` in a file's name is a claim about its sampling rate."""

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise ValueError(f"a regular expression is expected: {error}") from error
        if not groups or groups - _GROUPS:
            raise ValueError(f"its named groups must be among {', '.join(sorted(_GROUPS))}")
        return pattern

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        if not path.is_dir():
            return None
        names = [p.relative_to(path).with_suffix("").as_posix() for p in islice(audio_files(path), _NAMES_TRIED)]
        if not names:
            return None
        return {"pattern": _SPEECH_COMMANDS} if any(re.search(_SPEECH_COMMANDS, n) for n in names) else {}

    def utterances(self) -> Iterator[Utterance]:
        if not self._audio:
            raise CorpusError(f"{self.folder}: no audio file below it")
        used = set()
        matched = 0
        for path in self._audio:
            texts = [] if self._says("transcript") else self._texts_of(path)
            if len(texts) == 1:
                used.update(texts)
            named = self._named(self._key(path))
            matched += named is not None
            yield self._utterance(path, texts, named or {})
        if not self._says("transcript"):
            yield from self._without_audio(used)
        self._report(matched)

    def _report(self, matched: int) -> None:
        if self.pattern is None or matched == len(self._audio):
            return
        if not matched:
            name = self._key(self._audio[0])
            raise CorpusError(f"{self.folder}: no name matches `pattern: {self.pattern}`; the first is {name}")
        unmatched = len(self._audio) - matched
        log.warning("%s: %d of %d names do not match the pattern", self.folder, unmatched, len(self._audio))

    def _utterance(self, path: Path, texts: list[Path], said: dict[str, Any]) -> Utterance:
        relative = path.relative_to(self.folder).as_posix()
        problem = None
        if self._says("transcript"):
            said["transcript"] = self._spoken(said.get("transcript", ""))
            if not said["transcript"] and self.speech:
                problem = f"malformed_name: {printable(relative)} does not match {self.pattern}"
        elif len(texts) == 1:
            said["transcript"], problem = self._read(texts[0])
        elif texts:
            named = " and ".join(printable(text.relative_to(self.folder).as_posix()) for text in texts)
            problem = f"ambiguous_transcript: {named} are equally near"
        claim = _RATE.search(path.stem) if self.claimed_rates else None
        return self.utterance(
            self._key(path),
            source=self.source(relative),
            labels=labels_of(said, LABELS),
            sampling_rate=round(float(claim[1]) * 1000) if claim else None,
            problem=problem,
            **{name: value for name, value in said.items() if name not in LABELS},
        )

    def _key(self, path: Path) -> str:
        alike = self._named_alike[path.with_suffix("")] > 1  # jfk.wav beside jfk.flac
        return printable((path if alike else path.with_suffix("")).relative_to(self.folder).as_posix())

    def _without_audio(self, used: set[Path]) -> Iterator[Utterance]:
        for path in sorted(p for found in self._texts.values() for p in found):
            if path not in used and used and not _PROSE.match(path.name):
                key = printable(path.relative_to(self.folder).as_posix())
                problem = f"audio_missing: no audio file is named like {key}"
                yield self.utterance(key, transcript=self._read(path)[0], problem=problem)

    def _read(self, text: Path) -> tuple[str, str | None]:
        """A transcript, and what is wrong with its file."""
        try:
            return " ".join(line for _, line in lines(text)), None
        except CorpusError as error:
            return "", f"malformed_text: {error}"

    def _says(self, group: str) -> bool:
        return self.pattern is not None and group in re.compile(self.pattern).groupindex

    def _named(self, key: str) -> dict[str, Any] | None:
        """What the pattern finds in a name; None where it does not match."""
        found = re.search(self.pattern, key) if self.pattern is not None else None
        return {k: v for k, v in found.groupdict().items() if v} if found else None

    def _spoken(self, name: str) -> str:
        parts = re.split(r"[_\-\s]+", name) if self.words else [name]
        return " ".join(self.words.get(p, p) for p in parts)

    @cached_property
    def _audio(self) -> list[Path]:
        found = []
        for path in files(self.folder):
            suffix = path.suffix.lower()
            if suffix in SUFFIXES or suffix in HEADERLESS:
                found.append(path)
            elif suffix not in _NOT_AUDIO and self._stem(path) is None and _sounds(path):
                log.warning("%s is audio by its content, not by its name; it is read", path)
                found.append(path)
        return found

    @cached_property
    def _named_alike(self) -> Counter[Path]:
        return Counter(path.with_suffix("") for path in self._audio)

    @cached_property
    def _texts(self) -> dict[str, list[Path]]:
        """The text files by the names of the audio that they belong to."""
        found: dict[str, list[Path]] = defaultdict(list)
        for path in files(self.folder):
            stem = self._stem(path)
            if stem is not None:
                found[stem].append(path)
        return found

    @cached_property
    def _places(self) -> dict[str, set[Path]]:
        """The folders in which there is audio of a name."""
        found: dict[str, set[Path]] = defaultdict(set)
        for path in self._audio:
            found[_composed(path.stem)].add(path.parent)
        return found

    def _stem(self, path: Path) -> str | None:
        """The name of the audio that a text file belongs to; None if it is none."""
        name = path.name.lower()
        suffix = max((s for s in self.text_suffixes if name.endswith(s.lower())), key=len, default=None)
        return None if suffix is None else _composed(path.name[: -len(suffix)])

    def _texts_of(self, audio: Path) -> list[Path]:
        """The text beside an audio file, or else the nearest in other folders that are nearer to no other audio."""
        texts = self._texts.get(_composed(audio.stem), [])
        beside = [text for text in texts if text.parent == audio.parent]
        if len(beside) > 1:  # so it will be for every file
            raise CorpusError(f"{audio} has several texts: {', '.join(map(str, beside))}. Set `text_suffixes`")
        return beside or self._nearest(audio, texts)

    def _nearest(self, audio: Path, texts: list[Path]) -> list[Path]:
        places = self._places[_composed(audio.stem)]
        near = {text: _shared(text.parent, audio.parent) for text in texts}
        best = max(near.values(), default=0)
        return [t for t in texts if near[t] == best == max(_shared(t.parent, place) for place in places)]


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _shared(a: Path, b: Path) -> int:
    """How many folders two have in common from the top; one more for the same."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(a.parts, b.parts, strict=False))
    return sum(1 for _ in same) + (a == b)


def _sounds(path: Path) -> bool:
    try:
        if storage.is_url(str(path)):
            return sniff(storage.read(str(path), 0, 16))
        with open(path, "rb", opener=storage.without_waiting) as stream:
            return sniff(stream.read(16))
    except OSError:
        return False
