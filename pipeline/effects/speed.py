"""Quicker or slower, higher or lower, like a tape: resampled by soxr."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import soxr
from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects.base import Draw, Effect, Range, Told, fitted, paced, within_scale
from schemas.arrow import SAMPLING_RATE


class Speed(Effect):
    """Changes pace and pitch together (Ko et al., Audio augmentation for speech recognition, Interspeech 2015).

    The duration becomes that before divided by the factor. Far from 1 it would be another speaker's voice,
    and labels such as gender would be false: hence the bounds.
    """

    order: ClassVar[int] = 10

    factor: Range[Annotated[float, Field(ge=0.8, le=1.25)]] = [0.9, 1.1]
    """1.1 is a tenth quicker."""

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        factor = paced(samples, draw.between(self.factor, 3), draw.longest)
        if factor == 1:
            return samples, {}
        wanted = max(1, round(len(samples) / factor))
        resampled = np.asarray(soxr.resample(samples, SAMPLING_RATE * factor, SAMPLING_RATE, "HQ"), np.float32)
        return within_scale(fitted(resampled, wanted)), {"speed": f"{factor:g}"}
