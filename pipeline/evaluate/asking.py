"""Asking: puts turns to a model, as a system has them and in a way of decoding, in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace
from torch import Tensor
from transformers import LogitsProcessor

from pipeline.evaluate import joint, multiple_choice
from pipeline.evaluate.decoding import Constrained, Constraint
from pipeline.evaluate.errors import EvaluationError
from pipeline.evaluate.grammars import Constraints
from pipeline.evaluate.systems import System, View
from pipeline.model.base import Batch, Encoded, ModelError, RowError, SpeechLM
from pipeline.model.tool_format import response_ids
from pipeline.prompting import Prompts
from pipeline.text import base
from pipeline.tools.turns import Turn
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample

log = logging.getLogger("earwitness")

PLAIN, CONSTRAINED, JOINT, HEARING = "plain", "constrained", "joint", "hearing"
DECODINGS = (PLAIN, CONSTRAINED, JOINT)
TOLD = {
    PLAIN: "greedy, free",
    CONSTRAINED: "greedy, among answers that are valid: the labels, the letters, calls that fit their schemas or text",
    JOINT: "greedy; asked for the transcript first, then the answer",
    HEARING: "asked to write down the query",
}


class Answer(NamedTuple):
    """What came of a turn."""

    output: str = ""
    heard: tuple[str, ...] = ()
    letters: tuple[float, ...] | None = None
    tokens: int = 0
    cut: bool = False
    problem: str = ""
    absent: str = ""


class Asked(NamedTuple):
    """A turn that is ready for the model."""

    place: int
    turn: Turn
    view: View
    encoded: Encoded
    constraint: Constraint | None


class Timing(NamedTuple):
    """How long one question took, alone."""

    seconds: float
    first: float
    """Until its first token; NaN where there was none."""


class Asker:
    """Asks one model.

    Args:
        lm: The model.
        closed: The texts of which a turn's answer is one; empty where it is open.
        most_tokens: Of an answer.
    """

    def __init__(self, lm: SpeechLM, closed: Callable[[Turn], Sequence[str]], most_tokens: int) -> None:
        self._lm, self._closed, self._most = lm, closed, most_tokens
        self.constraints = Constraints(lm)
        self._letters: dict[int, list[int] | None] = {}

    def applies(self, turn: Turn, decoding: str) -> bool:
        """Whether a way of decoding differs from the plain one for a turn."""
        if decoding == CONSTRAINED:
            return turn.concerns_tools or bool(self._closed(turn))
        if decoding == JOINT:
            return turn.sample.task not in ("transcription", "repeat") and joint.asked(turn.sample) is not None
        return decoding == PLAIN or (turn.concerns_tools and hearing(turn.sample) is not None)

    def ask(self, system: System, decoding: str, turns: Sequence[Turn]) -> list[Answer]:
        """The answers to turns that go into one batch, or two halves of it where memory is short."""
        found: dict[int, Answer] = {}
        ready: list[Asked] = []
        with system.state(self._lm):
            for place, asked in enumerate(self._prepared(system, decoding, turns)):
                if isinstance(asked, Answer):
                    found[place] = asked
                else:
                    ready.append(asked._replace(place=place))
            if ready:
                answers = self._by_halves(ready, decoding)
                found |= {asked.place: answer for asked, answer in zip(ready, answers, strict=True)}
        return [found[place] for place in range(len(turns))]

    def time(self, system: System, turn: Turn) -> Timing | None:
        """How long an answer takes, from the sound (or the text) in memory to the last token; None if it has none."""
        forget = getattr(system, "forget", None)
        if forget is not None:
            forget()
        began = time.perf_counter()
        with system.state(self._lm):
            (asked,) = self._prepared(system, PLAIN, [turn])
            if isinstance(asked, Answer):
                return None
            first = _FirstToken()
            self._generate([asked], [first])
        return Timing(time.perf_counter() - began, first.at - began if first.at else float("nan"))

    def _prepared(self, system: System, decoding: str, turns: Sequence[Turn]) -> list[Asked | Answer]:
        try:
            views: list[View | Answer] = list(system.views([turn.sample for turn in turns]))
        except RowError as error:
            if len(turns) > 1:  # the one that it is about
                return [one for turn in turns for one in self._prepared(system, decoding, [turn])]
            views = [Answer(problem=str(error))]
        return [self._one(system, decoding, turn, view) for turn, view in zip(turns, views, strict=True)]

    def _one(self, system: System, decoding: str, turn: Turn, view: View | Answer) -> Asked | Answer:
        if isinstance(view, Answer):
            return view
        if view.absent:
            return Answer(absent=view.absent)
        asked = {JOINT: joint.asked, HEARING: hearing}.get(decoding)
        changed = view.sample if asked is None else asked(view.sample)
        assert changed is not None, f"{turn.id} is not asked by {decoding}"
        try:
            encoded = self._lm.encode(changed, hear=system.hears, answer=False)
        except RowError as error:
            return Answer(problem=str(error))
        except ModelError as error:
            raise EvaluationError(f"{error}. To leave such rows out, name the tasks that are asked (--task)") from error
        constraint = self._constraint(turn) if decoding == CONSTRAINED else None
        return Asked(0, turn, view, encoded, constraint)

    def _constraint(self, turn: Turn) -> Constraint:
        closed = self._closed(turn)
        return self.constraints.one_of(closed) if closed else self.constraints.tools(turn.sample.tools)

    def _by_halves(self, ready: list[Asked], decoding: str) -> list[Answer]:
        try:
            return self._answers(ready, decoding)
        except torch.OutOfMemoryError:
            if len(ready) == 1:
                raise
            log.info("a batch of %d questions is halved: memory is short", len(ready))
        torch.cuda.empty_cache()
        half = len(ready) // 2
        return self._by_halves(ready[:half], decoding) + self._by_halves(ready[half:], decoding)

    def _answers(self, ready: Sequence[Asked], decoding: str) -> list[Answer]:
        processors = []
        if any(asked.constraint is not None for asked in ready):
            processors.append(Constrained([asked.constraint for asked in ready], self._most))
        batch, made = self._generate(ready, processors)
        letters = self._likelihoods(ready, batch) if decoding == PLAIN else {}
        answers = []
        for place, (asked, ids) in enumerate(zip(ready, made, strict=True)):
            text, heard = self._text(ids, asked.turn), asked.view.heard
            if decoding == JOINT:
                heard = _one_heard(asked.view.sample, joint.parse(text).heard)
            elif decoding == HEARING:
                heard = (text,)
            answers.append(Answer(text, heard, letters.get(place), len(ids), len(ids) >= self._most))
        return answers

    def _text(self, ids: list[int], turn: Turn) -> str:
        """What was said; calls that the template writes in a form of its own in the usual one."""
        return self.constraints.form.said(self._lm, ids) if turn.concerns_tools else self._lm.text(ids)

    def _generate(self, ready: Sequence[Asked], processors: list[Any]) -> tuple[Batch, list[list[int]]]:
        batch = self._lm.collate([asked.encoded for asked in ready], left=True).to(self._lm.model.device)
        options = {"logits_processor": processors} if processors else {}
        return batch, self._lm.generate(batch, most_tokens=self._most, **options)

    def _likelihoods(self, ready: Sequence[Asked], batch: Batch) -> dict[int, tuple[float, ...]]:
        """Of multiple-choice questions the log-likelihoods of the letters as the first token of the answer."""
        ids = {}
        for place, asked in enumerate(ready):
            options = len(asked.turn.sample.choices) if asked.turn.sample.task == multiple_choice.TASK else 0
            if options and (letters := self._letter_ids(options)):
                ids[place] = letters
        if not ids:
            return {}
        with torch.inference_mode():
            last = self._lm.states(batch)[list(ids), -1]  # N, H: padding is at the left
            scores: Tensor = torch.log_softmax(self._lm.head()(last).float(), -1)  # N, V
        return {
            place: tuple(round(float(row[i]), 6) for i in letters)
            for (place, letters), row in zip(ids.items(), scores, strict=True)
        }

    def _letter_ids(self, options: int) -> list[int] | None:
        """The first tokens of answers that are a letter; None where the tokenizer does not tell them apart so."""
        if options not in self._letters:
            texts = multiple_choice.LETTERS[:options]
            ids = [response_ids(self._lm, Message("assistant", letter))[0] for letter in texts]
            self._letters[options] = ids if len(set(ids)) == len(ids) else None
        return self._letters[options]


def hearing(sample: Sample) -> Sample | None:
    """A sample that asks to write down what was said last; None where that was no single utterance."""
    before = [m for m in sample.messages[:-1] if m.role != "system"]
    if not before or before[-1].content.count(AUDIO_PLACEHOLDER) != 1:
        return None
    last = sample.utterances[-1]
    content = f"{AUDIO_PLACEHOLDER}\n{_asks(base(last.language))}"
    messages = (Message("user", content), Message("assistant", ""))
    return replace(
        sample, messages=messages, utterances=(last,), tools=(), task="transcription", language=last.language
    )


@lru_cache(maxsize=256)
def _asks(language: str) -> str:
    """A request to transcribe that no model was trained on."""
    prompts = Prompts()
    known = language if language in prompts.languages("transcription") else "en"
    return prompts.get("transcription", known).content.held_out["default"][0]


def _one_heard(sample: Sample, heard: str | None) -> tuple[str, ...]:
    """What joint decoding heard, if the last turn is a single utterance and the form was kept."""
    before = [m for m in sample.messages[:-1] if m.role != "system"]
    single = bool(before) and before[-1].content.count(AUDIO_PLACEHOLDER) == 1
    return (heard,) if single and heard is not None else ()


class _FirstToken(LogitsProcessor):
    """Looks at the clock when the first token's scores are there."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.at:
            if scores.is_cuda:
                torch.cuda.synchronize(scores.device)
            self.at = time.perf_counter()
        return scores
