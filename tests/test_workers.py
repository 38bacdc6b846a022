"""Workers: processes that build; one that dies costs its work, not the run."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from pipeline.workers import Stopped, WorkerDied, Workers

pytestmark = pytest.mark.long


def test_they_work_in_other_processes() -> None:
    with Workers(2) as workers:
        assert workers.run(os.getpid) != os.getpid()
        assert workers.run(pow, 2, 10) == 1024


def test_an_error_comes_back_as_it_was() -> None:
    with Workers(1) as workers:
        with pytest.raises(ZeroDivisionError):
            workers.run(divmod, 1, 0)
        assert workers.run(pow, 3, 2) == 9, "the process lives on"


def test_they_work_at_the_same_time() -> None:
    used: set[int] = set()
    deadline = time.monotonic() + 30  # on a busy machine the second takes long to begin
    with Workers(2) as workers, ThreadPoolExecutor(4) as threads:
        while len(used) < 2 and time.monotonic() < deadline:
            used |= {f.result() for f in [threads.submit(_slowly, workers) for _ in range(4)]}
    assert len(used) == 2


def _slowly(workers: Workers) -> int:
    workers.run(time.sleep, 0.5)
    return workers.run(os.getpid)


def test_one_that_is_killed_is_replaced() -> None:
    with Workers(1) as workers:
        with pytest.raises(WorkerDied, match="killed"):
            workers.run(signal.raise_signal, signal.SIGKILL)
        assert workers.run(pow, 2, 3) == 8


def test_stopping_ends_work_at_once_and_takes_no_more() -> None:
    begin = time.monotonic()
    with Workers(1) as workers, ThreadPoolExecutor(1) as threads:
        process = workers.run(os.getpid)
        waiting = threads.submit(workers.run, time.sleep, 60)
        threading.Timer(0.3, workers.stop).start()
        with pytest.raises(Stopped):
            waiting.result()
        with pytest.raises(Stopped):
            workers.run(pow, 2, 2)
    assert time.monotonic() - begin < 30
    assert not psutil.pid_exists(process)


def test_none_is_left_behind() -> None:
    with Workers(2) as workers:
        process = workers.run(os.getpid)
    assert not psutil.pid_exists(process)


def test_ctrl_c_does_not_meet_one_that_begins() -> None:
    """It is sent to a terminal's whole group: what is still being imported may not die of it, nor write a stack."""
    before = set(psutil.Process().children())
    with Workers(1) as workers, ThreadPoolExecutor(1) as threads:
        made = threads.submit(workers.run, pow, 2, 3)
        deadline = time.monotonic() + 30
        while not made.done() and time.monotonic() < deadline:
            for process in set(psutil.Process().children()) - before:
                process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        assert made.result() == 8
