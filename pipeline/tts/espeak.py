"""eSpeak NG, in the process, through the shared library that the wheel `espeakng-loader` brings.

Source: github.com/espeak-ng/espeak-ng, `speak_lib.h`. Licence of the program: GPL-3.0-or-later; what it
says is free of it. Formant synthesis: quick (hundreds of times real time on a core), robotic, in a
hundred languages, with many variants of each voice. A process has one, and uses it from one thread.
"""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from pipeline.audio import Samples
from pipeline.plugins import require
from pipeline.text import base
from pipeline.tts.base import TTS, SpeechError, Voice
from schemas.arrow import SAMPLING_RATE

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come before Synth returns, with no thread
_CHARS_UTF8 = 1
_BUFFER_MS = 1000  # fewer, larger pieces are 4 % quicker than the default of 60 ms
_SEED = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_VARIANTS = {**{f"f{n}": "female" for n in range(1, 6)}, **{f"m{n}": "male" for n in range(1, 9)}}
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

    def voices(self, language: str) -> list[Voice]:
        accents = _VOICES.get(base(language), {base(language): ""})
        if language.lower() in accents and "-" in language:
            accents = {language.lower(): accents[language.lower()]}
        known = _names()
        return [
            Voice(f"{name}+{variant}", language, {"gender": gender} | ({"accent": accent} if accent else {}))
            for name, accent in accents.items()
            for variant, gender in _VARIANTS.items()
            if name in known and variant in known
        ]

    def speak(self, texts: Sequence[tuple[str, str]]) -> list[Samples]:
        return [_say(text, voice) for text, voice in texts]


class _Library:
    """The synthesiser, freshly loaded.

    What it says depends on what it said before: phases, levels and random noise are kept in static
    variables that no call resets. Loading it anew for each text takes 0.6 ms and makes equal texts
    sound equal, whatever came before.
    """

    def __init__(self) -> None:
        loader = require("espeakng_loader", extra="espeak", what="the TTS engine espeak")
        try:
            self._c: Any = ctypes.CDLL(loader.get_library_path())
        except OSError as error:
            raise SpeechError(f"eSpeak NG cannot be loaded: {error}") from error
        self._c.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self._c.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
            *(ctypes.c_void_p, ctypes.c_void_p),
        ]
        self._c.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self._c.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        data = str(loader.get_data_path()).encode()
        self.rate = self._c.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, data, 0)
        if self.rate <= 0:
            raise SpeechError(f"eSpeak NG does not start with its data in {data.decode()}")
        self._c.espeak_ng_SetRandSeed(_SEED)
        self._pieces: list[bytes] = []
        self._callback = _CALLBACK(self._collect)  # kept, or the library would call freed memory
        self._c.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, count * 2))
        return 0

    def say(self, text: str, voice: str) -> bytes:
        """16-bit samples at `rate`."""
        if not _names().issuperset(voice.split("+")) or self._c.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechError(f"eSpeak NG has no voice {voice!r}")
        content = text.encode()
        if self._c.espeak_Synth(content, len(content) + 1, 0, 1, 0, _CHARS_UTF8, None, None) != 0:
            raise SpeechError(f"eSpeak NG cannot say {text!r}")
        return b"".join(self._pieces)

    def unload(self) -> None:
        """Gives the library back; the next one begins with fresh variables."""
        self._c.espeak_Terminate()
        handle = self._c._handle
        del self._c
        _ctypes.dlclose(handle)


def _say(text: str, voice: str) -> Samples:
    library = _Library()
    try:
        content, rate = library.say(text, voice), library.rate
    finally:
        library.unload()
    pcm = np.frombuffer(content, "<i2").astype(np.float32) / 32768.0
    spoken: Samples = np.asarray(soxr.resample(pcm, rate, SAMPLING_RATE, "HQ"), np.float32)
    return spoken


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    """The voices and variants that the data folder has. An unknown variant would be ignored silently."""
    loader = require("espeakng_loader", extra="espeak", what="the TTS engine espeak")
    data = Path(str(loader.get_data_path()))
    return frozenset(p.name.lower() for part in ("lang", "voices/!v") for p in (data / part).rglob("*") if p.is_file())
