"""Any OpenAI-compatible endpoint for speech, or a list of equal ones: vLLM, Kokoro-FastAPI, hosted APIs.

Source: platform.openai.com/docs/api-reference/audio/createSpeech. Licences of model and voices are what the
recipe says: no server can be asked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, PositiveInt

from pipeline import audio
from pipeline.audio import RawFormat, Samples
from pipeline.endpoint import JSON, PLAIN, Client, RequestRefused
from pipeline.plugins import MissingExtra
from pipeline.served import Served
from pipeline.tts._presets import Preset, Presets
from pipeline.tts.base import FAILED, Heard, Line, ignore
from schemas.sample import Rejection

_UNKNOWN_SIZE = 0x7FFFFFFF  # bytes; servers that stream WAV do not know the size when they write its head


class OpenAI(Served, Presets):
    """Servers that run already."""

    is_plugin: ClassVar[bool] = True
    changes_rate: ClassVar[bool] = True

    presets: Annotated[list[Preset], Field(min_length=1)]
    """The server's voices, e.g. `[{name: alloy, labels: {gender: female}}]`."""
    at_once: PositiveInt = 128
    """Lines in one call: some times `concurrency`, so that the servers have always enough to do."""
    response_format: Literal["wav", "flac", "pcm"] = "wav"
    """What the server sends; `pcm` has no head, and the fewest servers get it wrong."""
    pcm_rate: PositiveInt = 24_000
    """Hz of `pcm`."""
    tells_rate: bool = True
    """Whether requests say how quickly to speak; for servers that refuse `speed`, `false`."""
    extra: dict[str, Any] = {}
    """Fields that are added to every request, e.g. `{instructions: "Speak as on the telephone."}`."""

    @cached_property
    def identity(self) -> bytes:
        options = [self.tells_rate, self.extra]
        return super().identity + orjson.dumps(options, option=orjson.OPT_SORT_KEYS)

    def delivery(self, seed: int, utterance: str) -> tuple[float, float]:
        return super().delivery(seed, utterance) if self.tells_rate else (1.0, 1.0)

    def speak(self, lines: Sequence[Line], workers: int = 1, heard: Heard = ignore) -> list[Samples | Rejection]:
        return self.ask_each(lines, self._ask, heard, workers)

    async def _ask(self, client: Client, line: Line) -> Samples | Rejection:
        request: dict[str, Any] = {
            "model": self.model,
            "input": line.text,
            "voice": line.voice,
            "response_format": self.response_format,
        }
        if self.tells_rate:
            request["speed"] = line.rate
        try:
            body = await client.post(
                "audio/speech",
                orjson.dumps(request | self.extra),
                control=lambda: (orjson.dumps(request | self.extra | {"input": PLAIN}), JSON),
            )
        except RequestRefused as error:
            return Rejection(FAILED, str(error))
        raw = RawFormat(sampling_rate=self.pcm_rate) if self.response_format == "pcm" else None
        try:
            return audio.mono(audio.decode(_with_size(body), raw=raw))
        except (audio.AudioError, MissingExtra) as error:
            return Rejection(FAILED, f"not the answer of a speech endpoint: {error}: {body[:60]!r}")


def _with_size(body: bytes) -> bytes:
    """A WAV file whose head says how long it is; anything else as it is."""
    at = body.find(b"data", 12, 4096) if body[:4] == b"RIFF" and body[8:12] == b"WAVE" else -1
    if at < 0 or len(body) < at + 8 or 0 < struct.unpack_from("<I", body, at + 4)[0] < _UNKNOWN_SIZE:
        return body
    size = len(body) - at - 8
    return b"RIFF" + struct.pack("<I", len(body) - 8) + body[8 : at + 4] + struct.pack("<I", size) + body[at + 8 :]
