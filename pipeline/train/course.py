"""Course: what each step of a stage is made of, from the recipe to the passes of a process."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace

import torch
from accelerate import PartialState

from pipeline.model.base import Batch, SpeechLM
from pipeline.train import batches
from pipeline.train.batches import Plan
from pipeline.train.encoded import Heard
from pipeline.train.held_out import HeldOut
from pipeline.train.index import Index
from pipeline.train.loader import Loader, Pass, Step, read
from pipeline.train.rows import Rows
from schemas.training import StageSpec, TrainingRecipe


@dataclass(frozen=True)
class Course:
    """The rows that are trained on, in the order of a recipe."""

    recipe: TrainingRecipe
    speech_lm: SpeechLM
    rows: Rows
    """Of the train split."""
    index: Index
    held: HeldOut
    """Those that are not trained on."""
    state: PartialState
    _lengths: dict[tuple[str, int], int] = field(default_factory=dict, compare=False)

    def plan(self, spec: StageSpec, epoch: int) -> Plan:
        """An epoch of a stage."""
        return batches.plan(
            self.index,
            self.recipe.batches,
            seed=self.recipe.seed,
            stage=spec.name,
            epoch=epoch,
            rows=self.held.training,
            tasks=spec.tasks,
            weights=[data.weight for data in self.recipe.data],
        )

    def length(self, spec: StageSpec) -> int:
        """Steps of a stage at most. Batches are drawn anew for each epoch, and their number differs a little."""
        if spec.steps is not None:
            return spec.steps
        assert spec.epochs is not None
        whole = int(spec.epochs)
        steps = sum(self._steps(spec, epoch) for epoch in range(whole))
        part = spec.epochs - whole
        return max(1, steps + (round(part * self._steps(spec, whole)) if part else 0))

    def _steps(self, spec: StageSpec, epoch: int) -> int:
        if (spec.name, epoch) not in self._lengths:
            self._lengths[spec.name, epoch] = len(self.plan(spec, epoch))
        return self._lengths[spec.name, epoch]

    def seconds(self) -> float:
        """Of sound, in all steps of all stages."""
        found = 0.0
        for spec in self.recipe.stages:
            first = self.plan(spec, 0)
            found += first.facts().audio_seconds / len(first) * self.length(spec)
        return found

    def steps(
        self, spec: StageSpec, epoch: int, into: int, heard: Heard | None
    ) -> Generator[tuple[int, Plan, Step], None, None]:
        """The steps of a stage for this process, epoch after epoch, without an end.

        Args:
            spec: Of the stage.
            epoch: The first.
            into: Steps of it that are done.
            heard: What the encoder says, if it is kept.

        Yields:
            The epoch, its plan, and the step. Of several processes none has an empty pass, of one no step has.
        """
        teacher = bool(spec.loss.distillation)
        while True:
            plan = self.plan(spec, epoch)
            loader = Loader(
                self.rows,
                plan,
                self.speech_lm,
                rank=self.state.process_index,
                world=self.state.num_processes,
                start_step=into,
                workers=self.recipe.batches.workers,
                teacher=teacher,
                encoded=heard,
            )
            for step in loader:
                passes = [one for one in step.passes if one.batch is not None]
                if self.state.num_processes > 1:
                    passes = [filled(one, self.rows, plan, self.speech_lm, teacher=teacher) for one in step.passes]
                yield epoch, plan, replace(step, passes=passes)
            epoch, into = epoch + 1, 0


def filled(one: Pass, rows: Rows, plan: Plan, speech_lm: SpeechLM, *, teacher: bool = False) -> Pass:
    """A pass; where it is empty, another of the plan without anything to learn.

    Several processes go through the model the same number of times, or they would wait for each other for ever.
    """
    if one.batch is not None:
        return one
    other = read(rows, plan, 0, speech_lm, teacher=teacher)
    return Pass(one.number, one.rows, _unlearnt(other.batch), _unlearnt(other.teacher))


def _unlearnt(batch: Batch | None) -> Batch | None:
    if batch is None:
        return None
    return replace(batch, targets=torch.zeros_like(batch.targets), ends=torch.zeros_like(batch.ends))
