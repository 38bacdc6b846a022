"""Presets: the voices of engines that cannot be asked which they have, as a recipe names them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator

from pipeline.text import base
from pipeline.tts.base import TTS, Voice, licences
from schemas.recipe import Options


class Preset(Options):
    """One voice."""

    name: str
    """As the engine calls it."""
    languages: list[str] = []
    """What it speaks; empty means all that the model does."""
    labels: dict[str, str] = {}
    """What is known of it: `{gender: female, accent: scottish}`."""
    licence: str | None = None
    """Its own, if it has another than the model."""
    held_out: bool = False
    """Whether it is for test alone."""


class Presets(TTS):
    """An engine whose voices the recipe names."""

    is_plugin: ClassVar[bool] = False

    model: str
    """As the engine calls it."""
    revision: str = ""
    """Anything that tells apart what the model's name does not: a commit, a date."""
    licence: str | None = None
    """Of the model, as SPDX writes it; it goes into every row that the model speaks."""
    languages: list[str] = []
    """What the model speaks; empty means whatever it is given."""
    presets: list[Preset] = []
    """Its voices."""

    @field_validator("presets")
    @classmethod
    def _are_different(cls, presets: list[Preset]) -> list[Preset]:
        names = [preset.name for preset in presets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two voices are called {twice!r}")
        return presets

    @property
    def model_licence(self) -> str | None:
        """Of the model; None where nobody says."""
        return self.licence

    def all_presets(self) -> list[Preset]:
        """Those of the recipe, or else of the model itself."""
        return self.presets

    def all_voices(self, language: str | None) -> list[Voice]:
        return [
            Voice(
                preset.name,
                language or next(iter(preset.languages or self.languages), "en"),
                preset.labels,
                licences(self.model_licence, preset.licence) if preset.licence else self.model_licence,
                preset.held_out,
            )
            for preset in self.all_presets()
            if _speaks(preset.languages or self.languages, language)
        ]


def _speaks(languages: list[str], language: str | None) -> bool:
    return language is None or not languages or base(language) in {base(name) for name in languages}
