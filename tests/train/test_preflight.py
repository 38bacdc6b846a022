"""The preflight tries the largest of everything, foretells, lets a wrong run die, and leaves the model as it was."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.model import tiny
from pipeline.model.base import ModelError, RowError
from pipeline.recipes import RecipeError
from pipeline.shards import DiskError
from pipeline.train import forecast, preflight
from pipeline.train.engine import Engine, TrainingError
from pipeline.train.run import Run
from pipeline.train.setup import prepare
from schemas.training import TrainingRecipe

Recipe = Callable[..., TrainingRecipe]
Made = Callable[..., Run]

STAGES: list[dict[str, Any]] = [
    {"name": "adapter", "trains": ["adapter"], "tasks": {"transcription": 1}, "steps": 8, "warmup": 2},
    {"name": "all", "trains": ["adapter", "lora"], "epochs": 2, "warmup": 1, "loss": {"distillation": 0.5}},
]


@pytest.fixture
def made(training_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A run of two stages; keywords replace keys of its recipe."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(**changes: Any) -> Run:
        recipe = training_recipe({"stages": STAGES} | changes)
        with open(tmp_path / "recipe.yaml", "w") as stream:
            YAML().dump(recipe.model_dump(mode="json"), stream)
        return Run.prepare(prepare(str(tmp_path / "recipe.yaml")), tmp_path / "run")

    return make


def digest(run: Run) -> str:
    """Of all that the model holds, and of the random state."""
    state = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
    for name, tensor in sorted(run.engine.speech_lm.model.state_dict().items()):
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def test_it_tries_the_largest_and_leaves_no_trace(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made()
    tried: list[int] = []
    gradients = Engine.gradients

    def counted(self: Engine, passes: Any, tokens: int, step: int) -> Any:
        tried.append(int(passes[0].batch.ids.numel()))
        return gradients(self, passes, tokens, step)

    monkeypatch.setattr(Engine, "gradients", counted)
    before = digest(run)
    found = preflight.check(run)
    assert digest(run) == before
    assert not any(p.grad is not None for p in run.engine.speech_lm.model.parameters())
    for spec, stage in zip(run.engine.recipe.stages, found.stages, strict=True):
        plan = run.course.plan(spec, 0)
        assert max(tried) >= plan.shapes["padded_positions"].max()
        assert stage.steps == (8 if spec.steps else 2 * len(plan))
        assert stage.seconds > stage.steps * stage.step_seconds > 0
        assert stage.validation_seconds > 0
    assert found.stages[0].trains.keys() == {"adapter"}
    assert found.stages[1].trains.keys() == {"adapter", "lora"}
    assert found.stages[0].rows < found.stages[1].rows
    assert 2**27 < found.memory < found.memory_there
    assert 0 < found.disk < found.disk_free


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """Within, the process can have only so many bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_too_little_memory_says_what_to_lower_and_to_what(made: Made) -> None:
    run = made(batches={"tokens": 60_000, "seconds": 4000.0, "workers": 0})
    rows = np.repeat(np.arange(len(run.index)), 60)[:256]  # more than fit
    plan = run.course.plan(run.engine.recipe.stages[0], 0)
    large = type(plan)(run.index, rows, np.array([0, len(rows)]), 1, False)
    run.engine.begin(0, 8)
    with little_memory(2**27), pytest.raises(TrainingError) as caught:
        preflight._try(run, large, 0, run.engine.recipe.stages[0])
    message = str(caught.value)
    assert "no free memory for step 1 of the stage 'adapter': 256 rows" in message
    assert "of these 256 rows fit: set `batches.tokens: " in message
    advised = int(message.split("`batches.tokens: ")[1].split("`")[0])
    assert 100 < advised < 30_000


def test_too_little_disk(made: Made) -> None:
    run = made(checkpoints={"every": 2, "best": 10**8})
    with pytest.raises(DiskError, match=r"GB are needed .* are free: free some space, lower `checkpoints.best`"):
        preflight.check(run)


WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("a task", {"stages": [STAGES[1], STAGES[0] | {"tasks": {"spell": 1}}]}, RecipeError, "no row of the data"),
    ("LoRA targets", {"lora": {"targets": ["q_prj"]}}, ModelError, "q_prj"),
    ("long rows", {"batches": {"longest": 20, "workers": 0}}, RowError, "at most 20 are allowed"),
    ("warm-up", {"stages": [STAGES[1] | {"warmup": 900}]}, RecipeError, r"stages\.0\.warmup: 900 steps of warm-up"),
    ("nothing left", {"validation": {"share": 0.9999}}, RowError, "leaves no row to train on"),
    ("nothing to validate", {"validation": {"share": 0.2, "figure": "correct"}}, RowError, "validation.figure"),
]


@pytest.mark.parametrize(("changes", "kind", "said"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_recipe_dies_here(made: Made, changes: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        preflight.check(made(**changes))


def test_an_llm_without_a_chat_template_dies_here(made: Made, bases: Path, tmp_path: Path) -> None:
    tiny.llm(tmp_path / "mute", ["words"])
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    spec = {"encoders": [str(bases / "whisper")], "adapter": {"kind": "stack"}, "llm": str(tmp_path / "mute")}
    with pytest.raises(ModelError, match="has no chat template: take a model"):
        made(model=spec)


def test_figures_for_people() -> None:
    assert [forecast.duration(s) for s in (50, 200, 9000, 300000)] == ["50 s", "3.3 min", "2.5 h", "3.5 days"]
    assert [forecast.count(n) for n in (5, 38_912, 1_234_567, 8_190_000_000)] == ["5", "38.9k", "1.23M", "8.19B"]
    assert [preflight._round(v) for v in (8191.0, 16.7, 5.2, 0.3)] == [8100, 16, 5, 1]


def test_fewer_batches_than_a_step_takes(made: Made) -> None:
    run = made(batches={"tokens": 100_000, "seconds": 1e6, "per_step": 4, "workers": 0})
    assert len(preflight.check(run).stages) == 2
