"""A call or a voice message over the Internet: Opus at a low bit rate, with the whole band."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects import _codec
from pipeline.effects.base import Draw, Effect, Range, Told, within_scale
from schemas.arrow import SAMPLING_RATE


class Opus(Effect):
    """Sends the sound through Opus at 16 kHz. At 6 to 10 kbit/s the codec itself narrows the band."""

    order: ClassVar[int] = 80
    by_default: ClassVar[bool] = False

    chance: Annotated[float, Field(ge=0, le=1)] = 0.1
    kbps: Range[Annotated[float, Field(ge=6, le=128)]] = [8.0, 32.0]

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        kbps = draw.between(self.kbps, 1)
        return within_scale(_codec.opus(samples, kbps, SAMPLING_RATE)), {"opus": f"{kbps:g}"}
