"""CSV and TSV with chosen columns, in a folder or in a zip file.

Source: DeepSpeech's import format, Coqui TTS's lists, Tatoeba, Azure custom speech and every list
of one's own. Licence: the corpus's, or a `license` column. Header and line of DeepSpeech, a line of
Tatoeba (no header), a line of Azure (no header, with a byte order mark, in a zip file):

    wav_filename,wav_filesize,transcript
    ru.wav,0,...
    141<TAB>BraveSentry<TAB>eng<TAB>I want you to tell me why you did that.
    audio.wav<TAB>Cliquez sur le nom du test ...
"""

from __future__ import annotations

import csv
import itertools
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator

from pipeline import storage
from pipeline.plugins import nearest
from pipeline.readers._fields import ALIASES, LABELS, guess, labels_of, number
from pipeline.readers._listing import Listing
from pipeline.readers._zip import Members, zipped_table
from pipeline.readers.base import CorpusError, Reader, lines, near
from schemas.utterance import Utterance

_SUFFIXES = (".csv", ".tsv")
_DELIMITERS = "\t|;,"
_COMMON_VOICE = {"client_id", "path", "sentence"}


class _Columns(NamedTuple):
    """What stands where in a table."""

    at: dict[str, int]
    labels: dict[str, int]
    width: int


class _Record(NamedTuple):
    """A line of a table; or several, where quotes enclose line ends."""

    line: int
    values: list[str]
    last: int
    """Its last line."""
    delimiters: int
    """At most so many are in a line after the first."""


class Csv(Reader):
    """A table, one utterance a line."""

    file: str | None = None
    """The table, in the folder or zip file that `path` names; the only *.csv or *.tsv if omitted."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Found from the first line if omitted."""
    quoting: bool = True
    """Whether `"` quotes; `false` for lists that were never meant as CSV."""
    header: bool = True
    """Whether the first line names the columns."""
    columns: dict[str, str | int] = {}
    """What stands where, by name or number from 0: `{audio: 0, transcript: 3}`; usual names are known.
    Labels too: `{emotion: 4}`."""
    label_columns: list[str] = LABELS
    audio_template: str | None = None
    """Where the audio of a line lies, if no column says: `audio/{language}/{key}.mp3`."""

    @field_validator("columns")
    @classmethod
    def _are_known(cls, columns: dict[str, str | int]) -> dict[str, str | int]:
        known = [*ALIASES, *LABELS]
        wrong = next((name for name in columns if name not in known), None)
        if wrong is not None:
            raise ValueError(f"there is no field {wrong!r}.{nearest(wrong, known)} There are: {', '.join(known)}")
        return columns

    @field_validator("audio_template")
    @classmethod
    def _is_template(cls, template: str | None) -> str | None:
        wrong = next((name for name in _fields_of(template) if name not in ALIASES), None)
        if wrong is not None:
            raise ValueError(f"{{{wrong}}} is no field; there are: {', '.join(ALIASES)}")
        return template

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        if path.suffix.lower() == ".zip":
            return _options(next(iter(zipped_table(path, None)[1]), ""))
        tables = near(path, _SUFFIXES) if path.is_dir() else [path] if path.suffix.lower() in _SUFFIXES else []
        for table in tables:
            options = _options(next((line for _, line in lines(table)), ""))
            if options == {}:
                return {"file": table.name} if path.is_dir() and len(tables) > 1 else {}
        return None

    def utterances(self) -> Iterator[Utterance]:
        name, text = self._table()
        first = next(text, None)
        if first is None:
            raise CorpusError(f"{name} is empty")
        records = _records(itertools.chain([first], text), name, self.delimiter or _delimiter(first), self.quoting)
        head = next(records)
        columns = self._columns(head.values, f"{name}:1")
        place: Members | Listing | None = None
        for record in records if self.header else itertools.chain([head], records):
            if not any(record.values):
                continue
            if place is None:
                first_audio = self._audio_of(_named(record, columns.at), complain=False)
                place = Members(storage.place(self.path), name) if self._zipped else Listing(self, first_audio)
            yield self._utterance(record, columns, place, f"{name}:{record.line}")
        if place is None:
            raise CorpusError(f"{name}: there is no row in it")
        if isinstance(place, Members):
            for source, problem in place.unlisted():
                yield self.utterance(source.member or "", source=source, problem=problem)

    def _utterance(self, record: _Record, columns: _Columns, place: Members | Listing, where: str) -> Utterance:
        get = _named(record, columns.at)
        path, start, cut, duration, rate, source = "", None, None, None, None, None
        try:
            path = self._audio_of(get)
            _check_form(record, columns.width, self.header)
            start, duration = number(get.get("start")), number(get.get("duration"))
            rate, channel = number(get.get("sampling_rate"), int), number(get.get("channel"), int)
            cut = duration if start is not None else None
            source, problem = place.source(path, start or 0.0, cut, channel)
        except ValueError as error:
            duration = cut = None
            problem = f"malformed_row: {where}: {error}"
        key = get.get("key") or (path if cut is None else f"{path}@{start or 0.0:g}")
        return self.utterance(
            key or self.portable(where),
            source=source,
            transcript=get.get("transcript"),
            speaker=get.get("speaker"),
            language=get.get("language"),
            recording=get.get("recording") or (path if cut is not None else None),
            labels=labels_of(_named(record, columns.labels), columns.labels),
            duration=duration,
            sampling_rate=rate,
            split=get.get("split") or None,
            licence=get.get("licence"),
            problem=problem,
        )

    @property
    def _zipped(self) -> bool:
        return self.path.lower().endswith(".zip")

    def _table(self) -> tuple[str, Iterator[str]]:
        path = storage.place(self.path)
        if self._zipped and self.root != path:
            return zipped_table(path, self.file)
        if self.root == path:
            found = [path / self.file] if self.file is not None else near(path, _SUFFIXES)
            if len(found) != 1:
                there = f"{len(found)} tables ({', '.join(p.name for p in found)})" if found else "no *.csv or *.tsv"
                raise CorpusError(f"{path} has {there}: say which with `file`")
            path = found[0]
        return str(path), (line for _, line in lines(path))

    def _columns(self, first: list[str], where: str) -> _Columns:
        header = first if self.header else []
        names = guess(header, self.columns) if self.header else self.columns
        at = {what: _place_of(column, header, len(first), where) for what, column in names.items()}
        missing = next((n for n in _fields_of(self.audio_template) if n not in at), None)
        if missing is not None:
            raise CorpusError(f"{where}: `audio_template` needs the field {missing!r}; say with `columns` where it is")
        if "audio" not in at and self.audio_template is None:
            raise CorpusError(f"{where}: which column names the audio? Set `columns`; it begins: {first[:6]}")
        labels = {name: header.index(name) for name in self.label_columns if name in header}
        wrong = next((n for n in self.label_columns if n not in labels), None)
        if wrong is not None and "label_columns" in self.model_fields_set:
            raise CorpusError(f"{where}: there is no column {wrong!r}; there are: {', '.join(header) or 'no names'}")
        return _Columns(at, labels | {what: i for what, i in at.items() if what not in ALIASES}, len(first))

    def _audio_of(self, get: dict[str, str], *, complain: bool = True) -> str:
        path = get.get("audio", "")
        if self.audio_template is not None:
            absent = next((n for n in _fields_of(self.audio_template) if not get.get(n)), None)
            path = "" if absent else self.audio_template.format(**get)
        if not path and complain:
            raise ValueError("it names no audio")
        return path


