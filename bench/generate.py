"""What it costs to have a text LLM write responses: all of it, beside a bare asynchronous client.

The bare client is aiohttp on uvloop with connections kept alive, one coroutine a request in flight:
it sends the same requests, already rendered, and reads the reply's text; a second one also writes the
replies with their speech through raw pyarrow, and syncs nothing. We render the prompts, ask,
record each reply before it is used, parse and check it against its schema, run all filters, and
write verified shards with the speech in them: in one process, and in one for each core, as a run does.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import aiohttp
import orjson
import pyarrow as pa
import uvloop

from bench.measure import in_turn, ratios, report, spread
from bench.stub import PHRASE
from pipeline import plugins, shards
from pipeline.llm.openai import OpenAI
from pipeline.memo import Memo
from pipeline.prompting import Prompts
from pipeline.stage import Checks, Filter, chain
from pipeline.stages.generate import Generate
from pipeline.stages.instruct import Instruct
from pipeline.tasks.base import Briefing
from pipeline.tasks.question_answer import QuestionAnswer
from pipeline.workers import Workers
from schemas.sample import Sample
from schemas.utterance import Audio, Utterance

IN_FLIGHT = 256
UNIT = 1000  # rows
PER_BATCH = 64
_FLAT = pa.schema([("flac", pa.binary()), ("reply", pa.string())])
CLIP_BYTES = 80_000  # FLAC of five seconds
WORDS = (
    "wind turned road early train left station before rain came people walked across bridge talked about music "
    "market river city open window small garden paper letter wrote years captain said ship would wait until morning"
).split()


def drafts(count: int) -> list[Sample]:
    """Utterances whose speech is already decoded: what decoding costs is no matter of the LLM's."""
    rng = random.Random(3)
    clips = [rng.randbytes(CLIP_BYTES) for _ in range(64)]
    made = []
    for number in range(count):
        said = [*rng.choices(WORDS, k=6), PHRASE, *rng.choices(WORDS, k=8)]
        audio = Audio(clips[number % 64], 5.0, 16000, 1, "FLAC/PCM_16", -3.0, -20.0, 0.0, str(number), bytes(31))
        speech = Utterance(f"bench/{number}", "bench", " ".join(said), "en", f"bench/{number % 40}", audio=audio)
        made.append(Sample(speech.id, (speech,), "train"))
    return made


