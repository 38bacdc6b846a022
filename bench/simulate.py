"""The plan of very many utterances: seconds, memory and disk by their number, without a corpus to read.

python -m bench.simulate UTTERANCES FOLDER     one size, as large as it is wanted, in a folder that has the room
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import peak_mb, report
from schemas.utterance import AudioSource, Utterance

SIZES = (300_000, 1_000_000, 3_000_000)
PER_UNIT = 512
PER_SPEAKER = 250
WORDS = "wind turned road early train left station before rain came people walked across bridge talked about".split()


def utterances(count: int) -> Iterator[Utterance]:
    """As a reader of tar archives gives them: 3 to 6 seconds, ten words."""
    rng = random.Random(5)
    texts = [" ".join(rng.choices(WORDS, k=10)) for _ in range(4096)]
    for number in range(count):
        archive, member = divmod(number, 10_000)
        yield Utterance(
            f"big/{number:09d}",
            "big",
            f"{texts[number % 4096]} {number}",
            "en",
            f"s{number // PER_SPEAKER}",
            duration=3.0 + (number % 300) / 100,
            source=AudioSource(
                f"/data/{archive:05d}.tar", member=f"{member:05d}.flac", offset=member * 90_000, size=90_000
            ),
        )


def _child(count: int, folder: Path) -> None:
    from pipeline.plan import make_plan
    from schemas.recipe import SplitSpec

    shutil.rmtree(folder, ignore_errors=True)
    begin, used = time.perf_counter(), time.process_time()
    for _ in utterances(count):
        pass
    making = time.process_time() - used
    begin, used = time.perf_counter(), time.process_time()
    plan = make_plan(utterances(count), folder, spec=SplitSpec(), seed=0, unit_utterances=PER_UNIT)
    taken = time.process_time() - used - making, time.perf_counter() - begin
    assert plan.utterances == count
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(json.dumps([*taken, peak_mb(), disk, len(plan.units)]))


def main(out: Path, sizes: tuple[int, ...] = SIZES) -> None:
    """Several sizes, each in a process of its own."""
    table = []
    for count in sizes:
        command = [sys.executable, "-m", "bench.simulate", str(count), str(out / "simulate")]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        processor, seconds, peak, disk, units = json.loads(found)
        per = 1e6 / count
        shown = (f"{processor * per:.1f}", f"{seconds:.1f}", f"{peak:.0f}", f"{disk * per:.0f}", f"{units:,}")
        table.append((f"{count:,}", *shown))
        shutil.rmtree(out / "simulate")
    header = ("utterances", "processor s a million", "s", "peak MB", "disk MB a million", "units")
    report("Plan by the number of utterances, without reading a corpus", header, table, out)


if __name__ == "__main__":
    _child(int(sys.argv[1]), Path(sys.argv[2]))
