"""A schedule's server, worker and deployments on one machine, by one command. Ctrl-C ends all of it.

    python -m flows.serve

With `PREFECT_API_URL` it uses that server and starts only a worker. Without, it starts one on loopback, whose
records are in `PREFECT_HOME` (out/prefect if that is not set).
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from rich.console import Console

from flows import _end

console = Console(markup=False, highlight=False)
errors = Console(stderr=True, markup=False, highlight=False)

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "out" / "prefect"
HOST = "127.0.0.1"
PORT = "4200"
START_SECONDS = 180.0
STOP_SECONDS = 30.0
ALERT_SECONDS = 5.0
LOOK_SECONDS = 0.5
MOST_STARTS, STARTS_SECONDS = 5, 600.0  # a server or worker that ends again and again is given up
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the newer page asks an outside host for its configuration
}
_PR_SET_PDEATHSIG = 1


class ServeError(RuntimeError):
    """It cannot be served; the message says what to do."""


class Stopped(Exception):
    """A signal asks to end."""


class Child:
    """One of Prefect's commands that runs as long as we do, with all that it starts."""

    def __init__(self, name: str, command: list[str], log: Path | None = None) -> None:
        self.name = name
        self.mark = f"{name}-{uuid.uuid4()}"
        self._command = [sys.executable, "-m", "prefect", *command]
        self._log = log
        self._starts: deque[float] = deque(maxlen=MOST_STARTS)
        self._guard = _guard(self.mark)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, also again after it has ended; what was left of it is ended first.

        Raises:
            ServeError: It ends all the time.
        """
        often = len(self._starts) == MOST_STARTS and time.monotonic() - self._starts[0] < STARTS_SECONDS
        if often:
            raise ServeError(f"the {self.name} ended {MOST_STARTS} times in ten minutes{self.told}")
        _end.end(self.mark)
        self._starts.append(time.monotonic())
        log: IO[bytes] | None = open(self._log, "ab") if self._log else None  # noqa: SIM115 -- closed below
        # A session of its own: what a terminal sends to its group is for us, and we end things in their order.
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=os.environ | {_end.NAME: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        if log is not None:
            log.close()

    @property
    def told(self) -> str:
        """Where it says why."""
        return f": see {self._log}" if self._log else ""

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself, or was killed."""
        return self._process is not None and self._process.poll() is not None

    @property
    def runs(self) -> set[str]:
        """The ids of the flow runs that it is at."""
        return _end.runs(self.mark)

    def stop(self) -> None:
        """Ends it and all that it started. Returns when nobody is left."""
        if self._process is not None and not self.ended:
            self._process.send_signal(signal.SIGINT)  # a worker takes no more runs then
        _end.end(self.mark)
        if self._process is not None:
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._guard.communicate()


def _guard(mark: str) -> subprocess.Popen[bytes]:
    """A process that ends what bears the mark when we are gone, also when we are killed outright."""
    command = [sys.executable, str(Path(_end.__file__)), mark]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def main() -> None:
    """Serves until it is told to stop."""
    with suppress(Stopped):
        try:
            with _signals(), ExitStack() as stack:
                _serve(stack)
        except (ServeError, OSError) as error:
            errors.print(f"Error: {error}", soft_wrap=True)
            sys.exit(1)
    _tell("Stopped.")


def _serve(stack: ExitStack) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _check_alert(os.environ.get("EARWITNESS_ALERT_URL", ""))
    home = Path(os.environ.setdefault("PREFECT_HOME", str(HOME))).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    _alone(home, stack)
    children: list[Child] = []
    own = not os.environ.get("PREFECT_API_URL")
    if own:
        children.append(_server(home, stack))
    api = os.environ["PREFECT_API_URL"]
    _wait_for(api, children)
    from flows import operations  # after the address is known: Prefect reads it when it is imported

    try:
        if own:
            _tell_settled(asyncio.run(operations.settle_lost()))
        told = asyncio.run(operations.set_up())
    except operations.REFUSED as error:
        raise ServeError(
            f"{api} (PREFECT_API_URL) does not take what is served: {error}. Is it a Prefect server of version "
            f"{operations.VERSION} or newer, and do PREFECT_API_AUTH_STRING or PREFECT_API_KEY say what it wants?"
        ) from error
    name = f"{socket.gethostname()}-{os.getpid()}"
    worker = Child("worker", ["worker", "start", "--type", "process", "--pool", operations.POOL, "--name", name])
    stack.callback(_stop, worker, operations)
    worker.start()
    children.append(worker)
    _deploy()
    _tell(_welcome(api.removesuffix("/api"), told))
    while True:
        time.sleep(LOOK_SECONDS)
        for child in children:
            if child.ended:
                _tell(f"The {child.name} has ended by itself{child.told}. It is started again.")
                child.start()
                if child is worker and own:
                    _tell_settled(asyncio.run(operations.settle_lost()))


