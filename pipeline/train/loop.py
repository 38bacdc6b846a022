"""Loop: the stages of a run, from wherever it stands to the saved model.

After each stage its best checkpoint is loaded, by the figure of validation: the next stage begins from that, and the
last one's is saved. All that decides where a run stands is in its checkpoints, and all that is drawn follows from the
seed, the stage and the step: a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from pipeline.train import curriculum, hearing, module
from pipeline.train.batches import Plan
from pipeline.train.checkpoints import Checkpoint, Checkpoints, Mark, Progress
from pipeline.train.course import Course
from pipeline.train.encoded import Heard
from pipeline.train.engine import Clock, Done, Engine, memory_named
from pipeline.train.events import Decoded, Silent, StageBegun, Stepped, Validated, Watch
from pipeline.train.held_out import HeldOut
from pipeline.train.index import Index
from pipeline.train.loader import Step
from pipeline.train.rows import Rows
from pipeline.train.validation import Score, Validation

CHECKPOINTS, MODEL = "checkpoints", "model"  # in the run's folder


@dataclass(frozen=True)
class Ended:
    """How a stage ended."""

    stage: str
    steps: int
    why: str
    best: Mark | None
    """None where nothing was validated."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    model: Path
    """The saved model's folder."""
    steps: int
    """Of all stages."""
    stages: tuple[Ended, ...]
    """Those that ended in this run."""
    seconds: float
    """Of this run."""


def train(
    engine: Engine,
    rows: Rows,
    index: Index,
    held: HeldOut,
    out: Path,
    watch: Watch | None = None,
    *,
    shaping: Mapping[str, Any] | None = None,
    score: Score | None = None,
    cache: Path | None = None,
) -> Outcome:
    """Trains a model by its recipe, or goes on where a run in the same folder was ended.

    All processes call it; the main one tells and writes.

    Args:
        engine: The model on its device, with the recipe.
        rows: Of the train split.
        index: Of these.
        held: Which of them are not trained on.
        out: The run's folder.
        watch: Is told what happens.
        shaping: All that the weights follow from, as plain values; the recipe if omitted. A checkpoint of others is
            refused.
        score: How tasks score what the model says.
        cache: A folder for what frozen encoders say; the user's own if omitted.

    Raises:
        CheckpointError: The folder's run is of another recipe.
        TrainingError: A loss is not finite, or memory is used up.
        RowError: A row cannot be read, or a stage has none.
    """
    return _Run(engine, rows, index, held, out, watch or Silent(), shaping, score, cache).go()


