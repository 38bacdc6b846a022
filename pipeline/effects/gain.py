"""Louder or quieter, as far or near a microphone's sensitivity."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects.base import Draw, Effect, Range, Told


class Gain(Effect):
    """Changes the level of the whole. At most full scale is reached: what is drawn beyond it is left off."""

    order: ClassVar[int] = 50

    db: Range[Annotated[float, Field(ge=-40, le=40)]] = [-10.0, 3.0]

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        wanted = draw.between(self.db, 1)
        peak = float(np.abs(samples).max(initial=0.0))
        if not peak:
            return samples, {}
        most = max(0.0, math.floor(-200 * math.log10(peak)) / 10)
        gain = min(wanted, most)
        if not gain:
            return samples, {}
        changed = np.asarray(samples * np.float32(10 ** (gain / 20)), np.float32)
        return np.clip(changed, -1, 1), {"gain_db": f"{gain:g}"}
