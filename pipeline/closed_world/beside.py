"""Beside each other: pieces of work in processes of their own, as many at a time as there are cores for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from pipeline.closed_world.parts import Part, Told

Work = Callable[[Path], None]
"""Fills a folder. It is sent to another process, so it must be a function of a module, or a `partial` of one."""
_LOOKS = 2.0  # seconds between two looks at the parent


def make_all(parts: Sequence[tuple[Part, Work]], at_once: int, tell: Told) -> dict[str, float]:
    """Makes the parts that are not finished.

    Args:
        parts: Each with what makes it, the longest first.
        at_once: Processes; 1 works in this one.
        tell: Is told what happens.

    Returns:
        Seconds that each took, now or then, by name.
    """
    took = {part.name: part.make(work, tell) for part, work in parts if part.seconds is not None}
    missing = [(part, work) for part, work in parts if part.name not in took]
    if at_once == 1 or not missing:
        return took | {part.name: part.make(work, tell) for part, work in missing}
    context = get_context("spawn")  # torch's threads do not outlive a fork
    with ProcessPoolExecutor(min(at_once, len(missing)), context, follow, (os.getpid(),)) as pool:
        futures = {pool.submit(_made, part, work): part for part, work in missing}
        try:
            for future in as_completed(futures):
                took[futures[future].name] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return took


def _made(part: Part, work: Work) -> float:
    return part.make(work, partial(print, flush=True))


def follow(parent: int, threads: int = 0) -> None:
    """Ends this process when its parent is gone: a run that is killed leaves nothing behind.

    Args:
        parent: The process that started this one.
        threads: Of torch; 0 leaves them as they are.
    """

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOKS)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    if threads:
        import torch

        torch.set_num_threads(threads)
