"""Too short to say anything, or too long for an encoder's window."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import PositiveFloat, model_validator

from pipeline.stage import Filter
from schemas.sample import Rejection, Sample


class Duration(Filter):
    """Bounds on the seconds of an utterance."""

    before_tasks: ClassVar[bool] = True

    shortest: PositiveFloat = 0.3
    longest: PositiveFloat = 30.0

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        if self.shortest >= self.longest:
            raise ValueError(f"shortest ({self.shortest:g} s) must be less than longest ({self.longest:g} s)")
        return self

    def reason(self, sample: Sample) -> Rejection | None:
        audio = sample.utterances[0].audio
        if audio is None:
            return None
        if audio.seconds < self.shortest:
            return Rejection("too_short", f"{audio.seconds:.6g} s, at least {self.shortest:g} s are asked for")
        if audio.seconds > self.longest:
            return Rejection("too_long", f"{audio.seconds:.6g} s, at most {self.longest:g} s are asked for")
        return None
