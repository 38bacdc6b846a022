"""LJSpeech `metadata.csv`.

Source: Ito and Johnson, "The LJ Speech Dataset", 2017. Licence: public domain; other corpora in
this layout (M-AILABS, many TTS voices) have licences of their own. A line of `metadata.csv`, which
has no header and no quoting:

    LJ001-0002|in being comparatively modern.|in being comparatively modern.

is id, text, normalised text; the audio is `wavs/LJ001-0002.wav`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline import storage
from pipeline.audio import SUFFIXES
from pipeline.readers.base import CorpusError, Reader, files, lines, nonempty, printable
from schemas.utterance import Utterance

log = logging.getLogger("earwitness")

_MAILABS = re.compile(r"(?:^|/)([a-z]{2}_[A-Z]{2})/by_book/(female|male|mix)/(?:([^/]+)/)?[^/]+$")


class LJSpeech(Reader):
    """`metadata.csv` beside `wavs/`, there or in folders below (M-AILABS). One folder, one speaker."""

    text: Literal["normalised", "written"] = "normalised"
    """The third column where it is filled, or the second."""
    suffixes: Annotated[list[str], Field(min_length=1)] = [".wav", ".flac", ".mp3", ".ogg", ".opus"]
    """Of the files of an id, the first of these is read."""

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        listing = path / "metadata.csv"
        if not listing.is_file() or not (path / "wavs").is_dir():
            return None
        first = next((line for _, line in lines(listing)), "")
        return {} if 1 <= first.count("|") <= 2 and not first.startswith("audio_file|") else None

    def utterances(self) -> Iterator[Utterance]:
        path = storage.place(self.path)
        listings = [p for p in files(path) if p.name == "metadata.csv"] if self.root == path else [path]
        if not listings:
            raise CorpusError(f"{path}: no metadata.csv in it or below it")
        found = chain.from_iterable(self._voice(listing) for listing in listings)
        yield from nonempty(found, f"{listings[0]} is empty; lines of `id|text|normalised text` are expected")

    def _voice(self, listing: Path) -> Iterator[Utterance]:
        folder = listing.parent.relative_to(self.root).as_posix()
        where = "" if folder == "." else f"{folder}/"
        claims: dict[str, Any] = {"speaker": self.speaker or where.strip("/") or self.name}
        if found := _MAILABS.search(listing.parent.as_posix()):
            language, gender, reader = found.groups()
            claims |= {"language": language, "labels": {"gender": gender if gender != "mix" else ""}}
            claims["speaker"] = reader or claims["speaker"]
        on_disk = self._on_disk(listing.parent / "wavs")
        listed = set()
        for number, line in lines(listing):
            if not line.strip():
                continue
            columns = line.split("|")
            key = columns[0].strip()
            listed.add(key)
            problem = None
            if not key:
                problem = f"malformed_row: {listing}:{number} names no file"
            elif len(columns) not in (2, 3):
                problem = f"malformed_row: {listing}:{number} has {len(columns)} columns, not 2 or 3"
            if problem is not None:
                yield self.utterance(f"{where}{key or number}", problem=problem, **claims)
                continue
            text = columns[-1] if self.text == "normalised" and columns[-1].strip() else columns[1]
            name = on_disk.get(key, f"{key}{self.suffixes[0]}")
            source = self.source(f"{where}wavs/{name}")
            yield self.utterance(f"{where}{key}", source=source, transcript=text, **claims)
        for key, name in sorted(on_disk.items()):
            if key not in listed:
                yield self.utterance(f"{where}{printable(key)}", source=self.source(f"{where}wavs/{name}"), **claims)

    def _on_disk(self, folder: Path) -> dict[str, str]:
        """The file to read of each id."""
        chosen: dict[str, str] = {}
        copies, others = 0, []
        rank = {suffix.lower(): i for i, suffix in enumerate(self.suffixes)}
        audio = [p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        for path in sorted(audio, key=lambda p: (rank.get(p.suffix.lower(), len(rank)), p.name)):
            if path.suffix.lower() in rank:
                copies += chosen.setdefault(path.stem, path.name) != path.name
            elif path.stem in chosen:
                copies += 1
            else:
                others.append(path.name)
        if copies:
            log.warning("%s: %d files are the same utterances in other formats; not read", folder, copies)
        if others:
            log.warning("%s: not read, since their kind is not among `suffixes`: %s", folder, ", ".join(others))
        return chosen
