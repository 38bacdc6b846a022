"""Tool catalogues, each of which is to be asked for so many times in each language.

Source: `data/tools/` of this project, or any file of tools in the OpenAI format. Licence: the catalogue's.
Nothing is said yet: a task writes the query when its unit is built, and the recipe's `tts` speaks it.
The tools of `home.json`, of which one begins so:

    {"type": "function", "function": {"name": "start_timer", "description": "Starts a timer.", ...
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import PositiveInt, field_validator

from pipeline import storage
from pipeline.readers.base import CorpusError, Reader
from pipeline.text import language_tag
from pipeline.tools import catalogue
from pipeline.tools.errors import CatalogueError
from schemas.utterance import Utterance


class ToolQueries(Reader):
    """One catalogue, or a folder of them."""

    queries: PositiveInt = 100
    """How many, of each catalogue and language."""
    languages: list[str] = []
    """Empty means those that the catalogue has grammars in, or else English."""

    @field_validator("languages")
    @classmethod
    def _are_languages(cls, languages: list[str]) -> list[str]:
        for name in languages:
            if language_tag(name) is None:
                raise ValueError(f"{name!r} is no language: a BCP-47 tag or an English name is expected, such as pt-BR")
        return languages

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        return None  # any JSON could be one: it must be named

    @cached_property
    def catalogues(self) -> dict[str, catalogue.Catalogue]:
        """By name.

        Raises:
            CorpusError: There is none, or one cannot be used.
        """
        path = storage.place(self.path)
        files = catalogue.files(path) if self.root else []  # which complains where there is nothing
        if not files:
            raise CorpusError(f"{path}: no catalogue is in it; files NAME.json with tools are expected")
        try:
            return {file.stem: catalogue.load(file) for file in files}
        except CatalogueError as error:
            raise CorpusError(str(error)) from error

    def utterances(self) -> Iterator[Utterance]:
        for name, one in self.catalogues.items():
            for language in self._languages_of(one):
                for number in range(self.queries):
                    yield self.utterance(
                        f"{name}/{language}/{number}",
                        language=language,
                        licence=self.licence or one.licence,
                        catalogue=name,
                    )

    def _languages_of(self, one: catalogue.Catalogue) -> list[str]:
        wanted = [language_tag(name) or name for name in self.languages]
        return wanted or sorted(one.grammars) or ["en"]
