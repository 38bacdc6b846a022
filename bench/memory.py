"""The peak of memory of building one unit, in a corpus and in one of ten times its size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench import corpus
from bench.measure import peak_mb, report, spread

UTTERANCES, UNIT = 2_000, 500


def _child(recipe: Path, out: Path) -> None:
    from pipeline.build import Job, build_unit
    from pipeline.plan import Plan
    from pipeline.setup import prepare

    plan = Plan.load(out / ".build" / "plan")
    assert plan is not None
    done = build_unit(Job(str(recipe), str(out), prepare(str(recipe)).fingerprint), plan.units[0])
    print(json.dumps([peak_mb(), done.kept]))


def _plan(recipe: Path, out: Path) -> None:
    from pipeline.setup import prepare

    prepare.cache_clear()
    prepare(str(recipe)).plan(out)


def main(out: Path, runs: int = 3) -> None:
    """Each unit in a process of its own; planning is done before."""
    table = []
    for times in (1, 10):
        folder = out / f"memory-{times}"
        recipe = corpus.recipe(folder, corpus.make(folder, times * UTTERANCES), unit=UNIT)
        peaks = []
        for _ in range(runs):
            shutil.rmtree(folder / "dataset", ignore_errors=True)
            _plan(recipe, folder / "dataset")
            command = [sys.executable, "-m", "bench.memory", str(recipe), str(folder / "dataset")]
            peak, kept = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            assert kept
            peaks.append(peak)
        table.append((f"{times}x: {times * UTTERANCES:,} utterances", spread(peaks)))
        shutil.rmtree(folder)
    title = f"Memory: the peak of building one unit of {UNIT} utterances, MB, {runs} runs: median (least-most)"
    report(title, ("corpus", "MB"), table, out)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
