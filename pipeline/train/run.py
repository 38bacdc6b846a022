"""Run: a checked recipe with its model, its rows and its folder, from the preflight to the saved model."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console

from pipeline.model import compose
from pipeline.shards import FolderInUse, explained
from pipeline.train import bases, curves, loop
from pipeline.train.checkpoints import Checkpoint, Checkpoints
from pipeline.train.course import Course
from pipeline.train.engine import Engine
from pipeline.train.held_out import HeldOut, hold_out
from pipeline.train.index import Index
from pipeline.train.loop import CHECKPOINTS, MODEL, Outcome
from pipeline.train.rows import Rows
from pipeline.train.scoring import score
from pipeline.train.setup import Setup
from pipeline.train.watch import Record
from schemas.training import TrainingRecipe

Say = Callable[[str], None]
_LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """Everything that training needs. Of several processes each has its own."""

    setup: Setup
    out: Path
    engine: Engine
    rows: Rows
    index: Index
    held: HeldOut

    @classmethod
    def prepare(cls, setup: Setup, out: Path, say: Say = lambda _: None) -> Run:
        """Loads the model and reads the lengths of all rows.

        Args:
            setup: Of the recipe.
            out: The run's folder.
            say: Is told what is being done.

        Raises:
            ModelError: The model cannot be made, or not be trained so.
            RowError: Rows are too long, or cannot be read by this model.
            DataError: A shard is damaged.
            TrainingError: There is too little memory.
        """
        state = process()
        with state.main_process_first():
            recipe = bases.place(setup.recipe, out)
        say("loading the model")
        dtype = "bfloat16" if recipe.precision == "bf16" else "float32"
        speech_lm = compose(recipe.model, seed=recipe.seed, dtype=dtype)
        rows = Rows(recipe.data)
        say(f"reading the lengths of {len(rows):,} rows")
        index = Index.of(
            rows,
            speech_lm,
            tasks=trained_tasks(recipe),
            told=lambda done, total: say(f"reading the lengths of rows: {done:,}/{total:,}"),
        )
        index.check(rows, min(recipe.batches.longest or speech_lm.longest, speech_lm.longest))
        held = hold_out(index, recipe.validation.share, recipe.seed)
        say("placing the model")
        return cls(setup, out, Engine(speech_lm, recipe, state, rows.identity), rows, index, held)

    @property
    def course(self) -> Course:
        """What its steps are made of."""
        engine = self.engine
        return Course(engine.recipe, engine.speech_lm, self.rows, self.index, self.held, engine.state)

    def train(self, console: Console) -> Outcome:
        """Trains, or goes on, and draws the curves.

        Raises:
            CheckpointError: No checkpoint of the folder is whole.
            TrainingError: A loss is not finite, or memory is used up.
            RowError: A row cannot be read.
        """
        main = self.engine.state.is_main_process
        if not main:
            return self._train(None)
        self.setup.write(self.out)
        with Record(self.out, console) as record:
            outcome = self._train(record)
        curves.draw(self.out)
        return outcome

    def _train(self, record: Record | None) -> Outcome:
        return loop.train(
            self.engine, self.rows, self.index, self.held, self.out, record, shaping=self.setup.shaping, score=score
        )


def trained_tasks(recipe: TrainingRecipe) -> set[str] | None:
    """The tasks that the stages name; None where one of them takes all."""
    if any(stage.tasks is None for stage in recipe.stages):
        return None
    return {task for stage in recipe.stages for task in stage.tasks or ()}


def process() -> PartialState:
    """Which process this is of those that `torchrun` has started, and its device."""
    # Without a GPU it has to be told, or each process takes itself for the only one.
    return PartialState(cpu=not torch.accelerator.is_available())


def newest(setup: Setup, out: Path) -> Checkpoint | None:
    """The run's last checkpoint; None where there is none yet.

    Raises:
        CheckpointError: It is of another recipe, or none is whole.
    """
    recipe = setup.recipe
    return Checkpoints(out / CHECKPOINTS, {}, setup.shaping, recipe.checkpoints.best).newest(lambda _: None)


def finished(setup: Setup, out: Path) -> bool:
    """Whether the run is over: all stages are done, and the model is saved."""
    last = newest(setup, out) if (out / MODEL).is_dir() else None
    return last is not None and bool(last.progress.ended) and last.progress.stage + 1 == len(setup.recipe.stages)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds a run's folder; the system frees it when the process ends in any way.

    Raises:
        FolderInUse: Another run holds it.
    """
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(f"another run is training in {out}: wait for it, or give another --out") from error
        yield
    finally:
        os.close(handle)
