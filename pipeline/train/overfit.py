"""The overfit gate: whether a model can learn at all from what it hears, and only from that.

A few rows are learnt by heart. All of them ask the same, and last the same (silence follows the shorter ones), so that
nothing but the sound tells one from another; the answers are their transcripts. Three things are measured:

1. Trained on right pairs, the loss falls under `LOSS` and every answer is decoded letter by letter.
2. The model so trained hears each row with the sound of another: not one answer may come out right.
3. Trained from the same start, for twice as many steps, on pairs that are shuffled anew at each step, the loss must
   stay above `LOSS`, and the answers must not be decoded: else something but the sound gives them away. The best that
   can be learnt so is which rows there are, which costs log(rows) nats an answer.

A mask that lets answers be seen, positions that are off by one, a gradient that does not reach the adapter, a decoder
that sees other padding than training did: each fails one of them within minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace

from pipeline import seeds
from pipeline.audio import Samples, samples_of, store
from pipeline.model import compose
from pipeline.model.base import Batch, Encoded
from pipeline.text import normalise
from pipeline.train import bases, curriculum
from pipeline.train.engine import Engine
from pipeline.train.gate import LOSS, Gate
from pipeline.train.loader import Pass
from pipeline.train.module import Work
from pipeline.train.rows import DataError, Rows
from pipeline.train.run import process
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample
from schemas.training import LossSpec, OptimizerSpec, Part, StageSpec, TrainingRecipe

INSTRUCTION = "Write down what is said."
_CANDIDATES = 2000  # rows that are looked at; the shortest are taken
_SHORTEST = 0.8  # seconds
_WARMUP = 10
_PATIENCE = 2  # times the steps that it took are given to the shuffled pairs
_AGAIN = 10  # steps between two decodings, once the loss is low enough

Told = Callable[[int, float], None]
"""Is told of steps and their losses."""


def run(
    recipe: TrainingRecipe,
    out: Path,
    *,
    rows: int = 16,
    steps: int = 600,
    seed: int = 0,
    told: Told | None = None,
) -> Gate:
    """Passes the gate, or does not.

    Args:
        recipe: Its `data` gives the rows; its model is trained in all parts that any of its stages trains, at their
            learning rates.
        out: Where built-in bases are made.
        rows: Learnt by heart.
        steps: At most.
        seed: Of the adapter's weights, and of what is shuffled.
        told: Is told of steps.

    Raises:
        DataError: The data has too few rows that can be told apart by what they say.
        ModelError: The model cannot be made.
        TrainingError: A loss is not finite, or memory is used up.
    """
    samples = choose(Rows(recipe.data), rows)
    placed = bases.place(_lessons(recipe, steps, seed), out)
    speech_lm = compose(placed.model, seed=seed, dtype="bfloat16" if placed.precision == "bf16" else "float32")
    engine = Engine(speech_lm, placed, process(), lambda row: samples[row].id)
    return _Trial(engine, samples, told).run()


def choose(rows: Rows, count: int) -> list[Sample]:
    """The shortest rows that differ in what is said, all with the same question and sounds of the same length.

    Raises:
        DataError: There are too few.
    """
    found: dict[str, Sample] = {}
    for number in range(min(len(rows), _CANDIDATES)):
        sample = rows[number]
        if len(sample.utterances) != 1 or not sample.utterances[0].is_speech:
            continue
        audio, said = sample.utterances[0].audio, sample.utterances[0].transcript.strip()
        if said and audio is not None and audio.seconds >= _SHORTEST:
            found.setdefault(normalise(said), sample)
    if len(found) < count:
        raise DataError(
            f"{', '.join(map(str, rows.folders))}: {len(found)} of the first {_CANDIDATES} rows are speech of one "
            f"utterance with a transcript of its own, and {count} are needed: give another dataset, or fewer --rows"
        )
    shortest = sorted(found.values(), key=lambda sample: (_seconds(sample), sample.id))[:count]
    asked = Message("user", f"{AUDIO_PLACEHOLDER}\n{INSTRUCTION}")
    longest = max(len(_sound(sample)) for sample in shortest)
    return [_lesson(sample, asked, longest) for sample in shortest]


def _lesson(sample: Sample, asked: Message, longest: int) -> Sample:
    """A row with the common question, and its sound made so many samples long."""
    utterance, samples = sample.utterances[0], _sound(sample)
    audio = store(np.pad(samples, (0, longest - len(samples))))
    answer = Message("assistant", utterance.transcript.strip())
    return replace(sample, utterances=(replace(utterance, audio=audio),), messages=(asked, answer), tools=())


def _sound(sample: Sample) -> Samples:
    audio = sample.utterances[0].audio
    assert audio is not None
    return samples_of(audio)


def _seconds(sample: Sample) -> float:
    audio = sample.utterances[0].audio
    return audio.seconds if audio is not None else 0.0


def _lessons(recipe: TrainingRecipe, steps: int, seed: int) -> TrainingRecipe:
    """The recipe with one stage that trains all parts at once, each at the rate of the first stage that trains it."""
    rates: dict[Part, float] = {}
    for stage in recipe.stages:
        for part in stage.trains:
            rates.setdefault(part, stage.learning_rates.get(part, stage.learning_rate))
    stage = StageSpec(
        name="overfit",
        trains=list(rates),
        learning_rates=rates,
        warmup=min(_WARMUP, steps - 1),
        schedule="constant",
        steps=steps,
    )
    # What keeps a model from learning by heart is left out.
    lora = recipe.lora.model_copy(update={"dropout": 0.0}) if recipe.lora is not None else None
    changes = {"stages": [stage], "lora": lora, "seed": seed, "optimizer": OptimizerSpec(), "sharding": "ddp"}
    return recipe.model_copy(update=changes)


class _Trial:
    """One model, and the rows that it learns by heart."""

    def __init__(self, engine: Engine, samples: Sequence[Sample], told: Told | None) -> None:
        self._engine, self._lm, self._samples, self._told = engine, engine.speech_lm, samples, told
        self._seed = engine.recipe.seed
        self._encoded: dict[tuple[int, int, bool], Encoded] = {}
        self._right = list(range(len(samples)))
        # One round through all rows in a random order: none keeps its own sound.
        ring = seeds.rng(self._seed, "overfit", "ring").sample(self._right, len(samples))
        after = dict(zip(ring, ring[1:] + ring[:1], strict=True))
        self._wrong = [after[row] for row in self._right]

    def run(self) -> Gate:
        began = time.monotonic()
        trained = self._begin()
        start = {name: p.detach().clone() for name, p in trained.parameters.items()}
        gradient = self._gradient(trained)
        loss, steps = self._learn(trained)
        answers = self._answers(self._right)
        shuffled = self._answers(self._wrong)
        shuffled_loss = self._loss(self._wrong)
        with torch.no_grad():
            for name, parameter in trained.parameters.items():
                parameter.copy_(start[name])
        control = self._control(self._begin(), _PATIENCE * steps)
        controls = self._answers(self._right)
        return Gate(
            rows=len(self._samples),
            steps=steps,
            seconds=time.monotonic() - began,
            loss=loss,
            exact=_exact(answers),
            shuffled_loss=shuffled_loss,
            shuffled_exact=_exact(shuffled),
            control_loss=control,
            control_exact=_exact(controls),
            gradient=gradient,
            answers=tuple(answers),
        )

    def _begin(self) -> curriculum.Trained:
        steps = self._engine.recipe.stages[0].steps
        assert steps is not None
        return self._engine.begin(0, steps)

    def _gradient(self, trained: curriculum.Trained) -> float:
        """Norm of the gradient that the adapter is given before anything is learnt."""
        batch = self._batch(self._right)
        self._engine.gradients([self._pass(batch)], int(batch.targets.sum()), 0)
        adapter = {name for name, _ in self._lm.named("adapter")} & trained.parameters.keys()
        some = [trained.parameters[name].grad for name in adapter or trained.parameters]
        self._engine.forget()
        return math.sqrt(sum(float(g.float().square().sum()) for g in some if g is not None))

    def _learn(self, trained: curriculum.Trained) -> tuple[float, int]:
        """Until all is known by heart: the loss, and the steps that it took."""
        tried = -_AGAIN
        for step in range(trained.steps):
            loss = self._step(self._right, step)
            if loss < LOSS and step - tried >= _AGAIN:
                tried = step
                # As it is after the step: the loss before it is not that of what decodes.
                loss = self._loss(self._right)
                if loss < LOSS and _exact(self._answers(self._right)) == len(self._samples):
                    return loss, step + 1
        return self._loss(self._right), trained.steps

    def _control(self, trained: curriculum.Trained, steps: int) -> float:
        """The least mean loss over ten steps, on pairs that are shuffled at each."""
        rng = seeds.rng(self._seed, "overfit", "control")
        steps = min(steps, trained.steps)
        found = [self._step(rng.sample(self._right, len(self._right)), step) for step in range(steps)]
        means = [sum(found[i : i + _AGAIN]) / len(found[i : i + _AGAIN]) for i in range(0, len(found), _AGAIN)]
        return min(means)

    def _step(self, sounds: Sequence[int], step: int) -> float:
        batch = self._batch(sounds)
        done = self._engine.step([self._pass(batch)], int(batch.targets.sum()), step)
        if self._told is not None:
            self._told(step + 1, done.losses["loss"])
        return done.losses["loss"]

    def _loss(self, sounds: Sequence[int]) -> float:
        """Mean cross-entropy of the response tokens, without a step."""
        self._lm.model.eval()
        work = self._engine.work(self._pass(self._batch(sounds)))
        with torch.no_grad(), self._engine.autocast:
            sums = self._engine.learner(work)
        return float(sums["total"] / sums["tokens"])

    def _answers(self, sounds: Sequence[int]) -> list[tuple[str, str]]:
        """Reference and greedy answer of each row."""
        most = max(int(self._encode(row, row).targets.sum()) for row in self._right) + 8
        batch = self._batch(sounds, answer=False).to(self._engine.state.device)
        with self._engine.autocast:
            said = self._engine.learner(Work(batch, LossSpec(), most_tokens=most))
        return list(zip([s.response for s in self._samples], map(self._lm.text, said), strict=True))

    def _pass(self, batch: Batch) -> Pass:
        return Pass(0, np.arange(len(self._samples)), batch)

    def _batch(self, sounds: Sequence[int], answer: bool = True) -> Batch:
        """All rows, each with a sound: its own or another's."""
        examples = [self._encode(row, sound, answer) for row, sound in enumerate(sounds)]
        return self._lm.collate(examples, left=not answer)

    def _encode(self, row: int, sound: int, answer: bool = True) -> Encoded:
        key = (row, sound, answer)
        if key not in self._encoded:
            heard = self._samples[sound].utterances[0].audio
            sample = self._samples[row]
            swapped = replace(sample, utterances=(replace(sample.utterances[0], audio=heard),))
            self._encoded[key] = self._lm.encode(swapped, answer=answer)
        return self._encoded[key]


def _exact(answers: Sequence[tuple[str, str]]) -> int:
    return sum(said == reference for reference, said in answers)
