"""Several processes: what they learn together is what one learns alone, and one goes on from what they kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.model import load
from schemas.training import TrainingRecipe
from tests.conftest import ROOT
from tests.train.running import Told, run

pytestmark = pytest.mark.long


def recipe_of(training_recipe: Callable[..., TrainingRecipe], sharding: str) -> TrainingRecipe:
    common = {"warmup": 1, "learning_rate": 1e-3}
    return training_recipe(
        {
            "sharding": sharding,
            "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.2},
            "stages": [
                {"name": "adapter", "trains": ["adapter"], "steps": 1, "tasks": {"transcription": 1}, **common},
                {"name": "all", "trains": ["adapter", "lora"], "steps": 3, "loss": {"distillation": 0.5}, **common},
            ],
            "validation": {"share": 0.2, "every": 9, "rows": 8, "decode": 1, "most_tokens": 4},
            "checkpoints": {"every": 1},
        }
    )


def test_processes_learn_together_what_one_learns_alone(
    training_recipe: Callable[..., TrainingRecipe], tmp_path: Path
) -> None:
    alone = Told()
    run(recipe_of(training_recipe, "ddp"), tmp_path / "alone", alone)
    folders = []
    for sharding in ("ddp", "fsdp2"):
        folders.append(tmp_path / sharding)
        folders[-1].mkdir()
        (folders[-1] / "recipe.json").write_text(recipe_of(training_recipe, sharding).model_dump_json())
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.train.running"]
    subprocess.run(
        [sys.executable, *launch, *map(str, folders)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    for folder in folders:
        same(folder / "model", tmp_path / "alone" / "model")

    # From the middle of the last stage, kept by two processes in shards, one process goes on alone.
    middle = tmp_path / "fsdp2" / "checkpoints" / "step-00000003"
    shutil.copytree(middle, tmp_path / "on" / "checkpoints" / middle.name)
    rest = Told()
    run(recipe_of(training_recipe, "fsdp2"), tmp_path / "on", rest)
    assert [e.step for e in rest.steps] == [3]
    assert [e.loss for e in rest.steps] == pytest.approx([e.loss for e in alone.steps[-1:]], rel=1e-4)
    same(tmp_path / "on" / "model", tmp_path / "alone" / "model")


def same(found: Path, wanted: Path) -> None:
    """Two saved models, but for the order of sums."""
    files = sorted(p.relative_to(wanted) for p in wanted.rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        one, other = load_file(found / file), load_file(wanted / file)
        assert one.keys() == other.keys()
        for name in one:
            # A step of AdamW is as long for a small gradient as for a large one.
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=2e-5)
    assert load(str(found)).model.config.to_dict() == load(str(wanted)).model.config.to_dict() | {
        "_name_or_path": str(found)
    }
