"""The loop: what a stage trains and nothing else, losses that weigh tokens alike, and errors that name rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.model import load
from pipeline.model.base import ModelError, RowError
from pipeline.train import curriculum, hearing
from pipeline.train.batches import plan
from pipeline.train.checkpoints import Mark
from pipeline.train.curriculum import share_of_rate
from pipeline.train.encoded import Heard
from pipeline.train.engine import Engine, TrainingError, memory_named
from pipeline.train.events import Silent
from pipeline.train.index import Index
from pipeline.train.loader import Pass, read
from pipeline.train.rows import Rows
from schemas.training import StageSpec, TrainingRecipe
from tests.train.running import Told, engine_of, run

Recipes = Callable[..., TrainingRecipe]


def stage(name: str, *trains: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "trains": list(trains), "steps": 2, "warmup": 1, "learning_rate": 1e-3} | options


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {n: hashlib.sha256(t.detach().float().numpy().tobytes()).hexdigest() for n, t in tensors.items()}


def passes(
    engine: Engine, rows: Rows, index: Index, *, teacher: bool = False, encoded: Heard | None = None, **batches: Any
) -> list[Pass]:
    """The first epoch of the stage, in one piece."""
    spec = engine.recipe.batches.model_copy(update=batches)
    epoch = plan(index, spec, seed=0, stage="x", epoch=0)
    numbers = range(len(epoch.starts) - 1)
    made = [read(rows, epoch, number, engine.speech_lm, teacher=teacher, encoded=encoded) for number in numbers]
    return [one for one in made if one.batch is not None]


@pytest.mark.parametrize(
    "trains", [("adapter",), ("lora",), ("adapter", "encoder_lora"), ("encoder",), ("adapter", "llm")]
)
def test_a_stage_trains_its_parts_and_nothing_else(training_recipe: Recipes, trains: tuple[str, ...]) -> None:
    # Another stage trains what this one does not: it has to wait.
    recipe = training_recipe({"stages": [stage("one", *trains), stage("other", "adapter", "lora", "encoder_lora")]})
    engine, rows, index = engine_of(recipe)
    lm = engine.speech_lm
    engine.begin(0, 2)
    before = digests(dict(lm.model.named_parameters()))
    some = passes(engine, rows, index)[:2]
    for step in range(2):
        engine.step(some, sum(int(one.batch.targets.sum()) for one in some if one.batch), step)
    after = digests(dict(lm.model.named_parameters()))
    wanted = set(curriculum.parameters(lm, trains))  # type: ignore[arg-type]
    assert wanted
    assert {name for name, p in lm.model.named_parameters() if p.requires_grad} == wanted
    changed = {name for name in before if before[name] != after[name]}
    # A weight whose gradient is zero by construction stays: the first LoRA step moves B alone.
    assert changed <= wanted
    assert {part for part in trains if any(n in changed for n, _ in lm.named(part))} == set(trains)  # type: ignore[arg-type]


def test_the_teacher_never_moves(training_recipe: Recipes) -> None:
    distils = {"cross_entropy": 0.0, "distillation": 1.0}
    recipe = training_recipe({"stages": [stage("all", "adapter", "lora", loss=distils, learning_rate=1e-2, steps=6)]})
    engine, rows, index = engine_of(recipe)
    engine.begin(0, 6)
    some = passes(engine, rows, index, teacher=True)[:1]
    work = engine.work(some[0])

    def taught() -> Tensor:
        found = engine.learner._teacher(work)
        assert found is not None
        return torch.log_softmax(found.head(found.states), -1)

    assert work.read is not None
    before, asleep = taught(), engine.speech_lm.states(work.read).detach()
    found = [engine.step(some, int(work.batch.targets.sum()), step).losses["distillation"] for step in range(6)]
    assert found[-1] < found[0]
    assert not torch.equal(engine.speech_lm.states(work.read), asleep)  # the student reads otherwise now
    assert torch.equal(taught(), before)


def test_tokens_weigh_alike_however_rows_are_put_together(training_recipe: Recipes) -> None:
    engine, rows, index = engine_of(training_recipe())
    found = []
    for tokens in (100, 1000):
        trained = engine.begin(0, 2)
        some = passes(engine, rows, index, tokens=tokens, per_step=1)
        engine.gradients(some, int(index.targets.sum()), 0)
        found.append((len(some), {name: p.grad for name, p in trained.parameters.items()}))
    (many, one), (few, other) = found
    assert many > 3 * few
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_a_run_tells_what_it_does(training_recipe: Recipes, tmp_path: Path) -> None:
    recipe = training_recipe(
        {
            "stages": [
                stage("adapter", "adapter", tasks={"transcription": 1}, steps=4),
                stage("all", "adapter", "lora", epochs=1.0, steps=None, loss={"distillation": 0.5}),
            ]
        }
    )
    told = Told()
    outcome = run(recipe, tmp_path, told)
    first, second = told.stages
    assert [e.overall for e in told.steps] == list(range(1, outcome.steps + 1))
    assert (first.steps, first.step, second.overall, second.steps) == (4, 0, 4, outcome.steps - 4)
    assert sum(e.rows for e in told.steps if e.stage == "all") in range(30, 44)  # an epoch, validation rows left out
    assert all(0 < e.tokens < e.positions and e.padding < 0.5 and e.memory > 2**20 for e in told.steps)
    assert "distillation" not in told.steps[0].losses
    assert told.steps[-1].losses["distillation"] > 0
    assert [(e.stage, e.step, e.figure) for e in told.validations[:2]] == [("adapter", 2, "wer"), ("adapter", 4, "wer")]
    assert told.validations[-1].figure == "correct"
    assert all({"loss", "cross_entropy", "distillation"} == e.losses.keys() for e in told.validations)
    assert {e.task for e in told.samples if e.stage == "adapter"} == {"transcription"}
    assert len(told.samples) == 2 * len(told.validations)
    again = Told()
    assert run(recipe, tmp_path, again).steps == outcome.steps
    assert not again.steps  # it was finished
    saved = {name: p for part in ("adapter", "lora") for name, p in load(str(outcome.model)).named(part)}  # type: ignore[arg-type]
    best = max((e for e in told.validations if e.better), key=lambda e: e.overall)
    weights = load_file(tmp_path / "checkpoints" / f"step-{best.overall:08d}" / "weights.safetensors")
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("options", "steps"), [({"patience": 1}, 4), ({"until": 100.0}, 2)])
def test_a_stage_ends_by_its_figure(
    training_recipe: Recipes, tmp_path: Path, options: dict[str, Any], steps: int
) -> None:
    # What it learns at this rate makes nothing better.
    lr = 1e-30 if "patience" in options else 1e-3
    recipe = training_recipe(
        {"stages": [stage("adapter", "adapter", steps=8, learning_rate=lr, tasks={"transcription": 1}, **options)]}
    )
    told = Told()
    outcome = run(recipe, tmp_path, told)
    (ended,) = outcome.stages
    assert ended.steps == steps == len(told.steps)
    assert ("nothing better" if "patience" in options else "as good as `until` asks") in ended.why


def test_a_loss_that_is_no_number_names_the_rows(training_recipe: Recipes) -> None:
    engine, rows, index = engine_of(training_recipe())
    trained = engine.begin(0, 2)
    some = passes(engine, rows, index)[:2]
    tokens = sum(int(one.batch.targets.sum()) for one in some if one.batch)
    first = next(iter(trained.parameters.values()))
    kept = {name: p.detach().clone() for name, p in trained.parameters.items()}
    assert some[1].batch is not None
    some[1].batch.sounds["waveforms"][0, :] = torch.nan
    with pytest.raises(TrainingError) as error:
        engine.step(some, tokens, 0)
    message = str(error.value)
    assert "step 1 of the stage 'adapter'" in message
    assert "learning_rate" in message
    assert all(str(rows.identity(int(row))) in message for row in some[1].rows[:8])
    assert str(rows.identity(int(some[0].rows[0]))) not in message
    assert all(torch.equal(kept[name], p) for name, p in trained.parameters.items())
    assert first.grad is not None


def test_no_free_memory_says_what_it_was_for() -> None:
    with (
        pytest.raises(TrainingError, match=r"no free memory for a pass of 9 rows. Cure: lower `batches.tokens`"),
        memory_named("a pass of 9 rows", "lower `batches.tokens`"),
    ):
        torch.empty(2**50, dtype=torch.float32)


def test_what_cannot_be_trained_is_refused(training_recipe: Recipes, tmp_path: Path) -> None:
    distils = {"distillation": 1.0}
    recipe = training_recipe({"stages": [stage("one", "llm"), stage("two", "adapter", loss=distils)]})
    with pytest.raises(ModelError, match="'two' distils from the LLM, which `llm` in `trains` has changed"):
        engine_of(recipe)
    recipe = training_recipe({"validation": {"share": 0.2, "rows": 8, "decode": 2, "figure": "wer"}})
    recipe = recipe.model_copy(update={"stages": [StageSpec(**stage("one", "adapter", tasks={"repeat": 1.0}))]})
    with pytest.raises(RowError, match="none of the 2 rows that are decoded gives"):
        run(recipe, tmp_path)


VARIANTS: dict[str, tuple[dict[str, Any], float]] = {
    "gradient_checkpointing": ({"gradient_checkpointing": True}, 0.0),
    "packing": ({"batches": {"packing": True}}, 1e-4),
    "cache_encoder": ({"batches": {"cache_encoder": True}}, 1e-2),
    "bf16": ({"precision": "bf16"}, 5e-2),
}


def test_variants_compute_the_same(training_recipe: Recipes, tmp_path: Path) -> None:
    """Gradients of all rows; what differs is only the order of sums, or the bits of what is kept."""
    batches = training_recipe().batches.model_dump()

    def gradients(changes: dict[str, Any]) -> tuple[float, Tensor]:
        both = {"stages": [stage("all", "adapter", "lora", loss={"distillation": 0.5})]}
        recipe = training_recipe(both | changes | {"batches": batches | changes.get("batches", {})})
        engine, rows, index = engine_of(recipe)
        heard = hearing.kept(engine, rows, np.arange(len(rows)), 0.0, tmp_path, Silent(), tmp_path)
        assert (heard is not None) == (recipe.batches.cache_encoder is True)
        trained = engine.begin(0, 2)
        some = passes(engine, rows, index, teacher=True, encoded=heard)
        found = engine.gradients(some, int(index.targets.sum()), 0)
        flat = torch.cat([p.grad.flatten() for p in trained.parameters.values() if p.grad is not None])
        return float(torch.stack(found).sum(0)[0]), flat

    loss, wanted = gradients({})
    for name, (changes, tolerance) in VARIANTS.items():
        other, found = gradients(changes)
        assert other == pytest.approx(loss, rel=tolerance), name
        assert (found - wanted).norm() <= tolerance * wanted.norm(), name


def test_lora_that_waits_is_off_in_backward_passes_too(training_recipe: Recipes) -> None:
    """They compute forward ones again, where activations are not kept."""
    found = []
    for kept in (True, False):
        stages = [stage("adapter", "adapter"), stage("all", "adapter", "lora")]
        engine, rows, index = engine_of(training_recipe({"stages": stages, "gradient_checkpointing": not kept}))
        trained = engine.begin(0, 2)
        engine.gradients(passes(engine, rows, index)[:1], 1, 0)
        found.append({name: p.grad for name, p in trained.parameters.items()})
        engine.begin(1, 2)
        engine.gradients(passes(engine, rows, index)[:1], 1, 0)
        assert all(p.grad is not None for _, p in engine.speech_lm.named("lora"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_learning_rate_rises_and_falls() -> None:
    def rates(schedule: str) -> list[float]:
        spec = StageSpec(name="s", trains=["adapter"], steps=8, warmup=4, schedule=schedule)  # type: ignore[arg-type]
        return [round(share_of_rate(spec, step, 8), 4) for step in range(8)]

    assert rates("linear") == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates("cosine") == [0.25, 0.5, 0.75, 1.0, 1.0, 0.8536, 0.5, 0.1464]
    assert rates("constant") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_figures_decide_before_losses() -> None:
    better = Mark(4, "wer", 0.2, loss=3.0)
    assert better.better_than(Mark(2, "wer", 0.3, loss=1.0))
    assert Mark(6, "wer", 0.2, loss=2.9).better_than(better)
    assert not Mark(6, "wer", 0.2, loss=3.0).better_than(better)
    assert Mark(2, "correct", 0.9, 1.0).better_than(Mark(1, "correct", 0.8, 1.0))
    assert Mark(2, "correct", 0.9, 1.0).reaches(0.9)
    assert not Mark(2, "wer", 0.9, 1.0).reaches(0.1)
