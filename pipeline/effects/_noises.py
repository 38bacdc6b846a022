"""Noises: synthesised ones, and stretches of files."""

from __future__ import annotations

import logging
import random
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.audio import AudioError, Samples, decode, header, mono
from pipeline.effects.base import QUIETEST, power, quick_length
from pipeline.plugins import MissingExtra
from schemas.arrow import SAMPLING_RATE

log = logging.getLogger("earwitness")

_LOWEST_HZ = 20.0  # of pink noise: below it all would go into what nobody hears
_VOICES = 6
_PACES = 0.8, 1.25  # of the voices of a babble
_SEAM = int(0.02 * SAMPLING_RATE)  # samples over which a loop's end becomes its beginning
_SHORT = 60.0  # seconds up to which a file is decoded as a whole, and kept for the next
_TRIES = 20  # files that are tried before an utterance is left as it is


def white(count: int, generator: np.random.Generator) -> Samples:
    """Equal power in equal bands. Shape T."""
    return generator.standard_normal(count, dtype=np.float32)


def pink(count: int, generator: np.random.Generator) -> Samples:
    """Equal power in each octave, as most backgrounds nearly have. Shape T."""
    length = quick_length(max(count, SAMPLING_RATE // 4))
    spectrum = np.fft.rfft(generator.standard_normal(length, dtype=np.float32))
    hertz = np.fft.rfftfreq(length, 1 / SAMPLING_RATE)
    spectrum *= 1 / np.sqrt(np.maximum(hertz, _LOWEST_HZ)).astype(np.float32)
    spectrum[0] = 0
    return np.asarray(np.fft.irfft(spectrum, length)[:count], np.float32)


def babble(speech: Samples, generator: np.random.Generator) -> Samples:
    """Many voices of which no word is understood: the utterance's own speech, backwards, in six voices and places.

    It has the spectrum and rhythm of the speech that it disturbs, and takes nothing from another utterance,
    which might be in the other split. Shape T.
    """
    count, backwards = len(speech), speech[::-1]
    total = np.zeros(count, np.float32)
    for pace, place in zip(generator.uniform(*_PACES, _VOICES), generator.integers(0, count, _VOICES), strict=True):
        times = float(place) + float(pace) * np.arange(count)
        before = times.astype(np.int64)
        rest = (times - before).astype(np.float32)
        total += np.take(backwards, before, mode="wrap") * (1 - rest)
        total += np.take(backwards, before + 1, mode="wrap") * rest
    return total


def of_files(folder: Path, names: list[str], count: int, rng: random.Random) -> tuple[Samples, str] | None:
    """A stretch of one of some files, repeated if it is shorter, and the file's name.

    Files that cannot be read, or where nothing is to be heard, are passed over; None if only such are found.
    """
    for _ in range(_TRIES):
        name = rng.choice(names)
        found = _stretch(str(folder / name), count, rng.random())
        if found is not None and power(found) >= QUIETEST:
            return found, name
    return None


def _stretch(path: str, count: int, place: float) -> Samples | None:
    seconds = _seconds(path)
    if seconds is None:
        return None
    wanted = count / SAMPLING_RATE
    if seconds <= max(_SHORT, wanted):
        whole = _whole(path)
        if whole is None or not len(whole):
            return None
        if len(whole) < count:
            return _looped(whole, count, place)
        begin = int(place * (len(whole) - count + 1))
        return whole[begin : begin + count]
    try:
        part = mono(decode(Path(path), start=place * (seconds - wanted), duration=wanted))
    except AudioError as error:
        _tell(path, error)
        return None
    return part[:count] if len(part) >= count else _looped(part, count, 0.0)


def _looped(noise: Samples, count: int, place: float) -> Samples:
    """A short noise again and again, without a click between, from some place on."""
    seam = min(_SEAM, len(noise) // 4)
    period = noise[: len(noise) - seam].copy()
    ramp = np.linspace(0, 1, seam, endpoint=False, dtype=np.float32)
    period[:seam] = period[:seam] * np.sqrt(ramp) + noise[len(noise) - seam :] * np.sqrt(1 - ramp)
    return np.resize(np.roll(period, -int(place * len(period))), count)


@lru_cache(maxsize=4096)
def _seconds(path: str) -> float | None:
    """How long a file lasts; None if it cannot be read, which is told once."""
    try:
        return header(Path(path)).seconds
    except (AudioError, MissingExtra) as error:
        _tell(path, error)
        return None


@lru_cache(maxsize=8)
def _whole(path: str) -> Samples | None:
    try:
        return mono(decode(Path(path)))
    except AudioError as error:
        _tell(path, error)
        return None


def readable(path: Path) -> bool:
    """Whether there is something to be heard in a file."""
    return bool(_seconds(str(path)))


def _tell(path: str, error: Exception) -> None:
    log.warning("the noise %s is left out: %s", path, error)
