"""Scripted: an OpenAI-compatible server that answers by rule. For tests, and to try a recipe out.

It is a real server on loopback, so a run with it goes the whole way: requests, retries, memory,
parsing, checks. Its replies are valid and worthless: rows say `scripted` in their provenance.

    python -m pipeline.llm.scripted --port 8123 [--latency 0.2] [--faults 0.1] [--record served.jsonl]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import orjson
from aiohttp import web
from pydantic import Field

from pipeline import seeds
from pipeline.llm.base import LLM, OWN_SERVER_GONE, kept_server
from pipeline.text import detect_language, words

_TRANSCRIPT = re.compile(r"<transcript>\s*(.*?)\s*</transcript>", re.DOTALL)
_LINES = {
    "en": (
        "That sounds good, and I would be glad to help you with {word}.",
        "What does the speaker say about {word}?",
        "The speaker talks about {word} and what comes of it.",
    ),
    "ru": (
        "Звучит хорошо, и я с радостью помогу вам с этим: {word}.",
        "Что говорящий рассказывает про {word}?",
        "Говорящий рассказывает про {word} и о том, что из этого выйдет.",
    ),
    "pt": (
        "Parece bom, e terei prazer em ajudar você com isto: {word}.",
        "O que a pessoa diz sobre {word}?",
        "A pessoa fala sobre {word} e sobre o que vem depois disso.",
    ),
}
FAULTS = ("busy", "error", "cut", "hang", "not_json", "wrong_type", "refusal", "truncated")


class Scripted(LLM):
    """A server that answers by rule, started for the run."""

    gone_after: ClassVar[float | None] = OWN_SERVER_GONE

    model: str = "scripted"
    latency: Annotated[float, Field(ge=0)] = 0.0
    """Seconds before each answer."""
    faults: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of requests that go wrong in one of many ways."""

    @property
    def shaping(self) -> dict[str, Any]:
        return super().shaping | {"faults": self.faults}

    @contextmanager
    def serving(self, folder: Path) -> Iterator[list[str]]:
        command = [sys.executable, "-m", "pipeline.llm.scripted", "--model", self.model]
        command += ["--latency", str(self.latency), "--faults", str(self.faults)]
        root = str(Path(__file__).resolve().parent.parent.parent)
        environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        with kept_server("the scripted LLM", command, folder / "scripted.log", environment, 60.0) as url:
            yield [url]


class Script:
    """What the server does with a request; equal requests get equal answers.

    Args:
        model: The only one that it has.
        latency: Seconds before each answer.
        faults: Share of requests that go wrong.
        key: The only key that it accepts; None accepts all.
        record: A file to which the body of each answered request is appended, one a line.
        kinds: Which faults.
    """

    def __init__(
        self,
        model: str = "scripted",
        latency: float = 0.0,
        faults: float = 0.0,
        key: str | None = None,
        record: Path | None = None,
        kinds: tuple[str, ...] = FAULTS,
    ) -> None:
        self.model, self.latency, self.faults, self.key, self.kinds = model, latency, faults, key, kinds
        self._record = open(record, "ab", buffering=0) if record else None  # noqa: SIM115 - as long as we
        self._failed: set[str] = set()
        self.served = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided")
        content = await request.read()
        body = orjson.loads(content)
        if body.get("model") != self.model:
            return _error(404, f"The model `{body.get('model')}` does not exist.")
        if self.latency:
            await asyncio.sleep(self.latency)
        name = f"{seeds.derive(content.decode()):016x}"
        fault = self._fault(name)
        if fault in ("busy", "error", "cut", "hang") and name not in self._failed:
            self._failed.add(name)  # the second try succeeds
            return await self._fail(fault, request)
        answer, finish = reply_to(body), "stop"
        if fault == "not_json":
            answer = "I would say that " + answer.replace("{", "(").replace("}", ")")
        elif fault == "wrong_type":
            answer = '{"pairs": "none", "keywords": 7}'
        elif fault == "refusal":
            answer = "I'm sorry, but I can't help with that."
        elif fault == "truncated":
            answer, finish = answer[: len(answer) // 2], "length"
        self.served += 1
        if self._record:
            self._record.write(content + b"\n")
        usage = {"prompt_tokens": len(content) // 4, "completion_tokens": len(answer) // 4}
        choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": finish}
        return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})

    def _fault(self, name: str) -> str | None:
        if seeds.share(name, "fault") >= self.faults:
            return None
        return self.kinds[seeds.derive(name, "kind") % len(self.kinds)]

    async def _fail(self, fault: str, request: web.Request) -> web.StreamResponse:
        if fault == "busy":
            return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "0.05"})
        if fault == "error":
            return _error(500, "something broke")
        if fault == "hang":
            await asyncio.sleep(3600)
        response = web.StreamResponse(headers={"Content-Length": "1000"})  # and then fewer bytes
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.close()
        return response

    async def models(self, request: web.Request) -> web.Response:
        """`GET /v1/models`."""
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided")
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    def application(self) -> web.Application:
        """The server."""
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/v1/chat/completions", self.chat)
        application.router.add_get("/v1/models", self.models)
        application.router.add_get("/health", _healthy)
        return application


async def _healthy(_: web.Request) -> web.Response:
    return web.Response()


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


def reply_to(body: dict[str, Any]) -> str:
    """A valid answer to a chat completions request, made from the words of its transcript."""
    asked = "\n".join(m["content"] for m in body["messages"])
    last = body["messages"][-1]["content"]
    found = _TRANSCRIPT.search(last)
    transcript = found[1] if found else last
    rng = random.Random(seeds.derive(orjson.dumps(body).decode()))
    likely = detect_language(asked if found else transcript)
    language = next((name for name in likely if name in _LINES), "en")
    reply, question, answer = _LINES[language]
    said = [w for w in words(transcript) if len(w) > 3] or words(transcript) or ["it"]
    word = rng.choice(said)
    form = body.get("response_format", {})
    if form.get("type") == "json_schema":
        made = {
            "question": question.format(word=word),
            "answer": answer.format(word=word),
            "evidence": transcript,
            "correct": word,
            "wrong": [f"{word} {n}" for n in ("1", "2", "3")],
            "keywords": rng.sample(sorted(set(said)), min(3, len(set(said)))),
        }
        return orjson.dumps(_fill(form["json_schema"]["schema"], made, rng)).decode()
    return reply.format(word=word)


def _fill(schema: dict[str, Any], made: dict[str, Any], rng: random.Random) -> Any:
    """An instance of a schema, with what there is for its properties."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema.get("type") == "object":
        return {k: made[k] if k in made else _fill(v, made, rng) for k, v in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_fill(schema["items"], made, rng) for _ in range(max(1, schema.get("minItems", 1)))]
    return {"integer": 1, "number": 1.5, "boolean": True}.get(schema.get("type", ""), "something")


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="scripted")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--kinds", nargs="*", default=FAULTS)
    parser.add_argument("--key")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    script = Script(given.model, given.latency, given.faults, given.key, given.record, tuple(given.kinds))
    web.run_app(script.application(), host=given.host, port=given.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
