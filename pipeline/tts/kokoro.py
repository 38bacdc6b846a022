"""Kokoro, in the process, through the package `kokoro-onnx`: small, natural, quick on a CPU, in 8 languages.

Source: github.com/thewh1teagle/kokoro-onnx, whose releases bring `kokoro-v1.0.onnx` and `voices-v1.0.bin`; the
model is hexgrad/Kokoro-82M. Licence of model and voices: Apache-2.0; the package (MIT) phonemises with eSpeak NG.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import soxr

from pipeline.audio import Samples
from pipeline.plugins import require
from pipeline.text import base
from pipeline.tts.base import FAILED, TTS, Heard, Line, SpeechError, Voice, ignore
from pipeline.weights import content_of
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection

_WHAT = "the TTS engine kokoro"
_LICENCE = "Apache-2.0"
_TONGUES = {
    "a": ("en-US", "en-us", "american"),
    "b": ("en-GB", "en-gb", "british"),
    "e": ("es", "es", ""),
    "f": ("fr", "fr-fr", ""),
    "h": ("hi", "hi", ""),
    "i": ("it", "it", ""),
    "j": ("ja", "ja", ""),
    "p": ("pt-BR", "pt-br", "brazilian"),
    "z": ("zh", "cmn", ""),
}
"""By the first letter of a voice's name: its language, what eSpeak NG calls it, and its accent."""
_GENDERS = {"f": "female", "m": "male"}


class Kokoro(TTS):
    """Voices such as `af_heart`; a folder or the Hub is not searched, both files are named."""

    changes_rate: ClassVar[bool] = True

    model: str
    """The file `kokoro-v1.0.onnx`, or one of its smaller sisters."""
    file: str
    """The file `voices-v1.0.bin`."""
    licence: str = _LICENCE
    """Of model and voices, if they are others than those of the project."""

    @property
    def model_name(self) -> str:
        return Path(self.model).name

    @cached_property
    def identity(self) -> bytes:
        require("kokoro_onnx", extra="kokoro", what=_WHAT)
        known = f" {version('kokoro-onnx')} {content_of(self.model)} {content_of(self.file)}"
        return super().identity + known.encode()

    def check(self) -> None:
        if not Path(self.model).is_file():
            raise SpeechError(f"model: {self.model} does not exist: kokoro-onnx's releases have it")
        super().check()

    def all_voices(self, language: str | None) -> list[Voice]:
        found = []
        for name in _names(self.file):
            tongue, _, accent = _TONGUES.get(name[:1], ("", "", ""))
            if not tongue or (language is not None and base(tongue) != base(language)):
                continue
            if language is not None and "-" in language and "-" in tongue and tongue.lower() != language.lower():
                continue
            labels = {"gender": _GENDERS[name[1]]} if name[1:2] in _GENDERS else {}
            found.append(Voice(name, language or tongue, labels | ({"accent": accent} if accent else {}), self.licence))
        return found

    def speak(self, lines: Sequence[Line], workers: int = 1, heard: Heard = ignore) -> list[Samples | Rejection]:
        model = _load(self.model, self.file)
        found: list[Samples | Rejection] = []
        for number, line in enumerate(lines):
            if line.voice not in _names(self.file):
                raise SpeechError(f"{self.file} has no voice {line.voice!r}")
            try:
                sound, rate = model.create(line.text, line.voice, speed=line.rate, lang=_TONGUES[line.voice[0]][1])
            except Exception as error:  # onnxruntime's own errors have no common base
                found.append(Rejection(FAILED, f"{type(error).__name__}: {str(error)[:300]}"))
                continue
            said = _resampled(sound, rate)
            found.append(said)
            heard(number, said)
        return found


def _resampled(sound: Any, rate: int) -> Samples:
    samples: Samples = np.asarray(soxr.resample(np.asarray(sound, np.float32), rate, SAMPLING_RATE, "HQ"), np.float32)
    return np.clip(samples, -1.0, 1.0)


@lru_cache(maxsize=2)
def _names(file: str) -> tuple[str, ...]:
    """The voices in a file: arrays by name."""
    try:
        with np.load(file, allow_pickle=False) as voices:
            return tuple(sorted(voices.files))
    except (OSError, ValueError, BadZipFile) as error:
        raise SpeechError(f"file: {file} holds no voices of Kokoro: {error}") from error


@lru_cache(maxsize=1)
def _load(model: str, file: str) -> Any:
    kokoro = require("kokoro_onnx", extra="kokoro", what=_WHAT)
    try:
        return kokoro.Kokoro(model, file)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise SpeechError(f"kokoro-onnx cannot load {model}: {str(error)[:300]}") from error
