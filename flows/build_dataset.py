"""The main job: plan, build the units in parallel, finish the dataset, leave artifacts.

Works with a Prefect server (`PREFECT_API_URL`) and without one. One task a unit, never a row; no cache
and no results of Prefect's: manifests are the truth.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import _watching
from pipeline import build, mirror, recipes
from pipeline import finish as finishing
from pipeline.build import Job, UnitReport, UnitsFailed
from pipeline.endpoint import EndpointError
from pipeline.plan import Plan, Unit
from pipeline.report import Report
from pipeline.setup import prepare
from pipeline.shards import claim, clear_temporary, exclusive
from pipeline.workers import Stopped, WorkerDied, Workers
from schemas.manifest import DatasetManifest

CPUS = os.cpu_count() or 1
Count = Annotated[int, Field(ge=1)]
FATAL = (EndpointError, OSError, Stopped)  # no other unit can succeed either

_followers: dict[int, subprocess.Popen[bytes]] = {}  # by the server that they end with us
_workers: Workers | None = None  # of the run in this process; tasks elsewhere build in place


def _threads(count: int) -> Any:
    return ThreadPoolTaskRunner(max_workers=count)  # they wait for workers


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
    """Builds one unit, in a worker where there are some."""
    if _workers is None:
        return build.build_unit(job, unit)
    return _workers.run(build.build_unit, job, unit)


@task(name="finish", cache_policy=NO_CACHE, persist_result=False)
def finish(job: Job, made: Plan) -> DatasetManifest:
    """Makes a dataset of the shards."""
    return finishing.finish(job, made)


@flow(name="build-dataset", persist_result=False, task_runner=_threads(CPUS))
def build_dataset(recipe: str, out: str | None = None, limit: Count | None = None, workers: Count = CPUS) -> Report:
    """Builds the dataset of a recipe.

    Args:
        recipe: The recipe's file, or the name of a shipped one.
        out: The dataset's folder; out/NAME if omitted.
        limit: At most so many utterances, drawn by chance.
        workers: Processes that build units.
    """
    global _workers
    _keep_no_server()
    prepare.cache_clear()  # a process that serves flows has read the recipe for an earlier run
    recipe = str(recipes.find(recipe))
    setup = prepare(recipe)
    out = out or str(Path("out") / setup.recipe.name)
    folder = mirror.folder(out)
    job = Job(recipe, mirror.address(folder), fingerprint=setup.fingerprint, workers=workers)
    with exclusive(folder), ExitStack() as watching:
        claim(folder, setup.recipe.name)
        clear_temporary(folder)
        made = plan(job, limit)
        watching.enter_context(_watching.watched(job, made, setup.recipe.name))
        with build.serving(job, made) as served, Workers(served.workers) as _workers:
            reports = _collect(unit.submit(served, piece) for piece in made.units)
        _workers = None
        report = Report(finish(job, made), reports, made.warnings)
        _watching.finished(report.dataset)
    name = report.dataset.name.replace("_", "-")
    create_markdown_artifact(report.markdown, key=f"{name}-summary")
    create_table_artifact(report.table, key=f"{name}-figures")
    return report


def _collect(futures: Iterable[PrefectFuture[UnitReport]]) -> list[UnitReport]:
    """The reports of all units; the first error that concerns all of them ends the run."""
    reports, failures = [], []
    for future in as_completed(list(futures)):
        try:
            reports.append(_watching.built(future.result()))
        except FATAL:
            raise
        except Exception as error:  # of one unit: the others go on, and it is told at the end
            failures.append(_watching.failed(error))
    if failures:
        raise UnitsFailed(failures, len(reports))
    return reports


def _keep_no_server() -> None:
    """Sees to it that Prefect's temporary server ends with this process, also where that is killed outright."""
    for server in SubprocessASGIServer._instances.values():
        process = server.server_process
        if process is not None and process.pid not in _followers and hasattr(os, "pidfd_open"):
            command = [sys.executable, str(Path(__file__).with_name("_follow.py")), str(process.pid)]
            # Not in our group: what is sent to that is not meant for it. It ends with the pipe, or the server.
            _followers[process.pid] = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def stop() -> None:
    """Ends workers and Prefect's temporary server at once, whatever the flow is doing."""
    if _workers is not None:
        _workers.stop()
    for server in SubprocessASGIServer._instances.values():
        if server.server_process is not None:
            server.server_process.kill()


def run(recipe: Path, out: Path, limit: int | None, workers: int) -> Report:
    """The flow, here and now."""
    # The heartbeat thread sleeps in steps of a second, which every run would wait for at its end.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        return build_dataset.with_options(task_runner=_threads(workers))(str(recipe), str(out), limit, workers)
