"""A Prefect server for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.conftest import _free_port


class PrefectServer:
    """A server of Prefect's on loopback, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._port = _free_port()
        self._log = folder / "prefect.log"
        self._env = quiet(folder / "prefect")
        self.env = self._env | {"PREFECT_API_URL": f"http://127.0.0.1:{self._port}/api"}
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300  # on a machine that has other work
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.env['PREFECT_API_URL']}/health"):
                return
            time.sleep(0.3)
        raise TimeoutError(f"Prefect's server does not answer; see {self._log}")

    def kill(self) -> None:
        """With all that it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def quiet(home: Path) -> dict[str, str]:
    """The environment of runs without a Prefect server, which phone nobody."""
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    more = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "COLUMNS": "300"}
    return env | more | {"PREFECT_HOME": str(home)}
