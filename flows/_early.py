"""Early: Prefect's temporary server begins before Prefect itself is loaded.

Where no server is configured Prefect starts one for the run, which takes twice as long as all the rest. To start it
Prefect loads the server's code in the run's process, too, for seconds. Here the same command is given first, and
what it started is handed to Prefect when that is there. Where anything is unusual Prefect does it alone, as ever.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
_FOLLOW = Path(__file__).with_name("_follow.py")
_SETTINGS = ("prefect.toml", ".env")  # in the working folder: they may name a server
_LOOK_SECONDS = 0.05


_ANSWER_SECONDS = 5


@dataclass(frozen=True)
class Early:
    """A server that begins."""

    process: subprocess.Popen[bytes]
    port: int


_begun: list[Early] = []
_followers: dict[int, subprocess.Popen[bytes]] = {}  # by the server that they end with us


def begin() -> None:
    """Starts the server, if Prefect would certainly start one."""
    found = importlib.util.find_spec("prefect")
    if found is None or not found.submodule_search_locations or not _surely_temporary():
        return
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    folder = Path(found.submodule_search_locations[0]).parent
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(folder), "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", HOST, "--port", str(port)]
    command += ["--log-level", "error", "--lifespan", "on"]
    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    # Not in our group: Ctrl-C, which is sent to that, would meet it while it is loaded, and it would write a stack.
    process = subprocess.Popen(command, env=os.environ | own, start_new_session=True)
    follow(process.pid)
    _begun.append(Early(process, port))


def follow(pid: int) -> None:
    """Sees to it that a server ends with this process, also where this one is killed outright."""
    if pid in _followers or not hasattr(os, "pidfd_open"):
        return
    command = [sys.executable, str(_FOLLOW), str(pid)]
    # Not in our group: what is sent to that is not meant for it. It ends with the pipe, or with the server.
    _followers[pid] = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def hand_over() -> None:
    """Waits until the server answers and gives it to Prefect; or ends it, where Prefect takes none or it has failed."""
    if not _begun:
        return
    early = _begun.pop()
    from prefect.client.base import ServerType, determine_server_type
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    server = SubprocessASGIServer()
    wanted = determine_server_type() == ServerType.EPHEMERAL and not server.running
    if not wanted or not _answers(early, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()):
        early.process.kill()
        early.process.wait()
        return
    server.port, server.server_process, server.running = early.port, early.process, True
    atexit.register(server.stop)


def _surely_temporary() -> bool:
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    named = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")
    if any(os.environ.get(name) for name in named) or not hasattr(os, "pidfd_open"):
        return False
    project = Path("pyproject.toml")
    with suppress(OSError):
        if project.is_file() and "tool.prefect" in project.read_text("utf-8", "replace"):
            return False
    return not any(path.exists() for path in (home / "profiles.toml", *map(Path, _SETTINGS)))


def _answers(early: Early, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while early.process.poll() is None and time.monotonic() < deadline:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{HOST}:{early.port}/api/health", timeout=5) as answer,
        ):
            if answer.status == 200:
                return True
        time.sleep(_LOOK_SECONDS)
    return False
