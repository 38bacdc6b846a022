"""Lhotse manifests: cuts, or recordings and supervisions.

Source: Zelasko et al., "Lhotse: a speech data representation library for the modern deep learning
ecosystem", 2021; its recipes (`lhotse prepare ...`) bring about a hundred corpora into this form.
Licence: the corpus's. A cut, shortened:

    {"id": "a7889ee6", "start": 0.0, "duration": 6.0, "channel": 0, "type": "MonoCut", "supervisions":
     [{"id": "ES2011a-0-3", "start": 1.46, "duration": 1.36, "text": "I'M ABIGAIL CLAFLIN", ...}],
     "recording": {"id": "ES2011a", "sources": [{"type": "file", "channels": [0], "source": "x.wav"}], ...}}

Each supervision is an utterance. Sources of the type `command` are not executed.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.plugins import require
from pipeline.readers._fields import GENDERS
from pipeline.readers._listing import Listing
from pipeline.readers.base import CorpusError, Reader, near, nonempty
from schemas.utterance import AudioSource, Utterance

_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_ERRORS = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, AssertionError)
"""What lhotse raises at a manifest that it cannot read."""
_TOLERANCE = 0.05  # seconds that a supervision may reach beyond its recording
_WRITE_OUT = "write it out with lhotse's `CutSet.save_audios`"


class _Piece(NamedTuple):
    """A stretch of a recording, and what was said in it."""

    key: str
    recording: Any
    """None where there is none to read."""
    begin: float
    duration: float
    channel: Any
    supervision: Any = None
    problem: str | None = None


class Lhotse(Reader):
    """A manifest of cuts, or a folder with cuts or with recordings and supervisions."""

    cuts: str | None = None
    """The manifest of cuts, in the folder that `path` names."""
    recordings: str | None = None
    supervisions: str | None = None

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        if path.is_file():
            return {} if path.name.endswith(_ENDINGS) and "cuts" in path.name else None
        if not path.is_dir():
            return None
        cuts = _named(path, "cuts")
        if cuts:
            return {} if len(cuts) == 1 else {"cuts": cuts[0].name}
        pair = _named(path, "recording", "audio"), _named(path, "supervision")
        return {} if all(pair) else None

    def utterances(self) -> Iterator[Utterance]:
        yield from nonempty(self._utterances(), f"{self.path}: there is neither a cut nor a recording in it")

    def _utterances(self) -> Iterator[Utterance]:
        listing: Listing | None = None
        for piece in self._pieces():
            if listing is None and piece.recording is not None:
                paths = (s.source for s in piece.recording.sources if s.type == "file")
                listing = Listing(self, next(paths, None))
            yield self._utterance(piece, listing)

    def _utterance(self, piece: _Piece, listing: Listing | None) -> Utterance:
        said, recording, problem = piece.supervision, piece.recording, piece.problem
        source: AudioSource | None = None
        if recording is not None and listing is not None:
            start, duration = _place(piece.begin, piece.duration, recording.duration)
            source, problem = self._source(recording, piece.channel, start, duration, listing)
            problem = problem or _overhang(piece)
        if said is None:
            name = None if recording is None else recording.id
            return self.utterance(piece.key, source=source, recording=name, problem=problem)
        gender = said.gender or ""
        return self.utterance(
            piece.key,
            source=source,
            transcript=said.text or "",
            speaker=said.speaker,
            language=said.language,
            recording=said.recording_id if recording is None else recording.id,
            labels={"gender": GENDERS.get(gender.lower(), gender)} | _labels(said.custom),
            duration=said.duration,
            sampling_rate=None if recording is None else recording.sampling_rate,
            problem=problem,
        )

    def _source(
        self, recording: Any, channel: Any, start: float, duration: float | None, listing: Listing
    ) -> tuple[AudioSource | None, str | None]:
        wanted = [channel] if isinstance(channel, int) else channel
        if recording.transforms:
            return None, f"audio_unreadable: {recording.id} is to be changed while it is read: {_WRITE_OUT}"
        for source in recording.sources:
            if wanted and wanted[0] not in source.channels:
                continue
            if source.type == "command":
                return None, (
                    f"audio_command: {recording.id} is made by the command `{str(source.source).strip()}`, and "
                    f"commands are not executed: run it and list its output"
                )
            if source.type != "file" or not source.source:
                return None, f"audio_unreadable: {recording.id} lies in a {source.type!r}; files are read: {_WRITE_OUT}"
            mixed = not wanted or set(wanted) >= set(source.channels)
            number = None if mixed else source.channels.index(wanted[0])
            return listing.source(source.source, start=start, duration=duration, channel=number)
        return None, f"audio_missing: {recording.id} has no source for channel {wanted}"

    def _pieces(self) -> Iterator[_Piece]:
        path = storage.place(self.path)
        if self.root != path:
            cuts = [path]
        else:
            cuts = [path / self.cuts] if self.cuts else _named(path, "cuts")
        if len(cuts) > 1 and not self.recordings:
            names = ", ".join(p.name for p in cuts)
            raise CorpusError(f"{path} has {len(cuts)} manifests of cuts ({names}): say which with `cuts`")
        if cuts and not self.recordings:
            for cut in _manifest("CutSet", cuts[0]):
                yield from _of_cut(cut)
            return
        recordings = [path / self.recordings] if self.recordings else _named(path, "recording", "audio")
        supervisions = [path / self.supervisions] if self.supervisions else _named(path, "supervision")
        if len(recordings) != 1 or len(supervisions) != 1:
            raise CorpusError(f"{path}: name one manifest with `cuts`, or two with `recordings` and `supervisions`")
        yield from _of_pair(recordings[0], supervisions[0])


def _manifest(kind: str, path: Path) -> Iterator[Any]:
    """What a manifest lists.

    Raises:
        CorpusError: It is none of its kind.
    """
    lhotse = require("lhotse", extra="lhotse", what="the reader lhotse")
    expected = getattr(lhotse, kind)
    try:
        with storage.copied(path) as file:
            loaded = expected.from_file(file)
            if loaded is None:  # an empty file
                return
            if not isinstance(loaded, expected):
                raise TypeError(f"it is a {type(loaded).__name__}")
            yield from loaded
    except storage.StoreError:
        raise
    except _ERRORS as error:
        raise CorpusError(f"{path} is no manifest that lhotse reads as a {kind}: {error}") from error


def _of_cut(cut: Any) -> Iterator[_Piece]:
    recording, problem = getattr(cut, "recording", None), None
    if recording is None:
        problem = f"audio_unreadable: the cut {cut.id} is mixed or padded, or has no recording: {_WRITE_OUT}"
    channel, start = getattr(cut, "channel", None), getattr(cut, "start", 0.0)
    said = getattr(cut, "supervisions", [])
    if not said:
        yield _Piece(cut.id, recording, start, cut.duration, channel, None, problem)
    for s in said:
        yield _Piece(s.id, recording, start + s.start, s.duration, s.channel, s, problem)


def _of_pair(recordings: Path, supervisions: Path) -> Iterator[_Piece]:
    said: dict[str, list[Any]] = defaultdict(list)
    for supervision in _manifest("SupervisionSet", supervisions):
        said[supervision.recording_id].append(supervision)
    for recording in _manifest("RecordingSet", recordings):
        here = said.pop(recording.id, [])
        if not here:
            yield _Piece(recording.id, recording, 0.0, recording.duration, recording.channel_ids)
        for s in here:
            yield _Piece(s.id, recording, s.start, s.duration, s.channel, s)
    for name, rest in said.items():
        for s in rest:
            problem = f"audio_missing: the supervision {s.id} is of the recording {name}, {recordings} has none"
            yield _Piece(s.id, None, s.start, s.duration, s.channel, s, problem)


def _overhang(piece: _Piece) -> str | None:
    end, total = piece.begin + piece.duration, piece.recording.duration
    if piece.begin >= -_TOLERANCE and end <= total + _TOLERANCE:
        return None
    return (
        f"wrong_duration_claimed: {piece.key} goes from {piece.begin:g} to {end:g} s, "
        f"the recording {piece.recording.id} lasts {total:g} s"
    )


def _place(start: float, duration: float, total: float) -> tuple[float, float | None]:
    """A stretch as start and duration; (0, None) for a whole recording, so that it is read as it is."""
    start = max(0.0, start)
    whole = start < 1e-3 and abs(duration - total) < 1e-2
    return (0.0, None) if whole else (round(start, 6), round(min(duration, max(0.0, total - start)), 6))


def _labels(custom: dict[str, Any] | None) -> dict[str, str]:
    return {k: v for k, v in (custom or {}).items() if isinstance(v, str) and len(v) < 100 and k != "normalized_text"}


def _named(folder: Path, *words: str) -> list[Path]:
    return [p for p in near(folder, _ENDINGS) if any(w in p.name for w in words)]
