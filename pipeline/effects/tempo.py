"""Quicker or slower at the same pitch: Signalsmith Stretch (MIT), through the package python-stretch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects.base import Draw, Effect, Range, Told, fitted, paced, within_scale
from pipeline.plugins import require
from schemas.arrow import SAMPLING_RATE


class Tempo(Effect):
    """Changes the pace alone. The duration becomes that before divided by the factor."""

    order: ClassVar[int] = 15
    by_default: ClassVar[bool] = False
    package: ClassVar[str | None] = "python-stretch"

    factor: Range[Annotated[float, Field(ge=0.7, le=1.5)]] = [0.85, 1.2]
    """1.1 is a tenth quicker."""

    def check(self) -> None:
        _library()

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        factor = paced(samples, draw.between(self.factor, 3), draw.longest)
        if factor == 1:
            return samples, {}
        stretch = _library().Signalsmith.Stretch()  # one for each utterance: it remembers what it has heard
        stretch.preset(1, SAMPLING_RATE)
        stretch.timeFactor = factor
        stretched = np.asarray(stretch.process(samples[np.newaxis]), np.float32)[0]  # 1, T -> T
        wanted = max(1, round(len(samples) / factor))
        return within_scale(fitted(stretched, wanted)), {"tempo": f"{factor:g}"}


def _library() -> Any:
    return require("python_stretch", extra="tempo", what="the effect tempo")
