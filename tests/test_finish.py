"""Finishing: what depends on all rows depends on nothing else, and the folder holds nothing else."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pytest

from pipeline import finish as finishing
from pipeline import inspect, shards
from pipeline.filters.duplicates import Duplicates
from pipeline.shards import DiskError
from schemas.conversation import Message
from schemas.sample import Sample
from schemas.utterance import Audio, Utterance
from tests.building import build, files_of
from tests.building import rows as rows_of
from tests.conftest import ROOT


@pytest.fixture
def copies(tmp_path: Path, corpus: Path) -> Path:
    """A corpus in which several recordings are there twice."""
    folder = tmp_path / "copies"
    shutil.copytree(corpus, folder)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for row in rows[:6]:
        name = f"copy-{row['audio_filepath']}"
        shutil.copy(folder / row["audio_filepath"], folder / name)
        rows.append(row | {"audio_filepath": name, "text": f"{row['text']} again"})
    write(folder, rows)
    return folder


def write(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def of(copies: Path, write_recipe: Callable[..., Path], **changes: object) -> Path:
    corpora = [{"reader": "jsonl", "name": "tones", "path": str(copies)}]
    return write_recipe("copies", corpora=corpora, split={"test": 0.3}, **changes)


def test_a_copy_whose_original_is_gone_is_taken_back(
    tmp_path: Path, copies: Path, write_recipe: Callable[..., Path]
) -> None:
    recipe, out = of(copies, write_recipe, later={"disappeared": "withdraw"}), tmp_path / "out"
    assert build(recipe, out).reasons["duplicate_audio"] >= 4
    rows = [json.loads(line) for line in (copies / "manifest.jsonl").read_text().splitlines()]
    write(copies, rows[6:])
    again = build(recipe, out)
    assert "duplicate_audio" not in again.reasons
    assert again.removed["disappeared"] >= 6
    fresh = build(recipe, tmp_path / "fresh")
    found = [{s.id for part in rows_of(*of) for s in part} for of in ((out, again), (tmp_path / "fresh", fresh))]
    assert found[0] == found[1]


def test_verdicts_do_not_depend_on_how_far_an_earlier_run_came(
    tmp_path: Path, copies: Path, write_recipe: Callable[..., Path]
) -> None:
    recipe, out = of(copies, write_recipe), tmp_path / "out"
    build(recipe, out)
    wanted = files_of(out)
    for manifest in list(shards.manifests(out, shards.SPLITS)):
        aside = list(shards.read(out / manifest.rejected.path)) if manifest.rejected else []
        kept = list(shards.read(out / manifest.kept.path)) if manifest.kept else []
        verdicts = {s.position: None for s in aside if s.rejected == "duplicate_audio"}
        verdicts |= {s.position: shards.Rejection("near_duplicate_audio", "of nothing") for s in kept[:1]}
        shards.judged(out, manifest, verdicts, 4)
    assert files_of(out) != wanted
    build(recipe, out)
    assert files_of(out) == wanted


def test_what_no_manifest_names_is_removed(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    recipe, out = write_recipe(), tmp_path / "out"
    build(recipe, out)
    before = files_of(out)
    shard = next(out.glob("train/shard-*.arrow"))
    shutil.copy(shard, shard.with_name("shard-0000000000000000.arrow"))
    (out / "rejected").mkdir(exist_ok=True)
    shutil.copy(shard, out / "rejected" / "train-0000000000000000.arrow")
    build(recipe, out)
    assert files_of(out) == before
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache")).num_rows
    assert rows == inspect.load(out).splits["train"].rows


def test_a_folder_with_other_files_is_refused(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    out = tmp_path / "project"
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(DiskError, match=r"holds README.md and is no dataset: give another --out"):
        build(write_recipe(), out)
    assert (out / "README.md").read_text() == "mine"


def test_an_unfinished_dataset_of_another_name_is_refused(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    out = tmp_path / "out"
    build(write_recipe("first"), out)
    (out / "dataset.json").unlink()
    before = files_of(out)
    with pytest.raises(DiskError, match="holds the dataset 'first', the recipe makes 'second'"):
        build(write_recipe("second"), out)
    assert files_of(out) == before


@pytest.mark.parametrize("number", ["TERM", "HUP", "INT", "KILL"])
def test_the_keeper_of_a_server_lets_nothing_but_the_pipe_end_it(tmp_path: Path, number: str) -> None:
    """A keeper that is killed takes the server along; other signals are not meant for it."""
    server = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    keeper = subprocess.Popen(
        [sys.executable, str(ROOT / "pipeline" / "llm" / "_keeper.py"), *server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert keeper.stdout is not None
    assert keeper.stdin is not None
    assert keeper.stdout.readline() == b"up\n"
    (kept,) = psutil.Process(keeper.pid).children()
    keeper.send_signal(getattr(signal, f"SIG{number}"))
    time.sleep(0.5)
    if number != "KILL":
        assert kept.is_running()
        assert keeper.poll() is None
        keeper.stdin.close()
    keeper.wait(timeout=20)
    psutil.wait_procs([kept], timeout=20)
    assert not kept.is_running() or kept.status() == psutil.STATUS_ZOMBIE


def test_looking_for_duplicates_takes_little_memory(tmp_path: Path) -> None:
    """What a row costs is its keys, not its texts: those stay in the files."""
    rng = np.random.default_rng(3)
    said = "some words that were said and answered " * 20
    with shards.UnitWriter(tmp_path, "aa", "train", 64) as writer:
        for n in range(3000):
            heard = Audio(b"x", 2.0, 16_000, 1, "WAV/PCM_16", -3.0, -20.0, 0.0, f"{n:032x}", rng.bytes(31))
            speech = Utterance(f"c/{n}", "c", f"{n} {said}", "en", f"c/s{n % 9}", audio=heard)
            messages = (Message("user", "<|audio|>"), Message("assistant", f"{n} {said}"))
            writer.add(Sample(f"c/{n}:t:0", (speech,), "train", "t", messages=messages, position=n))
        made = [writer.finish("f", 3000)]
    pool = pa.proxy_memory_pool(before := pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        assert finishing._without_duplicates(tmp_path, made, Duplicates(), 64) == made
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 3000 * 100, "a row holds 1,600 bytes of text"
