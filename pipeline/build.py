"""Build: one unit of a plan becomes one shard."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from msgspec.structs import replace as with_position

from pipeline import counts, logs, mirror, shards
from pipeline.counts import Made, Spent
from pipeline.memo import Memo, MemoDamaged, mend
from pipeline.plan import Plan, Unit, origins, read_unit, taken_out
from pipeline.recipes import RecipeError
from pipeline.setup import Setup, prepare
from pipeline.stage import Stopwatch, chain
from pipeline.tasks.base import alone
from pipeline.telling import Teller
from pipeline.withdrawal import withdraw
from schemas.manifest import ShardManifest
from schemas.sample import Sample

MENDINGS = 3  # of the memo within one unit: a disk that damages it again and again cannot be used

TIMES = "times.txt"
"""What units took to build: their utterances and seconds, a line each. It shapes nothing."""

log = logging.getLogger("earwitness")


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
    """The dataset's folder, or its URL."""
    fingerprint: str
    """Of the recipe with all that it names, when the run began."""
    urls: tuple[str, ...] = ()
    """Where the LLM is served."""
    workers: int = 1
    """How many build at the same time."""
    run: str = field(default_factory=lambda: os.environ.get("PREFECT__FLOW_RUN_ID") or secrets.token_hex(6))
    """Its id, in logs and in what workers tell; that of Prefect's where a deployment runs."""
    log: str = field(default_factory=logs.wanted)
    """The form of logs, for workers that do not share our environment."""


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
    split: str = ""
    utterances: int = 0
    made: Made = field(default_factory=Made)
    """Rows that this run made."""
    spent: Spent = field(default_factory=Spent)
    """What all tries of this run took."""


def planned(job: Job, limit: int | None = None) -> Plan:
    """Lists the corpora, plans what is new, and takes out of finished shards what has gone.

    Raises:
        CorpusError: A corpus cannot be read at all.
    """
    setup, out = prepare(job.recipe), mirror.folder(job.out)
    plan = setup.plan(out, limit)
    withdraw(out, plan, setup.recipe.shards.rows_per_batch)
    return plan


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
    logs.follow(job.log)
    with logs.working(job.run, unit.id):
        try:
            return _built(job, unit)
        except Exception:
            if logs.is_json():  # people are told at the end, once for all units with the same error
                log.exception("the unit cannot be built", extra={"split": unit.split})
            raise


def _built(job: Job, unit: Unit) -> UnitReport:
    out, setup = mirror.folder(job.out), unchanged(job)
    done = shards.finished(out, unit.id, unit.split, setup.fingerprint)
    if done is not None:
        return UnitReport(unit.id, *rows_of(done), skipped=True, split=unit.split, utterances=unit.utterances)
    mirror.take_plan(out)
    done = shards.finished_elsewhere(out, unit.id, unit.split, setup.fingerprint)
    if done is not None:
        return UnitReport(unit.id, *rows_of(done), skipped=True, split=unit.split, utterances=unit.utterances)
    began = time.monotonic()
    for _ in range(MENDINGS):
        try:
            report = _build(job, unit, setup)
            break
        except MemoDamaged as damage:
            mend(damage.path)
    else:
        report = _build(job, unit, setup)
    with open(out / shards.BUILD / TIMES, "a") as times:  # by lines, which are short: nobody's is cut in two
        times.write(f"{unit.utterances} {time.monotonic() - began:.3f}\n")
    return report


def times_taken(out: Path) -> tuple[int, float]:
    """Utterances of all units that were built in a folder, and the seconds that this took, one worker at a time."""
    utterances, seconds = 0, 0.0
    with suppress(FileNotFoundError), open(out / shards.BUILD / TIMES) as times:
        for line in times:
            count, _, took = line.partition(" ")
            with suppress(ValueError):  # cut short by a full disk
                utterances, seconds = utterances + int(count), seconds + float(took)
    return utterances, seconds


def _build(job: Job, unit: Unit, setup: Setup) -> UnitReport:
    out, stopwatch = mirror.folder(job.out), Stopwatch()
    with shards.working(out), Memo(out / shards.BUILD / "memo.sqlite") as memo:
        stages = setup.stages(memo, job.urls, job.workers)
        per_batch = setup.recipe.shards.rows_per_batch
        with (
            counts.counting() as traffic,
            shards.UnitWriter(out, unit.id, unit.split, per_batch) as writer,
            Teller(job.run, out, unit, stages, writer.tally, stopwatch, traffic) as telling,
        ):
            begun: set[str] = set()
            stream = chain(_noted(drafts(out / shards.BUILD / "plan", unit), begun), stages, stopwatch)
            for position, sample in enumerate(telling(stream)):
                writer.add(_placed(sample, position))
                begun -= origins(sample.id)
            assert not begun, f"no row came of {sorted(begun)[:3]}"
            writer.tally.removed.update(taken_out(out / shards.BUILD / "plan", unit))
            manifest = writer.finish(setup.fingerprint, unit.utterances)
            made, spent = telling.made, telling.spent.at_rest()
    kept, rejected = rows_of(manifest)
    logs.at("", "")
    log.info("unit built", extra={"split": unit.split, "kept": kept, "rejected": rejected, "asked": spent.asked})
    return UnitReport(
        *(unit.id, kept, rejected),
        asked=spent.asked,
        remembered=spent.remembered,
        seconds={name: round(s, 3) for name, s in stopwatch.seconds.items()},
        split=unit.split,
        utterances=unit.utterances,
        made=made,
        spent=spent,
    )


@contextmanager
def serving(job: Job, made: Plan) -> Iterator[Job]:
    """The job with the LLM's servers, for as long as the context lasts; none are started in vain.

    Raises:
        EndpointError: They cannot be reached, or have no such model or key.
        ASRError: The engine that listens cannot work.
    """
    out, setup = mirror.folder(job.out), prepare(job.recipe)
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


def _placed(sample: Sample, position: int) -> Sample:
    """A row with its place in the unit. One that is rejected before its tasks are drawn still has its companions."""
    sample = sample if sample.task or len(sample.utterances) == 1 else alone(sample)
    return with_position(sample, position=position)


def rows_of(manifest: ShardManifest) -> tuple[int, int]:
    """Kept and rejected rows of a shard."""
    return manifest.kept.rows if manifest.kept else 0, manifest.rejected.rows if manifest.rejected else 0
