"""The attitude that the words express.

A row: `Is this positive, neutral or negative?` (He hoped there would be stew) -> `Positive`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pipeline.tasks.base import Brief, LLMTask, alone, names_only
from schemas import replies
from schemas.sample import Sample

LABELS = ("positive", "neutral", "negative")


class Sentiment(LLMTask):
    """One of three labels, named in the language of the instruction."""

    reply: ClassVar[type[replies.Reply]] = replies.Sentiment
    outcomes: ClassVar[tuple[str, ...]] = LABELS
    fewest_words: ClassVar[int] = 4

    def answer(self, draft: Sample, brief: Brief, reply: replies.Sentiment) -> Iterable[Sample]:
        response = brief.prompts.response(brief.rng, reply.sentiment)
        names = [brief.prompts.name(label) for label in LABELS]
        answer = brief.prompts.name(reply.sentiment)
        yield self.sample(alone(draft), brief, response, answer=answer, choices=names)

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        return {"correct": float(names_only(output, sample.answer, sample.choices))}
