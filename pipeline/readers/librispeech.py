"""LibriSpeech tree.

Source: Panayotov et al., "Librispeech: an ASR corpus based on public domain audio books", ICASSP
2015; openslr.org/12. Licence: CC BY 4.0. A line of `1089/134686/1089-134686.trans.txt`:

    1089-134686-0000 HE HOPED THERE WOULD BE STEW FOR DINNER TURNIPS AND CARROTS ...

beside `1089-134686-0000.flac`; above lie the subsets (`train-clean-100`, `dev-other`, ...) and
`SPEAKERS.TXT`, whose second column is the sex.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.audio import SUFFIXES
from pipeline.readers.base import CorpusError, Reader, files, lines
from schemas.utterance import Utterance

_LISTING = ".trans.txt"


class LibriSpeech(Reader):
    """`<subset>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt` and a FLAC file an utterance."""

    language: str | None = "en"
    licence: str | None = "CC-BY-4.0"
    subsets: list[str] = []
    """Folders to read, e.g. `[train-clean-100]`; empty means all."""

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        if not path.is_dir():
            return None
        found = any(next(path.glob(p), None) for p in (f"*/*/*{_LISTING}", f"*/*/*/*{_LISTING}"))
        return {} if found else None

    def utterances(self) -> Iterator[Utterance]:
        genders = self._genders()
        chapters = self._chapters()
        if not any(p.name.endswith(_LISTING) for found in chapters.values() for p in found):
            raise CorpusError(f"{self.folder}: no *{_LISTING} below it")
        there = {self._subset(chapter) for chapter in chapters}
        unknown = next((s for s in self.subsets if s not in there), None)
        if unknown is not None:
            raise CorpusError(f"{self.folder} has no subset {unknown!r}; there are: {', '.join(sorted(there))}")
        for chapter, found in chapters.items():
            if not self.subsets or self._subset(chapter) in self.subsets:
                yield from self._chapter(chapter, found, genders)

    def _chapters(self) -> dict[Path, list[Path]]:
        """The listings and the audio by the folders in which they lie."""
        found: dict[Path, list[Path]] = defaultdict(list)
        for path in files(self.folder):
            if path.name.endswith(_LISTING) or path.suffix.lower() in SUFFIXES:
                found[path.parent].append(path)
        return found

    def _chapter(self, folder: Path, found: list[Path], genders: dict[str, str]) -> Iterator[Utterance]:
        speaker, chapter = folder.parent.name, folder.name
        subset = self._subset(folder)
        claims: dict[str, Any] = {
            "speaker": speaker,
            "recording": f"{speaker}-{chapter}",
            "labels": {"gender": genders.get(speaker, "")},
            "split": next((s for s in ("train", "dev", "test") if subset.startswith(s)), None),
        }
        where = folder.relative_to(self.folder).as_posix()
        audio = {p.stem: p.name for p in reversed(found) if not p.name.endswith(_LISTING)}
        listed = set()
        for listing in (p for p in found if p.name.endswith(_LISTING)):
            for _, line in lines(listing):
                key, _, text = line.strip().partition(" ")
                if key:
                    name = audio.get(key, f"{key}.flac")
                    listed.add(name)
                    yield self.utterance(key, source=self.source(f"{where}/{name}"), transcript=text, **claims)
        for path in found:
            if path.name not in listed and not path.name.endswith(_LISTING):
                key = path.stem if audio[path.stem] == path.name else path.name
                yield self.utterance(key, source=self.source(f"{where}/{path.name}"), **claims)

    def _subset(self, chapter: Path) -> str:
        return chapter.parent.parent.name

    def _genders(self) -> dict[str, str]:
        for folder in (self.folder, self.folder.parent, self.folder / "LibriSpeech"):
            if (folder / "SPEAKERS.TXT").is_file():
                rows = (line.split("|") for _, line in lines(folder / "SPEAKERS.TXT") if line[:1] not in (";", ""))
                names = {"F": "female", "M": "male"}
                return {r[0].strip(): names.get(r[1].strip(), "") for r in rows if len(r) > 1}
        return {}
