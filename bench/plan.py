"""A plan over a million utterances: seconds, and the peak of memory of a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import corpus
from bench.measure import peak_mb, report, spread

UTTERANCES = 1_000_000


def _child(recipe: Path, out: Path) -> None:
    from pipeline.setup import prepare

    setup = prepare(str(recipe))
    begin = time.perf_counter()
    plan = setup.plan(out)
    print(json.dumps([time.perf_counter() - begin, peak_mb(), plan.utterances, len(plan.units)]))


def main(out: Path, runs: int = 3) -> None:
    """Reads a manifest of JSON lines, draws the splits and writes the units."""
    folder = out / "plan"
    recipe = corpus.recipe(folder, corpus.make(folder, UTTERANCES))
    begin = time.perf_counter()
    with open(folder / "manifest.jsonl", "rb") as stream:
        rows = sum(1 for line in stream if json.loads(line))
    floor = time.perf_counter() - begin
    found = []
    for _ in range(runs):
        shutil.rmtree(folder / "dataset", ignore_errors=True)
        command = [sys.executable, "-m", "bench.plan", str(recipe), str(folder / "dataset")]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    assert {(r[2]) for r in found} == {rows}
    shutil.rmtree(folder)
    table = [
        ("plan, s", spread([r[0] for r in found], 1)),
        ("peak memory, MB", spread([r[1] for r in found])),
        ("units", str(found[0][3])),
        ("floor: json.loads of each line, s", f"{floor:.1f}"),
    ]
    report(f"Plan: {rows:,} utterances, {runs} runs: median (least-most)", ("what", "measured"), table, out)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
