"""The main job: plan, build the units in parallel, finish the dataset, leave artifacts.

Works with a Prefect server (`PREFECT_API_URL`) and without one. One task a unit, never a row; no cache
and no results of Prefect's: manifests are the truth.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from pydantic import Field

from flows import _early, _watching
from flows._runners import Place, Runner, check, opened
from pipeline import build, mirror, recipes, remembering, remote
from pipeline import finish as finishing
from pipeline.build import Job, UnitReport, UnitsFailed
from pipeline.endpoint import EndpointError
from pipeline.plan import Plan, Unit
from pipeline.remote import ClusterError
from pipeline.report import Report
from pipeline.setup import prepare
from pipeline.shards import BUILD, claim, clear_temporary, distrust, exclusive
from pipeline.workers import Stopped, WorkerDied, Workers
from schemas.manifest import DatasetManifest

Count = Annotated[int, Field(ge=1)]
FATAL = (ClusterError, EndpointError, OSError, Stopped)  # no other unit can succeed either
RETRIES = 3  # of what Prefect's server is told, some 15 s: units are built without it
LOOK_EVERY = 15.0  # seconds without news after which the cluster is looked at

_workers: Workers | None = None  # of the run in this process
_outcome: Report | Exception | None = None  # the same


def _was_killed(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), WorkerDied)


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(job: Job, limit: int | None) -> Plan:
    """Lists the corpora and cuts them into units."""
    return build.planned(job, limit)


@task(
    name="unit",
    task_run_name="{unit.split}-{unit.id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_condition_fn=_was_killed,
)
def unit(job: Job, unit: Unit) -> UnitReport:
    """Builds one unit: in a process of this run, or in the one of a cluster that this task is given to."""
    if _workers is None:
        return remote.build_here(job, unit)
    return _workers.run(build.build_unit, job, unit)


@task(name="finish", cache_policy=NO_CACHE, persist_result=False)
def finish(job: Job, made: Plan) -> DatasetManifest:
    """Makes a dataset of the shards."""
    return finishing.finish(job, made)


@flow(name="build-dataset", persist_result=False)
def build_dataset(
    recipe: str,
    out: str | None = None,
    limit: Count | None = None,
    workers: Count | None = None,
    runner: Runner = "processes",
    address: str | None = None,
    verify: bool = False,
) -> Report:
    """Builds the dataset of a recipe.

    Args:
        recipe: The recipe's file, or the name of a shipped one.
        out: The dataset's folder; out/NAME if omitted.
        limit: At most so many utterances, drawn by chance.
        workers: How many units are built at the same time: by default as many as this machine has cores, or
            the cluster workers.
        runner: Where: in processes of this machine, or on a Dask or Ray cluster.
        address: The cluster's, if it runs already. By default there is one on this machine, for this run alone.
        verify: Whether finished shards are read and compared with their digests first.
    """
    global _outcome
    try:
        _outcome = report = _whole(recipe, out, limit, workers, runner, address, verify)
    except Exception as error:
        _outcome = error
        raise
    name = report.dataset.name.replace("_", "-")
    _watching.shown("the summary", create_markdown_artifact, report.markdown, key=f"{name}-summary")
    _watching.shown("the figures", create_table_artifact, report.table, key=f"{name}-figures")
    return report


def _whole(
    recipe: str,
    out: str | None,
    limit: int | None,
    workers: int | None,
    runner: Runner,
    address: str | None,
    verify: bool,
) -> Report:
    """What the flow does, but for what it leaves on Prefect's page at its end."""
    check(runner, address)
    _keep_no_server()
    prepare.cache_clear()  # a process that serves flows has read the recipe for an earlier run
    recipe = str(recipes.find(recipe))
    setup = prepare(recipe)
    out = out or str(Path("out") / setup.recipe.name)
    folder = mirror.target(out)
    job = Job(recipe, mirror.address(folder), fingerprint=setup.fingerprint, shared=address is not None)
    with exclusive(folder), _watching.alive(), ExitStack() as watching:
        claim(folder, setup.recipe.name)
        clear_temporary(folder)
        if verify:
            distrust(folder)
        remembering.gather(folder / BUILD, job.shared)
        made = plan(job, limit)
        watching.enter_context(_watching.watched(job, made, setup.recipe.name))
        reports, units = build.left(job, made)
        for done in reports:
            _watching.built(done)
        if units:
            with opened(runner, address, workers, build.most_at_once(job, units)) as place:
                reports += _built(replace(job, workers=place.workers), units, place)
        report = Report(finish(job, made), reports, made.warnings)
        _watching.finished(report.dataset)
    return report