def _delimiter(line: str) -> str:
    return next((d for d in _DELIMITERS if d in line), ",")


def _fields_of(template: str | None) -> list[str]:
    """The names in the braces of a template."""
    return [name for _, name, _, _ in string.Formatter().parse(template or "") if name is not None]


def _place_of(column: str | int, header: list[str], width: int, where: str) -> int:
    if isinstance(column, int) and 0 <= column < width:
        return column
    if column in header:
        return header.index(str(column))
    there = ", ".join(header) if header else f"0 to {width - 1}"
    raise CorpusError(f"{where}: there is no column {column!r}; there are: {there}")


def _named(record: _Record, places: dict[str, int]) -> dict[str, str]:
    return {name: record.values[i] for name, i in places.items() if i < len(record.values)}


def _options(first: str) -> dict[str, Any] | None:
    """The options for a table that begins with this line; None if it is not recognised."""
    delimiter = _delimiter(first)
    header = next(csv.reader([first], delimiter=delimiter), [])
    if {"audio", "transcript"} <= guess(header, {}).keys():
        return None if set(header) >= _COMMON_VOICE else {}
    if delimiter == "\t" and len(header) == 2 and "." in header[0]:
        return {"header": False, "columns": {"audio": 0, "transcript": 1}, "delimiter": "\t", "quoting": False}
    return None


def _records(text: Iterator[str], name: str, delimiter: str, quoting: bool) -> Iterator[_Record]:
    taken: list[str] = []

    def feed() -> Iterator[str]:
        for line in text:
            taken.append(line)
            yield f"{line}\n"

    reader = csv.reader(feed(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE)
    line = 1
    try:
        for values in reader:
            delimiters = max((further.count(delimiter) for further in taken[1:]), default=0)
            yield _Record(line, [v.strip() for v in values], line + len(taken) - 1, delimiters)
            line += len(taken)
            taken.clear()
    except csv.Error as error:
        raise CorpusError(f"{name}:{line}: {error}. If quotes are only text in it, set `quoting: false`") from error


def _check_form(record: _Record, width: int, header: bool) -> None:
    found = len(record.values)
    if found > width or (header and found < width):
        wrong = f"it has {found} columns, {width} are expected"
    elif width > 1 and record.delimiters >= width - 1:
        wrong = "a quote opens in it and closes in another row"
    else:
        return
    if record.last > record.line:
        wrong += f"; it goes on to line {record.last}. If quotes are only text, set `quoting: false`"
    raise ValueError(wrong)
