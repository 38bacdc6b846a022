"""What the tests share: real recordings, small corpora, and a scripted LLM on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.prefect_server import PrefectServer

ROOT = Path(__file__).resolve().parent.parent

# How long something takes is no matter of a test: other work may have the machine.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
SPEECH = ROOT.parent / "shared" / "speech"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Shells start what runs in the background so, and each run that a test interrupts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def speech() -> Path:
    """Real recordings in the layouts that are found in the wild; see its README."""
    if not SPEECH.is_dir():
        pytest.skip("the folder shared/speech with real recordings is not beside the repository")
    return SPEECH


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus; see `make_corpus`."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def make_corpus(folder: Path) -> Path:
    """A small corpus in JSON lines: 24 utterances of 6 speakers, tones with noise, real words."""
    rng = np.random.default_rng(7)
    sentences = (ROOT / "data/text/daily.en.txt").read_text().splitlines()
    with open(folder / "manifest.jsonl", "w") as listing:
        for number in range(24):
            seconds = 1.5 + 0.1 * number
            time_axis = np.arange(int(seconds * 16000)) / 16000
            tone = 0.3 * np.sin(2 * np.pi * (200 + 37 * number) * time_axis * (1 + 0.2 * np.sin(3 * time_axis)))
            bursts = np.repeat(rng.uniform(0.05, 1.0, len(tone) // 1600 + 1), 1600)[: len(tone)]
            sound = tone * bursts + rng.normal(0, 0.003, len(tone))
            soundfile.write(folder / f"{number:02d}.wav", sound, 16000, subtype="PCM_16")
            row = {
                "audio_filepath": f"{number:02d}.wav",
                "text": " ".join(sentences[number].split()[: max(6, int(seconds * 3))]),
                "speaker": f"s{number % 6}",
                "lang": "en",
                "gender": "f" if number % 6 < 3 else "m",
            }
            listing.write(json.dumps(row) + "\n")
    return folder


class LLMServer:
    """A scripted LLM in a process of its own; it outlives the runs that are killed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.record = folder / "served.jsonl"
        self.port = _free_port()
        command = [sys.executable, "-m", "pipeline.llm.scripted", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--record", str(self.record), *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        self.url = f"http://127.0.0.1:{self.port}/v1"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1),
            ):
                return
            time.sleep(0.05)
        raise TimeoutError("the scripted LLM does not answer")

    @property
    def served(self) -> list[bytes]:
        """The bodies of the requests that were answered, in their order."""
        return self.record.read_bytes().splitlines() if self.record.exists() else []

    def stop(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def llm_server(tmp_path: Path) -> Iterator[Callable[..., LLMServer]]:
    """Starts scripted LLMs, and stops them at the end."""
    started: list[LLMServer] = []

    def start(*arguments: str) -> LLMServer:
        folder = tmp_path / f"llm{len(started)}"
        folder.mkdir()
        started.append(LLMServer(folder, *arguments))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server; those who ask for it are in the group `prefect`, so that there is one."""
    from tests.prefect_server import PrefectServer

    server = PrefectServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def prefect(prefect_server: PrefectServer) -> dict[str, str]:
    """The environment of a run with a Prefect server."""
    return prefect_server.env


@pytest.fixture
def write_recipe(tmp_path: Path, corpus: Path) -> Callable[..., Path]:
    """Writes a recipe over the small corpus; keywords replace its keys."""
    from ruamel.yaml import YAML

    def write(name: str = "small", **changes: object) -> Path:
        recipe: dict[str, object] = {
            "name": name,
            "corpora": [{"reader": "jsonl", "name": "tones", "path": str(corpus), "licence": "CC0-1.0"}],
            "tasks": {"transcription": None, "keyword_spotting": None, "word_question": None},
            "split": {"test": 0.3},
            "shards": {"utterances": 5, "rows_per_batch": 4},
        }
        recipe.update(changes)
        path = tmp_path / f"{name}.yaml"
        with open(path, "w") as stream:
            YAML().dump({k: v for k, v in recipe.items() if v is not None}, stream)
        return path

    return write
