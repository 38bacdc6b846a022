"""Publishing to a Hub on loopback: what is read and sent, beside `push_to_hub` of `datasets` on the same shards.

A dataset byte is a byte of the shards that are published. Read are: what the system's read calls return to the
process (`rchar`, from the cache or not), and what the disk gives (`read_bytes`, with the shards thrown out of the
cache before; this also counts what is read through memory maps, and what the system reads ahead). Sent are bytes of
content that the Hub receives. Each push is a process of its own; the Hub is in the one that measures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import peak_mb, ratios, report, spread
from bench.write import PER_BATCH, samples
from pipeline import shards
from schemas.manifest import DatasetManifest, Leakage, ShardFile, SplitSummary
from tests import hub as hubs

ROWS = 500  # of a shard
NAME = "somebody/spoken"


def shard(folder: Path, number: int, rows: int) -> ShardFile:
    """Writes a shard of speech that cannot be compressed further."""
    with shards.UnitWriter(folder, f"{number:06d}", "train", PER_BATCH) as writer:
        for sample in samples(rows, number):
            writer.add(sample)
        kept = writer.finish("bench", rows).kept
    assert kept is not None
    return kept


def manifest(files: list[ShardFile]) -> DatasetManifest:
    """A dataset of shards, with no more than publishing needs."""
    rows = sum(file.rows for file in files)
    train = SplitSummary(
        rows=rows, utterances=rows, seconds=9.0 * rows, row_seconds=9.0 * rows, speakers=40, shards=files
    )
    nobody = Leakage(speakers_in_both=[], recordings_in_both=[], instructions_in_both=[], queries_in_both=[])
    told: dict[str, Any] = {"reasons": {}, "outcomes": {}, "voices": {}, "tokens": {}, "recipe": {}}
    return DatasetManifest(
        name="spoken", fingerprint="bench", splits={"train": train}, rejected=[], planned_utterances=rows, rows_in=rows,
        tasks={"transcription": rows}, tasks_left_out=[], languages={"en": 9.0 * rows}, licences={"CC BY 4.0": 9.0 * rows},
        cost=None, leakage=nobody, speech_verified=False, **told,
    )  # fmt: skip


def ours(folder: Path) -> Callable[[], object]:
    """Our push. Code and fonts, which are read once, are read before it."""
    import datasets  # noqa: F401

    from pipeline.publish import figures, release
    from pipeline.publish.facts import Facts

    dataset = DatasetManifest.model_validate_json((folder / "dataset.json").read_bytes())
    figures.picture(dataset, Facts())
    return lambda: release.publish(folder, dataset, NAME)


def theirs(folder: Path) -> Callable[[], object]:
    """`push_to_hub` of the same shards."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted((folder / "train").glob("*.arrow"))
    return lambda: datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files]).push_to_hub(
        NAME, private=True, max_shard_size="400MB"
    )


def child(who: str, folder: Path) -> None:
    """One push; says what it has read and used."""
    work = {"ours": ours, "theirs": theirs}[who](folder)
    for file in (folder / "train").glob("*.arrow"):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before, peak, begin = _read(), peak_mb(), time.perf_counter()
    work()
    after = _read()
    told = {"seconds": time.perf_counter() - begin, "peak": peak_mb(), "imports": peak}
    print(json.dumps(told | {name: after[name] - before[name] for name in before}))


def _read() -> dict[str, int]:
    lines = (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {name: int(value) for name, value in lines if name in ("rchar", "read_bytes")}


def push(who: str, folder: Path, hub: hubs.Hub, home: Path) -> dict[str, float]:
    """One push in a process of its own."""
    sent = sum(hub.sent.values())
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": hubs.TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "bench.publish", who, str(folder)],
        env=env,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1]) | {"sent": sum(hub.sent.values()) - sent}


def main(out: Path, count: int = 8, runs: int = 5) -> None:
    """In turn, each push to an empty Hub; then what a later run costs that has nothing new, and one with 1 % more."""
    folder = out / "publish"
    shutil.rmtree(folder, ignore_errors=True)
    files = [shard(folder, number, ROWS) for number in range(count)]
    size = sum(file.bytes for file in files)
    whole = manifest(files).model_dump_json()
    found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    later: dict[str, list[dict[str, float]]] = {"unchanged": [], "more": []}
    for _ in range(runs):
        for who, results in found.items():
            shutil.rmtree(folder / shards.BUILD, ignore_errors=True)
            (folder / "dataset.json").write_text(whole)
            with hubs.serving() as hub:
                results.append(push(who, folder, hub, out / "publish-home"))
                if who == "ours":
                    later["unchanged"].append(push(who, folder, hub, out / "publish-home"))
                    more = shard(folder, count, max(1, count * ROWS // 100))
                    (folder / "dataset.json").write_text(manifest([*files, more]).model_dump_json())
                    later["more"].append(push(who, folder, hub, out / "publish-home"))
                    for path in (folder / "train").glob(f"shard-{count:06d}.*"):
                        path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(out / "publish-home", ignore_errors=True)

    def column(results: list[dict[str, float]]) -> list[str]:
        def per_byte(name: str) -> str:
            return spread([result[name] / size for result in results], 3)

        return [
            per_byte("rchar"), per_byte("read_bytes"), per_byte("sent"),
            spread([size / 1e6 / r["seconds"] for r in results]), spread([r["peak"] for r in results]),
            spread([r["imports"] for r in results]),
        ]  # fmt: skip

    speed = {who: [size / 1e6 / result["seconds"] for result in results] for who, results in found.items()}
    names = (
        "read calls, bytes for each dataset byte", "read from disk, bytes for each dataset byte",
        "sent, bytes for each dataset byte", "MB/s", "peak memory, MB", "of which before the push",
    )  # fmt: skip
    columns = [column(found["ours"]), column(found["theirs"]), column(later["unchanged"]), column(later["more"])]
    table = list(zip(names, *columns, strict=True))
    table.append(("MB/s by push_to_hub's", spread(ratios(speed["ours"], speed["theirs"]), 2), "", "", ""))
    title = f"Publishing: {count * ROWS} rows, {size / 1e6:.0f} MB, {runs} runs: median (least-most)"
    report(title, ("what", "ours", "push_to_hub", "ours, nothing new", "ours, 1 % more"), table, out)


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]))
