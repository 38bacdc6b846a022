"""Building on a Dask and on a Ray cluster of two nodes each: the same dataset, whoever is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows._runners import opened
from pipeline import remote
from pipeline.build import Job
from pipeline.plan import Unit
from pipeline.remote import ClusterError
from tests.building import build, files_of
from tests.conftest import ROOT, LLMServer
from tests.test_flow import ASKING, command

pytestmark = [pytest.mark.long, pytest.mark.services, pytest.mark.xdist_group("prefect")]

IN_FLIGHT = 4


@contextmanager
def dask_nodes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A scheduler and two nodes, each a nanny with its worker; its address, and the nodes."""
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    file, quiet = folder / "scheduler.json", ["--no-dashboard", "--host", "127.0.0.1"]
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> None:
        with open(folder / f"{len(started)}.log", "wb") as log:
            line = [sys.executable, "-m", *arguments, "--scheduler-file", str(file), *quiet]
            env = os.environ | {"PYTHONPATH": str(ROOT)}
            started.append(subprocess.Popen(line, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True))

    try:
        start("distributed.cli.dask_scheduler", "--port", "0")
        for _ in range(2):
            start("distributed.cli.dask_worker", "--nthreads", "1")
        wait_until(file.exists)
        yield json.loads(file.read_text())["address"], [p.pid for p in started[1:]]
    finally:
        for process in started:
            end(process.pid)
            process.wait()


@contextmanager
def ray_nodes(_: Path) -> Iterator[tuple[str, list[int]]]:
    """A head and another node, of a processor each; the address, and the nodes."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(ROOT)
    # Not on 127.0.0.1: Ray takes that for the machine's own address where it is told to connect.
    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=options | {"include_dashboard": False})
    try:
        other = cluster.add_node(**options)
        raylets = [node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, other)]
        yield cluster.address, raylets
    finally:
        cluster.shutdown()


def wait_until(there: Callable[[], Any], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def end(pid: int) -> None:
    """Kills a process and all that it started, as when a machine is switched off."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, timeout=10)


@pytest.fixture
def begin(prefect: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begins runs; none is left behind."""
    begun: list[subprocess.Popen[str]] = []

    def run(recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        begun.append(
            subprocess.Popen(command(recipe, out, *more), cwd=ROOT, env=prefect, stdout=pipe, stderr=pipe, text=True)
        )
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def nobody_asks(server: LLMServer, seconds: float) -> bool:
    asked = len(server.served)
    time.sleep(seconds)
    return len(server.served) == asked


def units(out: Path) -> dict[str, int]:
    """Finished units with what would tell that they were built again."""
    return {p.with_suffix(".arrow").name: p.stat().st_ino for p in out.glob("*/shard-*.json")}


@pytest.mark.parametrize(("runner", "nodes"), [("dask", dask_nodes), ("ray", ray_nodes)])
def test_killed_runs_and_nodes_cost_only_what_was_under_way(
    begin: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    llm_server: Callable[..., LLMServer],
    runner: str,
    nodes: Any,
) -> None:
    server = llm_server("--latency", "0.3")
    llm = {"engine": "openai", "base_url": server.url, "model": "scripted", "concurrency": IN_FLIGHT}
    small = {"utterances": 3, "rows_per_batch": 4}
    recipe = write_recipe("cluster", llm=llm, tasks=ASKING, samples_per_utterance=2, shards=small)
    out = tmp_path / "out"
    with nodes(tmp_path) as (address, (_, second)):
        on_cluster = ("--runner", runner, "--address", address)
        first = begin(recipe, out, *on_cluster)
        wait_until(lambda: first.poll() is not None or len(server.served) >= 4)
        assert first.poll() is None, first.communicate()
        first.kill()
        first.communicate()
        wait_until(lambda: nobody_asks(server, 2.0), 30.0)

        again = begin(recipe, out, *on_cluster)
        wait_until(lambda: again.poll() is not None or len(units(out)) >= 2)
        wait_until(lambda: again.poll() is not None or len(list(out.glob(".build/tmp/*.kept.*"))) >= 2)
        assert again.poll() is None, again.communicate()
        before = units(out)
        end(second)
        _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    after = units(out)
    assert len(after) > len(before), "it was killed in the middle"
    assert {name: after[name] for name in before} == before, "what was finished is not made again"
    twice = sum(times - 1 for times in Counter(server.served).values())
    assert twice <= 2 * IN_FLIGHT, "only what was under way is asked for again: a machine's nodes share what they know"
    build(recipe, tmp_path / "plain")
    assert files_of(out) == files_of(tmp_path / "plain")

    nothing_left = begin(recipe, out, "--runner", runner, "--address", "127.0.0.1:1")
    _, errors = nothing_left.communicate(timeout=300)
    assert nothing_left.returncode == 0, "no cluster is looked for when there is nothing to build"
    assert not list(out.glob(".build/memo-*")), "what its machines remember is in one file again"


def test_a_machine_that_sees_another_folder_ends_the_run(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    recipe, unit = write_recipe(), Unit("0" * 16, "train", 0, 1)
    out = tmp_path / "out"
    job = Job(str(recipe), str(out), "the run's", shared=True)
    remote.announce(job)
    with pytest.raises(ClusterError, match=r"other rows than when the run began.*not the same on this machine"):
        remote.build_here(job, unit)
    with pytest.raises(ClusterError, match=r"the worker on .* does not see .*/out as the run does"):
        remote.build_here(replace(job, run="another"), unit)
    gone = replace(job, recipe=str(tmp_path / "gone.yaml"))
    with pytest.raises(ClusterError, match=r"does not see .*/gone.yaml"):
        remote.build_here(gone, unit)


def test_an_address_at_which_no_ray_listens_is_told_at_once() -> None:
    pytest.importorskip("prefect_ray", reason="the extra ray is not installed")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with (
            pytest.raises(ClusterError, match=f"{address}: no Ray cluster listens here"),
            opened("ray", address, None, 1),
        ):
            pass


def test_what_only_this_machine_reaches_is_refused_where_others_build() -> None:
    for url in (None, "http://127.0.0.1:4200/api", "http://localhost:4200/api"):
        remote.refuse_loopback(url, "Prefect's server", "start one", ["127.0.0.1", "localhost"])
        with pytest.raises(ClusterError, match=r"the workers on 192\.0\.2\.77 cannot reach Prefect's server"):
            remote.refuse_loopback(url, "Prefect's server", "start one", ["127.0.0.1", "192.0.2.77"])
    remote.refuse_loopback("http://192.0.2.1:4200/api", "Prefect's server", "start one", ["192.0.2.77"])
