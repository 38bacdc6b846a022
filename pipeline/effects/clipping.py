"""An input that is overdriven: the peaks are cut off."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects.base import Draw, Effect, Range, Told


class Clipping(Effect):
    """Cuts off all that is beyond the level which a share of samples exceeds.

    The rest keeps its level, as where a preamplifier is overdriven before the recorder.
    """

    order: ClassVar[int] = 60

    chance: Annotated[float, Field(ge=0, le=1)] = 0.05
    share: Range[Annotated[float, Field(gt=0, le=0.2)]] = [0.001, 0.01]
    """Of all samples; at least one."""

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        share = draw.between(self.share, 4)
        cut = max(1, round(share * len(samples)))
        level = np.partition(np.abs(samples), len(samples) - cut)[len(samples) - cut]  # the quietest of those cut
        if not level:
            return samples, {}
        return np.clip(samples, -level, level), {"clipped_share": f"{cut / len(samples):.4g}"}
