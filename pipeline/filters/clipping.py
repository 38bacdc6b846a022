"""Overdriven recordings."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.stage import Filter
from schemas.sample import Rejection, Sample


class Clipping(Filter):
    """A bound on the share of samples that lie in runs at full scale."""

    before_tasks: ClassVar[bool] = True

    most: Annotated[float, Field(ge=0, le=1)] = 0.005

    def reason(self, sample: Sample) -> Rejection | None:
        audio = sample.utterances[0].audio
        if audio is not None and audio.clipped > self.most:
            return Rejection("clipped", f"{audio.clipped:.2%} of the samples, at most {self.most:.2%} may be")
        return None