class _Run:
    def __init__(
        self,
        engine: Engine,
        rows: Rows,
        index: Index,
        held: HeldOut,
        out: Path,
        watch: Watch,
        shaping: Mapping[str, Any] | None,
        score: Score | None,
        cache: Path | None,
    ) -> None:
        self._engine, self._rows, self._index, self._held, self._out = engine, rows, index, held, out
        self._state, self._recipe, self._score = engine.state, engine.recipe, score
        self._course = Course(engine.recipe, engine.speech_lm, rows, index, held, engine.state)
        self._watch = watch if self._state.is_main_process else Silent()
        recipe = self._recipe.model_dump(mode="json")
        self._checkpoints = Checkpoints(
            out / CHECKPOINTS, recipe, recipe if shaping is None else shaping, self._recipe.checkpoints.best
        )
        self._clock = Clock()
        self._cache = cache
        self._heard: Heard | None = None

    def go(self) -> Outcome:
        began = time.monotonic()
        saved = self._checkpoints.newest(self._watch.note)
        progress = saved.progress if saved else Progress()
        training, seconds = self._held.training, self._course.seconds()
        self._heard = hearing.kept(self._engine, self._rows, training, seconds, self._out, self._watch, self._cache)
        ended = []
        while True:
            if not progress.ended:
                progress = self._stage(progress, saved)
                best = progress.best
                ended.append(Ended(self._recipe.stages[progress.stage].name, progress.step, progress.ended, best))
            self._load(self._checkpoints.best(progress.stage, self._watch.note))
            if progress.stage + 1 == len(self._recipe.stages):
                break
            progress, saved = Progress(stage=progress.stage + 1, overall=progress.overall), None
        model = self._save()
        return Outcome(model, progress.overall, tuple(ended), time.monotonic() - began)

    def _load(self, checkpoint: Checkpoint) -> None:
        parts = curriculum.trained_until(self._recipe, checkpoint.progress.stage)
        curriculum.load(curriculum.parameters(self._engine.speech_lm, parts), checkpoint.weights())

    def _stage(self, progress: Progress, saved: Checkpoint | None) -> Progress:
        """Runs a stage, or what is left of it, and leaves a checkpoint that says so."""
        spec = self._recipe.stages[progress.stage]
        steps = [self._course.length(stage) for stage in self._recipe.stages]
        trained = self._engine.begin(progress.stage, steps[progress.stage])
        if saved is not None:
            self._load(saved)
            trained.restore(saved.moments())
        validation = self._validation()
        self._watch.stage(
            StageBegun(
                stage=spec.name,
                number=progress.stage,
                stages=len(steps),
                step=progress.step,
                steps=steps[progress.stage],
                overall=progress.overall,
                steps_overall=progress.overall - progress.step + sum(steps[progress.stage :]),
                trains=trained.weights,
            )
        )
        self._clock.restart()
        with closing(self._course.steps(spec, progress.epoch, progress.into, self._heard)) as going:
            while not progress.ended:
                progress = self._step(progress, going, trained.steps)
                progress = self._between(progress, validation, trained)
        self._watch.note(f"the stage {spec.name!r} ended after {progress.step} steps: {progress.ended}")
        return progress

    def _validation(self) -> Validation | None:
        if not self._held.mask.any():
            return None
        return Validation(self._engine, self._rows, self._index, self._held, self._score)

    def _step(self, progress: Progress, going: Iterator[tuple[int, Plan, Step]], steps: int) -> Progress:
        """One step of the optimizer; after the last one the stage is over."""
        with self._clock.waiting(), memory_named("reading rows", "lower `batches.workers` or `batches.seconds`"):
            epoch, plan, step = next(going)
        done = self._engine.step(step.passes, step.facts.targets, progress.step)
        assert done.tokens == step.facts.targets, "the index counts other targets than the batches have"
        progress = replace(
            progress,
            step=progress.step + 1,
            overall=progress.overall + 1,
            epoch=epoch,
            into=step.number + 1,
            mark=None,
            ended="all its steps are done" if progress.step + 1 == steps else "",
        )
        self._tell(progress, plan, step, done)
        return progress

    def _tell(self, progress: Progress, plan: Plan, step: Step, done: Done) -> None:
        seconds, waited = self._clock.lap()
        worst = torch.tensor([waited, self._engine.peak_memory()], dtype=torch.float64, device=self._state.device)
        if self._state.num_processes > 1:
            dist.all_reduce(worst, dist.ReduceOp.MAX)
        trained, losses = self._engine.trained, dict(done.losses)
        assert trained is not None
        if not trained.spec.loss.distillation:
            del losses["distillation"]
        self._watch.step(
            Stepped(
                stage=trained.spec.name,
                step=progress.step,
                overall=progress.overall,
                epoch=progress.epoch + progress.into / len(plan),
                loss=losses.pop("loss"),
                losses=losses,
                learning_rates=trained.learning_rates(),
                gradient_norm=done.gradient_norm,
                rows=step.facts.rows,
                tokens=step.facts.targets,
                positions=step.facts.positions,
                padding=step.facts.padding,
                audio_seconds=step.facts.audio_seconds,
                seconds=seconds,
                waited=float(worst[0]),
                memory=int(worst[1]),
            )
        )

    def _between(self, progress: Progress, validation: Validation | None, trained: curriculum.Trained) -> Progress:
        """What is due after a step: a validation, a checkpoint."""
        over = bool(progress.ended)
        validates = validation is not None and (over or progress.step % self._recipe.validation.every == 0)
        if validates:
            assert validation is not None
            progress = self._validate(progress, validation)
        if validates or over or progress.step % self._recipe.checkpoints.every == 0:
            self._checkpoint(progress, trained)
            self._clock.restart()
        return progress

    def _validate(self, progress: Progress, validation: Validation) -> Progress:
        spec = self._recipe.stages[progress.stage]
        found = validation.run(progress.step)
        better = found.mark.better_than(progress.best)
        progress = progress.judged(found.mark)
        where: dict[str, Any] = {"stage": spec.name, "step": progress.step, "overall": progress.overall}
        for answer in found.answers:
            self._watch.sample(
                Decoded(
                    **where,
                    id=answer.sample.id,
                    task=answer.sample.task,
                    reference=answer.reference,
                    response=answer.response,
                    scores=answer.scores,
                )
            )
        self._watch.validation(
            Validated(
                **where,
                losses=found.losses,
                figures=found.figures,
                figure=found.mark.figure,
                value=found.mark.value,
                better=better,
                seconds=found.seconds,
            )
        )
        if spec.until is not None and found.mark.reaches(spec.until):
            progress = replace(progress, ended=f"{found.mark.figure} {found.mark.value:.4g} is as good as `until` asks")
        elif spec.patience is not None and progress.worse >= spec.patience:
            progress = replace(progress, ended=f"{progress.worse} validations have brought nothing better")
        return progress

    def _checkpoint(self, progress: Progress, trained: curriculum.Trained) -> None:
        parts = curriculum.trained_until(self._recipe, progress.stage)
        weights = {n: curriculum.whole(p) for n, p in curriculum.parameters(self._engine.speech_lm, parts).items()}
        moments = trained.moments()
        if self._state.is_main_process:
            self._checkpoints.save(progress, weights, moments)
        self._state.wait_for_everyone()

    def _save(self) -> Path:
        """The model's folder, written anew."""
        target, scratch = self._out / MODEL, self._out / f".{MODEL}.tmp"
        if self._engine.sharded:
            module.gather(self._engine.learner, keep=self._state.is_main_process)
        if self._state.is_main_process:
            shutil.rmtree(scratch, ignore_errors=True)
            self._engine.speech_lm.save(scratch)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(scratch, target)
        self._state.wait_for_everyone()
        return target
