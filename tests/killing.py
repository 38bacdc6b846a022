"""Builds datasets in forked children that die, by their own hand or by ours. Run by test_exactly_once.

    python -m tests.killing steps RECIPE FOLDER               dies before each system call that finishing makes
    python -m tests.killing random RECIPE FOLDER RECORD SEED DEATHS   dies at random moments

Checks after each death, and prints how many there were. A fork of a process that has imported
everything takes milliseconds, so a hundred deaths take a minute.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.memo import digest
from tests.building import build, files_of

WATCHED = ("fsync", "replace", "unlink")
"""What finishing is made of. All go through the module os, also from pathlib."""


def die_at(step: int) -> None:
    """Lets this process kill itself right before the step-th of the watched calls."""
    done = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return instead

    for name in WATCHED:
        setattr(os, name, watched(getattr(os, name)))


def in_child(recipe: Path, out: Path, begin: Callable[[], None] = lambda: None) -> int:
    """Forks a child that builds; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        begin()
        build(recipe, out)
        status = 0
    finally:
        os._exit(status)


def survived(child: int) -> bool:
    """Waits for a child's end; whether it came to it by itself."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert status == 0, f"the build failed with {status}"
    return True


def remembered(out: Path) -> set[bytes]:
    """The keys in a dataset's memo."""
    memo = out / ".build" / "memo.sqlite"
    if not memo.exists():
        return set()
    with sqlite3.connect(memo) as db:
        there = db.execute("SELECT name FROM sqlite_master WHERE name = 'memo'").fetchone()
        return {bytes(row[0]) for row in db.execute("SELECT key FROM memo")} if there else set()


def steps(recipe: Path, folder: Path) -> int:
    """Dies before each step in turn, each time in a new folder, and goes on in it."""
    assert survived(in_child(recipe, folder / "undisturbed"))
    wanted = files_of(folder / "undisturbed")
    for step in range(1, 500):
        out = folder / "killed"
        if survived(in_child(recipe, out, lambda step=step: die_at(step))):  # type: ignore[misc]
            return step - 1
        assert survived(in_child(recipe, out))
        assert files_of(out) == wanted, f"killed before step {step}"
        half_written = [p for p in out.rglob("*") if p.name.endswith(".tmp") or p.parent.name == "tmp"]
        assert not half_written, f"killed before step {step}: {half_written}"
        shutil.rmtree(out)
    raise AssertionError("it never came to its end")


def at_random(recipe: Path, folder: Path, record: Path, seed: int, most: int) -> int:
    """Dies again and again, in one folder until its dataset is done, then in the next."""

    def served() -> list[bytes]:
        return record.read_bytes().splitlines() if record.exists() else []

    assert survived(in_child(recipe, folder / "undisturbed"))
    wanted, requests = files_of(folder / "undisturbed"), set(served())
    rng, deaths, out = random.Random(seed), 0, folder / "killed0"
    while deaths < most:
        before, already = remembered(out), len(served())
        child = in_child(recipe, out)
        time.sleep(rng.uniform(0.02, 0.8))
        os.kill(child, signal.SIGKILL)
        done = survived(child)
        deaths += not done
        again = {digest(b"chat", b"scripted@", body) for body in served()[already:]} & before
        assert not again, "a recorded reply was asked for again"
        if done:
            assert files_of(out) == wanted
            assert len(remembered(out)) == len(requests)
            out = folder / f"killed{deaths}"
    assert survived(in_child(recipe, out))
    assert files_of(out) == wanted
    return deaths


if __name__ == "__main__":
    mode, paths = sys.argv[1], [Path(p) for p in sys.argv[2:5]]
    if mode == "steps":
        print(steps(*paths))
    else:
        print(at_random(*paths, int(sys.argv[5]), int(sys.argv[6])))
