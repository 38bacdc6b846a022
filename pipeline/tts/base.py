"""TTS: an engine that speaks what exists only as text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.audio import Samples
from schemas.recipe import Options


class SpeechError(RuntimeError):
    """An engine that cannot speak at all; the message says what to install or to change."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A preset of an engine."""

    name: str
    """As the engine calls it; also the speaker of what it says."""
    language: str
    """BCP-47."""
    labels: dict[str, str] = field(default_factory=dict)
    """What is known of it: gender, accent."""


class TTS(Options):
    """Base of TTS engines."""

    is_plugin: ClassVar[bool] = True

    @property
    def engine(self) -> str:
        """Its name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def voices(self, language: str) -> list[Voice]:
        """The voices for a language, in an order that depends on the engine alone; may be empty."""

    @abstractmethod
    def speak(self, texts: Sequence[tuple[str, str]]) -> list[Samples]:
        """Speech for pairs of text and voice. 16 kHz mono each, shape T.

        Raises:
            SpeechError: The engine is not there, or has no such voice.
        """
