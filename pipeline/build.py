"""Build: one unit of a plan becomes one shard."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
from msgspec.structs import replace as with_position

from pipeline import counts, logs, mirror, shards
from pipeline.counts import Made, Spent
from pipeline.memo import MemoDamaged, mend
from pipeline.plan import Plan, Unit, origins, read_unit, taken_out
from pipeline.recipes import RecipeError
from pipeline.remembering import machine, open_memo
from pipeline.setup import Setup, prepare
from pipeline.stage import Stopwatch, chain
from pipeline.tasks.base import alone
from pipeline.telling import Teller
from pipeline.withdrawal import withdraw
from pipeline.workers import Stopped
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
    shared: bool = False
    """Whether they may be on other machines."""


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


def make_ready(recipe: str) -> None:
    """Loads what building needs while nothing is to be built yet."""
    prepare(recipe)
    load_converters()


def load_converters() -> None:
    """Loads what pyarrow does at the first list that it converts: pandas, where that is installed."""
    pa.array([""])


def drafts(plan_folder: Path, unit: Unit) -> Iterator[Sample]:
    """The samples that a unit begins with: one an utterance, followed by its companions."""
    for utterance, companions in read_unit(plan_folder, unit):
        yield Sample(id=utterance.id, utterances=(utterance, *companions), split=unit.split)


def build_unit(job: Job, unit: Unit, wanted: Callable[[], bool] | None = None) -> UnitReport:
    """Builds one unit, unless it is finished.

    Args:
        job: What the run has in common.
        unit: The piece of work.
        wanted: Whether anybody still waits for it; asked at each row.

    Raises:
        EndpointError: The LLM cannot be reached, or has no such model or key.
        DiskError, MemoError: The folder cannot be written to.
        Stopped: Nobody waits for it any more.
    """
    logs.follow(job.log)
    with logs.working(job.run, unit.id):
        try:
            return _built(job, unit, wanted)
        except Exception:
            if logs.is_json():  # people are told at the end, once for all units with the same error
                log.exception("the unit cannot be built", extra={"split": unit.split})
            raise


def _built(job: Job, unit: Unit, wanted: Callable[[], bool] | None) -> UnitReport:
    out, setup = mirror.folder(job.out), unchanged(job)
    # Who hands units out may take a worker for dead that is only cut off, and give its unit to another.
    with shards.working(out), shards.building(out, unit.id):
        done = finished(job, unit)
        if done is not None:
            return done
        mirror.take_plan(out)
        if shards.finished_elsewhere(out, unit.id, unit.split, setup.fingerprint) is not None:
            done = finished(job, unit)
            assert done is not None
            return done
        began = time.monotonic()
        report = _built_mending(job, setup, unit, wanted)
        with open(out / shards.BUILD / TIMES, "a") as times:  # by lines, which are short: nobody's is cut in two
            times.write(f"{unit.utterances} {time.monotonic() - began:.3f}\n")
        return report


def _built_mending(job: Job, setup: Setup, unit: Unit, wanted: Callable[[], bool] | None) -> UnitReport:
    for _ in range(MENDINGS):
        try:
            return _build(job, setup, unit, wanted)
        except MemoDamaged as damage:
            mend(damage.path)
    return _build(job, setup, unit, wanted)


def times_taken(out: Path) -> tuple[int, float]:
    """Utterances of all units that were built in a folder, and the seconds that this took, one worker at a time."""
    utterances, seconds = 0, 0.0
    with suppress(FileNotFoundError), open(out / shards.BUILD / TIMES) as times:
        for line in times:
            count, _, took = line.partition(" ")
            with suppress(ValueError):  # cut short by a full disk
                utterances, seconds = utterances + int(count), seconds + float(took)
    return utterances, seconds


def _build(job: Job, setup: Setup, unit: Unit, wanted: Callable[[], bool] | None) -> UnitReport:
    out, stopwatch = mirror.folder(job.out), Stopwatch()
    # The work folder of a store is this machine's own, and so is the memo in it.
    with open_memo(out / shards.BUILD, job.shared and mirror.of(out) is None) as memo:
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
                if wanted is not None and not wanted():
                    raise Stopped("the run was stopped")
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


def finished(job: Job, unit: Unit) -> UnitReport | None:
    """What is told of a unit that is finished already."""
    done = shards.finished(mirror.folder(job.out), unit.id, unit.split, job.fingerprint)
    if done is None:
        return None
    return UnitReport(unit.id, *rows_of(done), skipped=True, split=unit.split, utterances=unit.utterances)


def left(job: Job, made: Plan) -> tuple[list[UnitReport], list[Unit]]:
    """The reports of the units of a plan that are finished, and the others."""
    reports, units = [], []
    for unit in made.units:
        done = finished(job, unit)
        if done is None:
            units.append(unit)
        else:
            reports.append(done)
    return reports, units


@contextmanager
def serving(job: Job, units: Sequence[Unit]) -> Iterator[Job]:
    """The job with the LLM's servers, for as long as the context lasts; none are started in vain.

    Args:
        job: What the run has in common.
        units: Those that are to be built.

    Raises:
        EndpointError: They cannot be reached, or have no such model or key.
        ASRError: The engine that listens cannot work.
    """
    out, setup = mirror.folder(job.out), prepare(job.recipe)
    if setup.asr is not None and units:
        setup.asr.check()
    if setup.llm is None or not _asking(setup) or not units:
        yield job
        return
    with setup.llm.serving(out / shards.BUILD) as urls:
        yield replace(job, urls=tuple(urls))


def most_at_once(job: Job, units: Sequence[Unit]) -> int:
    """How many units can be built at the same time: they share what is in flight."""
    setup = prepare(job.recipe)
    return min(len(units), setup.llm.concurrency) if setup.llm is not None and _asking(setup) else len(units)


def serves_itself(job: Job, units: Sequence[Unit]) -> bool:
    """Whether the run is to start the LLM's server on its own machine."""
    setup = prepare(job.recipe)
    return bool(units) and setup.llm is not None and setup.llm.gone_after is not None and _asking(setup)


def _asking(setup: Setup) -> bool:
    return setup.llm is not None and any(task.uses_llm for task in setup.tasks)


def unchanged(job: Job) -> Setup:
    """The job's setup.

    Raises:
        RecipeError: The recipe, its prompts or the program are not what the run began with.
    """
    setup = prepare(job.recipe)
    if setup.fingerprint != job.fingerprint:
        here = f" on {machine()}" if job.shared else ""
        raise RecipeError(
            f"{job.recipe}{here} makes other rows than when the run began: the recipe, its prompts or the program were "
            f"changed meanwhile{', or are not the same on this machine' if here else ''}. Run it again"
            f"{' when all machines have the same version of earwitness and its packages' if here else ''}"
        )
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
