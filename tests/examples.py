"""Utterances, drafts and samples as the stages make them, for the tests of filters and tasks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from pipeline import plugins
from pipeline.audio import Samples, store
from pipeline.prompting import Prompts
from pipeline.tasks.base import Brief, Briefing, LLMTask, Task
from schemas import replies
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Sample
from schemas.utterance import Audio, Utterance

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("en", "ru", "pt")
PROMPTS = Prompts()


def sentences(language: str) -> list[str]:
    """The real sentences that come with the project."""
    return (ROOT / "data" / "text" / f"daily.{language}.txt").read_text(encoding="utf-8").splitlines()


def tone(seconds: float, hz: float = 220.0, level: float = 0.3) -> Samples:
    """A tone that swells a little, so that its fingerprint is its own."""
    time = np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    swell = 1 + 0.2 * np.sin(2 * np.pi * 3 * time + hz)
    return np.asarray(level * swell * np.sin(2 * np.pi * hz * time), np.float32)


@lru_cache(maxsize=64)
def sound(seconds: float = 2.0, hz: float = 220.0, level: float = 0.3) -> Audio:
    """The same, as it is stored."""
    return store(tone(seconds, hz, level), kind="WAV/PCM_16")


def utterance(transcript: str = "", language: str | None = "en", **fields: Any) -> Utterance:
    fields = {"id": "c/1", "corpus": "c", "speaker": "c/s1"} | fields
    return Utterance(transcript=transcript, language=language, **fields)


def draft(transcript: str = "", language: str | None = "en", *, split: str = "train", **fields: Any) -> Sample:
    """A draft of one utterance."""
    first = utterance(transcript, language, **fields)
    return Sample(id=first.id, utterances=(first,), split=split)


def companions(sample: Sample, *others: Utterance) -> Sample:
    return replace(sample, utterances=(*sample.utterances, *others))


def brief(task: Task, sample: Sample, *, seed: int = 0, language: str | None = None) -> Brief:
    """The task's brief for a draft; `language` is the instruction's, the speech's if omitted."""
    briefing = Briefing(PROMPTS, seed, [language] if language else [])
    return briefing(task, sample.utterances[0], sample.split)


def make(task: Task, sample: Sample, *, seed: int = 0, language: str | None = None) -> Sample:
    """The one sample that a computed task makes of a draft."""
    (made,) = task.make(sample, brief(task, sample, seed=seed, language=language))
    return made


def answered(task: LLMTask, sample: Sample, reply: Any, *, seed: int = 0, language: str | None = None) -> list[Sample]:
    """The samples that a task makes of what an LLM has replied."""
    briefed = brief(task, sample, seed=seed, language=language)
    given = replace(sample, provenance=replace(sample.provenance, engine="test"))
    return list(task.answer(given, briefed, reply))


def written(
    transcript: str, response: str, language: str = "en", *, task: str = "reply", into: str | None = None
) -> Sample:
    """A sample whose response an LLM wrote as free text.

    Args:
        language: Of the speech.
        into: Of the response, where it is another.
    """
    sample = draft(transcript, language)
    if task == "translation":
        (made,) = answered(plugins.load("tasks", task)(targets=[into]), sample, response)
    else:
        (made,) = answered(plugins.load("tasks", task)(), sample, response, language=into)
    return made


def asked(
    transcript: str, question: str, answer: str, evidence: str, language: str = "en", *, into: str | None = None
) -> Sample:
    """A question that an LLM wrote, with its answer and what that rests on."""
    pair = replies.QuestionAnswer(question=question, answer=answer, evidence=evidence)
    task = plugins.load("tasks", "question_answer")()
    return answered(task, draft(transcript, language), replies.QuestionAnswers(pairs=[pair]), language=into)[0]


def chosen(
    transcript: str,
    question: str,
    correct: str,
    wrong: list[str],
    evidence: str,
    language: str = "en",
    *,
    into: str | None = None,
) -> Sample:
    """A multiple-choice question that an LLM wrote."""
    reply = replies.MultipleChoice(question=question, evidence=evidence, correct=correct, wrong=wrong)
    task = plugins.load("tasks", "multiple_choice")()
    return answered(task, draft(transcript, language), reply, language=into)[0]


def verdict(filter_: Any, sample: Sample) -> str | None:
    """The reason for which a filter sets a sample aside."""
    (judged,) = filter_([sample])
    return judged.rejected


def untouched(filter_: Any, samples: Iterable[Sample]) -> bool:
    """Whether samples come out of a filter as they went in."""
    samples = list(samples)
    return list(filter_(iter(samples))) == samples
