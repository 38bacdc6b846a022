"""Speech or no speech.

A row: `Does anybody speak in this recording?` -> `No.` Half of the examples are recordings in which
nobody speaks: from corpora that the recipe marks with `speech: false`, and from the real pauses of
recordings, repeated to the length of an utterance. A share of the others is speech with another
recording's pause mixed in, so that noise alone does not give the answer away.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec.structs import replace
from pydantic import Field

from pipeline.audio import FRAME, Samples, samples_of, speech_dbfs, store
from pipeline.tasks.base import Brief, Task, licence_of
from pipeline.text import words
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Sample
from schemas.utterance import Part, Utterance

_SHORTEST_PAUSE = int(0.25 * SAMPLING_RATE)  # samples
_BELOW_SPEECH = 10**-2.5  # of the energy of speech: 25 dB
_FADE = int(0.01 * SAMPLING_RATE)  # samples, between repetitions


class SpeechDetection(Task):
    """A yes-or-no question about the sound itself."""

    outcomes: ClassVar[tuple[str, ...]] = ("speech", "no_speech")

    companions: ClassVar[int] = 1
    hears_companions: ClassVar[bool] = True

    pauses: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of recorded utterances whose pauses are taken instead, where they have any."""
    noisy: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the others that another recording's pause is mixed into."""

    def fits(self, utterance: Utterance) -> bool:
        return True

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        utterance = draft.utterances[0]
        if not utterance.is_speech:
            yield self._sample(draft, utterance, brief, "no_speech")
            return
        own = _noise(utterance, brief.rng) if brief.rng.random() < self.pauses else None
        if own is not None:
            silent = _derived((utterance,), own, "pause", transcript="", labels={**utterance.labels, "speech": "no"})
            yield self._sample(draft, silent, brief, "no_speech")
            return
        if brief.rng.random() < self.noisy and len(draft.utterances) > 1:
            other = draft.utterances[1]
            noise = _noise(other, brief.rng)
            if noise is not None:
                utterance = _derived((utterance, other), _mixed(utterance, noise, brief.rng), "noise")
        yield self._sample(draft, utterance, brief, "speech")

    def _sample(self, draft: Sample, heard: Utterance, brief: Brief, outcome: str) -> Sample:
        response = brief.prompts.response(brief.rng, outcome)
        draft_heard = replace(draft, utterances=(heard,))
        sample = self.sample(draft_heard, brief, response, answer=brief.prompts.name(outcome))
        return replace(sample, id=f"{draft.id}:{self.key}:0")

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        return {"correct": float(words(sample.answer)[:1] == words(output)[:1])}


def _noise(utterance: Utterance, rng: random.Random) -> Samples | None:
    """What is heard where nobody speaks; None for synthetic speech, whose pauses are empty."""
    if utterance.voice is not None or utterance.audio is None:
        return None
    samples = samples_of(utterance.audio)
    return _pause(samples, rng) if utterance.is_speech else samples


def _derived(origins: tuple[Utterance, ...], samples: Samples, how: str, **changes: Any) -> Utterance:
    """The first origin with other sound, which comes from all of them."""
    first = origins[0]
    assert first.audio is not None
    return replace(
        first,
        id=f"{first.id}+{how}",
        licence=licence_of(origins),
        parts=tuple(Part(u.id, u.speaker) for u in origins),
        duration=None,
        audio=store(samples, sampling_rate=first.audio.sampling_rate, kind=how),
        **changes,
    )


def _mixed(utterance: Utterance, noise: Samples, rng: random.Random) -> Samples:
    """Speech with noise below it, at 5 to 20 dB."""
    assert utterance.audio is not None
    speech = samples_of(utterance.audio)
    bed = np.resize(noise, len(speech))  # repeats it
    gain = 10 ** ((speech_dbfs(speech) - speech_dbfs(bed) - rng.uniform(5.0, 20.0)) / 20)
    mixed = speech + bed * np.float32(gain)
    return np.asarray(mixed / max(1.0, float(np.abs(mixed).max())), np.float32)


def _pause(samples: Samples, rng: random.Random) -> Samples | None:
    """The longest pause of a recording, repeated to 1.5 to 4 s; None if there is none to be had."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)  # F, 400
    if not len(frames):
        return None
    energy = np.einsum("ij,ij->i", frames, frames) / FRAME
    quiet = energy < np.quantile(energy, 0.9) * _BELOW_SPEECH
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    begins, ends = edges[::2], edges[1::2]
    if not len(begins):
        return None
    longest = int(np.argmax(ends - begins))
    # The frames at the border of speech still hold some of it.
    pause = samples[(begins[longest] + 1) * FRAME : (ends[longest] - 1) * FRAME]
    if len(pause) < _SHORTEST_PAUSE or float(np.abs(pause).max()) == 0.0:
        return None
    ramp = np.linspace(0, 1, _FADE, dtype=np.float32)
    looped = pause.copy()
    wanted = int(rng.uniform(1.5, 4.0) * SAMPLING_RATE)
    while len(looped) < wanted:
        overlap = looped[-_FADE:] * ramp[::-1] + pause[:_FADE] * ramp
        looped = np.concatenate([looped[:-_FADE], overlap, pause[_FADE:]])
    return looped[:wanted]
