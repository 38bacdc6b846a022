"""Workers: processes of one machine that build units.

They are lean: they import what building needs, and nothing of Prefect. Each is started when it is
first needed. One that dies costs its unit, not the run.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from pipeline import logs

P = ParamSpec("P")
T = TypeVar("T")


class WorkerDied(RuntimeError):
    """A worker was killed, by a person or for want of memory. Its unit can be tried again."""


class Stopped(RuntimeError):
    """The run is being stopped: no more work is taken."""


class Workers:
    """A number of processes. Any number of threads may ask; they wait for a free one.

    As a context manager it ends them: when all is done, or at once if something has failed.
    """

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = [_early.pop() if _early else _Worker() for _ in range(count)]
        self._stopping = False
        for worker in self._all:
            self._free.put(worker)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, from one of the processes.

        Raises:
            WorkerDied: The process was killed meanwhile.
            Stopped: The run is being stopped.
        """
        worker = self._free.get()
        try:
            if self._stopping:
                raise Stopped("the run was stopped")
            return worker.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            worker.close()
            if self._stopping:
                raise Stopped("the run was stopped") from error
            raise WorkerDied("a worker was killed; was there too little memory?") from error
        finally:
            self._free.put(worker)

    def stop(self) -> None:
        """Kills all processes at once. What they have finished stays; the rest is made again."""
        self._stopping = True  # before they are killed: what dies now was stopped
        for worker in self._all:
            worker.kill()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.stop()
        self._stopping = True
        for worker in self._all:
            worker.close()


def begin_early(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Starts the first process of the run that is to come, while this one still loads what runs it.

    Args:
        function: Called there; what it imports is ready then.
        args: Its arguments.
        kwargs: The same by name.
    """
    worker = _Worker()
    worker.submit(function, *args, **kwargs)
    _early.append(worker)


class _Worker:
    """One process, or none yet."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._killed = False
        self._lock = threading.Lock()

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._lock:
            if self._killed:
                raise Stopped("the run was stopped")
            if self._pool is None:
                context = multiprocessing.get_context("spawn")  # threads and fork do not go together
                self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
            # The process begins here, and with it what is blocked: until it ignores Ctrl-C, that waits.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return self._pool.submit(function, *args, **kwargs)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            processes = self._pool._processes if self._pool is not None else None
            for process in list((processes or {}).values()):
                process.kill()

    def close(self) -> None:
        # Both the thread whose worker died and the one that ends them all may come here.
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


_early: list[_Worker] = []


def _end_with(run: BaseProcess) -> None:
    """A worker without its run would go on buying replies that nobody waits for."""
    wait([run.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _begin() -> None:
    run = multiprocessing.parent_process()
    assert run is not None
    threading.Thread(target=_end_with, args=(run,), daemon=True).start()
    # A terminal's Ctrl-C reaches all processes; only the run decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Thousands of requests in flight, and hardly a cycle among their objects: looking for some at each
    # 700 new ones, as Python does, takes a tenth of a worker's time.
    gc.set_threshold(20_000, 20, 100)
    logs.configure()
