"""Shards: the only module that knows how a dataset lies on disk.

A folder holds, for each split, `train/shard-<unit>.arrow` and its manifest
`train/shard-<unit>.json`; rows that were set aside lie in `rejected/train-<unit>.arrow`. Files
appear whole or not at all: written under `.build/tmp`, closed, synced, read back and compared,
renamed; the manifest comes last. A shard without its manifest does not exist.

The folder of a dataset that lies in a store is its work folder (`pipeline.mirror`): what is finished here is
sent there in the same order, and read from a copy here.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import io
import itertools
import json
import logging
import os
import shutil
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from msgspec.structs import replace
from pydantic import ValidationError

from pipeline import lease, mirror, storage
from pipeline.lease import FolderInUse as FolderInUse
from pipeline.mirror import BUILD as BUILD
from pipeline.mirror import local as local
from pipeline.storage import StoreError
from pipeline.text import normalise
from schemas.arrow import SCHEMA, from_batch, to_batch
from schemas.manifest import SCHEMA_VERSION, ShardFile, ShardManifest, Tokens
from schemas.sample import Rejection, Sample

log = logging.getLogger("earwitness")

SPLITS = ("train", "test")
PENDING = mirror.PENDING
_LONG_PIECE = 2**16  # bytes
_OWN = (*(f"{split}/shard-" for split in SPLITS), "rejected/")  # how the names of Arrow files begin
_TRIES = 4  # to hold a folder
BATCH_BYTES = 64 * 2**20  # a record batch is closed at this size even if it has few rows


class DiskError(OSError):
    """A dataset cannot be written; the message names the place and the cure."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the operating system's errors into ones that say what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, (DiskError, StoreError)):
            raise
        cure = {
            errno.ENOSPC: "the disk is full: free some space",
            errno.EDQUOT: "the disk quota is used up: free some space",
            errno.EACCES: "the folder cannot be written to: change its permissions or give another --out",
            errno.EPERM: "the folder cannot be written to: change its permissions or give another --out",
            errno.EROFS: "the file system is read-only: give another --out",
            errno.ENOTDIR: "a part of this path is a file: give another --out",
            errno.EFBIG: "the file grew over the allowed size: raise the limit (ulimit -f)",
        }.get(error.errno or 0, error.strerror or str(error))
        raise DiskError(
            error.errno, f"{path}: {cure}. Finished shards are whole; the same command goes on from there"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, also after a power cut."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync(path.parent)


def write(folder: Path, name: str, content: bytes) -> None:
    """Writes a small file of a dataset, whole or not at all; where the dataset lies in a store, there and here."""
    mirror.put(folder, name, content)
    write_atomically(folder / name, content)


def remove(folder: Path, name: str) -> None:
    """Removes a file of a dataset, if it is there; where the dataset lies in a store, here and there."""
    place = folder / name
    if place.exists():
        place.unlink()
        sync(place.parent)
    mirror.remove(folder, name)


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds a dataset's folder for one run; the system frees it when the process ends in any way.

    Of a dataset in a store, all manifests are here when it is held.

    Raises:
        FolderInUse: Another run holds it.
    """
    place = folder / BUILD / "lock"
    with explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _hold(handle)
        except BlockingIOError as error:
            place_of = mirror.address(folder)
            raise FolderInUse(f"another run is building in {place_of}: wait for it, or give another --out") from error
        with _flock(folder, fcntl.LOCK_EX):  # workers of a run that was killed end with it, a moment later
            pass
        url = mirror.of(folder)
        with nullcontext() if url is None else lease.held(url, mirror.name_of(folder)):
            mirror.refresh(folder)
            yield
    finally:
        os.close(handle)


def _hold(handle: int) -> None:
    for _ in range(_TRIES):
        with suppress(BlockingIOError):  # somebody may only be looking, as `in_use` does
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def in_use(folder: Path) -> bool:
    """Whether a run holds a dataset's folder now, of a dataset in a store on any machine. Nothing is made there."""
    url = mirror.of(folder)
    return used_here(folder) or (url is not None and lease.taken(url))


def used_here(folder: Path) -> bool:
    """The same of runs on this machine."""
    try:
        handle = os.open(folder / BUILD / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def working(folder: Path) -> AbstractContextManager[None]:
    """Held by a worker while it builds: no new run begins before it is gone."""
    return _flock(folder, fcntl.LOCK_SH)


@contextmanager
def building(folder: Path, unit: str) -> Iterator[None]:
    """Held by the one process that builds a unit; others wait for it."""
    place = int.from_bytes(xxhash.xxh3_64_digest(unit.encode())) >> 2  # the largest offset has 63 bits
    with open(folder / BUILD / "units.lock", "ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
        yield


@contextmanager
def _flock(folder: Path, kind: int) -> Iterator[None]:
    (folder / BUILD).mkdir(parents=True, exist_ok=True)  # of a store, a machine may see it for the first time
    with open(folder / BUILD / "workers.lock", "ab") as file:
        fcntl.flock(file, kind)
        yield


def refuse_foreign(folder: Path, name: str) -> None:
    """One folder, one dataset.

    Raises:
        DiskError: It holds another's, or files that are no dataset.
    """
    owner = _owner(folder)
    if owner is not None and owner != name:
        raise DiskError(
            errno.EEXIST,
            f"{mirror.address(folder)} holds the dataset {owner!r}, the recipe makes {name!r}: give another --out",
        )
    if owner is None and mirror.of(folder) is not None:
        foreign = mirror.names(folder)
    else:
        foreign = sorted(path.name for path in folder.iterdir() if path.name != BUILD) if folder.is_dir() else []
    if owner is None and foreign:
        address = mirror.address(folder)
        raise DiskError(errno.EEXIST, f"{address} holds {foreign[0]} and is no dataset: give another --out")


def _owner(folder: Path) -> str | None:
    """Whose dataset a folder holds: as a run has claimed it, or as it was finished."""
    for name in (f"{BUILD}/name", "dataset.json"):
        mirror.fetch(folder, name)
    with suppress(OSError):
        return (folder / BUILD / "name").read_text()
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((folder / "dataset.json").read_bytes())["name"])
    return None


def claim(folder: Path, name: str) -> None:
    """Says whose dataset a folder is to hold. Call it while holding the folder.

    Raises:
        DiskError: As `refuse_foreign`.
    """
    refuse_foreign(folder, name)
    if not (folder / BUILD / "name").exists():
        write(folder, f"{BUILD}/name", name.encode())


class _Digesting(io.RawIOBase):
    """A file that knows the digest and the size of what was written to it.

    What is written is handed to a thread at each `flush`: whoever writes goes on asking the LLM
    meanwhile, and a slow disk holds it up only when it is two flushes behind.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed with this object
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard")
        self._waiting: list[memoryview] = []
        self._under_way: deque[Future[None]] = deque()
        self.digest = xxhash.xxh3_128()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._waiting.append(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        if self._waiting:
            self._under_way.append(self._thread.submit(self._write, self._waiting))
            self._waiting = []
        while len(self._under_way) > 1:
            self._under_way.popleft().result()

    def _write(self, views: list[memoryview]) -> None:
        # Long pieces go as they are; Arrow's many short ones together, for each call costs the interpreter's lock.
        for long, some in itertools.groupby(views, lambda view: len(view) >= _LONG_PIECE):
            for piece in some if long else (b"".join(some),):
                self.digest.update(piece)
                rest = memoryview(piece)
                while len(rest):
                    rest = rest[self._file.write(rest) or 0 :]

    def sync(self) -> None:
        """Returns when all is on disk."""
        self.flush()
        while self._under_way:
            self._under_way.popleft().result()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self.closed:
            self._waiting = []
            self._thread.shutdown(cancel_futures=True)
            self._file.close()
        super().close()


def digest_of(path: Path) -> str:
    """The XXH3 digest of a file's content."""
    state = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(2**20):
            state.update(block)
    return state.hexdigest()


class ShardWriter:
    """Writes samples to one Arrow stream file; `close` verifies it."""

    def __init__(self, path: Path, rows_per_batch: int) -> None:
        self._path = path
        self._rows_per_batch = rows_per_batch
        self._waiting: list[Sample] = []
        self._waiting_bytes = 0
        self.rows = 0
        self._sink = _Digesting(path)
        self._stream = pa.ipc.new_stream(pa.PythonFile(self._sink, "w"), SCHEMA)

    def add(self, sample: Sample) -> None:
        """Takes one row. Batches depend on the rows alone, so equal rows give equal files."""
        self._waiting.append(sample)
        self._waiting_bytes += sum(len(u.audio.flac) for u in sample.utterances if u.audio)
        if len(self._waiting) >= self._rows_per_batch or self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._stream.write_batch(to_batch(self._waiting))
        self._sink.flush()
        self.rows += len(self._waiting)
        self._waiting, self._waiting_bytes = [], 0

    def close(self, name: str) -> ShardFile:
        """Closes, syncs, reads back and compares.

        Args:
            name: The path that the manifest will give, relative to the dataset's folder.

        Raises:
            DiskError: What the disk gives back is not what was written.
        """
        if self._waiting:
            self._flush()
        self._stream.close()
        self._sink.sync()
        self._sink.close()
        wanted = self._sink.digest.hexdigest()
        if count_rows(self._path) != self.rows or digest_of(self._path) != wanted:
            raise DiskError(
                errno.EIO, f"{self._path} does not read back as it was written: check the disk, then run again"
            )
        return ShardFile(path=name, rows=self.rows, bytes=self._sink.size, digest=wanted)

    def abandon(self) -> None:
        """Closes without finishing; the file is removed."""
        self._sink.close()
        self._path.unlink(missing_ok=True)


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The record batches of a shard, memory-mapped.

    Raises:
        ArrowInvalid: It is damaged; the message names it.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield batch if columns is None else batch.select(columns)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not Arrow's
            raise
        raise pa.ArrowInvalid(f"{path}: {error}") from error


def count_rows(path: Path) -> int:
    """Rows of a shard, without reading its columns."""
    return sum(batch.num_rows for batch in batches(path))


def read(path: Path) -> Iterator[Sample]:
    """The samples of a shard."""
    for batch in batches(path):
        yield from from_batch(batch)


class Tally:
    """What a manifest says of a unit's rows, counted as they are written."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        self.languages: dict[str, float] = defaultdict(float)
        self.licences: dict[str, float] = defaultdict(float)
        self.speakers: set[str] = set()
        self.recordings: set[str] = set()
        self.instructions: set[str] = set()
        self.queries: set[str] = set()
        self.outcomes: Counter[str] = Counter()
        self.voices: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, Counter[str]] = {}
        self.row_seconds = 0.0
        self.augmented = 0.0
        self.augmented_rows = 0
        self.seconds = 0.0
        self.heard: set[str] = set()
        self._seen: set[str] = set()
        self._sources: set[str] = set()

    def add(self, sample: Sample) -> None:
        """Counts one row."""
        made = sample.provenance
        if made.model:
            count = self.tokens.setdefault(made.model, Counter())
            count["requests"] += made.attempts
            count["prompt"] += made.prompt_tokens
            count["completion"] += made.completion_tokens
        if sample.rejected is not None:
            self.reasons[sample.rejected] += 1
            return
        self.tasks[sample.task] += 1
        if made.instruction:
            self.instructions.add(made.instruction)
        if sample.outcome:
            self.outcomes[sample.outcome] += 1
            calls = ((call.name, call.arguments) for message in sample.messages for call in message.tool_calls)
            self.queries |= queries((utterance.transcript for utterance in sample.utterances), calls)
        self.augmented_rows += any(utterance.effects for utterance in sample.utterances)
        for utterance in sample.utterances:
            assert utterance.audio is not None, f"{sample.id} is kept without audio"
            self.heard.update({part.id for part in utterance.parts} or {utterance.clean_id})
            speakers = {part.speaker for part in utterance.parts} | {utterance.speaker}
            self.speakers.update(s for s in speakers if s)
            if utterance.parts:
                self.recordings.update(part.id for part in utterance.parts if not part.speaker)
            elif not utterance.speaker:
                self.recordings.add(utterance.recording or utterance.clean_id)
            seconds = utterance.audio.seconds
            self.row_seconds += seconds
            if (delivery := utterance.delivery) is not None:
                self.voices[f"{delivery.engine}, {delivery.licence or 'licence unknown'}"] += seconds
            if utterance.effects and utterance.id not in self._seen:
                self._seen.add(utterance.id)
                self.augmented += seconds
            # A mixture, a pause and an augmented copy are no more speech than what they were made of.
            source = 0.0 if utterance.parts or utterance.clean_id in self._sources else seconds
            if not utterance.parts:
                self._sources.add(utterance.clean_id)
            self.seconds += source
            self.languages[utterance.language or "unknown"] += source
            self.licences[utterance.licence or "unknown"] += source


def queries(transcripts: Iterable[str], calls: Iterable[tuple[str, str]]) -> set[str]:
    """Digests of what is said to an assistant that has tools, and of the calls, name and arguments, that it makes."""
    texts = (*map(normalise, transcripts), *(f"{name}{_sorted(arguments)}" for name, arguments in calls))
    return {xxhash.xxh3_64_hexdigest(text.encode()) for text in texts}


def _sorted(arguments: str) -> str:
    """A JSON object's text, equal for equal objects."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except json.JSONDecodeError:  # kept where the filter that would object is switched off
        return arguments


def _in_order(counts: Mapping[str, float]) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in sorted(counts.items())}


class UnitWriter:
    """Writes the rows of one unit: kept and rejected ones apart, then the manifest."""

    def __init__(self, folder: Path, unit: str, split: str, rows_per_batch: int) -> None:
        self._folder, self.unit, self.split = folder, unit, split
        self._rows_per_batch = rows_per_batch
        self._temporary = folder / BUILD / "tmp"
        self._writers: dict[str, ShardWriter] = {}
        self.tally = Tally()

    def __enter__(self) -> UnitWriter:
        with explained(self._temporary):
            self._temporary.mkdir(parents=True, exist_ok=True)
            for left in self._temporary.glob(f"{self.split}-{self.unit}.*"):  # by a worker that was killed
                left.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def _name(self, kind: str) -> str:
        return shard_path(self.split, self.unit) if kind == "kept" else rejected_path(self.split, self.unit)

    def _scratch(self, kind: str) -> Path:
        return self._temporary / f"{self.split}-{self.unit}.{kind}.{os.getpid()}"

    def add(self, sample: Sample) -> None:
        """Writes one row to where it belongs."""
        kind = "kept" if sample.rejected is None else "rejected"
        with explained(self._folder):
            if kind not in self._writers:
                self._writers[kind] = ShardWriter(self._scratch(kind), self._rows_per_batch)
            self._writers[kind].add(sample)
        self.tally.add(sample)

    def finish(self, fingerprint: str, utterances: int) -> ShardManifest:
        """Verifies the files, puts them in their place and writes the manifest, last.

        Args:
            fingerprint: Of what shaped the rows.
            utterances: Planned for this unit.
        """
        with explained(self._folder):
            files: dict[str, ShardFile] = {}
            for kind, writer in self._writers.items():
                files[kind] = writer.close(self._name(kind))
            # What replaces a finished shard is complete before the old one goes: nobody may be able to make it again.
            (self._folder / PENDING).mkdir(exist_ok=True)
            for kind in files:
                os.replace(self._scratch(kind), pending_path(self._folder, self.split, self.unit, kind))
            sync(self._folder / PENDING)
            self._writers.clear()
        manifest = self._manifest(files, fingerprint, utterances)
        note = pending_path(self._folder, self.split, self.unit, "json")
        write_atomically(note, manifest.model_dump_json(indent=1).encode())
        _settle(self._folder, manifest, note)
        return manifest

    def _manifest(self, files: dict[str, ShardFile], fingerprint: str, utterances: int) -> ShardManifest:
        tally = self.tally
        return ShardManifest(
            unit=self.unit,
            fingerprint=fingerprint,
            split=self.split,
            utterances=utterances,
            heard=len(tally.heard),
            kept=files.get("kept"),
            rejected=files.get("rejected"),
            reasons=_in_order(tally.reasons),
            removed=_in_order(tally.removed),
            seconds=round(tally.seconds, 3),
            row_seconds=round(tally.row_seconds, 3),
            augmented=round(tally.augmented, 3),
            augmented_rows=tally.augmented_rows,
            tasks=_in_order(tally.tasks),
            languages=_in_order(tally.languages),
            licences=_in_order(tally.licences),
            speakers=sorted(tally.speakers),
            recordings=sorted(tally.recordings),
            queries=sorted(tally.queries),
            outcomes=_in_order(tally.outcomes),
            voices=_in_order(tally.voices),
            instructions=sorted(tally.instructions),
            tokens={model: Tokens(**count) for model, count in sorted(tally.tokens.items())},
        )


def pending_path(folder: Path, split: str, unit: str, kind: str) -> Path:
    """Where a file of a unit waits until all of its files are written."""
    return folder / PENDING / f"{split}-{unit}.{kind}"


def _settle(folder: Path, manifest: ShardManifest, note: Path) -> None:
    """Puts the files of a unit in their place, then their manifest. Done again after a kill, it ends the same."""
    if mirror.of(folder) is not None:
        replaces = mirror.settle(folder, manifest, note)
        write(folder, manifest_path(manifest.split, manifest.unit), note.read_bytes())
        if replaces:
            mirror.settled(folder, note)
        note.unlink()
        return
    with explained(folder):
        place = folder / manifest_path(manifest.split, manifest.unit)
        if place.exists():  # an old manifest must not vouch for new files
            place.unlink()
            sync(place.parent)
        names = {"kept": shard_path, "rejected": rejected_path}
        for kind, file in (("kept", manifest.kept), ("rejected", manifest.rejected)):
            target = folder / names[kind](manifest.split, manifest.unit)
            waiting = note.with_suffix(f".{kind}")
            if file is None:
                target.unlink(missing_ok=True)
            elif waiting.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(waiting, target)
                sync(target.parent)
    write_atomically(place, note.read_bytes())
    note.unlink()


def _settle_pending(folder: Path) -> None:
    """Ends what a killed run had begun to put in its place, and removes what was not complete."""
    for note in (folder / PENDING).glob("*.json"):
        manifest = load_manifest(note)
        if manifest is not None:
            _settle(folder, manifest, note)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / PENDING)


