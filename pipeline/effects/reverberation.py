"""A room, as its reverberation time: what was said, and a tail of echoes that decays exponentially."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from pipeline.audio import Samples
from pipeline.effects.base import QUIETEST, Draw, Effect, Range, Told, quick_length, speech_power, within_scale
from schemas.arrow import SAMPLING_RATE

_FIRST_ECHO = 0.002, 0.012  # seconds after the direct sound


class Reverberation(Effect):
    """Convolves with a synthetic impulse response: the direct sound, then Gaussian noise that decays by 60 dB in RT60.

    The statistical model of a room's late field (Polack, 1988; Habets, 2007). Duration and level of speech
    stay as they are: the direct sound comes at once, and the last echoes are cut off with the file.
    """

    order: ClassVar[int] = 30

    rt60: Range[Annotated[float, Field(ge=0.05, le=3)]] = [0.2, 0.6]
    """Seconds. 0.3 is a living room, 0.6 an office, 1 and more a hall."""
    direct_db: Range[Annotated[float, Field(ge=-10, le=30)]] = [0.0, 12.0]
    """Energy of the direct sound above that of all echoes in dB: it falls with the distance from the microphone."""

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        rt60, direct = draw.between(self.rt60, 3), draw.between(self.direct_db, 1)
        before = speech_power(samples)
        if before < QUIETEST:
            return samples, {}
        response = impulse_response(rt60, direct, draw.rng.uniform(*_FIRST_ECHO), draw.generator)
        heard = _convolved(samples, response)
        heard *= np.float32((before / speech_power(heard)) ** 0.5)
        return within_scale(heard), {"rt60": f"{rt60:g}", "direct_db": f"{direct:g}"}


def impulse_response(rt60: float, direct_db: float, first_echo: float, generator: np.random.Generator) -> Samples:
    """A room's response to a click. Shape R, 16 kHz; the direct sound is its first sample, 1.

    Args:
        rt60: Seconds in which the echoes lose 60 dB.
        direct_db: Energy of the direct sound above that of the echoes.
        first_echo: Seconds.
        generator: Draws the echoes.
    """
    count = round(1.1 * rt60 * SAMPLING_RATE)
    echoes = generator.standard_normal(count, dtype=np.float32)
    echoes *= 10 ** (-3 * np.arange(count, dtype=np.float32) / np.float32(rt60 * SAMPLING_RATE))
    echoes *= np.float32((10 ** (-direct_db / 10) / float(np.sum(echoes**2))) ** 0.5)
    gap = np.zeros(round(first_echo * SAMPLING_RATE) - 1, np.float32)
    return np.concatenate([np.ones(1, np.float32), gap, echoes])


def _convolved(samples: Samples, response: Samples) -> Samples:
    """T and R -> T: what goes on after the end of the sound is left out."""
    size = quick_length(len(samples) + len(response) - 1)
    spectrum = np.fft.rfft(samples, size)
    heard = np.fft.irfft(spectrum * np.fft.rfft(response, size), size)[: len(samples)]
    return np.ascontiguousarray(heard, np.float32)
