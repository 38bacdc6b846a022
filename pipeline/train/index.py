"""Index: how long each row is, what it is for and who speaks in it; made once, then mapped from the disk.

Lengths are those of the model that is trained: positions of its LLM, audio included, as `SpeechLM.encode` gives them.
Nothing is decoded for that. The key of the cache is a digest of the shards and of how the model reads, and some rows of
each task are encoded again when an index is loaded: one that does not fit is made anew.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.model.base import RowError, SpeechLM
from pipeline.seeds import rng
from pipeline.train.rows import Rows, check
from schemas.arrow import SAMPLING_RATE, from_batch
from schemas.manifest import SCHEMA_VERSION
from schemas.sample import Sample

Ints = npt.NDArray[np.int64]

_VERSION = 1  # raised when what is stored changes its meaning
_NAMED = 10  # rows that a message names
_AGAIN = 4  # rows of each task that are encoded again on loading
_FEW = 512  # rows: fewer are read before processes would have begun
_CHUNK = 512  # rows that a process reads at a time


@dataclass(frozen=True)
class Index:
    """N rows. All arrays may be maps of files."""

    positions: npt.NDArray[np.int32]
    """N. Of the LLM: audio, text and chat template."""
    targets: npt.NDArray[np.int32]
    """N. Tokens of responses."""
    sounds: npt.NDArray[np.int32]
    """N. How many audios."""
    samples: npt.NDArray[np.int64]
    """N. Of all its audios together, at 16 kHz."""
    longest: npt.NDArray[np.int64]
    """N. Of its longest audio."""
    task: npt.NDArray[np.int16]
    """N. Its place in `tasks`."""
    dataset: npt.NDArray[np.int16]
    """N. Its dataset's place in the recipe."""
    speakers: npt.NDArray[np.uint64]
    """K. Hashes of who speaks: one or more of each row. Where nobody knows, of the recording."""
    speakers_of: npt.NDArray[np.int32]
    """K. The rows that these belong to."""
    recordings: npt.NDArray[np.uint64]
    """R. Hashes of the recordings, or of the utterances as they were before they were augmented."""
    recordings_of: npt.NDArray[np.int32]
    """R. The rows that these belong to."""
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def check(self, rows: Rows, longest: int) -> None:
        """Complains of rows that are too long, all at once.

        Raises:
            RowError: There are some; the message names ten.
        """
        over = np.flatnonzero(self.positions > longest)
        if len(over):
            said = [
                f"{rows.identity(int(row))}: {self.positions[row]:,} positions, at most {longest:,} are allowed"
                for row in over[:_NAMED]
            ]
            raise RowError(_complaint(said, len(over), len(self)))

    @classmethod
    def of(
        cls,
        rows: Rows,
        speech_lm: SpeechLM,
        *,
        cache: Path | None = None,
        workers: int | None = None,
        told: Callable[[int, int], None] | None = None,
    ) -> Index:
        """The index of rows as a model reads them: from the cache, or made now.

        Files are compared with their manifests while it is made.

        Args:
            rows: All of a split.
            speech_lm: Its tokenizer and its count of positions are used, not its weights.
            cache: A folder for indexes; the user's own if omitted.
            workers: Processes that read; one for each core if omitted.
            told: Is told how many rows are done, of how many.

        Raises:
            DataError: A shard is damaged.
            RowError: Some rows cannot be read by this model; the message names ten, and says how many there are.
            ModelError: The model reads none, for want of a chat template for instance.
        """
        place = (cache or user_cache() / "index") / _key(rows, speech_lm)
        with _alone(place):
            found = _load(place, len(rows))
            if found is None or not _fits(found, rows, speech_lm):
                found = _make(rows, speech_lm, workers, told)
                _store(found, place)
        return found


def user_cache() -> Path:
    """Where what can be made again is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earwitness"


def reading(speech_lm: SpeechLM) -> str:
    """A digest of how a model reads: its tokenizer, its template, and the positions that audio takes."""
    tokenizer = speech_lm.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    # Every length up to 1/8 s, and some up to an hour: two models that agree on these agree on all.
    lengths = [*range(1, 2000, 7), *np.geomspace(2000, 3600 * SAMPLING_RATE, 200).astype(int).tolist()]
    said = {
        "class": f"{type(speech_lm).__module__}.{type(speech_lm).__qualname__}",
        "template": str(getattr(tokenizer, "chat_template", None)),
        "special": str(getattr(tokenizer, "special_tokens_map", None)),
        "words": xxhash.xxh3_128_hexdigest(words.encode("utf-8", "surrogatepass")),
        "tokens": [speech_lm.tokens(samples) for samples in lengths],
        "longest": speech_lm.longest,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(said, sort_keys=True).encode())


def _key(rows: Rows, speech_lm: SpeechLM) -> str:
    parts = f"{_VERSION} {SCHEMA_VERSION} {rows.split} {rows.digest} {reading(speech_lm)}"
    return xxhash.xxh3_128_hexdigest(parts.encode())


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Of several processes that want an index one makes it, and the others wait."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_suffix(".lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(place: Path, rows: int) -> Index | None:
    try:
        known = json.loads((place / "index.json").read_bytes())
        arrays = {
            field.name: np.load(place / f"{field.name}.npy", mmap_mode="r") if count else np.zeros(0, kind)
            for field in fields(Index)
            if field.name != "tasks"
            for count, kind in [known["arrays"][field.name]]
        }
    except (OSError, ValueError, KeyError):  # not there, or half of it: it is made again
        return None
    if any(len(array) != known["arrays"][name][0] for name, array in arrays.items()) or known["rows"] != rows:
        return None
    return Index(**arrays, tasks=tuple(known["tasks"]))


def _store(index: Index, place: Path) -> None:
    scratch = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    arrays = {field.name: getattr(index, field.name) for field in fields(Index) if field.name != "tasks"}
    for name, array in arrays.items():
        np.save(scratch / f"{name}.npy", array)
    known = {
        "rows": len(index),
        "tasks": index.tasks,
        "arrays": {name: (len(array), str(array.dtype)) for name, array in arrays.items()},
    }
    (scratch / "index.json").write_text(json.dumps(known))
    shutil.rmtree(place, ignore_errors=True)
    os.replace(scratch, place)


def _fits(index: Index, rows: Rows, speech_lm: SpeechLM) -> bool:
    """Whether some rows of each task are as long as it says: the model's code may have changed."""
    draw = rng("index", len(index))
    for number in range(len(index.tasks)):
        of_task = np.flatnonzero(index.task == number)
        for row in {int(of_task[draw.randrange(len(of_task))]) for _ in range(_AGAIN)}:
            try:
                encoded = speech_lm.encode(rows[row], sounds=False)
            except RowError:
                return False
            if (len(encoded.ids), int(encoded.targets.sum())) != (index.positions[row], index.targets[row]):
                return False
    return True


