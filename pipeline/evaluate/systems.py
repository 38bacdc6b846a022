"""Systems: who answers the rows, so that the same questions are put to each.

A system is a view of the sample (what is heard or read in it) and a state of the model (with LoRA or without). The LLM
is always the one within the model that is evaluated: cascade and oracle read with LoRA off, so they are the LLM as it
was before training, unless a stage trained the LLM itself (`trains: [llm]`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from msgspec.structs import replace

from pipeline import plugins, seeds
from pipeline.asr.base import ASR, Clip
from pipeline.audio import store
from pipeline.evaluate.errors import EvaluationError
from pipeline.model.base import RowError, SpeechLM
from pipeline.text import normalise
from schemas.arrow import SAMPLING_RATE
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance


@dataclass(frozen=True, slots=True)
class View:
    """A sample as a system hears or reads it."""

    sample: Sample
    heard: tuple[str, ...] = ()
    """What the system says was said in each utterance."""
    absent: str = ""
    """Why the system is not asked this."""


class Rows(ABC):
    """Where the control systems find other rows."""

    @abstractmethod
    def other(self, sample: Sample, number: int) -> Utterance:
        """An utterance of another row, in which something else is said, with its audio."""


class System(ABC):
    """Who answers."""

    name: ClassVar[str]
    told: ClassVar[str]
    """What it is, for the report."""
    hears: ClassVar[bool] = True
    """Whether the model gets audio; else texts stand in its places."""
    with_lora: ClassVar[bool] = True

    def views(self, samples: Sequence[Sample]) -> list[View]:
        """What of each sample the model gets."""
        return [View(sample) for sample in samples]

    def state(self, lm: SpeechLM) -> AbstractContextManager[None]:
        """Within, the model is as the system has it."""
        return nullcontext() if self.with_lora else lm.without_lora()

    @property
    def identity(self) -> dict[str, Any]:
        """What shapes its answers beside the model and the rows."""
        return {"system": self.name}


class EndToEnd(System):
    """The model hears."""

    name: ClassVar[str] = "end_to_end"
    told: ClassVar[str] = "the model hears the speech; LoRA on"


class Oracle(System):
    """The LLM reads what is said."""

    name: ClassVar[str] = "oracle"
    told: ClassVar[str] = "the same LLM reads the true transcript; LoRA off"
    hears: ClassVar[bool] = False
    with_lora: ClassVar[bool] = False


class Reading(System):
    """The trained LLM reads what is said: what training has made of it as a reader."""

    name: ClassVar[str] = "reading"
    told: ClassVar[str] = "the same LLM reads the true transcript; LoRA on"
    hears: ClassVar[bool] = False


class Silent(System):
    """The model hears silence: what it can answer without hearing is no proof that it hears."""

    name: ClassVar[str] = "silent"
    told: ClassVar[str] = "control: the model hears silence of the same length; LoRA on"

    def views(self, samples: Sequence[Sample]) -> list[View]:
        """Silence in the place of speech."""
        return [View(replace(s, utterances=tuple(_silence(u) for u in s.utterances))) for s in samples]


class TextOnly(System):
    """The model gets the question without the speech."""

    name: ClassVar[str] = "text_only"
    told: ClassVar[str] = "control: the model gets the text of the question, no speech; LoRA on"

    def views(self, samples: Sequence[Sample]) -> list[View]:
        """The text of the question."""
        return [_without_speech(sample) for sample in samples]


class Shuffled(System):
    """The model hears another row's speech."""

    name: ClassVar[str] = "shuffled"
    told: ClassVar[str] = "control: the model hears the speech of another row, in which something else is said; LoRA on"

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def views(self, samples: Sequence[Sample]) -> list[View]:
        """Other speech in the place of the row's."""
        return [
            View(replace(s, utterances=tuple(self._rows.other(s, n) for n in range(len(s.utterances)))))
            for s in samples
        ]


