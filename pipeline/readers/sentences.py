"""Sentences that exist only as text and are spoken by a TTS engine.

Source: `data/text/` of this project, or any text file. Licence: the text's; voices bring their own.
Files are called `NAME.LANGUAGE.txt`; one sentence a line, and two lines of `daily.en.txt`:

    Could you remind me to call the dentist at half past three?
    The last bus to the airport leaves in twenty minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from pipeline import storage
from pipeline.readers.base import CorpusError, Reader, files, lines, nonempty
from pipeline.text import language_tag
from schemas.utterance import Utterance


class Sentences(Reader):
    """One text file, or a folder of them. The recipe's `tts` speaks them."""

    voices: PositiveInt = 1
    """How many different voices speak each sentence."""
    languages: list[str] = []
    """Which languages to read; empty means all."""

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        return None  # any text file could be one: it must be named

    def utterances(self) -> Iterator[Utterance]:
        path = storage.place(self.path)
        texts = [p for p in files(path) if p.suffix.lower() == ".txt"] if self.root == path else [path]
        if not texts:
            raise CorpusError(f"{path}: no file named NAME.LANGUAGE.txt in it")
        there = {text: self._language_of(text) for text in sorted(texts)}
        wanted = {language_tag(name) for name in self.languages} or set(there.values())
        missing = next((name for name in self.languages if language_tag(name) not in there.values()), None)
        if missing is not None:
            raise CorpusError(f"{path}: no text is in {missing!r}; there are: {', '.join(sorted(set(there.values())))}")
        found = (self._sentences(text, language) for text, language in there.items() if language in wanted)
        yield from nonempty(chain.from_iterable(found), f"{path}: there is no sentence in it; one a line is expected")

    def _sentences(self, text: Path, language: str) -> Iterator[Utterance]:
        name = text.relative_to(self.root).as_posix().removesuffix(".txt")
        for number, line in lines(text):
            if not line.strip() or line.startswith("#"):
                continue
            key = f"{name}:{number}"
            for voice in range(self.voices):
                own = key if self.voices == 1 else f"{key}#{voice + 1}"
                yield self.utterance(own, transcript=line, language=language, recording=key)

    def _language_of(self, path: Path) -> str:
        found = language_tag(path.stem.rpartition(".")[2]) if "." in path.stem else None
        language = found or self._language
        if language is None:
            raise CorpusError(f"{path}: which language is it? Name it NAME.LANGUAGE.txt or set `language`")
        return language
