"""Effect: one change of a sound, drawn for an utterance and told in its row."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from pipeline.audio import FRAME, Samples
from schemas.arrow import SAMPLING_RATE
from schemas.recipe import Options

_ACTIVE = 0.01  # of the power of the loudest tenth of frames: 20 dB below it
_SIZES = 1, 3, 5, 9, 15
QUIETEST = 1e-9  # power: -90 dBFS, the last bit of 16. Nobody hears what is below

Told = dict[str, str]
"""What was done, as it stands in the row; empty if nothing was."""


class EffectError(ValueError):
    """An effect that cannot work as the recipe has it; names the key."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def _in_order(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the first of two bounds is the lower one, not {bounds}")
    return bounds


_Bound = TypeVar("_Bound", bound=float)
Range = Annotated[list[_Bound], Field(min_length=2, max_length=2), AfterValidator(_in_order)]
"""Two bounds, between which a value is drawn evenly."""


@dataclass(frozen=True)
class Draw:
    """What is left to chance for one effect on one utterance."""

    rng: random.Random
    longest: float = 30.0
    """Seconds that no effect makes an utterance exceed."""
    held_out: bool = False
    """Whether the utterance is in test."""
    test: float = 0.0
    """The share of noises that only test may have."""

    def between(self, bounds: Sequence[float], digits: int) -> float:
        """A value as it is told: rounded before it is used."""
        return round(self.rng.uniform(*bounds), digits)

    @property
    def generator(self) -> np.random.Generator:
        """For whole arrays."""
        return np.random.default_rng(self.rng.getrandbits(64))


class Effect(Options):
    """Base of effects, which are plugins."""

    is_plugin: ClassVar[bool] = True
    order: ClassVar[int]
    """Where in the way from mouth to file it happens; lower numbers first."""
    by_default: ClassVar[bool] = True
    """Whether it is in the mix of a recipe that names no effects."""
    package: ClassVar[str | None] = None
    """An optional one that it needs, whose other versions may make another sound."""

    chance: Annotated[float, Field(ge=0, le=1)] = 0.3
    """How often it is drawn for an utterance that is changed."""

    @property
    def name(self) -> str:
        """That of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def adds(self) -> str | None:
        """The licence of what it adds to the sound, as far as known."""
        return None

    @property
    def files(self) -> Mapping[str, str]:
        """What shapes the sound beside its options: paths by a name that stays the same when they move."""
        return {}

    def check(self) -> None:
        """Asked once, before any work.

        Raises:
            EffectError: It cannot work; names the key.
            MissingExtra: It needs a package that is not installed.
        """

    @abstractmethod
    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        """The changed sound and what was done; the sound as it was and nothing where it cannot be done.

        Args:
            samples: T, 16 kHz, float32 in [-1, 1]; at least one.
        """


def speech_power(samples: Samples) -> float:
    """Mean square of active speech: of the 25 ms frames within 20 dB of the loudest tenth of them.

    Close to ITU-T P.56 (method B), whose threshold lies 15.9 dB below the active level. Pauses do not lower it.
    """
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)  # T -> F, 400
    if not len(frames):
        return power(samples)
    energy = np.einsum("ij,ij->i", frames, frames).astype(np.float64) / FRAME  # F
    tenth = max(1, len(energy) // 10)
    loudest = float(np.partition(energy, -tenth)[-tenth:].mean())
    return float(energy[energy >= loudest * _ACTIVE].mean())


def power(samples: Samples) -> float:
    """Mean square."""
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def within_scale(samples: Samples) -> Samples:
    """The same, made quieter as a whole if it went beyond full scale: no effect but clipping clips."""
    peak = float(np.abs(samples).max(initial=0.0))
    return np.asarray(samples / np.float32(peak), np.float32) if peak > 1 else np.asarray(samples, np.float32)


def fitted(samples: Samples, count: int) -> Samples:
    """Exactly as many samples: what a filter's delay added is cut off, what it left out is silent."""
    if len(samples) >= count:
        return samples[:count]
    return np.concatenate([samples, np.zeros(count - len(samples), np.float32)])


def quick_length(least: int) -> int:
    """The next length of which a Fourier transform is quick: a few small primes times a power of two."""
    return min(factor << max(0, -(-least // factor) - 1).bit_length() for factor in _SIZES)


def paced(samples: Samples, factor: float, longest: float) -> float:
    """A factor of speed, to three digits, at which the sound lasts no longer than it may; 1 if there is none."""
    seconds = len(samples) / SAMPLING_RATE
    least = -(-seconds * 1000 // longest) / 1000  # rounded up
    return max(factor, min(least, 1.0))