class Cascade(System):
    """An ASR engine writes, the LLM reads.

    Args:
        asr: The engine.
    """

    name: ClassVar[str] = "cascade"
    told: ClassVar[str] = "an ASR engine writes the speech down, and the same LLM reads that; LoRA off"
    hears: ClassVar[bool] = False
    with_lora: ClassVar[bool] = False

    def __init__(self, asr: ASR) -> None:
        self.asr = asr
        self._known: dict[tuple[str, str | None], str | Rejection] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """With the engine's."""
        return super().identity | {"asr": self.asr.shaping}

    def views(self, samples: Sequence[Sample]) -> list[View]:
        """What the engine wrote in the place of the transcripts."""
        missing: dict[tuple[str, str | None], Clip] = {}
        for utterance in (u for s in samples for u in s.utterances):
            if utterance.audio is not None and _key(utterance) not in self._known:
                missing.setdefault(_key(utterance), Clip(utterance.audio, utterance.language))
        clips = list(missing.items())
        for begin in range(0, len(clips), self.asr.at_once):
            some = clips[begin : begin + self.asr.at_once]
            texts = self.asr.transcribe([clip for _, clip in some])
            self._known |= {key: text for (key, _), text in zip(some, texts, strict=True)}
        return [self._view(sample) for sample in samples]

    def _view(self, sample: Sample) -> View:
        # What the engine fails on is the cascade's failure, not a row to be left out: nothing is heard there.
        found = [self._known[_key(u)] if u.audio is not None else "" for u in sample.utterances]
        heard = tuple("" if isinstance(text, Rejection) else text for text in found)
        read = (replace(u, transcript=text) for u, text in zip(sample.utterances, heard, strict=True))
        return View(replace(sample, utterances=tuple(read)), heard)

    def forget(self) -> None:
        """Hears everything anew, for timing."""
        self._known.clear()


PLAIN: dict[str, type[System]] = {s.name: s for s in (EndToEnd, Oracle, Reading, Silent, TextOnly)}
NAMES = (*PLAIN, Cascade.name, Shuffled.name)
DEFAULT = ("end_to_end", "oracle", "shuffled", "silent")
"""With an ASR engine the cascade, too."""


def make(names: Sequence[str], rows: Rows, asr: ASR | None) -> list[System]:
    """Systems by their names.

    Raises:
        EvaluationError: There is no such system, or the cascade lacks its ASR engine.
    """
    found: list[System] = []
    for name in dict.fromkeys(names):
        if name == Cascade.name:
            if asr is None:
                raise EvaluationError("the system `cascade` needs an ASR engine: name one, as under `asr:` of a recipe")
            found.append(Cascade(asr))
        elif name == Shuffled.name:
            found.append(Shuffled(rows))
        elif name in PLAIN:
            found.append(PLAIN[name]())
        else:
            hint = plugins.nearest(name, list(NAMES))
            raise EvaluationError(f"there is no system {name!r}.{hint} There are: {', '.join(NAMES)}")
    return found


@dataclass
class Pool(Rows):
    """Utterances to be taken in the place of others: the next in an order drawn by chance that says something else.

    Args:
        said: Of each utterance its row, its place there, and what is said in it.
        fetch: Gives a row of the dataset with its audio.
        seed: Draws the order.
    """

    said: Sequence[tuple[int, int, str]]
    fetch: Any
    seed: int = 0
    _order: list[int] = field(init=False)
    _place: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._order = list(range(len(self.said)))
        seeds.rng("shuffled", self.seed).shuffle(self._order)
        self._place = {normalise(self.said[index][2]): at for at, index in enumerate(self._order)}

    def other(self, sample: Sample, number: int) -> Utterance:
        """The next utterance in which something else is said.

        Raises:
            RowError: All say the same.
        """
        mine = normalise(sample.utterances[number].transcript)
        begin = self._place.get(mine, seeds.derive(sample.id) % max(1, len(self._order)))
        for step in range(1, len(self._order) + 1):
            row, place, text = self.said[self._order[(begin + step) % len(self._order)]]
            if normalise(text) != mine:
                found: Utterance = self.fetch(row).utterances[place]
                return found
        raise RowError(f"row {sample.id}: every row says the same, so no other speech can take its place")


def _key(utterance: Utterance) -> tuple[str, str | None]:
    assert utterance.audio is not None
    return utterance.audio.digest, utterance.language


def _silence(utterance: Utterance) -> Utterance:
    seconds = utterance.audio.seconds if utterance.audio else 1.0
    sound = np.zeros(max(1, round(seconds * SAMPLING_RATE)), np.float32)
    return replace(utterance, audio=store(sound, kind="silence"))


def _without_speech(sample: Sample) -> View:
    messages = tuple(
        replace(m, content=m.content.replace(AUDIO_PLACEHOLDER, "").strip()) if AUDIO_PLACEHOLDER in m.content else m
        for m in sample.messages
    )
    left = any(m.role == "user" and m.content for m in messages)
    bare = replace(sample, messages=messages, utterances=(), mentions=())
    return View(bare, absent="" if left else "nothing is asked in text, so without speech there is no question")
