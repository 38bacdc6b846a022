"""Recordings that are not what their corpus says: another rate, another length."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat

from pipeline.stage import Filter
from schemas.sample import Rejection, Sample


class Claims(Filter):
    """Compares what a listing (or a file's name) claims with what the file holds."""

    before_tasks: ClassVar[bool] = True

    seconds: PositiveFloat = 0.5
    """A claimed duration may be off by this much,"""
    share: PositiveFloat = 0.1
    """or by this share of it, whichever is more."""

    def reason(self, sample: Sample) -> Rejection | None:
        utterance = sample.utterances[0]
        audio = utterance.audio
        if audio is None or utterance.source is None:
            return None
        claimed = utterance.sampling_rate
        if claimed is not None and claimed != audio.sampling_rate:
            return Rejection("wrong_rate_claimed", f"{claimed} Hz are claimed, the file has {audio.sampling_rate} Hz")
        seconds = utterance.duration
        if seconds is not None and abs(seconds - audio.seconds) > max(self.seconds, self.share * seconds):
            return Rejection("wrong_duration_claimed", f"{seconds:g} s are claimed, there are {audio.seconds:.2f} s")
        return None
