"""Status: it says what a run would do and cost, and changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.setup import prepare
from pipeline.shards import in_use
from pipeline.status import Status, look
from tests.building import build
from tests.conftest import ROOT, LLMServer

BUILD = "import sys; from tests.building import build; from pathlib import Path; build(Path(sys.argv[1]), Path(sys.argv[2]))"


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def look_at(recipe: Path, out: Path) -> Status:
    prepare.cache_clear()
    return look(prepare(str(recipe)), out)


def test_status_of_a_dataset_that_grows(
    tmp_path: Path, corpus: Path, write_recipe: Callable[..., Path], llm_server: Callable[..., LLMServer]
) -> None:
    folder, out = tmp_path / "own", tmp_path / "out"
    shutil.copytree(corpus, folder)
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    (folder / "manifest.jsonl").write_text("\n".join(lines[:12]) + "\n")
    llm = {"engine": "openai", "base_url": llm_server().url, "model": "scripted"}
    llm["prices"] = {"prompt": 2.0, "completion": 8.0, "currency": "EUR"}  # type: ignore[assignment]
    corpora = [{"reader": "jsonl", "name": "c", "path": str(folder)}]
    build(write_recipe(corpora=corpora, tasks={"transcription": None}), tmp_path / "without")
    recipe = write_recipe(corpora=corpora, tasks={"reply": None}, llm=llm)

    estimate = look_at(recipe, tmp_path / "without").estimate
    assert estimate.basis == estimate.other == estimate.utterances == 12
    assert estimate.cost is estimate.requests is None, "a recipe that asked no LLM tells nothing of what one costs"

    first = look_at(recipe, out)
    assert not out.exists(), "it makes nothing"
    assert first.plan.found["new"] == first.estimate.utterances == 12
    assert first.estimate.cost is first.estimate.requests is first.estimate.hours is None
    assert ("would take", "cost, EUR", "unknown") in first.rows

    dataset = build(recipe, out)
    (folder / "manifest.jsonl").write_text("\n".join(lines[1:18]) + "\n")
    before = files(out)
    then = look_at(recipe, out)
    assert files(out) == before, "it changes nothing"
    assert then.finished
    assert not then.running
    assert {name: then.plan.found[name] for name in ("new", "known", "missing")} == {
        "new": 6,
        "known": 11,
        "missing": 1,
    }
    assert len(then.done) == len(then.plan.units) - then.estimate.units
    assert then.estimate.utterances == 6
    assert then.estimate.basis == 12
    assert then.estimate.requests == sum(t.requests for t in dataset.tokens.values()) / 2
    assert dataset.cost is not None
    assert then.estimate.cost is not None
    assert abs(then.estimate.cost - dataset.cost / 2) < 1e-5
    assert then.estimate.hours

    command = [sys.executable, "-m", "pipeline.cli", "status", str(recipe), "--out", str(out)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "cost, EUR" in shown
    assert "disappeared or changed" in shown
    watched = subprocess.run([*command, "--watch"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "No run is under way" in watched.stdout
    assert files(out) == before
    assert json.loads((out / "dataset.json").read_text())["state"] == dataset.state


@pytest.mark.long
def test_a_run_is_watched_to_its_end(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    """One who stops watching stops nothing; the others see the end, with the figures of the dataset."""
    recipe, out = write_recipe(), tmp_path / "out"
    look_on = [sys.executable, "-m", "pipeline.cli", "status", str(recipe), "--out", str(out), "--watch"]
    with ExitStack() as running:

        def started(command: list[str]) -> subprocess.Popen[str]:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            running.enter_context(process)
            running.callback(process.kill)
            return process

        run = started([sys.executable, "-c", BUILD, str(recipe), str(out)])
        deadline = time.monotonic() + 100
        while not in_use(out):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run.send_signal(signal.SIGSTOP)  # until it is watched
        watching, leaving = started(look_on), started(look_on)
        for process in (watching, leaving):
            assert process.stdout is not None
            assert "Ctrl-C" in process.stdout.readline()
        leaving.send_signal(signal.SIGINT)
        said = leaving.communicate(timeout=60)[0]
        assert leaving.returncode == 130, said
        assert "goes on" in said
        assert "Traceback" not in said
        run.send_signal(signal.SIGCONT)
        said = watching.communicate(timeout=100)[0]
        assert run.wait(60) == 0
    assert watching.returncode == 0, said
    assert "24 of 24" in said
    assert "the dataset is finished" in said
