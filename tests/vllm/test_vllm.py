"""The flow against a real vLLM on the CPU, started and stopped by our engine. `make test-vllm`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline import inspect, shards
from pipeline.endpoint import EndpointError
from pipeline.llm.vllm import VLLM
from schemas.replies import MultipleChoice, QuestionAnswers, ToolQuery
from tests.building import rows
from tests.conftest import ROOT
from tests.killing import remembered

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
ON_CPU = {
    "engine": "vllm",
    "executable": str(PYTHON),
    "arguments": [
        *("--max-model-len", "8192", "--enforce-eager", "--max-num-seqs", "16", "--dtype", "float32"),
        # A prompt that is read in pieces ends vLLM 0.32 on a CPU if its request has a seed.
        *("--max-num-batched-tokens", "65536"),
        *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
    ],
    "environment": {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
    "startup": 300.0,
    "concurrency": 16,
    "attempts": 2,
}
UTTERANCES = 12
TASKS = {
    "reply": {"most_tokens": 32},
    "question_answer": {"pairs": 1, "most_tokens": 1000},
    "multiple_choice": {"most_tokens": 1000},
    "sentiment": {"most_tokens": 64},
    "transcription": None,
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM's environment is not there: make test-vllm"),
]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    texts = [*sorted((ROOT / "data/text").glob("*.txt")), *sorted((ROOT / "prompts").glob("*/en.yaml"))]
    script = Path(__file__).with_name("make_model.py")
    subprocess.run([PYTHON, script, folder, *texts], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return folder


def servers(model: Path) -> list[psutil.Process]:
    """Processes that serve the model."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if str(model) in command and "api_server" in command:
            found.append(process)
    return found


def gone(model: Path, seconds: float = 40) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not servers(model):
            return True
        time.sleep(0.2)
    return False


def test_the_flow_through_vllm(tmp_path: Path, model: Path, write_recipe: Callable[..., Path]) -> None:
    # Random weights would go on for long before they close a quotation mark.
    quote = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]['"']
    llm = {**ON_CPU, "model": str(model), "extra": {"logit_bias": {str(quote): 3.0}}}
    recipe = write_recipe(llm=llm, tasks=TASKS, samples_per_utterance="all")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(out), "--workers", "2"]
    command += ["--limit", str(UTTERANCES)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=540)
    assert not servers(model), "vLLM was left running"

    dataset = inspect.load(out)
    kept, rejected = rows(out, dataset)
    assert dataset.rows_in == len(kept) + len(rejected)
    tokens = dataset.tokens["tiny-llama"]
    assert tokens.requests >= UTTERANCES * 4
    assert tokens.completion > 0
    assert tokens.prompt > tokens.requests * 20
    by_task = {task: [s for s in kept + rejected if s.task == task] for task in TASKS}
    per_task = {task: len({s.utterances[0].id for s in found}) for task, found in by_task.items()}
    assert per_task == dict.fromkeys(TASKS, UTTERANCES)

    # Random weights fill the structure with noise, but the structure is there: guided decoding worked.
    assert Counter(s.rejected for s in by_task["sentiment"]) == {None: UTTERANCES}
    assert len({s.answer for s in by_task["sentiment"]}) > 1
    for task, reply in (("question_answer", QuestionAnswers), ("multiple_choice", MultipleChoice)):
        reasons = Counter(s.rejected for s in by_task[task])
        assert not reasons["reply_breaks_schema"]
        whole = [s for s in by_task[task] if s.rejected not in ("reply_truncated", "reply_not_json", "reply_empty")]
        for sample in whole:
            reply.model_validate_json(sample.provenance.reply)
        assert len(whole) >= UTTERANCES // 2, reasons

    before = {p: p.stat().st_mtime_ns for p in out.rglob("shard-*")}
    again = subprocess.run(command, check=True, cwd=ROOT, timeout=240, capture_output=True, text=True)
    assert "were finished before this run" in again.stdout
    assert "starting" not in again.stderr, "vLLM was started though nothing is to be asked"
    assert {p: p.stat().st_mtime_ns for p in out.rglob("shard-*")} == before


