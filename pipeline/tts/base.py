"""TTS: an engine that speaks what exists only as text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, PositiveInt, field_validator

from pipeline import seeds
from pipeline.audio import Samples
from pipeline.memo import digest
from pipeline.plugins import nearest
from pipeline.text import base
from schemas.recipe import Options
from schemas.sample import Rejection

FAILED = "tts_failed"
"""The reason for a line that an engine could not speak."""
VOICES_SHOWN = 8  # where a name is wrong

Heard = Callable[[int, Samples], None]
Restriction = Literal["non-commercial", "share-alike", "copyleft"]
_PART = Annotated[float, Field(ge=0.5, le=2.0)]
Range = Annotated[list[_PART], Field(min_length=2, max_length=2)]


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
    licence: str | None = None
    """Of the engine's model and the voice together, as SPDX writes it; None where nobody says."""
    held_out: bool = False
    """Whether it is for test alone: a synthesiser that no model has heard in training."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is to be spoken, already in words."""

    text: str
    voice: str
    language: str
    """BCP-47."""
    rate: float = 1.0
    """Against the voice's own pace."""
    pitch: float = 1.0
    """Against the voice's own."""
    seed: int = 0
    """For engines that draw how they say it."""


def ignore(number: int, samples: Samples) -> None:
    """What one line sounds like is told with the others."""


