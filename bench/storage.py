"""Recordings in a store that takes its time: how quickly a worker gets through them, against the disk.

The store speaks just enough of S3's protocol, in a process of its own, and waits before each answer as one does that
lies in another building. What is measured is the stage that decodes, over the same recordings. The floor is the disk,
where nothing is waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from bench.decode import clip
from bench.measure import in_turn, ratios, report, spread, timed
from pipeline import plugins
from pipeline.readers.base import Reader
from pipeline.stage import Stage
from pipeline.stages._ahead import AT_ONCE
from pipeline.stages.decode import Decode
from schemas.sample import Sample

WAIT = 0.03  # seconds before each answer
CLIPS = 200


async def _serve(folder: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            while (await reader.readline()).strip():
                pass
            method, target, _ = request.decode().split()
            await asyncio.sleep(WAIT)
            status, content, tag = _found(folder, target)
            head = f'HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nETag: "{tag}"\r\n'
            head += "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
            writer.write(head.encode() + (content if method == "GET" else b""))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _found(folder: Path, target: str) -> tuple[str, bytes, str]:
    asked = urlsplit(target)
    query = parse_qs(asked.query)
    if "list-type" in query:
        prefix = query.get("prefix", [""])[0]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        told = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{_tag(path)}"</ETag><Size>{path.stat().st_size}</Size></Contents>'
            for path in files
            if (name := path.relative_to(folder).as_posix()).startswith(prefix)
        )
        return "200 OK", f"<ListBucketResult><IsTruncated>false</IsTruncated>{told}</ListBucketResult>".encode(), ""
    path = folder / unquote(asked.path).strip("/").partition("/")[2]
    return ("200 OK", path.read_bytes(), _tag(path)) if path.is_file() else ("404 Not Found", b"", "")


def _tag(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def main(out: Path, runs: int = 5) -> None:
    """Disk, store one after another, store ahead, in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number in range(CLIPS):
            (corpus / f"{number:04d}.wav").write_bytes(clip("WAV", "PCM_16", 16_000, 1, number))
            (corpus / f"{number:04d}.txt").write_text("good morning")
        server = subprocess.Popen([sys.executable, "-m", "bench.storage", scratch], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}"}
            os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
            _measure(corpus, out, runs)
        finally:
            server.terminate()
            server.wait()


def _measure(corpus: Path, out: Path, runs: int) -> None:
    made = plugins.load("readers", "audio_text")
    here = made(name="c", path=str(corpus))
    there = made(name="c", path="s3://bucket/corpus")
    # The listing of a store is not what is measured: identities are those of the disk, which begin with the size.
    drafts = [Sample(id=u.id, utterances=(u,), split="train") for u in here.utterances()]
    assert len(drafts) == CLIPS

    def speed(reader: Reader, ahead: bool = True) -> float:
        decode = Decode({"c": reader}, lambda _: False)
        stream = decode if ahead else partial(Stage.__call__, decode)
        rejected: list[str | None] = []
        took = timed(lambda: rejected.extend(sample.rejected for sample in stream(drafts)))
        assert rejected == [None] * CLIPS, rejected
        return CLIPS / took

    found = in_turn(
        runs, {"disk": lambda: speed(here), "one": lambda: speed(there, ahead=False), "ahead": lambda: speed(there)}
    )
    told = (("the disk", "disk"), ("the store, one by one", "one"), (f"the store, {AT_ONCE} ahead", "ahead"))
    table = [(name, spread(found[key]), spread(ratios(found[key], found["disk"]), 2)) for name, key in told]
    title = f"Recordings of 8 s from a store that answers after {WAIT * 1000:.0f} ms, one worker, {runs} runs"
    report(title, ("from", "recordings a second", "of the disk"), table, out)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
