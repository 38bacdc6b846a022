"""The engine for speech endpoints, against a server on loopback that speaks, fails, stammers and dawdles."""

from __future__ import annotations

import asyncio
import io
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from aiohttp import web
from msgspec.structs import replace

from pipeline.audio import SAMPLING_RATE, samples_of
from pipeline.endpoint import EndpointError
from pipeline.memo import Memo
from pipeline.stages.synthesize import Synthesize
from pipeline.tts.base import Line, Voice
from pipeline.tts.openai import OpenAI
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance

RATE = 24_000
VOICES = [
    {"name": "alba", "labels": {"gender": "female"}, "languages": ["en", "pt-BR"]},
    {"name": "otto", "labels": {"gender": "male"}, "licence": "CC-BY-NC-4.0", "held_out": True},
]


def speech(text: str, speed: float = 1.0) -> Any:
    """As long as the text is, at 24 kHz."""
    axis = np.arange(round(RATE * len(text) / 15 / speed)) / RATE
    return 0.3 * np.sin(2 * np.pi * 200 * axis) * np.abs(np.sin(2 * np.pi * 2 * axis)) ** 4


class Server:
    """`POST /v1/audio/speech`. What it does is in the text that it is to say."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.tries: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self) -> str:
        application = web.Application()
        application.router.add_post("/v1/audio/speech", self._speak)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _speak(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization"))
        asked = await request.json()
        self.asked.append(asked)
        text = asked["input"]
        self.tries[text] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(1.0 if "slow" in text else 0.01)
        finally:
            self.in_flight -= 1
        if "refused" in text:
            return web.json_response({"error": {"message": "this is not said here"}}, status=400)
        if "busy" in text and self.tries[text] < 3:
            return web.json_response({"error": "busy"}, status=429, headers={"Retry-After": "0.01"})
        if "fails" in text:
            return web.json_response({"error": "out of memory"}, status=500)
        if "garbage" in text:
            return web.Response(body=b"<html>It works!</html>", content_type="audio/wav")
        if "nobody" in text:
            return web.Response(body=b"")
        return web.Response(body=self._encoded(asked, speech(text, asked.get("speed", 1.0))))

    def _encoded(self, asked: dict[str, Any], samples: Any) -> bytes:
        stream = io.BytesIO()
        kind = asked["response_format"]
        if kind == "pcm":
            return (samples * 32767).astype("<i2").tobytes()
        soundfile.write(stream, samples, RATE, format=kind.upper(), subtype="PCM_16")
        content = stream.getvalue()
        if "streamed" in asked["input"]:  # as hosted servers send it: nobody knew the size yet
            at = content.index(b"data") + 4
            unknown = struct.pack("<I", 0xFFFFFFFF)
            content = content[:4] + unknown + content[8:at] + unknown + content[at + 4 :]
        return content

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def engine(server: Server, **options: Any) -> OpenAI:
    given = {"model": "tts", "base_url": server.url, "patience": 2.0, "presets": VOICES, "licence": "MIT"}
    return OpenAI.model_validate(given | options)


def line(text: str, **fields: Any) -> Line:
    return Line(text, **({"voice": "alba", "language": "en"} | fields))


LONG = "please tell my brother that the train is late again"


@pytest.mark.parametrize(("response_format", "how"), [("wav", ""), ("flac", ""), ("pcm", ""), ("wav", " streamed")])
def test_text_goes_out_and_speech_comes_back(server: Server, response_format: str, how: str) -> None:
    made = engine(server, response_format=response_format, extra={"instructions": "Whisper."})
    (said,) = made.speak([line(LONG + how, rate=1.1)])
    assert isinstance(said, np.ndarray)
    assert said.dtype == np.float32
    assert len(said) == pytest.approx(len(speech(LONG + how, 1.1)) * SAMPLING_RATE / RATE, abs=2)
    assert np.abs(said).max() == pytest.approx(0.3, abs=0.02)
    assert server.asked == [
        {
            "model": "tts",
            "input": LONG + how,
            "voice": "alba",
            "response_format": response_format,
            "speed": 1.1,
            "instructions": "Whisper.",
        }
    ]


def test_voices_are_what_the_recipe_says(server: Server) -> None:
    made = engine(server)
    assert made.voices("en") == [
        Voice("alba", "en", {"gender": "female"}, "MIT"),
        Voice("otto", "en", {"gender": "male"}, "MIT AND CC-BY-NC-4.0", held_out=True),
    ]
    assert [v.name for v in made.voices("pt")] == ["alba", "otto"]
    assert [v.name for v in made.voices("de")] == ["otto"]
    assert [v.name for v in engine(server, languages=["en"]).voices("de")] == []
    assert [v.name for v in engine(server, forbid=["non-commercial"]).voices("en")] == ["alba"]
    assert engine(server, licence=None).voices("en")[0].licence is None
    for wrong in ([], [VOICES[0], VOICES[0]], [{"voice": "alba"}]):
        with pytest.raises(ValueError, match="presets"):
            engine(server, presets=wrong)


def test_a_server_that_refuses_the_rate(server: Server) -> None:
    made = engine(server, tells_rate=False)
    assert made.delivery(1, "c/1") == (1.0, 1.0)
    made.speak([line(LONG)])
    assert "speed" not in server.asked[0]
    rate, pitch = engine(server).delivery(1, "c/1")
    assert 0.9 <= rate <= 1.15
    assert pitch == 1.0


def test_one_text_that_fails_costs_only_itself(server: Server) -> None:
    told: dict[int, Any] = {}
    texts = [LONG, "refused " + LONG, "garbage " + LONG, "nobody " + LONG, "busy " + LONG, "fails " + LONG]
    found = engine(server, retries=1).speak([line(t) for t in texts], 1, told.__setitem__)
    assert [isinstance(f, Rejection) for f in found] == [False, True, True, True, False, True]
    assert sorted(told) == [0, 4], "told as soon as they are there"
    reasons = [f for f in found if isinstance(f, Rejection)]
    assert {r.reason for r in reasons} == {"tts_failed"}
    for reason, part in zip(
        reasons, ["400: this is not said", "not the answer", "not the answer", "out of mem"], strict=True
    ):
        assert part in reason.detail


def test_a_slow_answer_is_given_up_and_the_others_are_not(server: Server) -> None:
    slow, quick = engine(server, timeout=0.3, retries=1).speak([line("slow " + LONG), line(LONG)])
    assert isinstance(slow, Rejection)
    assert isinstance(quick, np.ndarray)


def test_a_server_that_is_gone_stops_the_run(server: Server) -> None:
    server.stop()
    with pytest.raises(EndpointError, match="has not answered"):
        engine(server, patience=0.5).speak([line(LONG)])
    asyncio.run_coroutine_threadsafe(server._start(), server._loop).result()


def test_never_more_in_flight_than_this_workers_share(server: Server) -> None:
    engine(server, concurrency=6).speak([line(f"{LONG} {n}") for n in range(30)], workers=2)
    assert server.most_in_flight == 3


def test_the_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match="SPEECH_KEY"):
        engine(server, api_key_env="SPEECH_KEY").speak([line(LONG)])
    monkeypatch.setenv("SPEECH_KEY", "s3cret")
    engine(server, api_key_env="SPEECH_KEY").speak([line(LONG)])
    assert server.keys == {"Bearer s3cret"}
    assert "s3cret" not in str(engine(server, api_key_env="SPEECH_KEY").shaping)


def test_speech_is_paid_for_once(server: Server, tmp_path: Path) -> None:
    given = [
        Sample(id=f"t/{n}", utterances=(Utterance(f"t/{n}", "t", f"{text} {n}", "en", voice="otto"),), split="train")
        for n, text in enumerate([LONG, LONG, "garbage " + LONG])
    ]
    with Memo(tmp_path / "memo.sqlite") as memo:
        first = list(Synthesize(engine(server), memo=memo)(given))
        asked = len(server.asked)
        again = list(Synthesize(engine(server, concurrency=1), memo=memo)(given))
    assert first == again
    assert [s.rejected for s in first] == [None, None, "tts_failed"]
    assert (asked, len(server.asked)) == (3, 4), "what failed is tried again"
    made = first[0].utterances[0]
    assert made.delivery is not None
    assert (made.delivery.engine, made.delivery.licence) == ("openai", "MIT AND CC-BY-NC-4.0")
    assert made.audio is not None
    assert len(samples_of(made.audio)) == pytest.approx(
        len(speech(made.spoken or "", made.delivery.rate)) * 2 / 3, abs=2
    )
    with Memo(tmp_path / "memo.sqlite") as memo:
        other = Synthesize(engine(server, revision="next"), memo=memo)
        list(other([replace(s, id=s.id) for s in given]))
        assert other.remembered == 0
