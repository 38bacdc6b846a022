"""Build: one unit of a plan becomes one shard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from msgspec.structs import replace as with_position

from pipeline import shards
from pipeline.memo import Memo, MemoDamaged, mend
from pipeline.plan import Plan, Unit, read_unit
from pipeline.recipes import RecipeError
from pipeline.setup import Setup, prepare
from pipeline.stage import Stopwatch, chain
from pipeline.stages.generate import Generate
from pipeline.tasks.base import alone
from schemas.manifest import ShardManifest
from schemas.sample import Sample

REPORT_EVERY = 0.5  # seconds between two reports of a unit's progress
MENDINGS = 3  # of the memo within one unit: a disk that damages it again and again cannot be used


class UnitsFailed(RuntimeError):
    """Some units could not be built; all others are finished."""

    def __init__(self, failures: list[Exception], finished: int) -> None:
        self.failures = failures
        causes = "\n".join(sorted({f"{type(f).__name__}: {f}" for f in failures})[:5])
        super().__init__(f"{len(failures)} units failed, {finished} are finished. Why:\n{causes}")


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to build units, in any process on any machine that sees the folders."""

    recipe: str
    """The recipe's file."""
    out: str
    """The dataset's folder."""
    fingerprint: str
    """Of the recipe with all that it names, when the run began."""
    urls: tuple[str, ...] = ()
    """Where the LLM is served."""
    workers: int = 1
    """How many build at the same time."""


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What building a unit took. None of it shapes the dataset."""

    unit: str
    kept: int
    rejected: int
    skipped: bool = False
    """Whether it was finished already."""
    asked: int = 0
    """Replies that were paid for."""
    remembered: int = 0
    """Replies that were known."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""


def drafts(plan_folder: Path, unit: Unit) -> Iterator[Sample]:
    """The samples that a unit begins with: one an utterance, followed by its companions."""
    for utterance, companions in read_unit(plan_folder, unit):
        yield Sample(id=utterance.id, utterances=(utterance, *companions), split=unit.split)


def build_unit(job: Job, unit: Unit) -> UnitReport:
    """Builds one unit, unless it is finished.

    Raises:
        EndpointError: The LLM cannot be reached, or has no such model or key.
        DiskError, MemoError: The folder cannot be written to.
    """
    out, setup = Path(job.out), unchanged(job)
    done = shards.finished(out, unit.id, unit.split, setup.fingerprint)
    if done is not None:
        return UnitReport(unit.id, *rows_of(done), skipped=True)
    for _ in range(MENDINGS):
        try:
            return _build(job, unit, setup)
        except MemoDamaged as damage:
            mend(damage.path)
    return _build(job, unit, setup)


def _build(job: Job, unit: Unit, setup: Setup) -> UnitReport:
    out, stopwatch = Path(job.out), Stopwatch()
    with shards.working(out), Memo(out / shards.BUILD / "memo.sqlite") as memo:
        stages = setup.stages(memo, job.urls, job.workers)
        progress = _Progress(out, unit)
        per_batch = setup.recipe.shards.rows_per_batch
        with shards.UnitWriter(out, unit.id, unit.split, per_batch) as writer:
            begun: set[str] = set()
            stream = chain(_noted(drafts(out / shards.BUILD / "plan", unit), begun), stages, stopwatch)
            for position, sample in enumerate(progress(stream)):
                writer.add(_placed(sample, position))
                begun -= _origins(sample)
            assert not begun, f"no row came of {sorted(begun)[:3]}"
            manifest = writer.finish(setup.fingerprint, unit.utterances)
    generate = next((s for _, s in stages if isinstance(s, Generate)), None)
    return UnitReport(
        unit.id,
        *rows_of(manifest),
        asked=generate.asked if generate else 0,
        remembered=generate.remembered if generate else 0,
        seconds={name: round(s, 3) for name, s in stopwatch.seconds.items()},
    )


@contextmanager
def serving(job: Job, made: Plan) -> Iterator[Job]:
    """The job with the LLM's servers, for as long as the context lasts; none are started in vain.

    Raises:
        EndpointError: They cannot be reached, or have no such model or key.
        ASRError: The engine that listens cannot work.
    """
    out, setup = Path(job.out), prepare(job.recipe)
    asking = setup.llm is not None and any(task.uses_llm for task in setup.tasks)
    open_units = sum(shards.finished(out, u.id, u.split, setup.fingerprint) is None for u in made.units)
    job = replace(job, workers=max(1, min(job.workers, open_units)))  # they share what is in flight
    if setup.asr is not None and open_units:
        setup.asr.check()
    if setup.llm is None or not asking or not open_units:
        yield job
        return
    with setup.llm.serving(out / shards.BUILD) as urls:
        yield replace(job, urls=tuple(urls), workers=min(job.workers, setup.llm.concurrency))


def unchanged(job: Job) -> Setup:
    """The job's setup.

    Raises:
        RecipeError: The recipe, its prompts or the program are not what the run began with.
    """
    setup = prepare(job.recipe)
    if setup.fingerprint != job.fingerprint:
        raise RecipeError(f"{job.recipe} or its prompts were changed while the run was going: run it again")
    return setup


def _noted(samples: Iterator[Sample], ids: set[str]) -> Iterator[Sample]:
    for sample in samples:
        ids.add(sample.id)
        yield sample


def _origins(sample: Sample) -> set[str]:
    """What a row's id may begin with: an utterance's id, to which a task appends its name and a number."""
    return {sample.id, sample.id.rpartition(":")[0], sample.id.rsplit(":", 2)[0]}


def _placed(sample: Sample, position: int) -> Sample:
    """A row with its place in the unit. One that is rejected before its tasks are drawn still has its companions."""
    sample = sample if sample.task or len(sample.utterances) == 1 else alone(sample)
    return with_position(sample, position=position)


def rows_of(manifest: ShardManifest) -> tuple[int, int]:
    """Kept and rejected rows of a shard."""
    return manifest.kept.rows if manifest.kept else 0, manifest.rejected.rows if manifest.rejected else 0


class _Progress:
    """Tells the run how far a unit is, through a small file: workers may be other machines."""

    def __init__(self, out: Path, unit: Unit) -> None:
        self._path = out / shards.BUILD / "progress" / f"{unit.split}-{unit.id}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        seen: set[str] = set()
        rejected = 0
        told = time.monotonic()
        for rows, sample in enumerate(samples, 1):
            yield sample
            rejected += sample.rejected is not None
            seen.add(sample.utterances[0].id)
            if time.monotonic() - told > REPORT_EVERY:
                told = time.monotonic()
                content = {"utterances": len(seen), "rows": rows, "rejected": rejected}
                self._path.write_text(json.dumps(content))
        self._path.unlink(missing_ok=True)
