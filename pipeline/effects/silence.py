"""Silence before and after, as where a recorder starts early and stops late."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects.base import Draw, Effect, Range, Told
from schemas.arrow import SAMPLING_RATE

Seconds = Annotated[float, Field(ge=0, le=10)]


class Silence(Effect):
    """Adds digital silence; room and noise, which come later, fill it."""

    order: ClassVar[int] = 20

    before: Range[Seconds] = [0.0, 0.5]
    after: Range[Seconds] = [0.0, 0.8]

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        before, after = draw.between(self.before, 3), draw.between(self.after, 3)
        room = max(0.0, draw.longest - len(samples) / SAMPLING_RATE)
        if before + after > room:
            share = room / (before + after)
            before, after = (int(seconds * share * 1000) / 1000 for seconds in (before, after))
        if not before + after:
            return samples, {}
        silences = (np.zeros(round(seconds * SAMPLING_RATE), np.float32) for seconds in (before, after))
        lead, tail = silences
        return np.concatenate([lead, samples, tail]), {"silence_before": f"{before:g}", "silence_after": f"{after:g}"}
