"""What Prefect costs: a run of 1,000 units with it and without, and the time from the command to the first sample.

A unit of 512 utterances is built in 0.2 s at the 2,500 samples a second that two cores reach with an LLM that answers
at once, and in minutes with a real one. Here units wait for two seconds, 20 at a time: ten a second, twice as many as
two cores can build, so that what each costs weighs more than it ever does. They use no processor meanwhile; what
Prefect and its server use of it is told beside, for a machine whose processors are all needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench import corpus
from bench.measure import report, spread
from pipeline.telling import under_way

UNITS, AT_ONCE, SECONDS = 1000, 20, 2.0


@contextmanager
def server(home: Path) -> Iterator[tuple[dict[str, str], psutil.Process]]:
    """A Prefect server; the environment that names it, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.mkdir(parents=True, exist_ok=True)
    env = _environment(home)
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/api"
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                break
            time.sleep(0.1)
        else:
            raise TimeoutError(url)
        yield env | {"PREFECT_API_URL": url}, psutil.Process(process.pid)
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def _environment(home: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return own | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def _used(process: psutil.Process) -> float:
    """Seconds of processor time of a process and its children."""
    found = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found += times.user + times.system
    return found


class _Waiting:
    """In the place of workers: a unit takes its time, and nothing else."""

    def run(self, _: Callable[..., Any], __: Any, unit: Any) -> Any:
        from pipeline.build import UnitReport

        time.sleep(SECONDS)
        return UnitReport(unit.id, 0, 0, split=unit.split)


def _child(units: int) -> None:
    """Prints seconds and processor seconds: without Prefect, then with it."""
    from prefect import flow
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows import _watching, build_dataset
    from flows._runners import Place
    from pipeline.build import Job
    from pipeline.plan import Plan, Unit

    pieces = [Unit(f"{number:016x}", "train", number, 512) for number in range(units)]
    job, waiting = Job("", str(Path(sys.argv[3]).absolute()), ""), _Waiting()

    def bare() -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            assert len(list(threads.map(lambda piece: waiting.run(print, job, piece), pieces))) == units

    @flow(name="overhead", persist_result=False)
    def run() -> float:
        begin = time.perf_counter()
        threads: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE)
        with _watching.watched(job, Plan(Path(job.out), pieces), "overhead"), threads:
            build_dataset._workers = waiting  # type: ignore[assignment]
            assert len(build_dataset._collect(job, pieces, Place(threads, AT_ONCE, 2 * AT_ONCE))) == units
        return time.perf_counter() - begin

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        for work in (bare, run):
            used, begin = time.process_time(), time.perf_counter()
            inside = work()
            print(time.perf_counter() - begin, inside or 0.0, time.process_time() - used, flush=True)


def tasks(out: Path, units: int) -> None:
    """The same units with Prefect and without, in one process, one after the other."""
    folder = out / "overhead"
    shutil.rmtree(folder, ignore_errors=True)
    with server(folder / "home") as (env, process):
        command = [sys.executable, "-m", "bench.overhead", "tasks", str(units), str(folder / "dataset")]
        child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        bare = [float(x) for x in child.stdout.readline().split()]
        before = _used(process)
        found = [float(x) for x in child.stdout.readline().split()]
        assert child.wait() == 0
        served = _used(process) - before
    shutil.rmtree(folder, ignore_errors=True)
    table = [
        ("without Prefect, s", f"{bare[0]:.1f}"),
        ("with Prefect, s", f"{found[0]:.1f}"),
        ("overhead", f"{(found[0] / bare[0] - 1):.1%}"),
        ("processor time a unit, run, ms", f"{(found[2] - bare[2]) / units * 1000:.1f}"),
        ("processor time a unit, server, ms", f"{served / units * 1000:.1f}"),
    ]
    report(f"Prefect: {units} units of {SECONDS:g} s, {AT_ONCE} at a time", ("what", "measured"), table, out)


def first(out: Path, runs: int) -> None:
    """From the command to the first sample that is kept, as its worker tells, and to the first finished shard.

    Without a server in a fresh home, and with one.
    """
    folder = out / "first"
    shutil.rmtree(folder, ignore_errors=True)
    recipe = corpus.recipe(folder, corpus.make(folder, 20), 5)

    def run(env: dict[str, str]) -> tuple[float, float]:
        dataset = folder / "dataset"
        shutil.rmtree(dataset, ignore_errors=True)
        command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(dataset)]
        sample = None
        begin = time.perf_counter()
        with open(folder / "run.log", "wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
            while not list(dataset.glob("t*/shard-*.json")):
                assert process.poll() is None or process.returncode == 0, (folder / "run.log").read_text()
                if sample is None and any(told.made.kept for told in under_way(dataset)):
                    sample = time.perf_counter() - begin
                time.sleep(0.005)
            shard = time.perf_counter() - begin
            assert process.wait() == 0, (folder / "run.log").read_text()
        return sample or shard, shard

    fresh = [run(_environment(folder / f"home{number}")) for number in range(runs)]
    with server(folder / "home") as (env, _):
        served = [run(env) for _ in range(runs)]
    shutil.rmtree(folder, ignore_errors=True)
    table = [
        (where, *(spread([times[what] for times in found], 1) for what in (0, 1)))
        for where, found in (("a fresh home, no server", fresh), ("with a server", served))
    ]
    header = ("where", "first sample", "first shard")
    report(f"Seconds from the command, {runs} runs: median (least-most)", header, table, out)


def main(out: Path, units: int = UNITS, runs: int = 5) -> None:
    """Both."""
    first(out, runs)
    tasks(out, units)


if __name__ == "__main__":
    _child(int(sys.argv[2]))
