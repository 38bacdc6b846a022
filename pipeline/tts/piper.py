"""Piper, in the process: small VITS voices, quick on a CPU, in over thirty languages.

Source: github.com/OHF-Voice/piper1-gpl; voices: huggingface.co/rhasspy/piper-voices. Licence of the program:
GPL-3.0-or-later; voices have one each, which their `MODEL_CARD` tells, and which the recipe must repeat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import soxr
from pydantic import Field

from pipeline.audio import Samples
from pipeline.plugins import nearest, require
from pipeline.text import base
from pipeline.tts.base import FAILED, TTS, Heard, Line, SpeechError, Voice, ignore
from pipeline.weights import content_of
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection

_WHAT = "the TTS engine piper"
_SPEAKER = "#"  # between a voice and one of its speakers: `en_US-libritts-high#p3922`


class Piper(TTS):
    """Voices that lie in a folder: `en_US-lessac-medium.onnx` with `.onnx.json` beside it."""

    changes_rate: ClassVar[bool] = True

    folder: str
    """Where the voices are."""
    licence: str | None = None
    """Of all voices that `licences` does not name."""
    licences: dict[str, str] = {}
    """By voice, e.g. `{en_US-lessac-medium: CC-BY-NC-SA-4.0}`."""
    noise: Annotated[float, Field(ge=0, le=2)] | None = None
    """How much is left to chance, in sound and durations; omitted, as much as each voice says. It cannot be
    seeded: only 0 says the same line the same way twice."""

    @cached_property
    def identity(self) -> bytes:
        require("piper", extra="piper", what=_WHAT)
        return super().identity + f" {version('piper-tts')} {content_of(self.folder)} {self.noise}".encode()

    def check(self) -> None:
        names = [path.name.removesuffix(".onnx.json") for path in _configs(self.folder)]
        for name in self.licences:
            if name not in names:
                raise SpeechError(f"licences: {self.folder} has no voice {name!r}.{nearest(name, names)}")
        super().check()

    def all_voices(self, language: str | None) -> list[Voice]:
        found = []
        for path in _configs(self.folder):
            config, name = _config(path), path.name.removesuffix(".onnx.json")
            tongue = str(config.get("language", {}).get("code", name.split("-")[0])).replace("_", "-")
            if language is not None and base(tongue) != base(language):
                continue
            if language is not None and "-" in language and "-" in tongue and tongue.lower() != language.lower():
                continue
            speakers = sorted(config.get("speaker_id_map") or {}) if config.get("num_speakers", 1) > 1 else []
            names = [f"{name}{_SPEAKER}{speaker}" for speaker in speakers] or [name]
            licence = self.licences.get(name, self.licence)
            found += [Voice(one, language or tongue, {}, licence) for one in names]
        return found

    def speak(self, lines: Sequence[Line], workers: int = 1, heard: Heard = ignore) -> list[Samples | Rejection]:
        found: dict[int, Samples | Rejection] = {}
        for number, line in sorted(enumerate(lines), key=lambda pair: pair[1].voice):
            try:
                found[number] = said = self._say(line)
                heard(number, said)
            except SpeechError:
                raise
            except Exception as error:  # onnxruntime's own errors have no common base
                found[number] = Rejection(FAILED, f"{type(error).__name__}: {str(error)[:300]}")
        return [found[number] for number in range(len(lines))]

    def _say(self, line: Line) -> Samples:
        name, _, speaker = line.voice.partition(_SPEAKER)
        voice = _load(str(Path(self.folder)), name)
        config = require("piper.config", extra="piper", what=_WHAT)
        chosen = config.SynthesisConfig(
            speaker_id=voice.config.speaker_id_map[speaker] if speaker else None,
            length_scale=voice.config.length_scale / line.rate,
            noise_scale=self.noise,
            noise_w_scale=self.noise,
        )
        pieces = [
            np.asarray(chunk.audio_float_array, np.float32).reshape(-1) for chunk in voice.synthesize(line.text, chosen)
        ]
        sound = np.concatenate([np.zeros(0, np.float32), *pieces])
        if not len(sound):
            return sound
        samples: Samples = np.asarray(soxr.resample(sound, voice.config.sample_rate, SAMPLING_RATE, "HQ"), np.float32)
        return samples


def _configs(folder: str) -> list[Path]:
    """Of all voices in a folder and those below it.

    Raises:
        SpeechError: There is none.
    """
    found = sorted(Path(folder).rglob("*.onnx.json"), key=lambda path: path.name)
    if not found:
        raise SpeechError(f"folder: {folder} holds no voice of Piper: NAME.onnx with NAME.onnx.json beside it")
    return found


@lru_cache(maxsize=256)
def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SpeechError(f"{path} cannot be read: {error}") from error


@lru_cache(maxsize=8)
def _load(folder: str, name: str) -> Any:
    piper = require("piper", extra="piper", what=_WHAT)
    path = next((p for p in _configs(folder) if p.name == f"{name}.onnx.json"), None)
    if path is None:
        raise SpeechError(f"{folder} has no voice {name!r}")
    try:
        return piper.PiperVoice.load(path.with_suffix(""))
    except Exception as error:  # onnxruntime's own errors have no common base
        raise SpeechError(f"Piper cannot load {path.with_suffix('')}: {str(error)[:300]}") from error
