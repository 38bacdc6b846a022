"""The whole `tool_grammar` recipe: queries a second, hours of speech a minute, where the time goes, and memory.

All shipped catalogues in three languages, spoken by espeak, on one process for each core; each unit as in a
run, planning and Prefect aside. Memory is the peak of one unit in a plan of some queries and of ten times as many.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.measure import peak_mb, report, spread
from pipeline.build import Job, UnitReport, build_unit
from pipeline.plan import Plan, Unit
from pipeline.setup import prepare
from pipeline.shards import load_manifest, manifest_path
from pipeline.tools.catalogue import SHIPPED
from pipeline.workers import Workers

QUERIES, UNIT = 100, 200  # of each catalogue and language; a unit


def recipe(folder: Path, queries: int) -> Path:
    """The shipped recipe with another number of queries."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.yaml"
    path.write_text(
        "name: bench\n"
        f"corpora: [{{reader: tool_queries, name: tools, path: {SHIPPED}, queries: {queries}}}]\n"
        "tts: {engine: espeak}\ntasks: {tool_grammar: }\nsplit: {test: 0.1}\n"
        f"shards: {{utterances: {UNIT}}}\n"
    )
    return path


def planned(path: Path, out: Path) -> Plan:
    """A fresh plan."""
    shutil.rmtree(out, ignore_errors=True)
    prepare.cache_clear()
    return prepare(str(path)).plan(out)


def _child(path: Path, out: Path) -> None:
    plan = Plan.load(out / ".build" / "plan")
    assert plan is not None
    largest = max(plan.units, key=lambda unit: unit.utterances)
    done = build_unit(Job(str(path), str(out), prepare(str(path)).fingerprint), largest)
    print(json.dumps([peak_mb(), done.kept]))


def main(out: Path, runs: int = 5) -> None:
    """Speed, then memory."""
    _speed(out, runs)
    _memory(out)


def _speed(out: Path, runs: int) -> None:
    folder, cores = out / "tools", len(os.sched_getaffinity(0))
    path = recipe(folder, QUERIES)
    rates, hours, shares = [], [], defaultdict(list)
    with Workers(cores) as workers, ThreadPoolExecutor(cores) as threads:
        for turn in range(runs + 1):
            plan = planned(path, folder / "dataset")
            job = Job(str(path), str(folder / "dataset"), prepare(str(path)).fingerprint, workers=cores)
            begin = time.perf_counter()
            done: list[UnitReport] = list(threads.map(partial(workers.run, build_unit, job), plan.units))
            seconds = time.perf_counter() - begin
            if not turn:
                continue  # models are loaded and templates compiled once in a run
            rates.append(sum(unit.kept for unit in done) / seconds)
            hours.append(_seconds(folder / "dataset", plan.units) / 3600 / (seconds / 60))
            spent: dict[str, float] = defaultdict(float)
            for unit in done:
                for name, own in unit.seconds.items():
                    spent[name] += own
            spent["write, and all else"] = cores * seconds - sum(spent.values())
            for name, own in spent.items():
                shares[name].append(100 * own / (cores * seconds))
    title = f"Tool queries: {plan.utterances} of all catalogues, {cores} processes, {runs} runs: median (least-most)"
    table = [("queries/s", spread(rates)), ("hours of speech a minute", spread(hours, 2))]
    table += [(f"{name}, %", spread(values, 1)) for name, values in shares.items()]
    report(title, ("what", "value"), table, out)
    shutil.rmtree(folder)


def _seconds(dataset: Path, units: list[Unit]) -> float:
    manifests = (load_manifest(dataset / manifest_path(unit.split, unit.id)) for unit in units)
    return sum(manifest.seconds for manifest in manifests if manifest is not None)


def _memory(out: Path, runs: int = 3) -> None:
    table = []
    for times in (1, 10):
        folder = out / f"tools-{times}"
        path = recipe(folder, times * QUERIES)
        peaks = []
        for _ in range(runs):
            plan = planned(path, folder / "dataset")
            command = [sys.executable, "-m", "bench.tools", str(path), str(folder / "dataset")]
            peak, kept = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            assert kept
            peaks.append(peak)
        table.append((f"{times}x: {plan.utterances:,} queries", spread(peaks)))
        shutil.rmtree(folder)
    title = f"Tool queries, memory: the peak of one unit of {UNIT}, MB, {runs} runs: median (least-most)"
    report(title, ("queries", "MB"), table, out)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
