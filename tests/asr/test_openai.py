"""The engine for transcription endpoints, against a server on loopback that takes forms apart as real ones do."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from aiohttp import web

from pipeline import audio
from pipeline.asr.base import Clip
from pipeline.asr.openai import OpenAI
from pipeline.endpoint import EndpointError
from schemas.sample import Rejection


class Server:
    """`POST /v1/audio/transcriptions`: says how long the sound is, in which language."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.keys: set[str | None] = set()
        self.in_flight = self.most_in_flight = 0
        self.busy_first = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self) -> str:
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/v1/audio/transcriptions", self._transcribe)
        application.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "whisper"}]})

    async def _transcribe(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            fields = dict(await request.post())
            await asyncio.sleep(0.01)
        finally:
            self.in_flight -= 1
        if self.busy_first:
            self.busy_first -= 1
            return web.json_response({"error": "busy"}, status=429, headers={"Retry-After": "0.01"})
        file = fields.pop("file")
        assert isinstance(file, web.FileField)
        assert (file.filename, file.content_type) == ("speech.flac", "audio/flac")
        samples, rate = soundfile.read(io.BytesIO(file.file.read()))
        form = {name: str(value) for name, value in fields.items()}
        self.forms.append(form)
        if len(samples) < rate / 2:
            return web.json_response({"error": {"message": "audio is too short"}}, status=400)
        return web.json_response({"text": f" {len(samples)} samples,\n{form.get('language', 'any')} "})

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def clip(seconds: float, language: str | None = "en") -> Clip:
    rng = np.random.default_rng(int(seconds * 1000))
    return Clip(audio.store(rng.normal(0, 0.1, int(seconds * 16000)).astype(np.float32)), language)


def engine(server: Server, **options: object) -> OpenAI:
    return OpenAI(**({"model": "whisper", "base_url": server.url, "patience": 2.0} | options))  # type: ignore[arg-type]


def test_speech_goes_as_flac_and_comes_back_as_text(server: Server) -> None:
    texts = engine(server, extra={"prompt": "Амоксициллин"}).transcribe(
        [clip(1.0), clip(1.5, "pt-BR"), clip(2.0, None)]
    )
    assert texts == ["16000 samples, en", "24000 samples, pt", "32000 samples, any"]
    assert {"model": "whisper", "response_format": "json", "temperature": "0", "prompt": "Амоксициллин"} in server.forms


def test_one_clip_that_is_refused_costs_only_itself(server: Server) -> None:
    told: dict[int, str] = {}
    good, bad, other = engine(server).transcribe([clip(1.0), clip(0.1), clip(1.5)], 1, told.__setitem__)
    assert (good, other) == ("16000 samples, en", "24000 samples, en")
    assert isinstance(bad, Rejection)
    assert bad.reason == "asr_failed"
    assert "too short" in bad.detail
    assert told == {0: good, 2: other}


def test_never_more_in_flight_than_this_workers_share(server: Server) -> None:
    engine(server, concurrency=6).transcribe([clip(0.5 + n / 100) for n in range(30)], workers=2)
    assert server.most_in_flight == 3


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.busy_first = 3
    assert engine(server).transcribe([clip(1.0)]) == ["16000 samples, en"]


def test_the_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match="SPEECH_KEY"):
        engine(server, api_key_env="SPEECH_KEY").transcribe([clip(1.0)])
    monkeypatch.setenv("SPEECH_KEY", "s3cret")
    engine(server, api_key_env="SPEECH_KEY").transcribe([clip(1.0)])
    assert server.keys == {"Bearer s3cret"}


def test_what_no_clip_survives_is_told_before_any_work(server: Server) -> None:
    engine(server).check()
    with pytest.raises(EndpointError, match="has no model 'other'; it has: whisper"):
        engine(server, model="other").check()


def test_a_server_that_is_gone_ends_it_as_an_error(server: Server) -> None:
    server.stop()
    with pytest.raises(EndpointError, match="no connection"):
        engine(server, patience=0.3).transcribe([clip(1.0), clip(1.5)])


def test_addresses_carry_no_key() -> None:
    with pytest.raises(ValueError, match="api_key_env"):
        OpenAI(model="m", base_url="http://me:secret@localhost/v1")
    with pytest.raises(ValueError, match="http://"):
        OpenAI(model="m", base_url="localhost:8000")


def test_what_shapes_a_hypothesis_is_in_its_identity(server: Server) -> None:
    plain = engine(server)
    others = [engine(server, **o) for o in ({"extra": {"prompt": "x"}}, {"revision": "b"}, {"tells_language": False})]
    assert len({plain.identity, *(e.identity for e in others)}) == 4
    assert engine(server, base_url="http://elsewhere/v1", concurrency=3).identity == plain.identity