def test_tool_queries_through_vllm(tmp_path: Path, model: Path) -> None:
    """Both requests with their structures; what random weights say is found to be no request for the calls."""
    quote = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]['"']
    recipe = {
        "name": "queries",
        "corpora": [
            {"reader": "tool_queries", "path": str(ROOT / "data/tools/home.json"), "queries": 10, "languages": ["en"]}
        ],
        "llm": {**ON_CPU, "model": str(model), "extra": {"logit_bias": {str(quote): 4.0}}},
        "tts": {"engine": "espeak"},
        "tasks": {"tool_call": {"most_tokens": 1000}},
    }
    path, out = tmp_path / "queries.yaml", tmp_path / "out"
    path.write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "pipeline.cli", "build", str(path), "--out", str(out), "--workers", "1"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=540)
    assert not servers(model), "vLLM was left running"
    kept, rejected = rows(out, inspect.load(out))
    assert len({s.utterances[0].id for s in kept + rejected}) == 10
    reasons = Counter(s.rejected for s in kept + rejected)
    whole = [s for s in kept + rejected if s.provenance.reply.strip().endswith("}")]
    for sample in whole:
        ToolQuery.model_validate_json(sample.provenance.reply)
    assert len(whole) >= 5, reasons
    checked = [s for s in whole if s.situation and s.situation != "no_tools"]
    assert any(s.provenance.attempts > 1 for s in checked), "the second request was sent"
    assert not any(s.outcome == "tool_call" for s in kept), "noise asks for no call"


def test_vllm_dies_with_its_run(tmp_path: Path, model: Path) -> None:
    """Also when the run is killed with SIGKILL, and can tidy up nothing."""
    script = (
        "import json, sys, time; from pathlib import Path; from pipeline.llm.vllm import VLLM\n"
        "engine = VLLM.model_validate(json.loads(sys.argv[2]))\n"
        "with engine.serving(Path(sys.argv[1])) as urls:\n"
        "    print(urls[0], flush=True); time.sleep(600)\n"
    )
    options = json.dumps({key: value for key, value in ON_CPU.items() if key != "engine"} | {"model": str(model)})
    command = [sys.executable, "-c", script, str(tmp_path), options]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline().startswith("http://127.0.0.1:")
    assert servers(model)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert gone(model), "vLLM outlived its run"


def test_vllm_that_is_killed_costs_only_what_was_under_way(
    tmp_path: Path, model: Path, write_recipe: Callable[..., Path]
) -> None:
    """The run says so and ends; the same command asks for nothing again that is remembered."""
    llm = {**ON_CPU, "model": str(model), "concurrency": 2}
    tasks = {"reply": {"most_tokens": 32}, "sentiment": {"most_tokens": 64}}
    recipe = write_recipe(llm=llm, tasks=tasks, samples_per_utterance="all")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(out), "--workers", "1"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while len(remembered(out)) < 6 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    engines: list[psutil.Process] = []
    for server in servers(model):
        if not any("_keeper" in part for part in server.cmdline()):
            engines += server.children(recursive=True)
            server.kill()
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1, errors
    assert "ll replies so far are remembered" in " ".join(errors.split())
    assert "Traceback" not in errors
    known = remembered(out)
    assert gone(model)
    assert engines
    assert not psutil.wait_procs(engines, timeout=20)[1], "what a killed server has started holds the GPU's memory"

    again = subprocess.run(command, cwd=ROOT, timeout=540, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    dataset = inspect.load(out)
    kept, rejected = rows(out, dataset)
    assert dataset.rows_in == len(kept) + len(rejected) == len({s.id for s in kept + rejected}) == 24 * 2
    assert known < remembered(out)
    told = re.search(r"(\d+) asked for now, (\d+) remembered", " ".join(again.stdout.split()))
    assert told is not None
    assert int(told[1]) == len(remembered(out) - known), "what is remembered is not asked for again"


def test_what_vllm_says_when_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    engine = VLLM(model=str(tmp_path / "empty"), executable=str(PYTHON), environment={"HF_HUB_OFFLINE": "1"})
    with pytest.raises(EndpointError, match="before it was healthy") as caught, engine.serving(tmp_path):
        pass
    assert "vllm.log" in str(caught.value)
    assert "Traceback" in str(caught.value) or "Error" in str(caught.value)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    engine = VLLM(model="x", executable="no-such-vllm")
    with pytest.raises(EndpointError, match="make vllm"), engine.serving(tmp_path):
        pass
    assert not (tmp_path / shards.BUILD).exists()
