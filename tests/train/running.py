"""Runs of a training recipe, in this process or, as a program, in others.

python -m tests.train.running FOLDER    reads FOLDER/recipe.json, trains into FOLDER, prints each step that is done
torchrun --nproc-per-node 2 -m tests.train.running FOLDER OTHER ...      one run after another
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import PartialState

from pipeline.model import compose
from pipeline.train.engine import Engine
from pipeline.train.events import Decoded, Silent, StageBegun, Stepped, Validated, Watch
from pipeline.train.held_out import hold_out
from pipeline.train.index import Index
from pipeline.train.loop import Outcome, train
from pipeline.train.rows import Rows
from schemas.training import TrainingRecipe


class Told(Silent):
    """Keeps what it is told; dies at a step, if asked to."""

    def __init__(self, die_at: int = 0) -> None:
        self.stages: list[StageBegun] = []
        self.steps: list[Stepped] = []
        self.validations: list[Validated] = []
        self.samples: list[Decoded] = []
        self.notes: list[str] = []
        self._die_at = die_at

    def stage(self, event: StageBegun) -> None:
        self.stages.append(event)

    def step(self, event: Stepped) -> None:
        self.steps.append(event)
        if event.overall == self._die_at:
            raise Died

    def validation(self, event: Validated) -> None:
        self.validations.append(event)

    def sample(self, event: Decoded) -> None:
        self.samples.append(event)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Died(Exception):
    """As a machine does: nothing is tidied up."""


class Printing(Silent):
    """For a parent that reads along."""

    def step(self, event: Stepped) -> None:
        print("step", event.overall, flush=True)


def engine_of(recipe: TrainingRecipe) -> tuple[Engine, Rows, Index]:
    """The model of a recipe on the CPU, and its rows."""
    speech_lm = compose(recipe.model, seed=recipe.seed)
    rows = Rows(recipe.data)
    index = Index.of(rows, speech_lm, cache=_cache(recipe), workers=1)
    return Engine(speech_lm, recipe, PartialState(cpu=True), rows.identity), rows, index


def run(recipe: TrainingRecipe, out: Path, watch: Watch | None = None) -> Outcome:
    """Trains, or goes on."""
    engine, rows, index = engine_of(recipe)
    held = hold_out(index, recipe.validation.share, recipe.seed)
    return train(engine, rows, index, held, out, watch, cache=_cache(recipe))


def _cache(recipe: TrainingRecipe) -> Path:
    return Path(recipe.data[0].path).parent / "cache"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for folder in map(Path, sys.argv[1:]):
        run(TrainingRecipe.model_validate_json((folder / "recipe.json").read_text()), folder, Printing())