def shard_path(split: str, unit: str) -> str:
    """Where the kept rows of a unit lie."""
    return f"{split}/shard-{unit}.arrow"


def rejected_path(split: str, unit: str) -> str:
    """Where its rejected rows lie."""
    return f"rejected/{split}-{unit}.arrow"


def manifest_path(split: str, unit: str) -> str:
    """Where its manifest lies."""
    return f"{split}/shard-{unit}.json"


def load_manifest(path: Path) -> ShardManifest | None:
    """A manifest, or None where there is none that can be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        manifest = ShardManifest.model_validate_json(content)
    except ValidationError:
        log.warning("%s is damaged: its unit is made again from what is remembered", path)
        return None
    return manifest if manifest.schema_version == SCHEMA_VERSION else None


def finished(folder: Path, unit: str, split: str, fingerprint: str) -> ShardManifest | None:
    """The manifest of a unit that is done and shaped by the same fingerprint, or None."""
    manifest = load_manifest(folder / manifest_path(split, unit))
    if manifest is None or manifest.fingerprint != fingerprint:
        return None
    for file in (manifest.kept, manifest.rejected):
        # Of a store, manifest and shards were compared when the run began.
        if file is not None and mirror.of(folder) is None and not _is_there(folder / file.path, file.bytes):
            log.warning("%s is not as its manifest says: its unit is made again", folder / file.path)
            return None
    return manifest


def finished_elsewhere(folder: Path, unit: str, split: str, fingerprint: str) -> ShardManifest | None:
    """The same of a unit that another machine may have done since, where the dataset lies in a store."""
    if mirror.of(folder) is None:
        return None
    mirror.fetch(folder, manifest_path(split, unit))
    return finished(folder, unit, split, fingerprint)


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def judged(
    folder: Path, manifest: ShardManifest, verdicts: Mapping[int, Rejection | None], rows_per_batch: int
) -> ShardManifest:
    """Writes a finished shard anew with other verdicts.

    Args:
        folder: The dataset's.
        manifest: The shard's.
        verdicts: By the row's position in its unit; None takes a row back that was set aside.
        rows_per_batch: Of the recipe.
    """
    rows = _rows(folder, manifest)
    with UnitWriter(folder, manifest.unit, manifest.split, rows_per_batch) as writer:
        for sample in rows:
            if sample.position in verdicts:
                verdict = verdicts[sample.position]
                sample = replace(sample, rejected=None, detail="") if verdict is None else sample.reject(*verdict)
            writer.add(sample)
        writer.tally.removed.update(manifest.removed)
        return writer.finish(manifest.fingerprint, manifest.utterances)


def without(folder: Path, manifest: ShardManifest, gone: Mapping[int, str], rows_per_batch: int) -> ShardManifest:
    """Writes a finished shard anew without some of its rows.

    Args:
        folder: The dataset's.
        manifest: The shard's.
        gone: Why a row goes, by its position in the unit.
        rows_per_batch: Of the recipe.
    """
    with UnitWriter(folder, manifest.unit, manifest.split, rows_per_batch) as writer:
        left = (sample for sample in _rows(folder, manifest) if sample.position not in gone)
        for position, sample in enumerate(left):  # as if they had been made so
            writer.add(replace(sample, position=position))
        writer.tally.removed.update(manifest.removed)
        writer.tally.removed.update(gone.values())
        return writer.finish(manifest.fingerprint, manifest.utterances)


def _rows(folder: Path, manifest: ShardManifest) -> Iterator[Sample]:
    """The rows of a shard, kept and rejected ones, in their order."""
    files = [file for file in (manifest.kept, manifest.rejected) if file is not None]
    return heapq.merge(*(read(local(folder, file)) for file in files), key=lambda sample: sample.position)


def manifests(folder: Path, splits: Iterable[str]) -> Iterator[ShardManifest]:
    """All manifests that lie in a dataset's folder, by split and unit."""
    for split in splits:
        for path in sorted((folder / split).glob("shard-*.json")):
            manifest = load_manifest(path)
            if manifest is not None:
                yield manifest


