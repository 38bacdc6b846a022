"""ASR: an engine that writes down what it hears, to compare it with what should have been said."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt

from pipeline.audio import Samples, samples_of
from pipeline.text import base
from pipeline.weights import content_of as content_of
from schemas.recipe import Options
from schemas.sample import Rejection
from schemas.utterance import Audio

FAILED = "asr_failed"
"""The reason for a clip that an engine could not work on."""


Heard = Callable[[int, str], None]


class ASRError(RuntimeError):
    """An engine that cannot listen at all; the message says what to install or to change."""


def ignore(number: int, text: str) -> None:
    """What is known of one clip is told with the others."""


@dataclass(frozen=True)
class Clip:
    """Speech that is to be written down. Nothing else is told to the engine: it has to hear."""

    audio: Audio
    language: str | None
    """BCP-47; None where unknown."""

    @cached_property
    def samples(self) -> Samples:
        """Shape T, 16 kHz, mono, float32 in [-1, 1]."""
        return samples_of(self.audio)


class ASR(Options):
    """Base of ASR engines."""

    is_plugin: ClassVar[bool] = True

    model: str
    """As the engine calls it: a name on the Hub, a folder, or what a server lists."""
    revision: str = ""
    """Anything that tells apart what the model's name does not: a commit, a quantisation."""
    only: Literal["synthetic", "all"] = "synthetic"
    """What is listened to: what a voice has spoken and what was augmented, or recordings too."""
    languages: list[str] = []
    """Those that the model knows; speech in others is not listened to. Empty means all."""
    at_once: PositiveInt = 16
    """Utterances in one call."""

    @property
    def engine(self) -> str:
        """Its name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def model_name(self) -> str:
        """What rows, cards and reports call the model: of a folder its name, for the place says nothing."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    @cached_property
    def identity(self) -> bytes:
        """What shapes a hypothesis beside the audio and its language."""
        return f"{self.engine}:{self.model_name}@{self.revision}".encode()

    @property
    def shaping(self) -> dict[str, Any]:
        """The options that shape rows."""
        return {
            "engine": self.engine,
            "identity": self.identity.decode(),
            "only": self.only,
            "languages": sorted(self.languages),
        }

    def knows(self, language: str | None) -> bool:
        """Whether speech in a language is listened to."""
        return not self.languages or language is None or base(language) in {base(known) for known in self.languages}

    def check(self) -> None:
        """Asked once, before any work.

        Raises:
            ASRError, EndpointError, MissingExtra: The engine cannot work: the message says why.
        """

    @abstractmethod
    def transcribe(self, clips: Sequence[Clip], workers: int = 1, heard: Heard = ignore) -> list[str | Rejection]:
        """What is said in each clip, or why that one cannot be told (`asr_failed`).

        Args:
            clips: At most `at_once`.
            workers: How many processes share the engine's concurrency.
            heard: Told the number of a clip and its text as soon as they are known, by engines whose answers
                are paid for one by one.

        Raises:
            ASRError, EndpointError: The engine cannot work on any.
        """