def _alone(home: Path, stack: ExitStack) -> None:
    lock = stack.enter_context((home / "serve.lock").open("a"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ServeError(
            f"{home} is served already: stop that with Ctrl-C first, or set PREFECT_HOME to another folder"
        ) from error


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port is such a number
        return False


def _check_alert(url: str) -> None:
    """Whether a webhook can be one, and whether somebody listens there now. It may hold a secret: it is not shown."""
    if not url:
        return
    if not _is_web(url):
        raise ServeError("EARWITNESS_ALERT_URL is no address: a webhook's is expected, https://HOST/..., or none")
    if urllib.request.getproxies():
        return
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((parts.hostname or "", port), timeout=ALERT_SECONDS).close()
    except OSError as error:
        _tell(
            f"Warning: nobody answers at {parts.hostname}:{port} (EARWITNESS_ALERT_URL): {error}. "
            "Failures are told to nobody while that is so."
        )


def _server(home: Path, stack: ExitStack) -> Child:
    port = os.environ.get("PREFECT_SERVER_API_PORT", PORT)
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ServeError(f"PREFECT_SERVER_API_PORT is {port!r}: a port is expected, a number from 1 to 65535")
    with socket.socket() as probe:
        if not probe.connect_ex((HOST, int(port))):
            raise ServeError(
                f"something listens on {HOST}:{port} already: set PREFECT_SERVER_API_PORT to another port, "
                f"or PREFECT_API_URL to http://{HOST}:{port}/api if that is a Prefect server to be used"
            )
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    server = Child("server", ["server", "start", "--host", HOST, "--port", port], home / "server.log")
    stack.callback(server.stop)
    server.start()
    return server


def _wait_for(api: str, children: list[Child]) -> None:
    """Waits until the server answers."""
    if not _is_web(api) or "/api" not in urlsplit(api).path:
        raise ServeError(f"PREFECT_API_URL is {api!r}: the address of a server's API is expected: http://HOST:4200/api")
    deadline = time.monotonic() + (START_SECONDS if children else 10.0)
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=5):
            return
        if time.monotonic() > deadline or any(child.ended for child in children):
            cure = children[0].told if children else ": is that its address, and does it run?"
            raise ServeError(f"no Prefect server answers at {api} (PREFECT_API_URL){cure}")
        time.sleep(LOOK_SECONDS)


def _deploy() -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServeError(
            "prefect.yaml was not deployed. Mend it, and start this again. Prefect says: "
            + _essence(f"{done.stdout}{done.stderr}")
        )


def _essence(told: str) -> str:
    """What Prefect says of a deployment that it refuses, without its stacks and without all that was sent to it."""
    names = re.findall(r"Deploying (\S+) *│", told)
    where = f"deployment {names[-1]!r}: " if names else ""
    reasons = re.findall(r"'msg': (?:\"([^\"]+)\"|'([^']+)')", told)
    if reasons:
        return where + "; ".join(sorted({double or single for double, single in reasons}))
    rest = told.rpartition("╯")[2]
    invalid = re.search(r"\d+ validation errors? for ", rest)
    return where + (rest[invalid.start() :] if invalid else rest).strip()


def _stop(worker: Child, operations: Any) -> None:
    _tell("Stopping: what was finished stays, and runs under way go on at the next start.")
    runs = worker.runs
    worker.stop()
    asyncio.run(operations.put_back(runs))


def _tell(text: str) -> None:
    console.print(text, soft_wrap=True)


def _tell_settled(names: list[str]) -> None:
    if names:
        _tell(f"Runs whose worker is gone are marked as crashed: {', '.join(names)}")


def _welcome(page: str, told: bool) -> str:
    failures = "told to EARWITNESS_ALERT_URL" if told else "told to nobody: set EARWITNESS_ALERT_URL to a webhook"
    return f"""
Page:       {page}
Start one:  PREFECT_API_URL={page}/api prefect deployment run 'build-dataset/build' -p recipe=quickstart
Schedules:  in prefect.yaml, each with `active: false` until you change it; then start this again
Failures:   {failures}
Ctrl-C stops all of it."""


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end what is served in good order; what comes after the first changes nothing."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    if "MAKELEVEL" in os.environ and sys.platform == "linux":  # a make that is killed tells nobody
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
