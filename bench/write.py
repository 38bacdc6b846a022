"""Writing rows with speech in them: our shards beside raw pyarrow IPC, on the same rows.

Raw pyarrow writes a flat table (the FLAC bytes, eleven texts, the seconds) in record batches of the
same size, and neither a digest nor a sync. We write the nested rows of a shard. What we do beyond
writing, which a crash makes worth it, is reported apart: syncing, and reading back with the digest.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from bench.measure import in_turn, ratios, report, spread
from pipeline import shards
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Provenance, Sample
from schemas.utterance import Audio, Utterance

PER_BATCH, PER_SHARD = 64, 500
TEXTS = ("id", "task", "language", "transcript", "speaker", "corpus", "licence", "user", "assistant", "answer", "model")
_FLAT = pa.schema([("flac", pa.binary()), *((name, pa.string()) for name in TEXTS), ("seconds", pa.float64())])


def samples(count: int, seed: int = 5) -> list[Sample]:
    """Rows with three to fifteen seconds of what cannot be compressed further."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        seconds = rng.uniform(3, 15)
        said = " ".join(rng.choices(("harbour", "wind", "evening", "letter", "captain", "road"), k=int(2.5 * seconds)))
        clip = rng.randbytes(int(16_000 * seconds))
        audio = Audio(clip, seconds, 16_000, 1, "FLAC/PCM_16", -3.0, -20.0, 0.0, f"{number:032x}", bytes(31))
        speech = Utterance(
            f"bench/{number}", "bench", said, "en", f"bench/{number % 40}", licence="CC BY 4.0", audio=audio
        )
        asked = Message("user", f"{AUDIO_PLACEHOLDER}\nWhat is said in this recording?")
        made.append(
            Sample(
                f"{speech.id}:transcription:0",
                (speech,),
                "train",
                task="transcription",
                language="en",
                messages=(asked, Message("assistant", said)),
                answer=said,
                provenance=Provenance("transcription/en/0011aabb", "aabb0011", model="none"),
            )
        )
    return made


def _flat(sample: Sample) -> dict[str, Any]:
    speech = sample.utterances[0]
    user, assistant = (message.content for message in sample.messages)
    return {
        "flac": speech.audio.flac if speech.audio else None,
        **{name: getattr(sample, name) for name in ("id", "task", "language", "transcript", "answer")},
        **{name: getattr(speech, name) for name in ("speaker", "corpus", "licence")},
        "user": user,
        "assistant": assistant,
        "model": sample.provenance.model,
        "seconds": speech.audio.seconds if speech.audio else None,
    }


def raw(rows: list[dict[str, Any]], folder: Path) -> float:
    """Seconds that pyarrow takes."""
    begin = time.perf_counter()
    folder.mkdir(parents=True)
    for number in range(0, len(rows), PER_SHARD):
        with pa.OSFile(str(folder / f"{number}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, _FLAT) as stream:
            for first in range(number, min(number + PER_SHARD, len(rows)), PER_BATCH):
                part = rows[first : min(first + PER_BATCH, number + PER_SHARD)]
                columns = [pa.array([row[field.name] for row in part], field.type) for field in _FLAT]
                stream.write_batch(pa.record_batch(columns, schema=_FLAT))
    return time.perf_counter() - begin


def ours(rows: list[Sample], folder: Path) -> float:
    """Seconds that we take, with all that there is to it."""
    begin = time.perf_counter()
    for number in range(0, len(rows), PER_SHARD):
        part = rows[number : number + PER_SHARD]
        with shards.UnitWriter(folder, f"{number:06d}", "train", PER_BATCH) as writer:
            for sample in part:
                writer.add(sample)
            writer.finish("bench", len(part))
    return time.perf_counter() - begin


@contextmanager
def timing(module: ModuleType, *names: str) -> Iterator[Callable[[], float]]:
    """Counts the seconds spent in some functions of a module."""
    spent, kept = 0.0, {name: getattr(module, name) for name in names}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal spent
            begin = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent += time.perf_counter() - begin

        return call

    for name, function in kept.items():
        setattr(module, name, timed(function))
    try:
        yield lambda: spent
    finally:
        for name, function in kept.items():
            setattr(module, name, function)


def main(out: Path, count: int = 1000, runs: int = 15) -> None:
    """In turn, each run in an empty folder."""
    rows = samples(count)
    plain = [_flat(row) for row in rows]
    size = sum(len(row["flac"]) for row in plain) / 1e6
    syncing: list[float] = []
    checking: list[float] = []
    whole: list[float] = []

    def cleared(name: str) -> Path:
        folder = out / "write" / name
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()  # what an earlier run has left to write is not this one's to wait for
        return folder

    def measured() -> float:
        folder = cleared("ours")
        with timing(os, "fsync") as synced, timing(shards, "digest_of", "count_rows") as checked:
            total = ours(rows, folder)
            syncing.append(synced() / size * 1e3)
            checking.append(checked() / size * 1e3)
            whole.append(size / total)
            return size / (total - synced() - checked())

    found = in_turn(runs, {"raw": lambda: size / raw(plain, cleared("raw")), "ours": measured})
    shutil.rmtree(out / "write", ignore_errors=True)
    share = ratios(found["ours"], found["raw"])
    table = [
        ("raw pyarrow IPC, MB/s", spread(found["raw"])),
        ("our shards with their digest, MB/s", spread(found["ours"])),
        ("ratio", spread(share, 2)),
        ("fsync, s for each GB", spread(syncing, 2)),
        ("reading back and comparing, s for each GB", spread(checking, 2)),
        ("our shards, all of it, MB/s", spread(whole)),
    ]
    title = f"Writing: {count} rows, {size:.0f} MB of FLAC, {runs} runs: median (least-most)"
    report(title, ("what", "measured"), table, out)
