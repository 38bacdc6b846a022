"""Indexing: reads all rows once as a model reads them, in parallel, and counts."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.model.base import RowError, SpeechLM
from pipeline.train.mapped import check
from pipeline.train.rows import Rows
from schemas.arrow import SAMPLING_RATE, from_batch
from schemas.sample import Sample

NAMED = 10  # rows that a message names
_FEW = 512  # rows: fewer are read before processes would have begun
_CHUNK = 512  # rows that a process reads at a time


def pieces(speech_lm: SpeechLM, samples: int) -> list[int]:
    """The samples of each piece that a model hears of an audio of so many; all of it in one where it does not cut."""
    cut = getattr(speech_lm, "pieces", None)
    return list(cut(samples)) if cut is not None else [samples]


@dataclass
class _Part:
    """What a process found in some record batches of a shard."""

    first: int
    """The number of the first row."""
    lengths: list[tuple[int, int, int, int, int]]
    """Of each row: positions, targets, sounds or pieces of them, samples, the longest's samples."""
    tasks: list[str]
    speakers: list[tuple[int, int]]
    """Row and hash."""
    recordings: list[tuple[int, int]]
    problems: list[tuple[int, str]]
    """Row and message."""


_Tasks = Collection[str] | None

_given: tuple[Rows, SpeechLM, _Tasks] | None = None
"""What the processes read from: inherited by the fork, for a model does not go through a pipe."""


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the run decides what Ctrl-C means


def _read_forked(shard: int, first: int, last: int, verify: bool) -> _Part:
    assert _given is not None
    return _read(*_given, shard, first, last, verify)


def _read(rows: Rows, speech_lm: SpeechLM, wanted: _Tasks, shard: int, first: int, last: int, verify: bool) -> _Part:
    """Reads the record batches from `first` to before `last` of a shard."""
    if verify:
        check(rows.shards[shard])
    batches = rows.batches(shard)
    row = rows.shards[shard].first + sum(batch.num_rows for batch in batches[:first])
    part = _Part(row, [], [], [], [], [])
    for batch in batches[first:last]:
        for sample in from_batch(batch):
            samples = [round(u.audio.seconds * SAMPLING_RATE) for u in sample.utterances if u.audio is not None]
            heard = [piece for size in samples for piece in pieces(speech_lm, size)]
            positions = targets = 0
            if wanted is None or sample.task in wanted:
                try:
                    encoded = speech_lm.encode(sample, sounds=False)
                    positions, targets = len(encoded.ids), int(encoded.targets.sum())
                except RowError as error:
                    part.problems.append((row, str(error)))
            part.lengths.append((positions, targets, len(heard), sum(samples), max(heard, default=0)))
            part.tasks.append(sample.task)
            part.speakers += [(row, _hash(name)) for name in _speakers(sample)]
            part.recordings += [(row, _hash(name)) for name in _recordings(sample)]
            row += 1
    return part


def _speakers(sample: Sample) -> set[str]:
    """Who speaks in it, mixtures included; where nobody knows, what was recorded."""
    found: set[str] = set()
    for utterance in sample.utterances:
        names = {part.speaker for part in utterance.parts} | {utterance.speaker}
        found |= {f"speaker {name}" for name in names if name}
        if utterance.parts:
            found |= {f"recording {part.id}" for part in utterance.parts if not part.speaker}
        elif not utterance.speaker:
            found.add(f"recording {utterance.recording or utterance.clean_id}")
    return found


def _recordings(sample: Sample) -> set[str]:
    return {
        f"recording {name}"
        for utterance in sample.utterances
        for name in ([part.id for part in utterance.parts] or [utterance.recording or utterance.clean_id])
    }


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


def _chunks(rows: Rows) -> list[tuple[int, int, int, bool]]:
    """Work of about equal size: shard, first and last record batch, and whether the file is compared first."""
    chunks = []
    for number in range(len(rows.shards)):
        batches = rows.batches(number)
        first = held = 0
        for last, batch in enumerate(batches, 1):
            held += batch.num_rows
            if held >= _CHUNK or last == len(batches):
                chunks.append((number, first, last, not first))
                first, held = last, 0
    return chunks


def counted(
    rows: Rows, speech_lm: SpeechLM, wanted: _Tasks, workers: int | None, told: Callable[[int, int], None] | None
) -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """The arrays of an `Index` by their names, and its tasks. The arguments are those of `Index.of`."""
    chunks = _chunks(rows)
    count = min(workers or len(os.sched_getaffinity(0)), len(chunks))
    parts: list[_Part] = []
    done = 0
    for part in _parts(rows, speech_lm, wanted, chunks, count if len(rows) > _FEW else 1):
        parts.append(part)
        done += len(part.lengths)
        if told is not None:
            told(done, len(rows))
    parts.sort(key=lambda part: part.first)
    problems = [problem for part in parts for problem in part.problems]
    if problems:
        raise RowError(complaint([said for _, said in problems[:NAMED]], len(problems), len(rows)))
    lengths = np.array([length for part in parts for length in part.lengths], np.int64)  # N, 5
    named = [name for part in parts for name in part.tasks]
    tasks = sorted(set(named))
    number = {name: place for place, name in enumerate(tasks)}
    dataset = np.repeat([s.dataset for s in rows.shards], [s.file.rows for s in rows.shards])
    speakers_of, speakers = _columns([pair for part in parts for pair in part.speakers])
    recordings_of, recordings = _columns([pair for part in parts for pair in part.recordings])
    arrays: dict[str, npt.NDArray[Any]] = {
        "positions": lengths[:, 0].astype(np.int32),
        "targets": lengths[:, 1].astype(np.int32),
        "sounds": lengths[:, 2].astype(np.int32),
        "samples": lengths[:, 3].copy(),
        "longest": lengths[:, 4].copy(),
        "task": np.array([number[name] for name in named], np.int16),
        "dataset": dataset.astype(np.int16),
        "speakers": speakers,
        "speakers_of": speakers_of,
        "recordings": recordings,
        "recordings_of": recordings_of,
    }
    return arrays, tuple(tasks)


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    return np.array([row for row, _ in pairs], np.int32), np.array([value for _, value in pairs], np.uint64)


def _parts(
    rows: Rows, speech_lm: SpeechLM, wanted: _Tasks, chunks: list[tuple[int, int, int, bool]], workers: int
) -> Iterator[_Part]:
    if workers < 2:
        for chunk in chunks:
            yield _read(rows, speech_lm, wanted, *chunk)
        return
    global _given
    _given = rows, speech_lm, wanted
    # Tokenizers with threads of their own say so, and stop, in a forked process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"), initializer=_begin)
    try:
        waiting: list[Future[Any]] = [pool.submit(_read_forked, *chunk) for chunk in chunks]
        for future in as_completed(waiting):
            yield future.result()
    except BrokenProcessPool as error:
        raise MemoryError("a process that read the rows was killed; was there too little memory?") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _given = None


def complaint(said: Sequence[str], count: int, total: int) -> str:
    """What is said of rows that cannot be trained on, of which some are named."""
    more = [f"and {count - len(said):,} more"] if count > len(said) else []
    return "\n  ".join(
        [
            f"{count:,} of {total:,} rows cannot be trained on:",
            *said,
            *more,
            "Too long ones: raise `batches.longest` as far as the model allows, or leave them out of the dataset "
            "(its recipe's filter `duration`) and build it again",
        ]
    )
