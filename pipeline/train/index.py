"""Index: how long each row is, what it is for and who speaks in it; made once, then mapped from the disk.

Lengths are those of the model that is trained: positions of its LLM, audio included, as `SpeechLM.encode` gives them.
Nothing is decoded for that. The key of the cache is a digest of the shards and of how the model reads, and some rows of
each task are encoded again when an index is loaded: one that does not fit is made anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.model.base import RowError, SpeechLM
from pipeline.seeds import rng
from pipeline.train.indexing import NAMED, complaint, counted, pieces
from pipeline.train.rows import Rows
from schemas.arrow import SAMPLING_RATE
from schemas.manifest import SCHEMA_VERSION

Ints = npt.NDArray[np.int64]

_VERSION = 1  # raised when what is stored changes its meaning
_AGAIN = 4  # rows of each task that are encoded again on loading


@dataclass(frozen=True)
class Index:
    """N rows. All arrays may be maps of files."""

    positions: npt.NDArray[np.int32]
    """N. Of the LLM: audio, text and chat template."""
    targets: npt.NDArray[np.int32]
    """N. Tokens of responses."""
    sounds: npt.NDArray[np.int32]
    """N. How many audios; one that is longer than the model hears at once counts as the pieces that it is cut into."""
    samples: npt.NDArray[np.int64]
    """N. Of all its audios together, at 16 kHz."""
    longest: npt.NDArray[np.int64]
    """N. Of its longest audio, or piece."""
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
                for row in over[:NAMED]
            ]
            raise RowError(complaint(said, len(over), len(self)))

    @classmethod
    def of(
        cls,
        rows: Rows,
        speech_lm: SpeechLM,
        *,
        tasks: Collection[str] | None = None,
        cache: Path | None = None,
        workers: int | None = None,
        told: Callable[[int, int], None] | None = None,
    ) -> Index:
        """The index of rows as a model reads them: from the cache, or made now.

        Files are compared with their manifests while it is made.

        Args:
            rows: All of a split.
            speech_lm: Its tokenizer and its count of positions are used, not its weights.
            tasks: What is trained; rows of others need not fit the model, and count no positions. All if omitted.
            cache: A folder for indexes; the user's own if omitted.
            workers: Processes that read; one for each core if omitted.
            told: Is told how many rows are done, of how many.

        Raises:
            DataError: A shard is damaged.
            RowError: Some rows cannot be read by this model; the message names ten, and says how many there are.
            ModelError: The model reads none, for want of a chat template for instance.
        """
        place = (cache or user_cache() / "index") / _key(rows, speech_lm, tasks)
        with _alone(place):
            found = _load(place, len(rows))
            if found is None or not _fits(found, rows, speech_lm, tasks):
                arrays, there = counted(rows, speech_lm, tasks, workers, told)
                found = cls(**arrays, tasks=there)
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
        "pieces": pieces(speech_lm, lengths[-1]),
        "longest": speech_lm.longest,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(said, sort_keys=True).encode())


def _key(rows: Rows, speech_lm: SpeechLM, tasks: Collection[str] | None) -> str:
    some = "" if tasks is None else f" {sorted(tasks)}"
    parts = f"{_VERSION} {SCHEMA_VERSION} {rows.split} {rows.digest} {reading(speech_lm)}{some}"
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


def _fits(index: Index, rows: Rows, speech_lm: SpeechLM, tasks: Collection[str] | None) -> bool:
    """Whether some rows of each task are as long as it says: the model's code may have changed."""
    draw = rng("index", len(index))
    for number, task in enumerate(index.tasks):
        if tasks is not None and task not in tasks:
            continue
        of_task = np.flatnonzero(index.task == number)
        for row in {int(of_task[draw.randrange(len(of_task))]) for _ in range(_AGAIN)}:
            try:
                encoded = speech_lm.encode(rows[row], sounds=False)
            except RowError:
                return False
            if (len(encoded.ids), int(encoded.targets.sum())) != (index.positions[row], index.targets[row]):
                return False
    return True
