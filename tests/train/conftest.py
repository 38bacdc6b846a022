"""What the tests of the trainer share.

`dataset`          a finished dataset folder: 48 short sentences spoken by espeak, some 2 s each, most of them in
                   `train`, each row a transcription or a `repeat` task.
`bases`            a folder with a tiny Whisper encoder in `whisper/` and a tiny Qwen2 in `qwen2/`, its tokenizer
                   trained on the sentences.
`training_recipe`  a function: overrides of the top keys -> a `TrainingRecipe` on them, of one stage of 4 steps in fp32
                   that trains the adapter; `training_recipe({"seed": 3, "batches": {"tokens": 256}})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from schemas.training import TrainingRecipe
from tests.building import build

torch.set_num_threads(1)  # tests run beside each other; and sums of several threads need not be the same twice

THINGS = ("the lamp", "a kettle", "the radio", "my window", "the door", "our heater", "a candle", "the garden")
SAID = ("Switch on {}.", "Please fix {}.", "Where is {} now?")
SENTENCES = [phrase.format(thing) for thing in THINGS for phrase in SAID]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See the top."""
    folder = tmp_path_factory.mktemp("spoken")
    (folder / "short.en.txt").write_text("\n".join(SENTENCES))
    recipe = {
        "name": "short",
        "corpora": [
            {"reader": "sentences", "name": "short", "path": "short.en.txt", "voices": 2, "licence": "CC0-1.0"},
        ],
        "tts": {"engine": "espeak"},
        "tasks": {"transcription": None, "repeat": None},
        "split": {"test": 0.2},
        "shards": {"utterances": 24},
    }
    with open(folder / "short.yaml", "w") as stream:
        YAML().dump(recipe, stream)
    build(folder / "short.yaml", folder / "dataset")
    return folder / "dataset"


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See the top."""
    from pipeline.model import tiny

    folder = tmp_path_factory.mktemp("bases")
    tiny.encoder(folder / "whisper", "whisper")
    tiny.llm(folder / "qwen2", SENTENCES * 4)
    return folder


@pytest.fixture(scope="session")
def training_recipe(dataset: Path, bases: Path) -> Callable[..., TrainingRecipe]:
    """See the top."""

    def make(changes: Mapping[str, Any] | None = None) -> TrainingRecipe:
        recipe: dict[str, Any] = {
            "name": "tiny",
            "data": [{"path": str(dataset)}],
            "model": {
                "encoders": [str(bases / "whisper")],
                "adapter": {"kind": "stack"},
                "llm": str(bases / "qwen2"),
            },
            "lora": {"rank": 4, "alpha": 8.0},
            "stages": [{"name": "adapter", "trains": ["adapter"], "steps": 4, "warmup": 1, "learning_rate": 1e-3}],
            "batches": {"tokens": 512, "seconds": 30.0, "per_step": 2, "workers": 0, "cache_encoder": False},
            "validation": {"share": 0.2, "every": 2, "rows": 8, "decode": 2, "most_tokens": 8},
            "checkpoints": {"every": 2},
            "precision": "fp32",
        }
        recipe.update(changes or {})
        return TrainingRecipe.model_validate(recipe)

    return make
