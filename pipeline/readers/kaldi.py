"""Kaldi data directory.

Source: kaldi-asr.org/doc/data_prep.html. Licence: the corpus's. Lines of `wav.scp`, `text`,
`utt2spk` and, where recordings hold several utterances, `segments` (id, recording, start, end):

    010270117  WAVE/SPEAKER1027/010270117.WAV
    010270117  YELL THE VERY SAME THING
    010270117  1027
    AMI_ES2011a_0001 ES2011a 93.94 95.68

`spk2gender`, `utt2lang` and every other `spk2*` and `utt2*` become labels. Commands in `wav.scp`
(`sox ... |`) are not executed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.readers._fields import GENDERS, number
from pipeline.readers._listing import Listing
from pipeline.readers.base import CorpusError, Reader, lines, nonempty
from schemas.utterance import AudioSource, Utterance

log = logging.getLogger("earwitness")

_NAMED = 20  # of the recordings that are not read
_NO_LABELS = {"utt2spk", "utt2lang", "utt2dur", "utt2num_frames", "utt2uniq", "spk2utt", "utt2category"}


def _pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """The `key value` lines of a file, parted by blanks or a tab, with their numbers; none if there is no file."""
    if path.is_file():
        for number_, line in lines(path):
            key, *value = line.strip().split(maxsplit=1)[:2] or [""]
            if key:
                yield number_, key, "".join(value)


class _Table(dict[str, str]):
    """A file of `key value` lines."""

    def __init__(self, path: Path) -> None:
        self.contradictions: dict[str, str] = {}
        """What is wrong with keys that come again with another value."""
        for line, key, value in _pairs(path):
            if self.setdefault(key, value) != value:
                self.contradictions[key] = f"malformed_row: {path}:{line} gives {key} again, with another value"


class _Row(NamedTuple):
    """An utterance before its text and labels are looked up."""

    key: str
    source: AudioSource | None
    recording: str | None = None
    problem: str | None = None


class Kaldi(Reader):
    """A folder with `wav.scp` and `text`."""

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        return {} if (path / "wav.scp").is_file() else None

    def utterances(self) -> Iterator[Utterance]:
        wavs = self.folder / "wav.scp"
        if not wavs.is_file():
            raise CorpusError(f"{self.folder}: wav.scp is not in it")
        yield from nonempty(self._utterances(wavs), f"{wavs} is empty; `key path` lines are expected")

    def _utterances(self, wavs: Path) -> Iterator[Utterance]:
        texts, speakers, languages, durations = (
            _Table(self.folder / name) for name in ("text", "utt2spk", "utt2lang", "utt2dur")
        )
        by_utterance, by_speaker = self._labels("utt2"), self._labels("spk2")
        for row in self._rows(wavs, texts):
            speaker = speakers.get(row.key, "")
            labels = {name: table.get(row.key, "") for name, table in by_utterance.items()}
            labels |= {name: table.get(speaker, "") for name, table in by_speaker.items()}
            if "gender" in labels:
                labels["gender"] = GENDERS.get(labels["gender"].lower(), labels["gender"])
            problem = row.problem or texts.contradictions.get(row.key) or speakers.contradictions.get(row.key)
            duration = None
            try:
                duration = None if row.recording else number(durations.get(row.key))
            except ValueError as error:
                problem = problem or f"malformed_row: {self.folder / 'utt2dur'}: {row.key}: {error}"
            yield self.utterance(
                row.key,
                source=row.source,
                transcript=texts.get(row.key, ""),
                speaker=speaker,
                recording=row.recording,
                language=languages.get(row.key),
                labels=labels,
                duration=duration,
                problem=problem,
            )

    def _rows(self, wavs: Path, texts: _Table) -> Iterator[_Row]:
        first = next((path for _, _, path in _pairs(wavs) if path and not path.endswith("|")), None)
        listing = Listing(self, first)
        segments = self.folder / "segments"
        listed = segments if segments.is_file() else wavs
        seen = set()
        for row in self._segments(segments, wavs, listing) if listed == segments else self._files(wavs, listing):
            seen.add(row.key)
            yield row
        for key in texts:
            if key not in seen:
                problem = f"audio_missing: {self.folder / 'text'} has {key}, {listed.name} has not"
                yield _Row(key, None, None, problem)

    def _files(self, wavs: Path, listing: Listing) -> Iterator[_Row]:
        for line, key, path in _pairs(wavs):
            source, problem = self._locate(f"{wavs}:{line}", key, path, listing)
            yield _Row(key, source, None, problem)

    def _segments(self, path: Path, wavs: Path, listing: Listing) -> Iterator[_Row]:
        recordings = _Table(wavs)
        named = set()
        for line, key, rest in _pairs(path):
            where = f"{path}:{line}"
            try:
                recording, start, end, channel = _segment(rest)
            except (IndexError, ValueError):
                yield _Row(key, None, None, f"malformed_row: {where} is not `utterance recording start end`")
                continue
            named.add(recording)
            if recording not in recordings:
                problem = f"audio_missing: {where} names the recording {recording}, wav.scp does not"
                yield _Row(key, None, recording, problem)
            elif start < 0 or 0 <= end <= start:
                problem = f"malformed_row: {where} goes from {start:g} s to {end:g} s"
                yield _Row(key, None, recording, problem)
            else:
                length = None if end < 0 else round(end - start, 6)
                place = {"start": start, "duration": length, "channel": channel}
                source, complaint = self._locate(str(wavs), recording, recordings[recording], listing, **place)
                yield _Row(key, source, recording, recordings.contradictions.get(recording) or complaint)
        unused = sorted(recordings.keys() - named)
        if unused:
            some = ", ".join(unused[:_NAMED])
            log.warning("%s: %d recordings have no segment and are not read: %s", path, len(unused), some)

    def _locate(
        self, where: str, key: str, path: str, listing: Listing, **place: Any
    ) -> tuple[AudioSource | None, str | None]:
        if not path:
            return None, f"malformed_row: {where} names no file for {key}"
        if path.endswith("|"):
            return None, (
                f"audio_command: wav.scp gives {key} as the command `{path.rstrip('| ')}`, and commands "
                f"are not executed: run it and list its output"
            )
        return listing.source(path, **place)

    def _labels(self, prefix: str) -> dict[str, _Table]:
        found = sorted(p for p in self.folder.glob(f"{prefix}*") if p.is_file() and p.name not in _NO_LABELS)
        return {path.name[len(prefix) :]: _Table(path) for path in found}


def _segment(fields: str) -> tuple[str, float, float, int | None]:
    """Recording, start, end and channel of a segment.

    Raises:
        IndexError, ValueError: One is missing or no number.
    """
    recording, *rest = fields.split()
    start, end = float(rest[0]), float(rest[1])
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError("seconds are expected")
    return recording, start, end, int(rest[2]) if len(rest) > 2 and rest[2].isdigit() else None
