"""What the tests of the evaluation share: a tiny model of random weights, and a small dataset of several tasks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline import model as models
from pipeline.model import tiny
from pipeline.model.base import SpeechLM
from pipeline.tools.catalogue import SHIPPED
from schemas.training import ModelSpec
from tests.building import build
from tests.examples import sentences

torch.set_num_threads(1)  # tests run beside each other


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved AudioLM of random weights, with LoRA that changes something."""
    folder = tmp_path_factory.mktemp("evaluated")
    tiny.llm(folder / "llm", sentences("en"), hidden=32, heads=2, longest=2048)
    tiny.encoder(folder / "whisper", hidden=32, layers=1)
    spec = ModelSpec(encoders=[str(folder / "whisper")], llm=str(folder / "llm"), adapter={"kind": "stack"})
    made = models.compose(spec)
    made.add_lora(2, 4.0, 0.0, ["q_proj", "v_proj"])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for name, parameter in made.named("lora"):
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    made.save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def lm(model: Path) -> SpeechLM:
    """The same, loaded."""
    return models.load(str(model))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spoken by espeak, all in `test`: transcription, key words that are said or not, questions about words, and
    requests to one small catalogue."""
    folder = tmp_path_factory.mktemp("questions")
    said = ["Switch on the lamp.", "Please fix a kettle.", "Where is my radio now?", "Close the garden window again."]
    (folder / "short.en.txt").write_text("\n".join(said))
    (folder / "tools").mkdir()
    for name in ("home.json", "home.en.yaml"):
        shutil.copy(SHIPPED / name, folder / "tools" / name)
    recipe = {
        "name": "questions",
        "corpora": [
            {"reader": "sentences", "name": "short", "path": "short.en.txt", "voices": 1, "licence": "CC0-1.0"},
            {"reader": "tool_queries", "name": "tools", "path": "tools", "queries": 6},
        ],
        "tts": {"engine": "espeak"},
        "tasks": {
            "transcription": None,
            "keyword_spotting": None,
            "word_question": None,
            "tool_grammar": {"most_tools": 1},
        },
        "samples_per_utterance": "all",
        "split": {"test": 0.99},
    }
    (folder / "questions.yaml").write_text(json.dumps(recipe))
    build(folder / "questions.yaml", folder / "dataset")
    return folder / "dataset"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
