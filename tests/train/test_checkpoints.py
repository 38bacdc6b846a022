"""Checkpoints: whole or not there, of this recipe or refused; and a run that dies ends as one that does not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.train.checkpoints import CheckpointError, Checkpoints, Mark, Progress
from schemas.training import TrainingRecipe
from tests.conftest import ROOT
from tests.killing import die_at
from tests.train.running import Died, Told, run

Recipes = Callable[..., TrainingRecipe]


def curriculum(training_recipe: Recipes, **changes: Any) -> TrainingRecipe:
    """Two stages with dropout, across epochs, validations and checkpoints at odd steps."""
    common = {"warmup": 1, "learning_rate": 1e-3}
    return training_recipe(
        {
            "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.2},
            "stages": [
                {"name": "adapter", "trains": ["adapter"], "steps": 5, "tasks": {"transcription": 1}, **common},
                {"name": "all", "trains": ["adapter", "lora"], "epochs": 2.0, "loss": {"distillation": 0.5}, **common},
            ],
            "validation": {"share": 0.2, "every": 3, "rows": 8, "decode": 2, "most_tokens": 8},
            **changes,
        }
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(training_recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """A run that nobody ends."""
    out, told = tmp_path_factory.mktemp("undisturbed"), Told()
    run(curriculum(training_recipe), out, told)
    return out, told


def figures(told: Told) -> list[tuple[Any, ...]]:
    return [(e.overall, e.loss, e.gradient_norm, e.rows) for e in told.steps]


def test_killed_at_any_step_it_ends_with_the_same_bytes(
    training_recipe: Recipes, undisturbed: tuple[Path, Told], tmp_path: Path
) -> None:
    wanted, told = undisturbed
    last = told.steps[-1].overall
    assert last > 8
    # In the middle of both stages, right after a checkpoint, at the end of a stage, and at the very end.
    out, seen = tmp_path / "run", {}
    for step in (1, 3, 5, 6, last):
        dying = Told(die_at=step)
        with pytest.raises(Died):
            run(curriculum(training_recipe), out, dying)
        seen |= {row[0]: row for row in figures(dying)}
        assert dying.stages[0].overall <= step
    rest = Told()
    run(curriculum(training_recipe), out, rest)
    assert rest.stages[0].step > 0  # it went on
    assert seen | {row[0]: row for row in figures(rest)} == {row[0]: row for row in figures(told)}
    assert files(out / "model") == files(wanted / "model")
    assert files(out / "checkpoints") == files(wanted / "checkpoints")


def test_a_process_that_is_killed_goes_on(
    training_recipe: Recipes, undisturbed: tuple[Path, Told], tmp_path: Path
) -> None:
    recipe = curriculum(training_recipe)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    command = [sys.executable, "-m", "tests.train.running", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.split() == ["step", "4"]:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    told = Told()
    run(recipe, tmp_path, told)
    assert 0 < told.stages[0].step <= 5
    assert files(tmp_path / "model") == files(undisturbed[0] / "model")


def test_a_damaged_checkpoint_is_passed_over_and_told_of(
    training_recipe: Recipes, undisturbed: tuple[Path, Told], tmp_path: Path
) -> None:
    recipe, last = curriculum(training_recipe), undisturbed[1].steps[-1].overall
    shutil.copytree(undisturbed[0] / "checkpoints", tmp_path / "checkpoints")
    weights = tmp_path / "checkpoints" / f"step-{last:08d}" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1  # one bit of one weight
    weights.write_bytes(content)
    told = Told()
    run(recipe, tmp_path, told)
    assert "damaged" in told.notes[0]
    assert str(weights.parent) in told.notes[0]
    assert 0 < len(told.steps) < last
    assert files(tmp_path / "model") == files(undisturbed[0] / "model")


def test_another_recipe_is_refused_by_what_differs(
    training_recipe: Recipes, undisturbed: tuple[Path, Told], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed[0] / "checkpoints", tmp_path / "checkpoints")
    other = curriculum(training_recipe, seed=3)
    with pytest.raises(CheckpointError, match=r"is of another recipe; these differ: seed was 0 and is 3\. Give"):
        run(other, tmp_path)


def some(seed: int = 0) -> dict[str, Tensor]:
    return {"a.weight": torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))}


def test_only_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {}, {"seed": 0}, best=2)
    progress = Progress()
    for overall, value in enumerate([0.5, 0.2, 0.9, 0.3, 0.8, 0.7], 1):
        stepped = Progress(0, overall, overall, best=progress.best)
        progress = stepped.judged(Mark(overall, "wer", value, 1.0))
        kept.save(progress, some(overall), {})
    assert [c.progress.overall for c in kept] == [6, 5, 4, 2]
    assert kept.best(0).progress.overall == 2
    assert torch.equal(kept.best(0).weights()["a.weight"], some(2)["a.weight"])
    kept.save(Progress(1, 1, 7), some(7), {})
    kept.save(Progress(1, 2, 8), some(8), {})
    # The stage before is over, and nothing will ask for it again.
    assert [c.progress.overall for c in kept] == [8, 7]
    assert kept.best(1).progress.overall == 8  # without validations the last


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    """Dies before each system call that saving makes."""
    for step in range(1, 100):
        kept = Checkpoints(tmp_path / str(step), {}, {}, best=1)
        kept.save(Progress(0, 1, 1), some(1), {"exp_avg/a.weight": torch.ones(2)})
        child = os.fork()
        if not child:
            try:
                die_at(step)
                kept.save(Progress(0, 2, 2), some(2), {})
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        found = kept.newest(told=pytest.fail)
        assert found is not None
        assert torch.equal(found.weights()["a.weight"], some(found.progress.overall)["a.weight"])
        kept.save(Progress(0, 2, 2), some(2), {})
        assert not [p for p in kept.folder.iterdir() if p.name.startswith(".")]
        if not os.WIFSIGNALED(status):
            break
    assert step > 5


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few bytes."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_disk_that_is_full_is_told_of(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(OSError, match=r"step-00000001"):
        Checkpoints(tmp_path, {}, {}, best=1).save(Progress(0, 1, 1), some(), {})
    assert Checkpoints(tmp_path, {}, {}, best=1).newest(told=pytest.fail) is None


def test_only_what_trains_is_kept(undisturbed: tuple[Path, Told]) -> None:
    last = max((undisturbed[0] / "checkpoints").iterdir())
    weights = load_file(last / "weights.safetensors")
    assert all(name.startswith("adapter.") or "lora_" in name for name in weights)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    moments = load_file(last / "optimizer.safetensors")
    assert {name.partition("/")[2] for name in moments} == weights.keys()
