"""The overfit gate opens for a model that listens, and stays shut for each of those that do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.audio import samples_of
from pipeline.model.adapters.stack import Stack
from pipeline.model.base import Batch
from pipeline.model.speech_lm import Composed
from pipeline.train import overfit
from pipeline.train.gate import LOSS, Gate
from pipeline.train.rows import DataError, Rows
from schemas.training import TrainingRecipe

Recipe = Callable[..., TrainingRecipe]


@pytest.fixture(scope="module")
def recipe(training_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> TrainingRecipe:
    """Bases of random weights, so the LLM is trained, too."""
    from pipeline.model import tiny

    folder = tiny.encoder(tmp_path_factory.mktemp("ears"), "wav2vec2", hidden=32)
    made = training_recipe(
        {
            "stages": [{"name": "all", "trains": ["adapter", "llm"], "learning_rate": 3e-3, "warmup": 2, "steps": 9}],
            "lora": None,
        }
    )
    return made.model_copy(update={"model": made.model.model_copy(update={"encoders": [str(folder)]})})


def gate(recipe: TrainingRecipe, tmp_path: Path, rows: int = 6, steps: int = 60) -> Gate:
    torch.set_num_threads(1)
    return overfit.run(recipe, tmp_path, rows=rows, steps=steps)


def test_who_listens_passes(recipe: TrainingRecipe, tmp_path: Path) -> None:
    found = gate(recipe, tmp_path)
    assert found.passed, found.hint
    assert found.loss < LOSS
    assert found.exact == found.rows == 6
    assert found.shuffled_exact == 0
    assert found.shuffled_loss > 0.5
    # Without the sound it is known which sentences there are, but not which it is: log(6) nats an answer.
    assert found.control_loss > 0.5 * math.log(6) / max(len(r.encode()) for r, _ in found.answers)
    assert not found.hint


def test_the_deaf_do_not(recipe: TrainingRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hears = Stack.forward

    def deaf(self: Stack, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        tokens, sizes = hears(self, frames, lengths)
        return tokens.mean(dim=(0, 1), keepdim=True).expand_as(tokens), sizes

    monkeypatch.setattr(Stack, "forward", deaf)
    found = gate(recipe, tmp_path, rows=4, steps=20)
    assert not found.passed
    assert found.exact < found.rows
    assert "the sound is ignored" in found.hint


def test_those_who_peek_do_not(recipe: TrainingRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Composed.states

    def peeks(self: Composed, batch: Batch) -> Tensor:
        after = torch.roll(batch.ids, -1, dims=1).clamp(max=self.model.config.text_config.vocab_size - 1)
        return honest(self, batch) + 20 * self.model.get_input_embeddings()(after)

    monkeypatch.setattr(Composed, "states", peeks)
    found = gate(recipe, tmp_path, rows=4, steps=20)
    assert not found.passed
    assert found.loss < LOSS
    assert found.control_loss < LOSS
    assert "training sees what it is to say" in found.hint


def made(**changes: Any) -> Gate:
    good = {
        "rows": 16,
        "steps": 30,
        "seconds": 1.0,
        "loss": 0.005,
        "exact": 16,
        "shuffled_loss": 2.0,
        "shuffled_exact": 0,
        "control_loss": 0.2,
        "control_exact": 1,
        "gradient": 1.0,
        "answers": (),
    }
    return Gate(**(good | changes))


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"gradient": 0.0, "loss": 0.2, "exact": 1}, "no gradient reaches the adapter"),
        ({"shuffled_exact": 1}, "something but the sound gives them away"),
        ({"control_loss": 0.001}, "something but the sound gives them away"),
        ({"control_exact": 9}, "something but the sound gives them away"),
        ({"exact": 15}, "decoding says something else"),
        ({"loss": 0.19, "exact": 1, "shuffled_loss": 0.19}, "the sound is ignored"),
        ({"loss": 0.05, "exact": 12}, "too slowly"),
    ],
)
def test_hints(changes: dict[str, Any], hint: str) -> None:
    assert made().passed
    assert not made(**changes).passed
    assert hint in made(**changes).hint


def test_all_rows_ask_the_same_and_differ_in_what_is_said(dataset: Path) -> None:
    chosen = overfit.choose(Rows([dataset]), 12)
    assert len({sample.messages[0].content for sample in chosen}) == 1
    assert len({sample.response for sample in chosen}) == 12
    assert all(sample.response == sample.utterances[0].transcript for sample in chosen)
    lengths = {len(samples_of(u.audio)) for sample in chosen for u in sample.utterances if u.audio}
    assert len(lengths) == 1  # or the length would tell them apart


def test_too_few_rows_are_told_of(dataset: Path) -> None:
    with pytest.raises(DataError, match=r"\d+ of the first .* 500 are needed: give another dataset, or fewer --rows"):
        overfit.choose(Rows([dataset]), 500)
