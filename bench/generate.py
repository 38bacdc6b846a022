"""What it costs to have a text LLM write responses: all of it, beside a bare asynchronous client.

The bare client is aiohttp on uvloop with connections kept alive, one coroutine a request in flight:
it sends the same requests, already rendered, and reads the reply's text. We render the prompts, ask,
record each reply before it is used, parse and check it against its schema, run all filters, and
write verified shards with the speech in them: in one process, and in one for each core, as a run does.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import orjson
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
from schemas.sample import Sample
from schemas.utterance import Audio, Utterance

IN_FLIGHT = 256
UNIT = 1000  # rows
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


def bare(url: str, payloads: list[bytes]) -> float:
    """Samples a second of the floor."""

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            left, texts = iter(payloads), 0

            async def worker() -> None:
                nonlocal texts
                for payload in left:
                    async with session.post(f"{url}/chat/completions", data=payload) as response:
                        response.raise_for_status()
                        texts += bool(orjson.loads(await response.read())["choices"][0]["message"]["content"])

            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
            assert texts == len(payloads)

    begin = time.perf_counter()
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
                with shards.UnitWriter(self._folder, f"{self._part}-{number:06d}", "train", 64) as writer:
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


def _work(pipe: Connection, url: str, folder: Path, count: int, part: int, parts: int) -> None:
    rows = drafts(count)
    # Models are loaded and templates compiled once in a run.
    warm = folder.with_name(f"{folder.name}-warm-{part}")
    shutil.rmtree(warm, ignore_errors=True)
    Unit(url, warm, rows[:200], part, parts).run()
    unit = Unit(url, folder, rows[part::parts], part, parts)
    pipe.send(None)
    while pipe.recv():
        unit.run()
        pipe.send(None)


@contextmanager
def ours(url: str, folder: Path, count: int, parts: int) -> Iterator[Callable[[], float]]:
    """Worker processes as a run has them; each call runs all rows through and gives samples a second."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for part in range(parts):
        here, there = context.Pipe()
        context.Process(target=_work, args=(there, url, folder, count, part, parts), daemon=True).start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()

    def run() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()  # what an earlier run has left to write is not ours to wait for
        begin = time.perf_counter()
        for pipe in pipes:
            pipe.send(True)
        for pipe in pipes:
            pipe.recv()
        return count / (time.perf_counter() - begin)

    try:
        yield run
    finally:
        for pipe in pipes:
            pipe.send(False)


def main(out: Path, count: int = 6000, runs: int = 5) -> None:
    """Three endpoints: at once, after 200 ms, and with a long tail around 200 ms."""
    cores, folder = len(os.sched_getaffinity(0)), out / "generate"
    table = []
    for name, arguments in (("at once", ()), ("200 ms", ("fixed", "0.2")), ("long tail", ("tailed", "0.2"))):
        with (
            stub(*arguments) as url,
            ours(url, folder / "one", count, 1) as one,
            ours(url, folder / "all", count, cores) as all_cores,
        ):
            payloads = Unit(url, folder, drafts(count), 0, 1).payloads()
            found = in_turn(runs, {"bare": lambda: bare(url, payloads), "one": one, "all": all_cores})  # noqa: B023
        one_share, share = ratios(found["one"], found["bare"]), ratios(found["all"], found["bare"])
        rates = (spread(found[who]) for who in ("bare", "one", "all"))
        table.append((name, *rates, spread(one_share, 2), spread(share, 2)))
    shutil.rmtree(folder, ignore_errors=True)
    title = f"Generation: {count} samples, {IN_FLIGHT} in flight, {runs} runs: samples/s, median (least-most)"
    columns = ("endpoint", "bare client", "ours, 1 process", f"ours, {cores} processes", "ratio, 1", f"ratio, {cores}")
    report(title, columns, table, out)
