"""Where units are built: in processes of this machine, on a Dask cluster, or on a Ray cluster.

All are Prefect's own task runners. They are made in the flow, and not with it, so that where to build
is a parameter as all others; and only when there is something to build.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect.task_runners import ThreadPoolTaskRunner

from pipeline.plugins import require
from pipeline.remote import ClusterError
from pipeline.workers import Workers

log = logging.getLogger("earwitness")

Runner = Literal["processes", "dask", "ray"]
CPUS = os.cpu_count() or 1
_LOOPBACK = "127.0.0.1"
_KNOCK = 20.0  # seconds for an address to be reached
_WAIT = 60.0  # seconds for the first worker of a cluster that runs already


@dataclass(frozen=True, slots=True)
class Place:
    """Where the units of a run are built."""

    runner: Any
    """Prefect's task runner, started."""
    workers: int
    """How many units are built at the same time."""
    ahead: int
    """How many tasks are given to the runner at the same time: some wait there, so that no worker waits for us."""
    hosts: frozenset[str] = frozenset()
    """The machines of a cluster that runs already."""
    processes: Workers | None = None
    """Of this run, where it has its own."""
    check: Callable[[], None] = lambda: None
    """Raises a ClusterError if no answer will come any more."""


def check(runner: Runner, address: str | None) -> None:
    """Whether a runner can be used at all.

    Raises:
        ClusterError: An address is given for what has none.
        MissingExtra: The packages of the runner are not installed.
    """
    if runner == "processes":
        if address is not None:
            raise ClusterError(f"{address}: processes of this machine have no address; give --runner dask or ray")
        return
    _package(runner)


def _package(runner: str) -> Any:
    return require(f"prefect_{runner}", extra=runner, what=f"the runner {runner}")


@contextmanager
def opened(runner: Runner, address: str | None, workers: int | None, most: int) -> Iterator[Place]:
    """A place to build, for as long as the context lasts.

    Args:
        runner: Which.
        address: Of a cluster that runs already; without one there is one on this machine for this run alone.
        workers: How many units to build at the same time. By default all cores of this machine, or all that
            the cluster has.
        most: More of them would have nothing to do.

    Raises:
        ClusterError: The cluster cannot be reached, or has no workers.
    """
    places = {"processes": _processes, "dask": _dask, "ray": _ray}
    with places[runner](address, workers, most) as place:
        yield place


@contextmanager
def _processes(_: str | None, workers: int | None, most: int) -> Iterator[Place]:
    count = min(workers or CPUS, most)
    threads: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=count)  # they wait for workers
    with threads, Workers(count) as processes:
        yield Place(threads, count, 2 * count, processes=processes)


@contextmanager
def _dask(address: str | None, workers: int | None, most: int) -> Iterator[Place]:
    made = _package("dask")
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of each connection otherwise
    if address is None:
        count = min(workers or CPUS, most)
        local = {"n_workers": count, "threads_per_worker": 1, "host": _LOOPBACK, "dashboard_address": f"{_LOOPBACK}:0"}
        with made.DaskTaskRunner(cluster_kwargs=local) as runner:
            yield Place(runner, count, 2 * count)
        return
    _knock("Dask", address)
    with made.DaskTaskRunner(address=address) as runner:
        try:
            runner.client.wait_for_workers(1, timeout=_WAIT)
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"{address}: no Dask cluster with a worker answers here: {error}") from error
        found = runner.client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker["nthreads"] > 1 for worker in found):
            log.warning("%s: a worker builds one unit at a time: start it with --nworkers N --nthreads 1", address)
        hosts = frozenset(worker["host"] for worker in found)
        yield _limited(runner, len(found), workers, most, hosts, partial(_is_alive, runner.client, address))


def _is_alive(client: Any, address: str) -> None:
    # Futures whose scheduler is gone are never done; Ray ends the process in that case.
    if client.status not in ("running", "connecting"):
        raise ClusterError(f"{address}: the Dask scheduler is gone. Start it, and run the same command to go on")
    if client.status == "running" and not client.nthreads():
        log.warning("%s: no worker is left; waiting for one to come", address)


@contextmanager
def _ray(address: str | None, workers: int | None, most: int) -> Iterator[Place]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray tells its workers that they have no GPU when a task asks for none; an engine may want it all the same.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    made = _package("ray")
    ray = require("ray", extra="ray", what="the runner ray")
    options: dict[str, Any] = {"logging_level": "ERROR"}
    if address is None:
        count = min(workers or CPUS, most)
        options |= {"num_cpus": count, "include_dashboard": False, "_node_ip_address": _LOOPBACK}
        options |= {"object_store_memory": 100 * 2**20}  # reports of units are all that is in it
        with made.RayTaskRunner(address="local", init_kwargs=options) as runner:
            yield Place(runner, count, 2 * count)
        return
    _knock("Ray", address)
    try:
        runner = made.RayTaskRunner(address=address, init_kwargs=options).__enter__()
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(f"{address}: no Ray cluster answers here: {error}") from error
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        there = int(sum(node["Resources"]["CPU"] for node in nodes))
        if not there:
            raise ClusterError(f"{address}: the nodes of this Ray cluster offer no CPU")
        yield _limited(runner, there, workers, most, frozenset(node["NodeManagerAddress"] for node in nodes))
    finally:
        runner.__exit__(None, None, None)


def _knock(kind: str, address: str) -> None:
    """Ray tries an address at which nobody listens for ever, and does not say so; Dask for half a minute."""
    cure = {"Dask": "Give the scheduler's tcp://HOST:PORT", "Ray": "Give the head's HOST:PORT"}[kind]
    try:
        parts = urlsplit(address if "://" in address else f"cluster://{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ClusterError(f"{address}: no address of a cluster: {error}. {cure}") from error
    if host is None or port is None:  # `auto`
        return
    try:
        socket.create_connection((host, port), timeout=_KNOCK).close()
    except OSError as error:
        raise ClusterError(f"{address}: no {kind} cluster listens here: {error}. {cure}") from error


def _limited(
    runner: Any,
    there: int,
    workers: int | None,
    most: int,
    hosts: frozenset[str],
    check: Callable[[], None] = lambda: None,
) -> Place:
    """A cluster that has perhaps more workers than are wanted: only the number of tasks keeps the others free."""
    count = min(workers or there, there, most)
    return Place(runner, count, 2 * count if count == there else count, hosts, check=check)
