"""Common Voice TSV.

Source: Ardila et al., "Common Voice: A Massively-Multilingual Speech Corpus", LREC 2020;
commonvoice.mozilla.org. Licence: CC0. The header and a line of `validated.tsv`, tab-separated:

    client_id  path     sentence      up_votes  down_votes  age       gender  accent
    90a...     8f4.mp3  Zieht euch    2         0           fourties  male    germany

The audio is `clips/8f4.mp3`. Newer releases add sentence_id, sentence_domain, accents, variant,
locale and segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.readers._fields import GENDERS
from pipeline.readers.base import CorpusError, Reader, lines, nonempty
from pipeline.text import language_tag
from schemas.utterance import Utterance

_OFFICIAL = ("train", "dev", "test")
_NEEDED = {"client_id", "path", "sentence"}
_LABELS = {"age": "age", "accent": "accent", "accents": "accent", "variant": "dialect", "sentence_domain": "topic"}


class CommonVoice(Reader):
    """A language's folder of a release: `clips/` and TSV files."""

    licence: str | None = "CC0-1.0"
    tables: list[str] = []
    """Which TSV files to read, e.g. `train`; empty means train, dev and test, or else validated."""

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        listings = sorted(path.glob("*.tsv")) if path.is_dir() else []
        return {} if any(_header(listing) >= _NEEDED for listing in listings) else None

    def utterances(self) -> Iterator[Utterance]:
        there = [p.stem for p in sorted(self.folder.glob("*.tsv"))]
        chosen = [name.removesuffix(".tsv") for name in self.tables]
        names = chosen or [n for n in _OFFICIAL if n in there] or ["validated"]
        unknown = next((n for n in names if n not in there), None)
        if unknown is not None:
            raise CorpusError(f"{self.folder}: {unknown}.tsv is not in it; there are: {', '.join(there) or 'none'}")
        yield from nonempty(self._all(names), f"{self.folder}: {', '.join(names)} list no clips")

    def _all(self, names: list[str]) -> Iterator[Utterance]:
        seen: set[str] = set()
        for name in names:
            found = set()
            for utterance in self._table(name):
                found.add(utterance.id)
                if name in _OFFICIAL or utterance.id not in seen:  # validated.tsv repeats the official splits
                    yield utterance
            seen |= found

    def _table(self, name: str) -> Iterator[Utterance]:
        path = self.folder / f"{name}.tsv"
        rows = (line.split("\t") for _, line in lines(path))
        header = next(rows, [])
        missing = _NEEDED - set(header)
        if missing:
            raise CorpusError(f"{path}:1: the header has no {', '.join(sorted(missing))}; it has: {', '.join(header)}")
        folder = language_tag(self.folder.name) if len(self.folder.name) <= 7 else None
        for line, values in enumerate(rows, 2):
            if values == [""]:
                continue
            row = dict(zip(header, values, strict=False))
            clip = row.get("path", "").strip()
            if clip and "." not in clip:  # releases before 4 name no suffix
                clip += ".mp3"
            gender = row.get("gender", "")
            yield self.utterance(
                clip or f"{name}:{line}",
                source=self.source(f"clips/{clip}") if clip else None,
                transcript=row.get("sentence", ""),
                speaker=row.get("client_id"),
                language=row.get("locale") or (None if self.language else folder),
                labels={"gender": GENDERS.get(gender, gender)}
                | {label: row.get(column, "") for column, label in _LABELS.items() if row.get(column)},
                split=name if name in _OFFICIAL else None,
                problem=self._problem(row, len(values), len(header), f"{path}:{line}"),
            )

    def _problem(self, row: dict[str, str], columns: int, expected: int, where: str) -> str | None:
        if not row.get("path", "").strip():
            return f"malformed_row: {where} names no clip"
        for name in ("up_votes", "down_votes"):
            if not (row.get(name) or "0").isdigit():
                return f"malformed_row: {where}: {name} is {row[name]!r}, a number is expected; is a tab missing?"
        if columns > expected:
            return f"malformed_row: {where} has {columns} columns, the header has {expected}"
        return None


def _header(listing: Path) -> set[str]:
    return set(next((line for _, line in lines(listing)), "").split("\t"))
