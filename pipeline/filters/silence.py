"""Nothing to be heard."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.stage import Filter
from schemas.sample import Rejection, Sample


class Silence(Filter):
    """A bound on the level of the loudest tenth of an utterance. Noise without speech is not silent."""

    before_tasks: ClassVar[bool] = True

    quietest: Annotated[float, Field(ge=-120, le=0)] = -65.0
    """dBFS. Speech that was recorded very low lies around -60, its noise floor around -75."""

    def reason(self, sample: Sample) -> Rejection | None:
        audio = sample.utterances[0].audio
        if audio is not None and audio.speech_dbfs < self.quietest:
            return Rejection("silent", f"{audio.speech_dbfs:.1f} dBFS, at least {self.quietest:g} is asked for")
        return None
