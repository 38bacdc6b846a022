"""Any OpenAI-compatible endpoint for transcriptions, or a list of equal ones: vLLM, Speaches, hosted APIs.

Source: platform.openai.com/docs/api-reference/audio/createTranscription. vLLM serves Whisper this way:
`vllm serve openai/whisper-large-v3`. Speech is sent as FLAC, as it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import orjson
from pydantic import PositiveInt

from pipeline import audio
from pipeline.asr.base import ASR, FAILED, Clip, Heard, ignore
from pipeline.endpoint import Client, RequestRefused
from pipeline.memo import digest
from pipeline.served import Served
from pipeline.text import base, clean
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection


class OpenAI(Served, ASR):
    """Servers that run already."""

    at_once: PositiveInt = 128
    """Utterances in one call: some times `concurrency`, so that the servers have always enough to do."""
    tells_language: bool = True
    """Whether requests say which language is spoken; for servers that refuse it, `false`."""
    extra: dict[str, str] = {}
    """Fields that are added to every request, e.g. `{prompt: "Amoxicillin, ibuprofen."}`."""

    @cached_property
    def identity(self) -> bytes:
        return super().identity + orjson.dumps([self.tells_language, sorted(self.extra.items())])

    def check(self) -> None:
        self.check_model(self.model)

    def transcribe(self, clips: Sequence[Clip], workers: int = 1, heard: Heard = ignore) -> list[str | Rejection]:
        return self.ask_each(clips, self._ask, heard, workers)

    async def _ask(self, client: Client, clip: Clip) -> str | Rejection:
        fields = {"model": self.model, "response_format": "json", "temperature": "0"}
        if self.tells_language and clip.language:
            fields["language"] = base(clip.language)  # ISO 639-1
        payload, content_type = _form(fields | self.extra, clip.audio.flac)
        try:
            body = await client.post(
                "audio/transcriptions", payload, content_type, lambda: _form(fields | self.extra, _silence())
            )
        except RequestRefused as error:
            return Rejection(FAILED, str(error))
        try:
            return clean(str(orjson.loads(body)["text"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return Rejection(FAILED, f"not the answer of a transcriptions endpoint: {body[:200]!r}")


def _silence() -> bytes:
    """A second of it, which any recogniser can be asked about."""
    return audio.encode(np.zeros(SAMPLING_RATE, np.float32))


def _form(fields: Mapping[str, str], flac: bytes) -> tuple[bytes, str]:
    """A `multipart/form-data` body (RFC 7578) and its content type."""
    boundary = digest(flac).hex()  # cannot be foreseen by what it parts
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = 'Content-Disposition: form-data; name="file"; filename="speech.flac"\r\nContent-Type: audio/flac\r\n\r\n'
    parts += [f"--{boundary}\r\n{head}".encode(), flac, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"