class TTS(Options):
    """Base of TTS engines."""

    is_plugin: ClassVar[bool] = True
    remembered: ClassVar[bool] = True
    """Whether its speech is remembered: it is slow, or paid for."""
    changes_rate: ClassVar[bool] = False
    """Whether it can speak quicker and slower."""
    changes_pitch: ClassVar[bool] = False
    """Whether it can speak higher and lower."""
    draws: ClassVar[bool] = False
    """Whether what it says depends on a line's seed."""

    rate: Range = [0.9, 1.15]
    """Between which factors of the voice's own pace each utterance's is drawn, by engines that can."""
    pitch: Range = [0.9, 1.1]
    """The same of its height."""
    only_voices: list[str] = []
    """Names of the voices that speak; empty means all."""
    forbid: list[Restriction] = []
    """Restrictions that no licence of a voice may have; voices whose licence nobody knows do not speak either."""
    at_once: PositiveInt = 16
    """Lines in one call."""

    @field_validator("rate", "pitch")
    @classmethod
    def _is_range(cls, value: list[float]) -> list[float]:
        if value[0] > value[1]:
            raise ValueError(f"the smaller factor comes first: [{value[1]:g}, {value[0]:g}]")
        return value

    @property
    def engine(self) -> str:
        """Its name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def model_name(self) -> str:
        """What rows and cards call the model; empty for an engine that is one itself."""
        model = str(getattr(self, "model", ""))
        return Path(model).name if model and Path(model).is_dir() else model

    @cached_property
    def identity(self) -> bytes:
        """What shapes speech beside the line: engine, model, version, options."""
        return f"{self.engine}:{self.model_name}@{getattr(self, 'revision', '')}".encode()

    @property
    def shaping(self) -> dict[str, Any]:
        """The options that shape rows."""
        return {
            "engine": self.engine,
            "identity": self.identity.decode(),
            "rate": self.rate if self.changes_rate else None,
            "pitch": self.pitch if self.changes_pitch else None,
            "only_voices": sorted(self.only_voices),
            "forbid": sorted(self.forbid),
        }

    @abstractmethod
    def all_voices(self, language: str | None) -> list[Voice]:
        """All voices for a language, or for any, in an order that depends on the engine alone."""

    def voices(self, language: str) -> list[Voice]:
        """The voices for a language that the recipe lets speak; may be empty."""
        return [voice for voice in self.all_voices(language) if self._may_speak(voice)]

    def voice(self, name: str, language: str) -> Voice | None:
        """A voice by its name, whether or not it is let speak."""
        return self._by_name(language).get(name) or self._by_name(base(language)).get(name)

    @cached_property
    def _voices_by_language(self) -> dict[str, dict[str, Voice]]:
        return {}

    def _by_name(self, language: str) -> dict[str, Voice]:
        if language not in self._voices_by_language:
            self._voices_by_language[language] = {voice.name: voice for voice in self.all_voices(language)}
        return self._voices_by_language[language]

    def _may_speak(self, voice: Voice) -> bool:
        return (not self.only_voices or voice.name in self.only_voices) and not self._forbidden(voice.licence)

    def _forbidden(self, licence: str | None) -> list[str]:
        """Which of the restrictions that the recipe forbids a licence has."""
        if licence is None:
            return ["an unknown licence"] if self.forbid else []
        return sorted(restrictions(licence).intersection(self.forbid))

    def check(self) -> None:
        """Asked once, before any work: do the voices exist that the recipe names, and may they speak?

        Raises:
            SpeechError: Names what is wrong, the nearest voice, or the licence.
        """
        every = self.all_voices(None)
        names = [voice.name for voice in every]
        for name in self.only_voices:
            if name not in names:
                alike = sorted(names, key=lambda one: (not one.startswith(name[:2]), one))  # of its language first
                some = nearest(name, names) or f" There are: {', '.join(alike[:VOICES_SHOWN])}"
                raise SpeechError(f"only_voices: {self.engine} has no voice {name!r}.{some}")
        for voice in every:
            if voice.name in self.only_voices and (why := self._forbidden(voice.licence)):
                raise SpeechError(f"only_voices: {voice.name!r} has {_told(why, voice.licence)}, which is forbidden")
        if every and not any(self._may_speak(voice) for voice in every):
            licences = sorted({voice.licence or "unknown" for voice in every})
            raise SpeechError(
                f"forbid: no voice of {self.engine} is left, whose licences are: {', '.join(licences)}. "
                f"Name another engine or model, or forbid less"
            )

    @property
    def left_out(self) -> list[str]:
        """What a person should know: licences whose voices may not speak."""
        found = {v.licence: self._forbidden(v.licence) for v in self.all_voices(None)}
        return [f"voices of {self.engine} with {_told(why, name)} are left out" for name, why in found.items() if why]

    def delivery(self, seed: int, utterance: str) -> tuple[float, float]:
        """Rate and pitch of an utterance, drawn from the recipe's seed and the utterance's id.

        Turns of one conversation, whose ids differ after a `~`, are of one mood.
        """
        key = utterance.partition("~")[0]
        rate = _drawn(self.rate, seed, key, "rate") if self.changes_rate else 1.0
        pitch = _drawn(self.pitch, seed, key, "pitch") if self.changes_pitch else 1.0
        return rate, pitch

    def key(self, line: Line) -> bytes:
        """By what speech is remembered."""
        asked = [line.text, line.voice, line.language, line.rate, line.pitch, line.seed if self.draws else 0]
        return digest(b"tts", self.identity, orjson.dumps(asked))

    @abstractmethod
    def speak(self, lines: Sequence[Line], workers: int = 1, heard: Heard = ignore) -> list[Samples | Rejection]:
        """Speech for each line, 16 kHz mono float32 in [-1, 1] of shape T, or why that one was not spoken.

        Args:
            lines: At most `at_once`.
            workers: How many processes share the engine's concurrency.
            heard: Told the number of a line and its speech as soon as it is there, by engines whose answers are
                paid for one by one.

        Raises:
            SpeechError, EndpointError: The engine cannot speak at all, or has no such voice.
        """


def restrictions(licence: str) -> set[str]:
    """What a licence asks of who uses the voice, by the words of its SPDX identifier.

    Of several licences, joined by AND, each counts.
    """
    words = set(licence.upper().replace("(", " ").replace(")", " ").replace("-", " ").split())
    found = set()
    if words & {"NC", "NONCOMMERCIAL"} or "NON COMMERCIAL" in licence.upper().replace("-", " "):
        found.add("non-commercial")
    if "SA" in words or "SHAREALIKE" in words:
        found.add("share-alike")
    if words & {"GPL", "AGPL", "LGPL", "MPL", "EUPL", "OSL"}:
        found.add("copyleft")
    return found


def licences(*parts: str | None) -> str | None:
    """The licence of things that are used together; unknown if one is."""
    known: Iterable[str] = dict.fromkeys(part for part in parts if part is not None)
    return None if None in parts else " AND ".join(known)


def _told(why: Iterable[str], licence: str | None) -> str:
    return "a licence that nobody knows" if licence is None else f"the licence {licence} ({', '.join(why)})"


def _drawn(span: Sequence[float], *key: object) -> float:
    """A factor within a range, to two places: what is stored is what was spoken."""
    return round(span[0] + (span[1] - span[0]) * seeds.share(*key), 2)
