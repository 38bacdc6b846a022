"""An exported model served by a real vLLM on the CPU, without code of ours. `make test-vllm`."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import soundfile

from schemas.arrow import SAMPLING_RATE
from schemas.conversation import ToolSpec
from schemas.sample import Sample
from tests.conftest import ROOT

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
STARTUP = 300  # s
ON_CPU = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "DO_NOT_TRACK": "1"}
ARGUMENTS = [
    *("--host", "127.0.0.1", "--served-model-name", "exported", "--max-model-len", "4096", "--dtype", "float32"),
    *("--enforce-eager", "--gpu-memory-utilization", "0.1", "--max-num-seqs", "8", "--max-num-batched-tokens", "8192"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
]
SECONDS = (0.05, 0.33, 1.0, 3.0, 7.77, 30.0, 31.3)
SCHEMA = (
    '{"type": "object", "properties": {"bright": {"type": "boolean"}}, "required": ["bright"], '
    '"additionalProperties": false}'
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM's environment is not there: make test-vllm"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder; what is served is in `exported` beside it."""
    from pipeline.model.export.base import export
    from tests.model.exporting import trained

    folder = trained(tmp_path_factory.mktemp("served"))
    export(str(folder), folder.parent / "exported")
    return folder


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    """Of a server, which is stopped by its id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = model.parent / "vllm.log"
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.parent / "exported")]
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [*command, "--port", str(port), *ARGUMENTS],
            env=os.environ | ON_CPU,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + STARTUP
        while not _healthy(port):
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def ask(address: str, sample: Sample, *, strict: bool = False, **options: Any) -> Any:
    """An OpenAI chat request with the sample's sound as WAV, and its tools; `strict` holds calls to their schema."""
    from tests.model.exporting import ASKED
    from tests.model.tiny_ready import heard

    sound = io.BytesIO()
    soundfile.write(sound, heard(sample), SAMPLING_RATE, format="WAV", subtype="PCM_16")
    audio = {"data": base64.b64encode(sound.getvalue()).decode(), "format": "wav"}
    content = [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": ASKED}]
    functions = [
        {"name": t.name, "description": t.description, "parameters": json.loads(t.parameters)}
        | ({"strict": True} if strict else {})
        for t in sample.tools
    ]
    tools = [{"type": "function", "function": function} for function in functions]
    request = {
        "model": "exported",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 12,
        "return_token_ids": True,
        **({"tools": tools} if tools else {}),
        **options,
    }
    made = urllib.request.Request(address, json.dumps(request).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(made, timeout=120) as reply:
        return json.load(reply)


def test_vllm_says_what_we_say(model: Path, address: str) -> None:
    """Many lengths in one batch; then with tools, which the LLM's template writes; then a call that must come."""
    from pipeline.model import load
    from tests.model.exporting import asked, greedy

    ours: Any = load(str(model))
    samples = [asked(seconds) for seconds in SECONDS]
    with ThreadPoolExecutor(len(samples)) as pool:
        replies = list(pool.map(lambda sample: ask(address, sample), samples))
    prompts = [ours.encode(sample, answer=False).ids.tolist() for sample in samples]
    assert [reply["prompt_token_ids"] for reply in replies] == prompts
    said = [[i for i in reply["choices"][0]["token_ids"] if i not in ours.chat.stops] for reply in replies]
    assert said == greedy(ours, samples)
    assert len({tuple(row) for row in said}) == len(said)

    equipped = asked(1.0, tools=(ToolSpec("lamp_on", "Turns it on.", SCHEMA),))
    reply = ask(address, equipped)
    assert reply["prompt_token_ids"] == ours.encode(equipped, answer=False).ids.tolist()
    assert reply["choices"][0]["token_ids"] == greedy(ours, [equipped])[0]

    named = {"type": "function", "function": {"name": "lamp_on"}}
    # Random weights would write spaces, which JSON allows, for long.
    bias = {str(i): -100 for i in range(len(ours.tokenizer)) if ours.tokenizer.decode([i]).isspace()}
    options = {"tool_choice": named, "max_tokens": 100, "logit_bias": bias}
    message = ask(address, equipped, strict=True, **options)["choices"][0]["message"]
    assert "tool_calls" in message, message
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "lamp_on"
    assert json.loads(call["function"]["arguments"])["bright"] in (True, False)
