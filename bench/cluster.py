"""Samples a second of processes, Dask and Ray with one worker and with two, on this machine.

An LLM that answers after 20 ms, a unit of 100 utterances, two samples each. The rate is that between the first
finished units and the last, when all workers are at work; what it takes until then is told beside.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import corpus
from bench.generate import stub
from bench.measure import report, spread
from bench.overhead import server

UTTERANCES, UNIT = 1600, 100
RUNNERS = ("processes", "dask", "ray")


def _run(recipe: Path, out: Path, env: dict[str, str], runner: str, workers: int) -> tuple[float, float]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(out)]
    begin = time.time()
    subprocess.run(
        [*command, "--runner", runner, "--workers", str(workers)], env=env, check=True, stdout=subprocess.DEVNULL
    )
    done = sorted(path.stat().st_mtime for path in out.glob("t*/shard-*.json"))
    started = done[workers - 1]  # each worker has finished its first, imports included
    return 2 * UNIT * (len(done) - workers) / (done[-1] - started), done[0] - begin


def main(out: Path, runs: int = 3) -> None:
    """All runners in turn, so that what the machine does meanwhile hits all."""
    folder = out / "cluster"
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with stub("fixed", "0.02") as url, server(folder / "home") as (env, _):
        llm = f"{{engine: openai, model: stub, base_url: '{url}', concurrency: 128}}"
        recipe = corpus.recipe(folder, corpus.make(folder, UTTERANCES), UNIT, llm)
        for _ in range(runs):
            for workers in (1, 2):
                for runner in RUNNERS:
                    measured = _run(recipe, folder / "dataset", env, runner, workers)
                    found.setdefault((runner, workers), []).append(measured)
    shutil.rmtree(folder, ignore_errors=True)
    table = []
    for (runner, workers), values in found.items():
        rates = [rate for rate, _ in values]
        shares = [rate / own for rate, (own, _) in zip(rates, found["processes", workers], strict=True)]
        table.append((runner, workers, spread(rates), spread(shares, 2), spread([wait for _, wait in values], 1)))
    header = ("runner", "workers", "samples/s", "to processes", "s to the first shard")
    report(f"Runners: {UTTERANCES} utterances, {runs} runs: median (least-most)", header, table, out)
