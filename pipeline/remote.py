"""Remote: building units in the processes of a cluster, which may be on other machines.

The recipe, what it names, and the dataset's folder lie at the same paths on all machines, and all have
the same version of the program. A process that does not see them so ends the run, and says which it is:
left alone, it would fail one unit after another faster than the others can build them.
"""

from __future__ import annotations

import gc
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline import mirror
from pipeline.build import Job, UnitReport, build_unit
from pipeline.plan import Unit
from pipeline.plugins import MissingExtra
from pipeline.recipes import RecipeError
from pipeline.remembering import machine
from pipeline.shards import BUILD, write_atomically

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_one_at_a_time = threading.Lock()  # speech synthesis knows one voice a process; a thread more would not help


class ClusterError(RuntimeError):
    """A cluster cannot be reached, or cannot build: no other unit can succeed either."""


def announce(job: Job) -> None:
    """Leaves the run's id in the folder, by which others know that they see the same one."""
    write_atomically(mirror.folder(job.out) / BUILD / "run", job.run.encode())


def build_here(job: Job, unit: Unit) -> UnitReport:
    """Builds a unit in this process of a cluster.

    Args:
        job: What the run has in common; its paths are absolute.
        unit: The piece of work.

    Raises:
        ClusterError: This machine does not see the run's files, or has another program.
    """
    with _one_at_a_time:
        gc.set_threshold(20_000, 20, 100)  # as workers of a run of one machine do
        _check(job)
        try:
            return build_unit(job, unit, _wanted())
        except (RecipeError, MissingExtra) as error:
            raise ClusterError(f"the worker on {machine()} cannot build: {error}") from error


def _check(job: Job) -> None:
    folder = mirror.folder(job.out)
    same = mirror.of(folder) is not None or _announced(folder) == job.run  # a store is the same for all
    for path, found in ((job.recipe, Path(job.recipe).is_file()), (job.out, same)):
        if not found:
            raise ClusterError(
                f"the worker on {machine()} does not see {path} as the run does: put it on a file system that all "
                f"machines mount at the same place"
            )


def _announced(out: Path) -> str | None:
    with suppress(OSError):
        return (out / BUILD / "run").read_text()
    return None


def _wanted() -> Callable[[], bool] | None:
    """Whether a run still waits for what this thread does, where that can be asked.

    Ray ends the processes of a run that is gone. Dask's go on to the end of what they do, and would buy
    replies that nobody waits for.
    """
    dask: Any = sys.modules.get("distributed.worker")
    if dask is None:
        return None
    try:
        tasks, key = dask.get_worker().state.tasks, dask.thread_state.key
    except (ValueError, AttributeError):  # Dask is imported, but this is none of its workers
        return None

    def wanted() -> bool:
        task = tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return wanted


def is_here(host: str) -> bool:
    """Whether an address is one of this machine."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, _, _, address in found:
        with suppress(OSError), socket.socket(family, kind) as probe:
            probe.bind(address)
            return True
    return False


def refuse_loopback(url: str | None, what: str, cure: str, hosts: Iterable[str]) -> None:
    """Whether the machines of a cluster can reach an address.

    Args:
        url: The address; None for one that only this process knows.
        what: What is there.
        cure: What a person can do.
        hosts: The machines.

    Raises:
        ClusterError: It is an address of this machine's own, and they are others.
    """
    others = sorted({host for host in hosts if not is_here(host)})
    if others and (url is None or urlsplit(url).hostname in _LOOPBACK):
        raise ClusterError(f"the workers on {', '.join(others[:3])} cannot reach {what} on this machine: {cure}")
