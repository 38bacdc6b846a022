"""Transcripts that cannot be what is said: far too much or too little for the time."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import PositiveFloat, model_validator

from pipeline.stage import Filter, with_scores
from pipeline.text import spaced, without_tags
from schemas.sample import Rejection, Sample

_LONG = 4.0  # seconds from which on a short transcript is suspicious


class SpeechRate(Filter):
    """Bounds on letters and digits a second. Read speech has 10 to 18, in Chinese 3 to 6."""

    before_tasks: ClassVar[bool] = True

    slowest: PositiveFloat = 1.0
    """Asked of utterances of four seconds and more: short ones may be mostly silence."""
    fastest: PositiveFloat = 30.0
    fastest_unspaced: PositiveFloat = 12.0
    """For Chinese, Japanese, Thai and other languages with more in a character."""

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        fastest = min(self.fastest, self.fastest_unspaced)
        if self.slowest >= fastest:
            raise ValueError(f"slowest ({self.slowest:g}) must be less than what is fastest ({fastest:g})")
        return self

    def judge(self, sample: Sample) -> Sample:
        return super().judge(with_scores(sample, characters_per_second=_rate(sample)))

    def reason(self, sample: Sample) -> Rejection | None:
        rate = sample.scores.characters_per_second
        if rate is None:
            return None
        utterance = sample.utterances[0]
        fastest = self.fastest if spaced(utterance.language) else self.fastest_unspaced
        if rate > fastest:
            return Rejection("implausible_speech_rate", f"{rate:.1f} characters a second, at most {fastest:g}")
        assert utterance.audio is not None
        if rate < self.slowest and utterance.audio.seconds >= _LONG:
            return Rejection("implausible_speech_rate", f"{rate:.2f} characters a second, at least {self.slowest:g}")
        return None


def _rate(sample: Sample) -> float | None:
    utterance = sample.utterances[0]
    if utterance.audio is None or not utterance.is_speech or not utterance.transcript:
        return None
    said = sum(map(str.isalnum, without_tags(utterance.transcript)))
    return round(said / utterance.audio.seconds, 3)
