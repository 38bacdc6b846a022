"""Ends a process as soon as nobody holds the other end of standard input any more.

    python _follow.py PID

A run that is killed outright cannot stop Prefect's temporary server; this does. The process is held by a
descriptor (Linux 5.3), so that none that gets its number later is ever hit.
"""

from __future__ import annotations

import os
import select
import signal
import sys

GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL


def follow(pid: int) -> None:
    """Waits for the process or for the end of standard input; in that case it ends the process."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if process in select.select([sys.stdin, process], [], [])[0]:
        return
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 0.0)):
        try:
            signal.pidfd_send_signal(process, number)
        except ProcessLookupError:
            return
        if select.select([process], [], [], seconds)[0]:
            return


if __name__ == "__main__":
    follow(int(sys.argv[1]))
