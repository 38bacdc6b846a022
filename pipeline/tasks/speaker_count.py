"""How many people speak: one utterance, or several mixed.

A row: `How many people are speaking?` -> `Two.` Voices follow each other or overlap; each speaker is
heard alone for at least a part of their utterance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Annotated, ClassVar

import numpy as np
from msgspec.structs import replace
from pydantic import Field

from pipeline.audio import Samples, samples_of, speech_dbfs, store
from pipeline.tasks.base import Brief, Task, alone, licence_of
from pipeline.text import words
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Sample
from schemas.utterance import Part, Utterance

_MOST_OVERLAP = 0.3  # of the shorter utterance
_LOUDNESS_SPREAD = 3.0  # dB between speakers
_FULL_SCALE = 0.95
_QUIETEST = -60.0  # dBFS; a companion below that is no voice to be counted


class SpeakerCount(Task):
    """Counts speakers, from one to `most`."""

    outcomes: ClassVar[tuple[str, ...]] = ("1", "2", "3", "4")
    companions: ClassVar[int] = 3
    hears_companions: ClassVar[bool] = True

    most: Annotated[int, Field(ge=2, le=4)] = 3
    longest: Annotated[float, Field(gt=0)] = 30.0
    """Seconds of a mixture."""

    def fits(self, utterance: Utterance) -> bool:
        # Companions of synthetic speech are never spoken, so the answer would always be one.
        return utterance.is_speech and utterance.speaker is not None and utterance.voice is None

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        others = _distinct(draft)
        wanted = brief.rng.randint(1, self.most)
        chosen = _within(self.longest, [draft.utterances[0], *others][:wanted])
        outcome = str(len(chosen))
        mixed = alone(draft) if len(chosen) == 1 else replace(draft, utterances=(_mixture(chosen, brief.rng),))
        response = brief.prompts.response(brief.rng, outcome)
        sample = self.sample(mixed, brief, response, answer=outcome)
        yield replace(sample, id=f"{draft.id}:{self.key}:0")

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        return {"correct": float(words(output)[:1] in (words(sample.answer)[:1], words(sample.response)[:1]))}


def _distinct(draft: Sample) -> list[Utterance]:
    """The companions that are heard to speak, one a speaker, none the speaker of the draft."""
    speakers = {draft.utterances[0].speaker}
    found = []
    for utterance in draft.utterances[1:]:
        if utterance.speaker and utterance.speaker not in speakers and _is_heard(utterance):
            speakers.add(utterance.speaker)
            found.append(utterance)
    return found


def _is_heard(utterance: Utterance) -> bool:
    return utterance.is_speech and utterance.audio is not None and utterance.audio.speech_dbfs >= _QUIETEST


def _within(longest: float, utterances: list[Utterance]) -> list[Utterance]:
    """As many of the first utterances as last no longer together."""
    kept, seconds = utterances[:1], utterances[0].audio.seconds if utterances[0].audio else 0.0
    for utterance in utterances[1:]:
        assert utterance.audio is not None
        seconds += utterance.audio.seconds
        if seconds <= longest:
            kept.append(utterance)
    return kept


def _mixture(utterances: list[Utterance], rng: random.Random) -> Utterance:
    first = utterances[0]
    assert first.audio is not None
    order = list(utterances)
    rng.shuffle(order)
    audio = store(
        _overlapped([samples_of(u.audio) for u in order if u.audio], rng),
        sampling_rate=first.audio.sampling_rate,
        kind="mixture",
    )
    return replace(
        first,
        id=f"{first.id}+{'+'.join(u.id for u in utterances[1:])}",
        transcript=" ".join(u.transcript for u in order),
        speaker=None,
        recording=None,
        licence=licence_of(utterances),
        source=None,
        labels={"speakers": str(len(utterances))},
        parts=tuple(Part(u.id, u.speaker) for u in order),
        duration=None,
        audio=audio,
    )


def _overlapped(voices: list[Samples], rng: random.Random) -> Samples:
    """Voices at about one level, each beginning a little before or after the one before it ends."""
    level = speech_dbfs(voices[0])
    mixed = previous = voices[0]
    for voice in voices[1:]:
        gain = 10 ** ((level - speech_dbfs(voice) + rng.uniform(-_LOUDNESS_SPREAD, _LOUDNESS_SPREAD)) / 20)
        gap = int(rng.uniform(-_MOST_OVERLAP, 0.2) * min(len(previous), len(voice)))
        begin = max(0, len(mixed) + min(gap, SAMPLING_RATE // 2))
        longer = np.zeros(max(len(mixed), begin + len(voice)), np.float32)
        longer[: len(mixed)] += mixed
        longer[begin : begin + len(voice)] += voice * np.float32(gain)
        mixed, previous = longer, voice
    peak = float(np.abs(mixed).max(initial=0.0))
    return mixed * np.float32(_FULL_SCALE / peak) if peak > _FULL_SCALE else mixed
