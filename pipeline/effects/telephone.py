"""A telephone line: 300 to 3,400 Hz, 8 kHz, and a codec."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import soxr
from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects._codec import g711, opus
from pipeline.effects.base import Draw, Effect, Range, Told, fitted, quick_length, within_scale
from schemas.arrow import SAMPLING_RATE

_RATE = 8000  # Hz
_EDGES = 200.0, 300.0, 3400.0, 3600.0  # Hz: from nothing to all, from all to nothing


class Telephone(Effect):
    """Band-limits the sound, samples it at 8 kHz and sends it through a codec."""

    order: ClassVar[int] = 70

    chance: Annotated[float, Field(ge=0, le=1)] = 0.2
    codec: Annotated[list[Literal["mulaw", "alaw", "opus", "none"]], Field(min_length=1)] = [
        *("mulaw", "alaw", "opus", "none"),
    ]
    """One is drawn: G.711 of America and Japan, of the rest of the world, Opus, or the band alone."""
    opus_kbps: Range[Annotated[float, Field(ge=6, le=128)]] = [8.0, 24.0]

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        codec, kbps = draw.rng.choice(self.codec), draw.between(self.opus_kbps, 1)
        told = {"telephone": codec} | ({"opus_kbps": f"{kbps:g}"} if codec == "opus" else {})
        narrow = np.asarray(soxr.resample(samples, SAMPLING_RATE, _RATE, "HQ"), np.float32)
        line = within_scale(_band(fitted(narrow, (len(samples) + 1) // 2)))
        if codec in ("mulaw", "alaw"):
            line = g711(line, codec, _RATE)
        elif codec == "opus":
            line = opus(line, kbps, _RATE)
        heard = np.asarray(soxr.resample(line, _RATE, SAMPLING_RATE, "HQ"), np.float32)
        return within_scale(fitted(heard, len(samples))), told


def _band(samples: Samples) -> Samples:
    """What a line lets through. Shape T, 8 kHz."""
    size = quick_length(len(samples) + _RATE // 20)  # a pause, or the end would be heard at the beginning
    let_through = np.interp(np.fft.rfftfreq(size, 1 / _RATE), _EDGES, [0.0, 1.0, 1.0, 0.0]).astype(np.float32)
    heard = np.fft.irfft(np.fft.rfft(samples, size) * let_through, size)
    return np.asarray(heard[: len(samples)], np.float32)