def distrust(folder: Path) -> int:
    """Compares all finished shards with their digests; those that are damaged are finished no more.

    Sizes alone are looked at otherwise, since reading a whole dataset takes its time. Call it while holding
    the folder. The dataset's own manifest goes, too, so that all beside it is written anew.

    Returns:
        How many shards are damaged.
    """
    damaged = 0
    for manifest in manifests(folder, SPLITS):
        wrong = [told for f in (manifest.kept, manifest.rejected) if f is not None and (told := complaint(folder, f))]
        for told in wrong:
            log.warning("%s: %s: its unit is made again from what is remembered", mirror.address(folder), told)
        if wrong:
            remove(folder, manifest_path(manifest.split, manifest.unit))
            damaged += 1
    remove(folder, "dataset.json")
    return damaged


def complaint(folder: Path, file: ShardFile) -> str:
    """What is wrong with a file of a dataset: missing, or not as it was written; nothing, if all is well."""
    url = mirror.of(folder)
    try:
        digest = digest_of(folder / file.path) if url is None else storage.digest(f"{url}/{file.path}")
    except FileNotFoundError:
        return f"{file.path} is missing"
    return "" if digest == file.digest else f"{file.path} is not as it was written"


def discard_strays(folder: Path, made: Sequence[ShardManifest]) -> None:
    """Removes shards that are no longer planned, and Arrow files that no manifest names.

    A file without a manifest does not exist, but others would read it. Manifests go first.
    """
    planned = {manifest_path(m.split, m.unit) for m in made}
    for place in [path for split in SPLITS for path in folder.glob(f"{split}/shard-*.json")]:
        if (name := place.relative_to(folder).as_posix()) not in planned:
            remove(folder, name)
    known = {file.path for m in made for file in (m.kept, m.rejected) if file is not None}
    if mirror.of(folder) is not None:
        there = [name for name in mirror.names(folder) if name.endswith(".arrow") and name.startswith(_OWN)]
    else:
        there = [path.relative_to(folder).as_posix() for start in _OWN for path in folder.glob(f"{start}*.arrow")]
    for name in there:
        if name not in known:
            remove(folder, name)


def clear_temporary(folder: Path) -> None:
    """Removes what a killed run left half-written, and ends what it had all of. Call it while holding the folder."""
    _settle_pending(folder)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / BUILD / "tmp")
    for place in (folder, folder / BUILD, folder / BUILD / "plan", *(folder / split for split in SPLITS)):
        for path in place.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def state_file(files: list[ShardFile], split: str) -> bytes:
    """`state.json`, with which `datasets.load_from_disk` maps the shards of a split."""
    digest = xxhash.xxh3_64_hexdigest("".join(f.digest for f in files).encode())
    state: dict[str, Any] = {
        "_data_files": [{"filename": Path(f.path).name} for f in files],
        "_fingerprint": digest,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    return json.dumps(state, indent=1).encode()
