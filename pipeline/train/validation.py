"""Validation: the losses of rows that are not trained on, and what the model says to some of them.

The figure by which checkpoints are chosen comes from what it says. Its protocol: greedy decoding; WER and CER are all
edits over all words and characters of the transcription rows, both sides normalised by `pipeline.wer`; `correct` is
the mean of what the tasks score of all other rows; `exact` the share of responses that are right to the letter. Of
tool dialogues the first response is asked for, which calls or does not: the last one only tells how a call went.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import distributed as dist

from pipeline import wer
from pipeline.model.base import Encoded, RowError
from pipeline.model.tool_format import ToolFormat, probe
from pipeline.seeds import derive
from pipeline.tools.turns import concerns_tools, decisive
from pipeline.train import curriculum, module
from pipeline.train.batches import plan
from pipeline.train.bucketing import mixed
from pipeline.train.checkpoints import Figure, Mark
from pipeline.train.course import filled
from pipeline.train.engine import SUMS, Engine, TrainingError, means, memory_named
from pipeline.train.held_out import HeldOut
from pipeline.train.index import Index
from pipeline.train.loader import Loader, Pass
from pipeline.train.module import Work
from pipeline.train.rows import Rows
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Sample

Score = Callable[[Sample, str], dict[str, float]]
"""Of a row and what was said to it: figures by name, `correct` among them."""

TRANSCRIPTION = "transcription"


@dataclass(frozen=True)
class Answer:
    """What was said to a row."""

    sample: Sample
    reference: str
    response: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Found:
    """What a validation came to."""

    losses: dict[str, float]
    figures: dict[str, float]
    mark: Mark
    answers: list[Answer]
    seconds: float


class Validation:
    """Of one stage: always the same rows.

    Args:
        engine: Set to the stage.
        rows: Of the train split.
        index: Of these.
        held: Which of them are not trained on.
        score: How tasks score; without it an answer is right if it is so to the letter.

    Raises:
        RowError: No row that is held out is of the stage's tasks, or none of them gives the recipe's figure.
    """

    def __init__(self, engine: Engine, rows: Rows, index: Index, held: HeldOut, score: Score | None) -> None:
        self._engine, self._rows, self._index, self._score = engine, rows, index, score
        self._spec, self._stage = engine.recipe.validation, engine.recipe.stages[engine.stage]
        seed = derive(engine.recipe.seed, "validation", "rows")
        there = held.drawn(len(index), engine.recipe.seed)
        if self._stage.tasks is not None:
            wanted = [number for number, task in enumerate(index.tasks) if task in self._stage.tasks]
            there = there[np.isin(index.task[there], wanted)]
        if not len(there):
            raise RowError(
                f"the stage {self._stage.name!r}: no row that is kept for validation is of its tasks: raise "
                "`validation.share`, or set it to 0 to train without"
            )
        order = there[np.argsort(mixed(there, seed), kind="stable")]
        self._drawn = np.sort(order[: self._spec.rows])
        self._decoded: list[int] = order[: self._spec.decode].tolist()
        self.figure = self._figure_of()

    def _figure_of(self) -> Figure:
        """Which figure chooses checkpoints, from what is decoded."""
        transcribed = [self._index.tasks[self._index.task[row]] == TRANSCRIPTION for row in self._decoded]
        wanted = self._spec.figure
        if wanted == "auto":
            return "wer" if all(transcribed) else "correct"
        if (wanted == "wer" and not any(transcribed)) or (wanted == "correct" and all(transcribed)):
            raise RowError(
                f"the stage {self._stage.name!r}: none of the {len(self._decoded)} rows that are decoded gives "
                f"`validation.figure: {wanted}`: set it to `auto`, or raise `validation.decode`"
            )
        return wanted

    def run(self, step: int) -> Found:
        """Validates; all processes together, and each comes to the same.

        Args:
            step: Of the stage, for the mark.

        Raises:
            TrainingError: The loss is not finite, or memory is used up.
        """
        began = time.perf_counter()
        losses = self._losses()
        answers = self._answers()
        module.settle(self._engine.learner)
        figures = _figures(answers)
        figure = "cer" if self.figure == "wer" and "wer" not in figures else self.figure
        value = losses["loss"] if figure == "loss" else figures[figure]
        mark = Mark(step, figure, value, losses["loss"])
        return Found(losses, figures, mark, answers, time.perf_counter() - began)

    def _losses(self) -> dict[str, float]:
        engine = self._engine
        state, batches = engine.state, engine.recipe.batches
        spec = batches.model_copy(update={"per_step": state.num_processes})
        epoch = plan(self._index, spec, seed=engine.recipe.seed, stage="validation", epoch=0, rows=self._drawn)
        # Once the LLM itself was trained, it is no teacher.
        taught = "llm" not in curriculum.trained_until(engine.recipe, engine.stage)
        loader = Loader(
            self._rows,
            epoch,
            engine.speech_lm,
            rank=state.process_index,
            world=state.num_processes,
            workers=batches.workers,
            teacher=taught,
        )
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=state.device)
        engine.speech_lm.model.eval()
        for step in loader:
            for one in step.passes:
                work = engine.work(filled(one, self._rows, epoch, engine.speech_lm, teacher=taught))
                with memory_named(*_named(one)), torch.no_grad(), engine.autocast:
                    found = engine.learner(work)
                sums += torch.stack([found[name].double() for name in SUMS])
        if state.num_processes > 1:
            dist.all_reduce(sums)
        found = means(sums.tolist())
        if not all(map(math.isfinite, found.values())):  # which no checkpoint is better or worse than
            raise TrainingError(
                f"the stage {self._stage.name!r}: the loss of the validation is not a finite number, though that of "
                "training is. The last checkpoint is whole: lower the stage's `learning_rate`, or set `precision: fp32`"
            )
        return found if taught else {name: value for name, value in found.items() if name != "distillation"}

    def _answers(self) -> list[Answer]:
        engine, state = self._engine, self._engine.state
        # A model in shards is asked by all processes together.
        mine = self._decoded if engine.sharded else self._decoded[state.process_index :: state.num_processes]
        said = dict(self._decode(mine))
        if state.num_processes > 1 and not engine.sharded:
            every: list[dict[int, str]] = [{}] * state.num_processes
            dist.all_gather_object(every, said)
            said = {row: text for some in every for row, text in some.items()}
        return [self._answer(row, said[row]) for row in self._decoded]

    def _decode(self, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
        engine = self._engine
        speech_lm, most = engine.speech_lm, self._spec.most_tokens
        asked = {row: speech_lm.encode(decisive(self._rows[row]), answer=False) for row in rows}
        for some in self._together(asked):
            batch = speech_lm.collate([asked[row] for row in some], left=True).to(engine.state.device)
            with memory_named(f"decoding {len(some)} rows", "lower `batches.tokens`"), engine.autocast:
                made = engine.learner(Work(batch, self._stage.loss, most_tokens=most))
            yield from ((row, self._text(row, ids)) for row, ids in zip(some, made, strict=True))

    def _text(self, row: int, ids: Sequence[int]) -> str:
        """What the ids say. The marks of calls may be special tokens, of which a text keeps nothing."""
        if not concerns_tools(self._rows[row]):
            return self._engine.speech_lm.text(ids)
        return self._form.said(self._engine.speech_lm, ids)

    @cached_property
    def _form(self) -> ToolFormat:
        return probe(self._engine.speech_lm)

    def _together(self, asked: dict[int, Encoded]) -> Iterator[list[int]]:
        """Rows of like length, as many as the budget of a batch allows with what they are answered."""
        batches, most = self._engine.recipe.batches, self._spec.most_tokens
        some: list[int] = []
        loudest = 0
        for row in sorted(asked, key=lambda row: (len(asked[row].ids), row)):
            loudest = max([loudest, *map(len, asked[row].sounds)])
            sounds = sum(len(asked[one].sounds) for one in (*some, row))
            full = (len(some) + 1) * (len(asked[row].ids) + most) > batches.tokens
            if some and (full or sounds * loudest > batches.seconds * SAMPLING_RATE):
                yield some
                some, loudest = [], max(map(len, asked[row].sounds), default=0)
            some.append(row)
        if some:
            yield some

    def _answer(self, row: int, said: str) -> Answer:
        sample, speech_lm = decisive(self._rows[row]), self._engine.speech_lm
        whole = speech_lm.encode(sample, sounds=False)
        begun = len(speech_lm.encode(sample, answer=False, sounds=False).ids)
        reference = self._text(row, whole.ids[begun:][whole.targets[begun:]].tolist())
        scores = {"exact": float(said == reference)}
        if sample.task == TRANSCRIPTION:
            errors = _errors(sample, said)
            rates = {"wer": errors.wer, "cer": errors.cer}
            scores |= {name: rate for name, rate in rates.items() if rate is not None}
        elif self._score is not None:
            scores |= self._score(sample, said)
        else:
            scores["correct"] = scores["exact"]
        return Answer(sample, reference, said, scores)


def _errors(sample: Sample, said: str) -> wer.Errors:
    other = wer.said(sample.utterances[0]) if len(sample.utterances) == 1 else ()
    references = tuple(dict.fromkeys((sample.response, *other)))
    return wer.compare(references, said, sample.language)


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    words, characters = wer.rates(_errors(a.sample, a.response) for a in answers if a.sample.task == TRANSCRIPTION)
    found: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for name, value in answer.scores.items():
            if name not in ("wer", "cer"):
                found[name].append(value)
    rates = {"wer": words, "cer": characters}
    figures = {name: rate for name, rate in rates.items() if rate is not None}
    return figures | {name: math.fsum(values) / len(values) for name, values in found.items()}


def _named(one: Pass) -> tuple[str, str]:
    return f"a validation pass of {len(one.rows)} rows", "lower `batches.tokens` or `batches.seconds`"
