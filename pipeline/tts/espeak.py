"""eSpeak NG, in the process, through the shared library that the wheel `espeakng-loader` brings.

Source: github.com/espeak-ng/espeak-ng, `speak_lib.h`. Licence of the program: GPL-3.0-or-later; what it
says is free of it. Formant synthesis: quick (hundreds of times real time on a core), robotic, in a
hundred languages, with many variants of each voice. A process has one, and uses it from one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import ClassVar

import numpy as np
import soxr
from pydantic import PositiveInt

from pipeline.audio import Samples
from pipeline.text import base
from pipeline.tts._espeak import Speaker, Spoken, languages, loader, variants
from pipeline.tts.base import FAILED, TTS, Heard, Line, Voice, ignore
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection

LICENCE = "GPL-3.0-or-later"
_VARIANTS = {**{f"f{n}": "female" for n in range(1, 6)}, **{f"m{n}": "male" for n in range(1, 9)}}
_KLATT = ("klatt", *(f"klatt{n}" for n in range(2, 7)))
"""Another synthesiser (Klatt 1980, J. Acoust. Soc. Am. 67), after which the whole voice sounds different."""
_VOICES = {
    "en": {"en-us": "american", "en": "british", "en-gb-scotland": "scottish", "en-gb-x-rp": "british"},
    "pt": {"pt-br": "brazilian", "pt": "portuguese"},
    "fr": {"fr": "french", "fr-be": "belgian", "fr-ch": "swiss"},
    "es": {"es": "spanish", "es-419": "latin american"},
    "zh": {"cmn": ""},
    "no": {"nb": ""},
}
"""Voices and accents of languages that have several, or one of another name."""


class Espeak(TTS):
    """Formant voices, the embedded default."""

    remembered: ClassVar[bool] = False  # the disk is slower
    changes_rate: ClassVar[bool] = True
    changes_pitch: ClassVar[bool] = True

    at_once: PositiveInt = 128
    """Lines in one call: those of one voice are spoken together, for changing it takes time."""

    @cached_property
    def identity(self) -> bytes:
        loader()
        return super().identity + version("espeakng-loader").encode()

    def all_voices(self, language: str | None) -> list[Voice]:
        if language is None:
            other = sorted(languages() - {name for accents in _VOICES.values() for name in accents})
            return [voice for name in [*_VOICES, *other] for voice in self.all_voices(name)]
        accents = _VOICES.get(base(language), {base(language): ""})
        if "-" in language and language.lower() in languages():
            accents = {language.lower(): accents.get(language.lower(), "")}
        sorts = _VARIANTS | dict.fromkeys(_KLATT, "male")
        return [
            Voice(
                f"{name}+{variant}",
                language,
                {"gender": gender} | ({"accent": accent} if accent else {}),
                LICENCE,
                held_out=variant in _KLATT,
            )
            for name, accent in accents.items()
            for variant, gender in sorts.items()
            if name in languages() and variant in variants()
        ]

    def speak(self, lines: Sequence[Line], workers: int = 1, heard: Heard = ignore) -> list[Samples | Rejection]:
        speaker = _speaker()
        found: dict[int, Samples | Rejection] = {}
        for number, line in sorted(enumerate(lines), key=lambda pair: pair[1].voice):
            said = speaker.say(line.text, line.voice, line.rate, line.pitch)
            found[number] = Rejection(FAILED, f"eSpeak NG cannot say {line.text!r}") if said is None else _samples(said)
        return [found[number] for number in range(len(lines))]


def _samples(said: Spoken) -> Samples:
    pcm = np.frombuffer(said.pcm, "<i2").astype(np.float32) / 32768.0
    resampled: Samples = np.asarray(soxr.resample(pcm, said.sampling_rate, SAMPLING_RATE, "HQ"), np.float32)
    return resampled


@lru_cache(maxsize=1)
def _speaker() -> Speaker:
    return Speaker()
