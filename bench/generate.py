"""What it costs to have a text LLM write responses: all of it, beside a bare asynchronous client.

The bare client is aiohttp on uvloop with connections kept alive, one coroutine a request in flight:
it sends the same requests, already rendered, and reads the reply's text. We render the prompts, ask,
record each reply before it is used, parse and check it against its schema, run all filters, and
write verified shards with the speech in them. Both on one core, the endpoint on another.
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
from collections.abc import Iterator
from contextlib import contextmanager
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
from pipeline.stage import Filter, chain
from pipeline.stages.generate import Generate
from pipeline.stages.instruct import Instruct
from pipeline.tasks.base import Briefing
from pipeline.tasks.question_answer import QuestionAnswer
from schemas.sample import Sample
from schemas.utterance import Audio, Utterance

IN_FLIGHT = 256
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
    """The endpoint, on the last core."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "bench.stub", str(port), *arguments], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(server.pid, {cores[-1]})
        os.sched_setaffinity(0, set(cores[:-1]))
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.sched_setaffinity(0, set(cores))
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


class Ours:
    """The whole way of a unit from drafts to a finished shard."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        self._llm = OpenAI(model="stub", base_url=url, concurrency=IN_FLIGHT)
        self._url = url
        self._task = QuestionAnswer(pairs=1)
        self._briefing = Briefing(Prompts(), 0, ["en"])
        made = [(n, plugins.load("filters", n)()) for n in plugins.names("filters") if n != "duplicates"]
        self._before = [(n, f) for n, f in made if f.before_tasks]
        self._after: list[tuple[str, Filter]] = sorted(((n, f) for n, f in made if not f.before_tasks), key=_order)

    def __call__(self, rows: list[Sample]) -> float:
        """Runs it once; samples a second."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.sync()  # what an earlier run has left to write is not ours to wait for
        begin = time.perf_counter()
        with Memo(self._folder / "memo.sqlite") as memo:
            generate = Generate({self._task.key: self._task}, self._briefing, self._llm, [self._url], memo, 0)
            instruct = Instruct([self._task], self._briefing, 0, None)
            stages = [*self._before, ("instruct", instruct), ("generate", generate), *self._after]
            out = chain(rows, stages)
            kept = 0
            for number in itertools.count():  # units of 1,000 rows, as in a run
                piece = list(itertools.islice(out, 1000))
                if not piece:
                    break
                with shards.UnitWriter(self._folder, f"{number:04d}", "train", 64) as writer:
                    for sample in piece:
                        writer.add(sample)
                    manifest = writer.finish("bench", len(piece))
                assert manifest.kept is not None, manifest.reasons
                kept += manifest.kept.rows
        assert (kept, generate.asked) == (len(rows), len(rows))
        return len(rows) / (time.perf_counter() - begin)

    def payloads(self, rows: list[Sample]) -> list[bytes]:
        """The requests that the stage sends, rendered."""
        made = []
        for row in rows:
            question = self._task.ask(row, self._briefing(self._task, row.utterances[0], "train"))
            made.append(self._llm.request(question.messages, question.reply, question.most_tokens, len(made)))
        return made


def _order(pair: tuple[str, Filter]) -> tuple[int, str]:
    return pair[1].order, pair[0]


def main(out: Path, count: int = 5000, runs: int = 5) -> None:
    """Three endpoints: at once, after 200 ms, and with a long tail around 200 ms."""
    rows = drafts(count)
    table = []
    for name, arguments in (("at once", ()), ("200 ms", ("fixed", "0.2")), ("long tail", ("tailed", "0.2"))):
        with stub(*arguments) as url:
            ours = Ours(url, out / "generate")
            payloads = ours.payloads(rows)
            ours(rows[:500])  # models are loaded and templates compiled once in a run
            found = in_turn(runs, {"bare": lambda: bare(url, payloads), "ours": lambda: ours(rows)})  # noqa: B023
        share = ratios(found["ours"], found["bare"])
        table.append((name, spread(found["bare"]), spread(found["ours"]), spread(share, 2)))
    shutil.rmtree(out / "generate", ignore_errors=True)
    title = f"Generation: {count} samples, {IN_FLIGHT} in flight, {runs} runs: samples/s, median (least-most)"
    report(title, ("endpoint", "bare client", "ours, to verified shards", "ratio"), table, out)
