"""Whether speech can be what a text asks for: not silence, not noise, neither far too short nor far too long.

It finds what engines do when they fail: nothing, a hum, half of the text, or minutes of babble. It cannot
tell whether the words are right: that is what the ASR engine is for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.audio import FRAME, SILENCE_DBFS, Samples, speech_dbfs
from pipeline.text import UNSPACED, base
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection

SOFTEST_DBFS = -50.0
"""Of the loudest tenth of frames: softer is silence."""
LEAST_VARIED_DB = 2.5
"""Standard deviation of the levels of frames: speech has 5 and more, steady noise and tones under 1."""
FLATTEST = 0.85
"""Geometric over arithmetic mean of the power spectrum: speech has about 0.1, hissing Klatt voices up to 0.75."""
_AUDIBLE = 1e-5  # of the loudest frame's energy: 50 dB below
_WINDOW, _WINDOWS = 512, 16
_BAND = slice(4, 240)  # bins of 31.25 Hz: 125 Hz to 7.5 kHz
_LONG_ENOUGH = 1.0  # seconds: a single syllable is as steady as a tone


class Pace(NamedTuple):
    """Letters a second that a voice at its own pace keeps between."""

    slowest: float
    fastest: float


_PACES = {"en": Pace(4.0, 21.0), "ru": Pace(4.0, 21.0), "pt": Pace(4.0, 18.0)}
"""Measured with all voices of eSpeak NG over `data/text`: 12.6-19.3, 13.7-18.1 and 11.2-15.8."""
_OTHERS, _UNSPACED = Pace(3.0, 24.0), Pace(1.0, 9.0)
_SWALLOWED = 6  # letters: a word of one syllable takes hardly any time
_ROOM = 1.5  # seconds that pauses may take
_DIGIT = 7  # letters of a digit that was left to the engine to read


def implausible(samples: Samples, text: str, language: str, rate: float = 1.0) -> Rejection | None:
    """Why speech cannot be that of a text.

    Args:
        samples: Shape T, 16 kHz mono.
        text: What was to be said, in words.
        language: BCP-47.
        rate: Against the voice's own pace.
    """
    if not len(samples):
        return Rejection("not_spoken", f"the engine said nothing for {text!r}")
    level = speech_dbfs(samples)
    if not level > max(SOFTEST_DBFS, SILENCE_DBFS):  # NaN is no level
        return Rejection("tts_silent", f"{level:.0f} dBFS where {text!r} should be heard")
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)  # F, 400
    energy = np.einsum("ij,ij->i", frames, frames)  # F
    audible = np.flatnonzero(energy > energy.max(initial=0.0) * _AUDIBLE)
    seconds = (audible[-1] - audible[0] + 1) * FRAME / SAMPLING_RATE if len(audible) else len(samples) / SAMPLING_RATE
    return _noise(samples, energy[audible], seconds, text) or _length(seconds, text, language, rate)


def _noise(samples: Samples, energy: Samples, seconds: float, text: str) -> Rejection | None:
    varied = float(np.std(10 * np.log10(energy))) if len(energy) else 0.0
    if seconds >= _LONG_ENOUGH and varied < LEAST_VARIED_DB:
        return Rejection("tts_noise", f"the level varies by {varied:.1f} dB only, where {text!r} should be heard")
    flat = flatness(samples)
    if flat > FLATTEST:
        return Rejection("tts_noise", f"a spectral flatness of {flat:.2f}, where {text!r} should be heard")
    return None


def flatness(samples: Samples) -> float:
    """Of the mean power spectrum of some windows."""
    if len(samples) < 2 * _WINDOW:
        return 0.0
    step = max(1, (len(samples) - _WINDOW) // (_WINDOWS - 1))
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::step]  # 16, 512
    spectrum = np.fft.rfft(windows * _HANN, axis=1)[:, _BAND]
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0) + 1e-12
    return float(np.exp(np.log(power).mean()) / power.mean())


_HANN = np.hanning(_WINDOW).astype(np.float32)


def _length(seconds: float, text: str, language: str, rate: float) -> Rejection | None:
    pace = _UNSPACED if base(language) in UNSPACED else _PACES.get(base(language), _OTHERS)
    letters = sum(c.isalpha() for c in text)
    digits = sum(c.isdigit() for c in text)
    told = f"{seconds:.1f} s for the {letters + digits} letters of {text!r}"
    shortest = (letters + digits - _SWALLOWED) / (pace.fastest * rate)
    if seconds < shortest:
        return Rejection("tts_too_short", f"{told}: at least {shortest:.1f} s")
    longest = (letters + digits * _DIGIT + _SWALLOWED) / (pace.slowest * rate) + _ROOM
    if seconds > longest:
        return Rejection("tts_too_long", f"{told}: at most {longest:.1f} s")
    return None