@contextmanager
def stub(*arguments: str) -> Iterator[str]:
    """The endpoint, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "bench.stub", str(port), *arguments], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def bare(url: str, payloads: list[bytes], clips: list[bytes] | None = None, file: Path | None = None) -> float:
    """Samples a second of the floor: requests alone, or with raw pyarrow writing the replies and their speech."""

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
        waiting: list[tuple[bytes, str]] = []
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            left, texts = iter(enumerate(payloads)), 0

            async def worker() -> None:
                nonlocal texts
                for number, payload in left:
                    async with session.post(f"{url}/chat/completions", data=payload) as response:
                        response.raise_for_status()
                        text = orjson.loads(await response.read())["choices"][0]["message"]["content"]
                    texts += bool(text)
                    if clips is not None:
                        waiting.append((clips[number], text))
                        if len(waiting) == PER_BATCH:
                            stream.write_batch(pa.record_batch(list(zip(*waiting, strict=True)), schema=_FLAT))
                            waiting.clear()

            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
            assert texts == len(payloads)

    begin = time.perf_counter()
    with pa.OSFile(str(file), "wb") if file else nullcontext() as sink:
        stream = pa.ipc.new_stream(sink, _FLAT) if file else None
        uvloop.run(run())
    return len(payloads) / (time.perf_counter() - begin)


class Unit:
    """The whole way of some drafts to finished shards, in one process of several."""

    def __init__(self, url: str, folder: Path, rows: list[Sample], part: int, parts: int) -> None:
        self._folder, self._rows, self._part, self._parts = folder, rows, part, parts
        self._llm = OpenAI(model="stub", base_url=url, concurrency=IN_FLIGHT)
        self._url = url
        self._task = QuestionAnswer(pairs=1)
        self._briefing = Briefing(Prompts(), 0, ["en"])
        made: list[tuple[str, Filter]] = [
            (n, plugins.load("filters", n)()) for n in plugins.names("filters") if n != "duplicates"
        ]
        self._before = Checks(f for _, f in made if f.before_tasks)
        self._after = Checks(f for _, f in sorted(made, key=_order) if not f.before_tasks)

    def run(self) -> None:
        """Units of 1,000 rows, as in a run."""
        with Memo(self._folder / "memo.sqlite") as memo:
            generate = Generate(
                {self._task.key: self._task}, self._briefing, self._llm, [self._url], memo, 0, self._parts
            )
            instruct = Instruct([self._task], self._briefing, 0, None)
            stages = [("check_speech", self._before), ("instruct", instruct), ("generate", generate)]
            out = chain(self._rows, [*stages, ("check_replies", self._after)])
            kept = 0
            for number in range(0, len(self._rows), UNIT):
                rows = min(UNIT, len(self._rows) - number)
                with shards.UnitWriter(self._folder, f"{self._part}-{number:06d}", "train", PER_BATCH) as writer:
                    for sample in itertools.islice(out, rows):
                        writer.add(sample)
                    manifest = writer.finish("bench", rows)
                assert manifest.kept is not None, manifest.reasons
                kept += manifest.kept.rows
        assert (kept, generate.asked) == (len(self._rows), len(self._rows))

    def payloads(self) -> list[bytes]:
        """The requests that the stage sends, rendered."""
        made = []
        for row in self._rows:
            question = self._task.ask(row, self._briefing(self._task, row.utterances[0], "train"))
            made.append(self._llm.request(question.messages, question.reply, question.most_tokens, len(made)))
        return made


def _order(pair: tuple[str, Filter]) -> tuple[int, str]:
    return pair[1].order, pair[0]


_unit: Unit  # of this worker


def _prepare(url: str, folder: Path, count: int, part: int, parts: int) -> None:
    global _unit
    rows = drafts(count)
    warm = folder.with_name(f"{folder.name}-warm-{part}")
    shutil.rmtree(warm, ignore_errors=True)
    # Models are loaded and templates compiled once in a run.
    Unit(url, warm, rows[:200], part, parts).run()
    _unit = Unit(url, folder, rows[part::parts], part, parts)


def _run() -> None:
    _unit.run()


@contextmanager
def ours(url: str, folder: Path, count: int, parts: int) -> Iterator[Callable[[], float]]:
    """Workers as a run has them; each call runs all rows through and gives samples a second."""
    with Workers(parts) as workers, ThreadPoolExecutor(parts) as threads:
        # Each of the threads gets one worker, and all are asked at once.
        together(threads, [partial(workers.run, _prepare, url, folder, count, n, parts) for n in range(parts)])

        def run() -> float:
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()  # what an earlier run has left to write is not ours to wait for
            begin = time.perf_counter()
            together(threads, [partial(workers.run, _run)] * parts)
            return count / (time.perf_counter() - begin)

        yield run


def together(threads: ThreadPoolExecutor, calls: list[Callable[[], None]]) -> None:
    """Waits for all of them."""
    for future in [threads.submit(call) for call in calls]:
        future.result()


def main(out: Path, count: int = 4000, runs: int = 9) -> None:
    """Three endpoints: at once, after 200 ms, and with a long tail around 200 ms."""
    cores, folder = len(os.sched_getaffinity(0)), out / "generate"
    table = []
    for name, arguments in (("at once", ()), ("200 ms", ("fixed", "0.2")), ("long tail", ("tailed", "0.2"))):
        with (
            stub(*arguments) as url,
            ours(url, folder / "one", count, 1) as one,
            ours(url, folder / "all", count, cores) as every,
        ):
            rows = drafts(count)
            clips = [row.utterances[0].audio.flac for row in rows if row.utterances[0].audio]
            payloads = Unit(url, folder, rows, 0, 1).payloads()
            candidates = {
                "bare client": lambda: bare(url, payloads),  # noqa: B023
                "and raw pyarrow": lambda: bare(url, payloads, clips, _empty(folder / "raw.arrow")),  # noqa: B023
                "ours, 1 process": one,
                f"ours, {cores}": every,
            }
            found = in_turn(runs, candidates)
        for who, rates in found.items():
            shares = [spread(ratios(rates, found[floor]), 2) for floor in list(candidates)[:2]]
            table.append((name, who, spread(rates), *shares))
    shutil.rmtree(folder, ignore_errors=True)
    title = f"Generation: {count} samples, {IN_FLIGHT} in flight, {runs} runs: samples/s, median (least-most)"
    report(title, ("endpoint", "who", "samples/s", "to the bare client", "to it with pyarrow"), table, out)


def _empty(file: Path) -> Path:
    file.unlink(missing_ok=True)
    os.sync()  # what an earlier run has left to write is not this one's to wait for
    return file
