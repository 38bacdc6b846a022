"""What a flow tells while it runs: that it lives, how far it is, our logs on Prefect's page, metrics."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from pipeline import logs, metrics, mirror, telling
from pipeline.build import Job, UnitReport
from pipeline.metrics import Ledger
from pipeline.plan import Plan
from schemas.manifest import DatasetManifest

EVERY = 3.0  # seconds between two moves of a progress artifact
_TOLD_EVERY = 30.0  # seconds between two lines about how far a build is
BEAT_EVERY = 30.0  # seconds between two signs of life
BEAT = "prefect.flow-run.heartbeat"
BY_HAND = "earwitness-terminal"
"""The tag of runs that no worker started."""
UNTOLD = (httpx.HTTPError, PrefectException, OSError)  # what Prefect raises where its server is gone

log = logging.getLogger("earwitness")
P = ParamSpec("P")
T = TypeVar("T")


def shown(what: str, send: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Has something shown on Prefect's page; None if its server does not take it. No run ends for want of a picture.

    Args:
        what: For the warning.
        send: Sends it.
        args: Its arguments.
        kwargs: The same by name.
    """
    try:
        return send(*args, **kwargs)
    except UNTOLD as error:
        untold("Prefect's server does not take %s (%s); the run goes on without it", what, str(error) or repr(error))
        return None


def untold(message: str, *args: object) -> None:
    """Warns a person of what Prefect's server does not take: nor would it take the warning."""
    log.warning(message, *args, extra={"send_to_api": False})


def forget_events() -> None:
    """Drops what Prefect has yet to send: it would try each event for seconds before it lets the process end."""
    services: Any = EventsWorker  # which are typed by what they send
    for worker in list(services._instances.values()):
        with suppress(queue.Empty):
            while isinstance(worker, EventsWorker):
                worker._queue.get_nowait()
                worker._queue.task_done()


@contextmanager
def on_page(run: str = "") -> Iterator[None]:
    """What we log is shown on the flow run's page, too, for as long as the context lasts."""
    logs.configure(run=run)
    # Outside of a run Prefect's handler has nowhere to send to, and complains at each line.
    added = [handler for handler in logging.getLogger("prefect.extra").handlers if handler not in log.handlers]
    for handler in added:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in added:
            log.removeHandler(handler)


@contextmanager
def alive() -> Iterator[None]:
    """Signs of life of a run in a terminal that a server knows; in deployments Prefect gives them.

    By them the server's automation knows when such a run was killed. Prefect's own would make each run wait for up to a
    second at its end, since their thread sleeps in such steps.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or not PREFECT_API_URL.value() or PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is not None:
        yield
        return
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
    related = [{"prefect.resource.id": f"prefect.tag.{BY_HAND}", "prefect.resource.role": "tag"}]
    ended = threading.Event()

    def beat() -> None:
        try:
            with get_client(sync_client=True) as client:
                client.update_flow_run(run.id, tags=[*run.tags, BY_HAND])  # so that its end is known by the same tag
        except UNTOLD as error:
            untold("the server will not notice if this run is killed: %s", error)
            return
        while True:
            emit_event(event=BEAT, resource=resource, related=related)
            if ended.wait(BEAT_EVERY):
                return

    thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(EVERY)  # not for ever: as below


@contextmanager
def progressing(key: str, share: Callable[[], float | None], about: str) -> Iterator[None]:
    """A progress artifact that moves at most every few seconds, and is full if all goes well.

    Args:
        key: Of the artifact: lower case and dashes.
        share: How much is done, between 0 and 1; None where that is not known yet.
        about: Shown with it.
    """
    artifact = shown("the progress", create_progress_artifact, 0.0, key=key, description=about)
    if artifact is None:
        yield
        return
    progress, ended = _Progress(cast(UUID, artifact)), threading.Event()

    def follow() -> None:
        while not ended.wait(EVERY):
            done = share()
            if done is not None:
                progress.move(100 * done)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(EVERY)  # not for ever: it may be with a server that hangs
    progress.move(100.0)


class _Progress:
    """An artifact that moves, as long as there is a server that takes it."""

    def __init__(self, artifact: UUID) -> None:
        self._artifact, self._taken = artifact, True

    def move(self, percent: float) -> None:
        """To some percent. A server that is gone is told of once, until it is there again."""
        try:
            # The next move comes soon, and Prefect would try this one for a minute. An idle connection that the server
            # has just closed is worth a second try.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
                update_progress_artifact(self._artifact, round(min(100.0, percent), 1))
            self._taken = True
        except UNTOLD as error:
            if self._taken:
                untold("Prefect's server does not take the progress (%s); the run goes on", str(error) or repr(error))
            self._taken = False


@dataclass(slots=True)
class _Build:
    """A build that is being watched."""

    ledger: Ledger
    said: float


_build: ContextVar[_Build] = ContextVar("build")


@contextmanager
def watched(job: Job, plan: Plan, name: str) -> Iterator[None]:
    """A build with its progress artifact, its metrics if they are asked for, and our logs on its page.

    Args:
        job: What the run has in common.
        plan: What is to be built.
        name: The dataset's.

    Raises:
        MetricsError: The port is taken.
    """
    out = mirror.folder(job.out)
    telling.clear(out)
    ledger = Ledger(out, plan, job.run)
    key = f"{name.replace('_', '-')}-progress"
    token = _build.set(_Build(ledger, time.monotonic()))
    try:
        with (
            on_page(job.run),
            metrics.serving(job, ledger, None, log.info),
            progressing(key, lambda: ledger.totals().share, "Utterances that are done"),
        ):
            yield
    finally:
        _build.reset(token)


def built(report: UnitReport) -> UnitReport:
    """Takes note of a unit that is finished, and hands its report on."""
    build = _build.get()
    build.ledger.add(report)
    if time.monotonic() - build.said > _TOLD_EVERY:
        build.said = time.monotonic()
        now = build.ledger.totals()
        kept, rejected = (sum(getattr(made, what) for made in now.made.values()) for what in ("kept", "rejected"))
        text = "%d of %d units are done; this run has kept %d rows and set %d aside"
        get_run_logger().info(text, now.units["done"], now.units["planned"], kept, rejected)
    return report


def failed(error: Exception) -> Exception:
    """Takes note of a unit that could not be built, and hands the error on."""
    _build.get().ledger.failed()
    return error


def finished(dataset: DatasetManifest) -> None:
    """Takes note of the end."""
    _build.get().ledger.finished(dataset)
