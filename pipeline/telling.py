"""Telling: a worker says how far its unit is through a small file, for workers may be other machines."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from pipeline import counts, shards
from pipeline.counts import Made, Spent, Telling, Traffic
from pipeline.plan import Unit
from pipeline.stage import Stage, Stopwatch
from pipeline.stages.generate import Generate
from schemas.sample import Sample

log = logging.getLogger("earwitness")

EVERY = 0.5  # seconds between two tellings
_FAILURES = frozenset({"request_refused", "audio_unreadable", "tts_failed", "asr_failed"})
"""Reasons that no sample is to blame for."""
_NAMED = 20  # samples of a unit with one of those, which its log names


def folder(out: Path) -> Path:
    """Where the workers tell."""
    return out / shards.BUILD / "progress"


def under_way(out: Path) -> list[Telling]:
    """What workers tell now."""
    found = (_read(path) for path in folder(out).glob("*.json"))
    return [telling for telling in found if telling is not None]


def clear(out: Path) -> None:
    """Forgets what an earlier run told. Call it while holding the folder."""
    for path in folder(out).glob("*.json"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> Telling | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Telling)
    except (OSError, msgspec.MsgspecError):
        return None  # gone by now, or of another version


class Teller:
    """Tells of one unit, twice a second from a thread of its own: also while nothing comes of it.

    The first row that is kept is told at once.

    As a context manager it begins and ends; what a try told that failed, or was killed, stays until the next one.

    Args:
        run: The run's id.
        out: The dataset's folder.
        unit: What is built.
        stages: Its stages.
        tally: Counts its rows.
        stopwatch: Watches the stages.
        traffic: Counts what goes to servers.
    """

    def __init__(
        self,
        run: str,
        out: Path,
        unit: Unit,
        stages: Sequence[tuple[str, Stage]],
        tally: shards.Tally,
        stopwatch: Stopwatch,
        traffic: Mapping[str, Traffic],
    ) -> None:
        self._run, self._unit = run, unit
        self._path = folder(out) / f"{unit.split}-{unit.id}.json"
        self._generate = next((stage for _, stage in stages if isinstance(stage, Generate)), None)
        self._tally, self._stopwatch, self._traffic = tally, stopwatch, traffic
        self._ended, self._news = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._tell_on, name="telling", daemon=True)
        self._seen: set[str] = set()
        before = _read(self._path)
        mine = before is not None and before.run == run
        self._before, self._number = (before.spent, before.number) if before is not None and mine else (Spent(), 0)

    def __enter__(self) -> Teller:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._news.set()
        self._thread.join()
        if error is None:
            self._path.unlink(missing_ok=True)
        else:
            self._tell(f"{type(error).__name__}: {error}")

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The same samples; counts their utterances, and names those in the log that failed."""
        named = 0
        for sample in samples:
            yield sample
            self._seen.add(sample.utterances[0].id)
            if sample.rejected is None and not self._news.is_set():
                self._news.set()
            if sample.rejected is not None:
                failed = sample.rejected in _FAILURES and named < _NAMED
                named += failed
                level = logging.INFO if failed else logging.DEBUG
                if log.isEnabledFor(level):
                    log.log(level, "set aside", extra={"reason": sample.rejected, "detail": sample.detail})

    @property
    def made(self) -> Made:
        """Rows so far."""
        tally = self._tally
        return Made(sum(dict(tally.tasks).values()), dict(tally.reasons), tally.seconds)

    @property
    def spent(self) -> Spent:
        """What it took so far, in all tries of this run."""
        generate, now = self._generate, Spent(tries=1, traffic=dict(self._traffic), stages=self._stopwatch.seconds)
        if generate is not None:
            now.asked, now.remembered = generate.asked, generate.remembered
            now.prompt_tokens = {generate.model: generate.prompt_tokens}
            now.completion_tokens = {generate.model: generate.completion_tokens}
        # A copy that nobody adds to meanwhile: the encoder does not let go of the interpreter.
        return self._before.at_rest().plus(msgspec.json.decode(msgspec.json.encode(now), type=Spent))

    def _tell_on(self) -> None:
        while not self._ended.is_set():
            (self._ended if self._news.is_set() else self._news).wait(EVERY)
            if not self._ended.is_set():
                self._tell()

    def _tell(self, error: str = "") -> None:
        self._number += 1
        telling = Telling(
            *(self._run, self._unit.id, self._unit.split, platform.node(), os.getpid(), time.time(), self._number),
            *(counts.memory(), len(self._seen), self.made, self.spent, error),
        )
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(telling))
            os.replace(temporary, self._path)
        except OSError as failure:  # what makes the unit fail says so itself
            log.warning("how far the unit is cannot be told: %s", failure)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