@dataclass
class _Part:
    """What a process found in some record batches of a shard."""

    first: int
    """The number of the first row."""
    lengths: list[tuple[int, int, int, int, int]]
    """Of each row: positions, targets, sounds, samples, the longest's samples."""
    tasks: list[str]
    speakers: list[tuple[int, int]]
    """Row and hash."""
    recordings: list[tuple[int, int]]
    problems: list[tuple[int, str]]
    """Row and message."""


_given: tuple[Rows, SpeechLM] | None = None
"""What the processes read from: inherited by the fork, for a model does not go through a pipe."""


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the run decides what Ctrl-C means


def _read_forked(shard: int, first: int, last: int, verify: bool) -> _Part:
    assert _given is not None
    return _read(*_given, shard, first, last, verify)


def _read(rows: Rows, speech_lm: SpeechLM, shard: int, first: int, last: int, verify: bool) -> _Part:
    """Reads the record batches from `first` to before `last` of a shard."""
    if verify:
        check(rows.shards[shard])
    batches = rows.batches(shard)
    row = rows.shards[shard].first + sum(batch.num_rows for batch in batches[:first])
    part = _Part(row, [], [], [], [], [])
    for batch in batches[first:last]:
        for sample in from_batch(batch):
            samples = [round(u.audio.seconds * SAMPLING_RATE) for u in sample.utterances if u.audio is not None]
            positions = targets = 0
            try:
                encoded = speech_lm.encode(sample, sounds=False)
                positions, targets = len(encoded.ids), int(encoded.targets.sum())
            except RowError as error:
                part.problems.append((row, str(error)))
            part.lengths.append((positions, targets, len(samples), sum(samples), max(samples, default=0)))
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


def _make(rows: Rows, speech_lm: SpeechLM, workers: int | None, told: Callable[[int, int], None] | None) -> Index:
    chunks = _chunks(rows)
    count = min(workers or len(os.sched_getaffinity(0)), len(chunks))
    parts: list[_Part] = []
    done = 0
    for part in _parts(rows, speech_lm, chunks, count if len(rows) > _FEW else 1):
        parts.append(part)
        done += len(part.lengths)
        if told is not None:
            told(done, len(rows))
    parts.sort(key=lambda part: part.first)
    problems = [problem for part in parts for problem in part.problems]
    if problems:
        raise RowError(_complaint([said for _, said in problems[:_NAMED]], len(problems), len(rows)))
    lengths = np.array([length for part in parts for length in part.lengths], np.int64)  # N, 5
    named = [name for part in parts for name in part.tasks]
    tasks = sorted(set(named))
    number = {name: place for place, name in enumerate(tasks)}
    dataset = np.repeat([s.dataset for s in rows.shards], [s.file.rows for s in rows.shards])
    speakers_of, speakers = _columns([pair for part in parts for pair in part.speakers])
    recordings_of, recordings = _columns([pair for part in parts for pair in part.recordings])
    return Index(
        positions=lengths[:, 0].astype(np.int32),
        targets=lengths[:, 1].astype(np.int32),
        sounds=lengths[:, 2].astype(np.int32),
        samples=lengths[:, 3].copy(),
        longest=lengths[:, 4].copy(),
        task=np.array([number[name] for name in named], np.int16),
        dataset=dataset.astype(np.int16),
        speakers=speakers,
        speakers_of=speakers_of,
        recordings=recordings,
        recordings_of=recordings_of,
        tasks=tuple(tasks),
    )


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    return np.array([row for row, _ in pairs], np.int32), np.array([value for _, value in pairs], np.uint64)


def _parts(rows: Rows, speech_lm: SpeechLM, chunks: list[tuple[int, int, int, bool]], workers: int) -> Iterator[_Part]:
    if workers < 2:
        for chunk in chunks:
            yield _read(rows, speech_lm, *chunk)
        return
    global _given
    _given = rows, speech_lm
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


def _complaint(said: Sequence[str], count: int, total: int) -> str:
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
