"""A chat completions endpoint that costs next to nothing: what is measured is the client.

    python -m bench.stub PORT [fixed SECONDS | tailed MEDIAN]

Answers every request with the same reply, at once, after a fixed time, or after one drawn from a
log-normal distribution with a long tail (one in twenty waits over four times the median).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

PHRASE = "on the way to the harbour"
"""All transcripts of the benchmark contain it, so that the reply's evidence is said."""
REPLY = json.dumps(
    {
        "pairs": [
            {
                "question": "What do they talk about before they reach the water that evening?",
                "evidence": PHRASE,
                "answer": "They talk about the wind that has turned, and about the road that they will take instead.",
            }
        ]
    }
)
_BODY = json.dumps(
    {
        "object": "chat.completion",
        "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": REPLY}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460},
    }
).encode()
_MODELS = json.dumps({"object": "list", "data": [{"id": "stub", "object": "model"}]}).encode()


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


CHAT, MODELS = _response(_BODY), _response(_MODELS)


class Stub(asyncio.Protocol):
    """One connection, kept alive; requests may come in pieces."""

    def __init__(self, kind: str, seconds: float) -> None:
        self._kind, self._seconds = kind, seconds
        self._random = random.Random(0)
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            found = head.find(b"content-length:")
            length = int(head[found + 15 :].split(b"\r\n", 1)[0]) if found >= 0 else 0
            if len(self._received) < end + 4 + length:
                return
            del self._received[: end + 4 + length]
            response = MODELS if b"/models" in head.split(b"\r\n", 1)[0] else CHAT
            wait = self._wait() if response is CHAT else 0.0
            if wait:
                self._loop.call_later(wait, self._answer, response)
            else:
                self._answer(response)

    def _answer(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)

    def _wait(self) -> float:
        if self._kind == "tailed":
            return self._seconds * self._random.lognormvariate(0.0, 0.85)
        return self._seconds


async def serve(port: int, kind: str, seconds: float) -> None:
    """Serves until it is stopped."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stub(kind, seconds), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    wanted = (sys.argv[2], float(sys.argv[3])) if len(sys.argv) > 2 else ("fixed", 0.0)
    uvloop.run(serve(int(sys.argv[1]), *wanted))