def _built(job: Job, units: Sequence[Unit], place: Place) -> list[UnitReport]:
    """The reports of units that are built in a place."""
    global _workers
    if build.serves_itself(job, units):
        cure = "serve it where they reach it, and name its address in the recipe (engine: openai)"
        remote.refuse_loopback(None, "the LLM's server, which the run starts", cure, place.hosts)
    with build.serving(job, units) as served:
        if place.processes is None:
            return _built_remotely(served, units, place)
        _workers = place.processes
        try:
            return _collect(served, units, place)
        finally:
            _workers = None


def _built_remotely(job: Job, units: Sequence[Unit], place: Place) -> list[UnitReport]:
    api = PREFECT_API_URL.value()
    cure = "start one that they reach (`prefect server start --host ...`), and set PREFECT_API_URL to its address"
    remote.refuse_loopback(api, "Prefect's server", cure, place.hosts)
    api = api or next((server.api_url for server in _own_servers() if server.running), None)
    remote.announce(job)
    job = replace(job, recipe=str(Path(job.recipe).absolute()), out=mirror.address(mirror.folder(job.out).absolute()))
    # A worker that is not told of our temporary server would start one of its own.
    with temporary_settings({PREFECT_API_URL: api}):
        return _collect(job, units, place)


def _collect(job: Job, units: Sequence[Unit], place: Place) -> list[UnitReport]:
    """The reports of all units; the first error that concerns all of them ends the run.

    Only so many are with the runner at a time as it needs: each takes memory, here and in the cluster's scheduler.
    """
    done: queue.SimpleQueue[PrefectFuture[UnitReport]] = queue.SimpleQueue()
    waiting = iter(units)

    def hand_out(count: int) -> None:
        for piece in islice(waiting, count):
            future = place.runner.submit(unit, {"job": job, "unit": piece})
            future.add_done_callback(done.put)

    hand_out(place.ahead)
    reports, failures = [], []
    for _ in units:
        future = _next(done, place)
        hand_out(1)
        try:
            reports.append(_watching.built(future.result()))
        except FATAL:
            raise
        except Exception as error:  # of one unit: the others go on, and it is told at the end
            failures.append(_watching.failed(error))
    if failures:
        raise UnitsFailed(failures, len(reports))
    return reports


def _next(done: queue.SimpleQueue[PrefectFuture[UnitReport]], place: Place) -> PrefectFuture[UnitReport]:
    while True:
        try:
            return done.get(timeout=LOOK_EVERY)
        except queue.Empty:
            place.check()


def _own_servers() -> list[Any]:
    """Prefect's temporary servers of this process. Its server is not imported for it, which takes seconds."""
    kind = getattr(
        sys.modules.get("prefect.server.api.server"), "SubprocessASGIServer", None
    )  # None while it is loaded
    return list(kind._instances.values()) if kind is not None else []


def _keep_no_server() -> None:
    """Sees to it that Prefect's temporary server ends with this process, also where that is killed outright."""
    for server in _own_servers():
        process = server.server_process
        if process is not None:
            _early.follow(process.pid)


def stop() -> None:
    """Ends workers and Prefect's temporary server at once, whatever the flow is doing.

    Those of a cluster see for themselves that nobody waits for them any more.
    """
    if _workers is not None:
        _workers.stop()
    for server in _own_servers():
        if server.server_process is not None:
            server.server_process.kill()


def run(
    recipe: Path,
    out: Path,
    limit: int | None = None,
    workers: int | None = None,
    runner: Runner = "processes",
    address: str | None = None,
    verify: bool = False,
) -> Report:
    """The flow, here and now. It ends as it ends, also where Prefect's server is gone by then."""
    global _outcome
    _outcome = None
    _early.hand_over()
    retries = min(RETRIES, PREFECT_CLIENT_MAX_RETRIES.value())
    # Its thread sleeps in steps of a second, which every run would wait for at its end. See `_watching.alive`.
    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_CLIENT_MAX_RETRIES: retries}):
            return build_dataset(str(recipe), str(out), limit, workers, runner, address, verify)
    except _watching.UNTOLD as error:
        outcome = _ended()
        if outcome is None or error is outcome:
            raise
        told = "Prefect's server cannot be told how this run ended (%s): its page shows it as running. Nothing is lost"
        _watching.untold(told, str(error) or repr(error))
        _watching.forget_events()
        if isinstance(outcome, Exception):
            raise outcome from error
        return outcome


def _ended() -> Report | Exception | None:
    """What the flow of this process came to, as far as it came; `run` alone forgets it."""
    return _outcome
