"""A scripted LLM with moods: it hangs, lies, cuts its answers off or has no time, until it is told otherwise.

    python -m tests.chaos.endpoint PORT RECORD

`PUT /mood/NAME` changes its mood, and `fine` is the usual one. RECORD gets the body of each request that was
answered as it should be, one a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from aiohttp import web

from pipeline.llm.scripted import Script
from tests.conftest import ROOT, _free_port

LATENCY = 0.12  # seconds: long enough for a moment to be met
LIES = {
    "page": (200, b"<html><body>502 Bad Gateway</body></html>"),
    "half": (200, b'{"object": "chat.completion", "choices": [{"index": 0, "mess'),
    "empty": (200, b'{"object": "chat.completion", "choices": []}'),
    "null": (200, b"null"),
    "error": (500, b'{"error": {"message": "CUDA error"}}'),
    "busy": (429, b'{"error": {"message": "slow down"}}'),
}


class Moody(Script):
    """A scripted LLM whose mood can be changed."""

    def __init__(self, record: Path) -> None:
        super().__init__(latency=LATENCY, record=record)
        self.mood = "fine"
        self._changed = asyncio.Event()

    async def change(self, request: web.Request) -> web.Response:
        """`PUT /mood/NAME`: who hangs is hung up on."""
        self.mood = request.match_info["mood"]
        self._changed.set()
        self._changed = asyncio.Event()
        return web.Response()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        await request.read()
        assert request.transport is not None
        if self.mood == "hang":
            await self._changed.wait()
            request.transport.close()
            return web.Response()
        if self.mood == "cut":
            response = web.StreamResponse(headers={"Content-Length": "1000"})  # and then fewer bytes
            await response.prepare(request)
            await response.write(b'{"choices": [{"message": {"content": "Once upon')
            request.transport.close()
            return response
        if self.mood == "asked":
            return web.Response(status=429, headers={"Retry-After": "1"}, body=LIES["busy"][1])
        if self.mood in LIES:
            status, body = LIES[self.mood]
            return web.Response(status=status, body=body, content_type="application/json")
        return await super().chat(request)


class Endpoint:
    """The process, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "served.jsonl"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "tests.chaos.endpoint", str(self.port), str(self.record)]
        self._process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                return self.become("fine")
            time.sleep(0.05)
        raise TimeoutError("the endpoint does not answer")

    def become(self, mood: str) -> None:
        """Changes its mood."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/mood/{mood}", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def kill(self) -> None:
        """As the kernel does that wants its memory."""
        self._process.kill()
        self._process.wait()

    @property
    def served(self) -> list[bytes]:
        """The bodies of the requests that were answered, in their order."""
        return self.record.read_bytes().splitlines() if self.record.exists() else []


async def _serve(port: int, record: Path) -> None:
    moody = Moody(record)
    application = moody.application()
    application.router.add_put("/mood/{mood}", moody.change)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
