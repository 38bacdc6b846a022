"""Keeps a server for as long as somebody holds the other end of standard input.

    python _keeper.py COMMAND ...

When the pipe closes, be it that the run has ended, was killed or has crashed, the server and all
its children are told to stop, and after a while are killed. Ends with the server's exit status.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 15.0  # between SIGTERM and SIGKILL
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


def keep(command: list[str]) -> int:
    """Runs a command in a process group of its own until it ends or standard input closes."""
    # Only the pipe counts: what ends the run closes it, and the keeper must outlive the run.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_as_server)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while server.poll() is None:
        ready, _, _ = select.select([sys.stdin], [], [], 0.2)
        if ready and not os.read(sys.stdin.fileno(), 4096):
            _stop(server)
    # A server that was killed leaves behind what it had started, which holds on to the GPU's memory.
    _signal_all(server, signal.SIGKILL)
    return server.returncode


def _as_server() -> None:
    """In the server, before it begins: it heeds signals again, and ends with a keeper that is killed."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(server: subprocess.Popen[bytes]) -> None:
    _signal_all(server, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_all(server, signal.SIGKILL)  # also what the server itself has left behind
    server.wait()


def _signal_all(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, number)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
