"""A later run with nothing new over a million known utterances: plan, check and finish, without Prefect's start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import corpus
from bench.measure import peak_mb, report, spread

if TYPE_CHECKING:
    from pipeline.plan import Unit

UTTERANCES = 1_000_000
PER_UNIT = 512


def _child(recipe: Path, out: Path, first: bool) -> None:
    """One run: the first makes up the shards that it plans, without sound, as nobody would wait for a million."""
    from pipeline import shards
    from pipeline.build import Job, left, planned, serving
    from pipeline.finish import finish
    from pipeline.setup import prepare

    begin = time.perf_counter()
    job = Job(str(recipe), str(out), prepare(str(recipe)).fingerprint)
    with shards.exclusive(out):
        shards.clear_temporary(out)
        plan = planned(job)
        known = time.perf_counter() - begin
        if first:
            for unit in plan.units:
                _make_up(out, unit, job.fingerprint)
        with serving(job, left(job, plan)[1]):
            dataset = finish(job, plan)
    seconds = time.perf_counter() - begin
    print(json.dumps([seconds, known, peak_mb(), plan.found["new"], plan.found["known"], dataset.planned_utterances]))


def _make_up(out: Path, unit: Unit, fingerprint: str) -> None:
    """A shard of one row: what a run with nothing new looks at is its size and its manifest."""
    from pipeline import shards
    from schemas.sample import Sample
    from schemas.utterance import Utterance

    with shards.UnitWriter(out, unit.id, unit.split, 64) as writer:
        writer.add(Sample(unit.id, (Utterance(unit.id, "made"),), unit.split).reject("made_up", "for a benchmark"))
        writer.finish(fingerprint, unit.utterances)


def _list(recipe: Path) -> None:
    from pipeline.setup import prepare

    reader = next(iter(prepare(str(recipe)).readers.values()))
    begin = time.perf_counter()
    count = sum(1 for _ in reader.utterances())
    print(json.dumps([time.perf_counter() - begin, count]))


def _run(*arguments: object) -> list[float]:
    command = [sys.executable, "-m", "bench.incremental", *map(str, arguments)]
    found: list[float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main(out: Path, runs: int = 3, utterances: int = UTTERANCES) -> None:
    """Plans once, makes the shards up, then runs again, in turn with the listing alone."""
    folder = out / "incremental"
    shutil.rmtree(folder, ignore_errors=True)
    recipe = corpus.recipe(folder, corpus.make(folder, utterances), unit=PER_UNIT)
    first = _run("first", recipe, folder / "dataset")
    assert first[3] == utterances
    listed, found = [], []
    for _ in range(runs):
        listed.append(_run("list", recipe)[0])
        found.append(_run("again", recipe, folder / "dataset"))
    assert all(run[3] == 0 and run[4] == utterances for run in found), "nothing is new"
    shutil.rmtree(folder)
    table = [
        ("a run with nothing new, s", spread([run[0] for run in found], 1)),
        ("of that plan, s", spread([run[1] for run in found], 1)),
        ("peak memory, MB", spread([run[2] for run in found])),
        ("floor: listing alone, s", spread(listed, 1)),
        ("times the floor", spread([run[0] / floor for run, floor in zip(found, listed, strict=True)], 2)),
    ]
    report(f"Nothing new: {utterances:,} known utterances, {runs} runs", ("what", "measured"), table, out)


if __name__ == "__main__":
    if sys.argv[1] == "list":
        _list(Path(sys.argv[2]))
    else:
        _child(Path(sys.argv[2]), Path(sys.argv[3]), first=sys.argv[1] == "first")
