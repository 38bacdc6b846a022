"""faster-whisper: Whisper on CTranslate2, several times as quick as the original, on a CPU too.

Source: github.com/SYSTRAN/faster-whisper. Licence: MIT, as is that of Whisper's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from pipeline.asr.base import ASR, FAILED, ASRError, Clip, Heard, content_of, ignore
from pipeline.plugins import require
from pipeline.text import base, clean
from schemas.sample import Rejection


class FasterWhisper(ASR):
    """In the process, one utterance after another."""

    device: str = "auto"
    """`cpu`, `cuda` or `auto`."""
    compute_type: str = "default"
    """Of the weights: `int8`, `float16`, `int8_float16`, ...; `default` is what they are stored in."""
    beams: PositiveInt = 5
    threads: PositiveInt = 1
    """CPU threads of each worker."""

    @cached_property
    def identity(self) -> bytes:
        return super().identity + f" {content_of(self.model)} {self.compute_type} {self.beams}".encode()

    @property
    def shaping(self) -> dict[str, Any]:
        return super().shaping | {"libraries": [f"{n} {_version(n)}" for n in ("faster-whisper", "ctranslate2")]}

    def check(self) -> None:
        _version("faster-whisper")
        if Path(self.model).is_dir() and not (Path(self.model) / "model.bin").is_file():
            raise ASRError(f"{self.model} holds no model.bin: convert the model with ct2-transformers-converter")

    def transcribe(self, clips: Sequence[Clip], workers: int = 1, heard: Heard = ignore) -> list[str | Rejection]:
        model = self._model()
        return [self._hear(model, clip) for clip in clips]

    def _model(self) -> Any:
        return _load(self.model, self.revision, self.device, self.compute_type, self.threads)

    def _hear(self, model: Any, clip: Clip) -> str | Rejection:
        language = base(clip.language) or None
        if language is not None and language not in model.supported_languages:
            return Rejection(FAILED, f"{self.model} does not know the language {clip.language}")
        try:
            segments, _ = model.transcribe(
                clip.samples,
                language=language,
                beam_size=self.beams,
                temperature=0.0,  # others are drawn by chance
                condition_on_previous_text=False,
                without_timestamps=clip.audio.seconds <= 30.0,
            )
            return clean(" ".join(segment.text.strip() for segment in segments))
        except (RuntimeError, ValueError) as error:  # CTranslate2's only kinds
            return Rejection(FAILED, f"{type(error).__name__}: {error}")


@lru_cache(maxsize=1)
def _load(model: str, revision: str, device: str, compute_type: str, threads: int) -> Any:
    library = require("faster_whisper", extra="faster-whisper", what="the ASR engine faster_whisper")
    try:
        return library.WhisperModel(
            model, device=device, compute_type=compute_type, cpu_threads=threads, revision=revision or None
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ASRError(f"faster-whisper cannot load {model!r} on {device}: {error}") from error


def _version(package: str) -> str:
    require(package.replace("-", "_"), extra="faster-whisper", what="the ASR engine faster_whisper")
    return version(package)
