"""Background noise, from a folder or synthesised, at a signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline import seeds
from pipeline.audio import SUFFIXES, Samples
from pipeline.effects import _noises
from pipeline.effects.base import QUIETEST, Draw, Effect, EffectError, Range, Told, power, speech_power, within_scale


class Noise(Effect):
    """Adds noise to speech.

    The SNR is 10 log10 (S / N): S is the mean square of the active speech (`base.speech_power`: 25 ms frames within
    20 dB of the loudest tenth), N the mean square of the noise over the whole utterance, pauses included. Both are
    taken of what is added, at the place where it is added: after the room, before gain and line. Noise that a
    recording had before counts as speech. If the sum goes beyond full scale, both become quieter alike.
    """

    order: ClassVar[int] = 40

    chance: Annotated[float, Field(ge=0, le=1)] = 0.5
    snr_db: Range[Annotated[float, Field(ge=-20, le=60)]] = [5.0, 25.0]
    folder: str | None = None
    """Noises of your own, in any format that recordings may have; all below it. Without one they are synthesised."""
    licence: str | None = None
    """Of the noises in the folder; goes into the rows that hear them."""
    kinds: Annotated[list[Literal["white", "pink", "babble"]], Field(min_length=1)] = ["white", "pink", "babble"]
    """Which are synthesised: one is drawn."""

    @model_validator(mode="after")
    def _has_what_is_licensed(self) -> Self:
        if self.licence is not None and self.folder is None:
            raise ValueError("`licence` is that of the noises in `folder`, which is missing")
        return self

    def check(self) -> None:
        if self.folder is None:
            return
        if not Path(self.folder).is_dir():
            raise EffectError("folder", f"{self.folder} is not a folder")
        if not any(_noises.readable(Path(self.folder) / name) for name in self.names):
            raise EffectError("folder", f"{self.folder} holds no audio that can be read")

    @cached_property
    def names(self) -> list[str]:
        """The folder's files, in an order that only chance and their names decide; the first are for test."""
        root = Path(self.folder or "")
        files = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        shown = (path.relative_to(root) for path in files)
        found = [name.as_posix() for name in shown if not any(part.startswith(".") for part in name.parts)]
        return sorted(found, key=lambda name: (seeds.share("noise", name), name))

    @property
    def adds(self) -> str | None:
        return self.licence

    @property
    def files(self) -> Mapping[str, str]:
        return {name: str(Path(self.folder) / name) for name in self.names} if self.folder else {}

    def heard_in(self, *, held_out: bool, test: float) -> list[str]:
        """The files that one split may hear, of which the other hears none; with a single file both hear it."""
        apart = min(len(self.names) - 1, max(1, round(test * len(self.names)))) if test else 0
        return (self.names[:apart] if held_out else self.names[apart:]) if apart else self.names

    def apply(self, samples: Samples, draw: Draw) -> tuple[Samples, Told]:
        snr = draw.between(self.snr_db, 1)
        if speech_power(samples) < QUIETEST:
            return samples, {}
        found = self._noise(samples, draw)
        if found is None:
            return samples, {}
        noise, name = found
        return within_scale(samples + at_ratio(samples, noise, snr)), {"noise": name, "snr_db": f"{snr:g}"}

    def _noise(self, samples: Samples, draw: Draw) -> tuple[Samples, str] | None:
        count = len(samples)
        if self.folder is not None:
            names = self.heard_in(held_out=draw.held_out, test=draw.test)
            return _noises.of_files(Path(self.folder), names, count, draw.rng)
        kind = draw.rng.choice(self.kinds)
        if kind == "babble":
            return _noises.babble(samples, draw.generator), kind
        return (_noises.white if kind == "white" else _noises.pink)(count, draw.generator), kind


def at_ratio(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """The noise, as loud as the ratio asks for. All of shape T."""
    wanted = speech_power(speech) / 10 ** (snr_db / 10)
    return np.asarray(noise * np.float32((wanted / power(noise)) ** 0.5), np.float32)
