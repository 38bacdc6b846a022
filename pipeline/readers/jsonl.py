"""JSON lines: NeMo manifests, WeNet's `data.list`, and any JSON file with a list of records.

Source: docs.nvidia.com/nemo-framework (ASR datasets); WeNet `data.list`. Licence: the corpus's, or
a `license` field. A line of a NeMo manifest and one of WeNet:

    {"audio_filepath": "clips/1.wav", "text": "he hoped there would be stew", "duration": 2.4, "offset": 0.0}
    {"key": "BAC009S0724W0121", "wav": "aishell/BAC009S0724W0121.wav", "txt": "..."}
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline import storage
from pipeline.readers._fields import LABELS, Chosen, Names, guess, labels_of, number
from pipeline.readers._listing import Listing
from pipeline.readers.base import CorpusError, Reader, bounded, near, nonempty
from schemas.utterance import Utterance

_NAMES = (".jsonl", ".jsonl.gz", ".ndjson", ".list")
_JSON_LIMIT = 256 * 2**20  # bytes of a file that is one JSON value
_SHAPES_KNOWN = 256  # sets of keys whose meaning a listing remembers


class _Shape(NamedTuple):
    """What the keys of a record mean: most records of a listing have the same ones."""

    names: Names
    has_labels: bool


class Jsonl(Reader):
    """One record a line; or one JSON file whose list of records `records` names."""

    fields: Chosen = {}
    """What is called what, e.g. `{transcript: txt}`; the usual names are known."""
    label_fields: list[str] = LABELS
    """Fields that become labels where a record has them."""
    records: str | None = None
    """For a JSON file: where its list lies, e.g. `tests.language_tests`; '' if it is the list."""

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        listings = [path] if path.is_file() else near(path, _NAMES)
        for listing in listings:
            try:
                record = next((r for _, r in _records(listing, None) if isinstance(r, dict)), None)
            except CorpusError:
                continue
            if record and {"audio", "transcript"} <= guess(record, {}).keys() and "type" not in record:
                return {}
        return None

    def utterances(self) -> Iterator[Utterance]:
        path = storage.place(self.path)
        listings = near(path, _NAMES) if self.root == path else [path]
        if not listings:
            raise CorpusError(f"{path}: no file named *{', *'.join(_NAMES)} in it")
        unused = set(self.fields.values())
        if "label_fields" in self.model_fields_set:
            unused.update(self.label_fields)
        found = chain.from_iterable(self._listing(listing, unused) for listing in listings)
        yield from nonempty(found, f"{path}: there is no record in it; one JSON object a line is expected")
        if unused:
            raise CorpusError(f"{path}: the recipe names the field {min(unused)!r}, and no record has it")

    def _listing(self, path: Path, unused: set[str]) -> Iterator[Utterance]:
        place: Listing | None = None
        file, name = str(path), path.name
        shapes: dict[tuple[str, ...], _Shape] = {}
        for line, record in _records(path, self.records):
            if not isinstance(record, dict):
                problem = f"malformed_row: {file}:{line} is no JSON object"
                yield self.utterance(f"{name}:{line}", problem=problem)
                continue
            keys = tuple(record)
            shape = shapes.get(keys)
            if shape is None:
                if len(shapes) >= _SHAPES_KNOWN:
                    shapes.clear()
                shape = shapes[keys] = self._shape(record)
                unused.difference_update(keys)
            if place is None:
                place = self._place(record, shape.names.audio, f"{file}:{line}")
            yield self._utterance(record, shape, place, file, line)

    def _shape(self, record: dict[str, Any]) -> _Shape:
        return _Shape(Names(**guess(record, self.fields)), not record.keys().isdisjoint(self.label_fields))

    def _place(self, record: dict[str, Any], audio: str | None, where: str) -> Listing:
        if audio not in record:
            wanted = f"a field {audio!r}" if audio else "a field that names the audio"
            raise CorpusError(f"{where}: {wanted} is expected, the record has: {', '.join(record)}. Set `fields`")
        first = record[audio]
        return Listing(self, first if isinstance(first, str) else None)

    def _utterance(
        self, record: dict[str | None, Any], shape: _Shape, place: Listing, file: str, line: int
    ) -> Utterance:
        names = shape.names
        get = record.get
        path, text, start, cut = get(names.audio), get(names.transcript), get(names.start), None
        source, problem, rate = None, None, None
        try:
            duration = number(get(names.duration))
            if start is not None:
                # NeMo gives every row a duration; it says what to cut only beside an offset.
                start, cut = number(start), duration
            if names.sampling_rate is not None:
                rate = number(get(names.sampling_rate), int)
            channel = None if names.channel is None else number(get(names.channel), int)
            if text.__class__ is not str:
                text = _written(text)
            if not isinstance(path, str) or not path:
                raise ValueError("it names no audio file")
            source, problem = place.source(path, start=start or 0.0, duration=cut, channel=channel)
        except (ValueError, TypeError) as error:
            text = text if isinstance(text, str) else ""
            duration, cut = None, None
            problem = f"malformed_row: {file}:{line}: {error}"
        key, recording = get(names.key), get(names.recording)
        if cut is not None:
            key = key or f"{path}@{start or 0.0:g}"
            recording = recording or path
        return self.utterance(
            str(key if key or key == 0 else path or f"{Path(file).name}:{line}"),
            source=source,
            transcript=text,
            speaker=_text(get(names.speaker)),
            language=_text(get(names.language)),
            recording=_text(recording),
            labels=labels_of(record, self.label_fields) if shape.has_labels else None,
            duration=duration,
            sampling_rate=rate,
            split=_text(get(names.split)),
            licence=_text(get(names.licence)),
            problem=problem,
        )


def _written(text: Any) -> str:
    """A transcript that is no string: numbers count as written, None as empty."""
    if text is None:
        return ""
    if isinstance(text, bool) or not isinstance(text, int | float):
        raise TypeError(f"the transcript is no text but {text!r:.60}")
    return str(text)


def _text(value: Any) -> str | None:
    if value.__class__ is str:
        return value or None
    return None if value is None else str(value)


def _records(path: Path, records: str | None) -> Iterator[tuple[int, Any]]:
    """The records of a file with their lines (or their places in the list), from 1."""
    if records is not None or path.suffix == ".json":
        yield from _json_list(path, records or "")
        return
    try:
        with (
            storage.opened(path) as file,
            gzip.open(file, "rb") if path.suffix == ".gz" else nullcontext(file) as stream,
        ):
            for number_, line in enumerate(bounded(stream, path), 1):
                if not line.strip():
                    continue
                try:
                    yield number_, orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
                except orjson.JSONDecodeError:
                    yield number_, None
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error


def _json_list(path: Path, records: str) -> Iterator[tuple[int, Any]]:
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise CorpusError(f"{path} is one JSON value of over 256 MB: write it as JSON lines")
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error
    for key in filter(None, records.split(".")):
        if not isinstance(value, dict) or key not in value:
            raise CorpusError(f"{path}: `records: {records}` leads nowhere; at {key!r} there is no such key")
        value = value[key]
    if not isinstance(value, list):
        raise CorpusError(f"{path}: a list of records is expected; say with `records` where it lies")
    yield from enumerate(value, 1)
