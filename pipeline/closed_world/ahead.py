"""Ahead: batches are made in processes of their own while a GPU learns from those before them; on a CPU, in place."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from pipeline.closed_world.beside import follow

Made = TypeVar("Made")
_WAITING = 2  # chunks for each process, made and being made


def chunks(
    make: Callable[[int, float], list[Made]], done: Callable[[], float], workers: int
) -> Generator[list[Made], None, None]:
    """What `make` gives for 0, 1, 2, ... without end: of so many workers always the same, whatever their pace.

    Args:
        make: Is given the number, and which share of the training was over when it was asked for; a function of a
            module, or a `partial` of one, for it is sent to processes.
        done: Tells that share.
        workers: Processes; 0 makes chunks here, when they are wanted.
    """
    number = 0
    if not workers:
        while True:
            yield make(number, done())
            number += 1
    pool = ProcessPoolExecutor(workers, get_context("spawn"), follow, (os.getpid(), 1))
    try:
        waiting: deque[Future[list[Made]]] = deque()
        while True:
            while len(waiting) < _WAITING * workers:
                waiting.append(pool.submit(make, number, done()))
                number += 1
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
