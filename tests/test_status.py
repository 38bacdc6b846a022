"""Status: it says what a run would do and cost, and changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.setup import prepare
from pipeline.status import Status, look
from tests.building import build
from tests.conftest import ROOT, LLMServer


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
