"""A run that is killed, and the same command again: what is asked and written twice? Nothing should be."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from bench import corpus
from bench.measure import report
from pipeline.memo import digest

UTTERANCES, UNIT = 1_200, 100


def _shards(out: Path) -> dict[str, tuple[int, int]]:
    """Finished shards with what would tell that they were written again: inode and time."""
    found = (path.with_suffix(".arrow").stat() for path in sorted(out.glob("*/shard-*.json")))
    names = (path.with_suffix(".arrow").name for path in sorted(out.glob("*/shard-*.json")))
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in zip(names, found, strict=True)}


def _remembered(out: Path) -> set[bytes]:
    with sqlite3.connect(out / ".build" / "memo.sqlite") as database:
        return {bytes(key) for (key,) in database.execute("SELECT key FROM memo")}


def main(out: Path, kill_after: int = 600) -> None:
    """The first run is killed, with all its processes, once so many replies are recorded."""
    folder = out / "resume"
    shutil.rmtree(folder, ignore_errors=True)
    record, port = (folder / "served.jsonl").resolve(), 8765
    manifest = corpus.make(folder, UTTERANCES)
    url = f"http://127.0.0.1:{port}/v1"
    recipe = corpus.recipe(
        folder, manifest, UNIT, f"{{engine: openai, model: scripted, base_url: '{url}', concurrency: 32}}"
    )
    command = [sys.executable, "-m", "pipeline.llm.scripted", "--port", str(port), "--latency", "0.05"]
    server = subprocess.Popen([*command, "--record", str(record)])
    try:
        _wait(f"http://127.0.0.1:{port}/health")
        build = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(folder / "dataset")]
        with open(folder / "run.log", "wb") as log:
            first = subprocess.Popen(build, stdout=log, stderr=log, start_new_session=True)
            while first.poll() is None and _lines(record) < kill_after:
                time.sleep(0.02)
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
            time.sleep(0.5)  # requests on their way are still answered, and count as asked before
            asked, known, shards = _lines(record), _remembered(folder / "dataset"), _shards(folder / "dataset")
            subprocess.run(build, stdout=log, stderr=log, check=True)
        requests = record.read_bytes().splitlines()
        again = {digest(b"chat", b"scripted@", body) for body in requests[asked:]} & known
        after = _shards(folder / "dataset")
        rewritten = [name for name, stamp in shards.items() if after.get(name) != stamp]
        distinct = len(set(requests))
    finally:
        server.kill()
        server.wait()
    shutil.rmtree(folder)
    table = [
        ("replies recorded at the kill", len(known)),
        ("of these asked for again", len(again)),
        ("answered but not yet recorded at the kill", asked - len(known)),
        ("asked after the kill", len(requests) - asked),
        ("different requests in all", distinct),
        ("shards finished at the kill", len(shards)),
        ("of these written again", len(rewritten)),
        ("shards in the end", len(after)),
    ]
    report(f"Resume: {UTTERANCES} utterances in units of {UNIT}, killed with SIGKILL", ("what", "count"), table, out)
    assert not again, "a recorded reply was asked for again"
    assert not rewritten, "a finished shard was written again"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait(url: str) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(url)
