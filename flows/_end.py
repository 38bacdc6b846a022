"""Ends a family of processes: all that were started with a mark in their environment, however they were orphaned.

    python _end.py MARK

Runs beside `make serve` and waits until nobody holds the other end of standard input any more. A server or a worker
that is killed outright takes nobody along by itself, nor does what starts them. Each process is held by a descriptor
(Linux 5.3), so that none that gets its number later is ever hit. Where there is no /proc, nobody is found.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

NAME = "EARWITNESS_FAMILY"  # of the variable that holds the mark
RUN = b"PREFECT__FLOW_RUN_ID="
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL
PATIENCE_SECONDS = 30.0  # for what begins while the others end


def environments(mark: str) -> dict[int, list[bytes]]:
    """What the living processes with a mark have in their environments, without this one."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            values = (folder / "environ").read_bytes().split(b"\0")
            if f"{NAME}={mark}".encode() in values and folder.name != str(os.getpid()):
                found[int(folder.name)] = values
    return found


def runs(mark: str) -> set[str]:
    """The ids of the flow runs that the family is at."""
    return {
        value.removeprefix(RUN).decode()
        for values in environments(mark).values()
        for value in values
        if value.startswith(RUN)
    }


def end(mark: str, grace: float = GRACE_SECONDS) -> None:
    """Ends the family: politely, then at once. Returns when nobody is left."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    number = signal.SIGTERM
    while (members := _held(mark)) and time.monotonic() < deadline:
        until = time.monotonic() + (grace if number == signal.SIGTERM else 1.0)
        for held in members:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, number)
        for held in members:
            select.select([held], [], [], max(0.0, until - time.monotonic()))
            os.close(held)
        number = signal.SIGKILL


def _held(mark: str) -> list[int]:
    """Descriptors of the family's members; to be closed by the caller."""
    held = {}
    for number in environments(mark):
        with suppress(ProcessLookupError):
            held[number] = os.pidfd_open(number)
    still = environments(mark)  # looked at after it was held: a number that changed hands in between is not in it
    for number in held.keys() - still.keys():
        os.close(held.pop(number))
    return list(held.values())


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
