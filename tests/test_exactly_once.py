"""A run may be killed at any moment: nothing is lost, nothing is made twice, nothing is paid for twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.building import build
from tests.conftest import ROOT, LLMServer

DEATHS_AT_RANDOM = 35
ASKING = {
    "reply": None,
    "question_answer": {"pairs": 2},
    "transcription": None,
    "continuation": None,
}


def killing(*arguments: object) -> int:
    """How often the builds of `tests.killing` died; its checks come after each death."""
    command = [sys.executable, "-m", "tests.killing", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.long
def test_killed_before_every_step_of_finishing(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    """Before each sync, rename and removal of a shard and its dataset; then the same run again."""
    recipe = write_recipe(shards={"utterances": 50, "rows_per_batch": 4})
    assert killing("steps", recipe, tmp_path) >= 40


@pytest.mark.long
def test_killed_at_random(
    tmp_path: Path, write_recipe: Callable[..., Path], llm_server: Callable[..., LLMServer]
) -> None:
    """The dataset is the same, byte for byte, and no reply that was recorded is asked for again."""
    server = llm_server("--latency", "0.03", "--faults", "0.1", "--kinds", "error", "not_json", "truncated", "cut")
    llm = {"engine": "openai", "base_url": server.url, "model": "scripted", "concurrency": 4}
    recipe = write_recipe(llm=llm, tasks=ASKING, samples_per_utterance=3)
    assert killing("random", recipe, tmp_path, server.record, 1, DEATHS_AT_RANDOM) >= DEATHS_AT_RANDOM


def test_a_second_run_does_nothing(
    tmp_path: Path, write_recipe: Callable[..., Path], llm_server: Callable[..., LLMServer]
) -> None:
    server = llm_server()
    llm = {"engine": "openai", "base_url": server.url, "model": "scripted"}
    recipe = write_recipe(llm=llm, tasks=ASKING)
    out = tmp_path / "out"
    build(recipe, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("shard-*")}
    asked = len(server.served)
    assert asked
    server.stop()  # not even reached: no server is needed when nothing is to be asked
    build(recipe, out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("shard-*")} == before


def test_a_changed_prompt_repeats_only_what_depends_on_it(
    tmp_path: Path, write_recipe: Callable[..., Path], llm_server: Callable[..., LLMServer]
) -> None:
    server = llm_server()
    llm = {"engine": "openai", "base_url": server.url, "model": "scripted"}
    tasks = {"reply": None, "continuation": None}
    out = tmp_path / "out"
    build(write_recipe(llm=llm, tasks=tasks, samples_per_utterance="all"), out)
    asked = len(server.served)
    own = tmp_path / "prompts"
    shutil.copytree(ROOT / "prompts" / "continuation", own / "continuation")
    file = own / "continuation" / "en.yaml"
    file.write_text(file.read_text().replace("user: |", "user: |\n  Here it comes.", 1))
    build(write_recipe(llm=llm, tasks=tasks, samples_per_utterance="all", prompts=str(own)), out)
    assert len(server.served) == asked + asked // 2
