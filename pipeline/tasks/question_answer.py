"""Questions that the speech answers, and their answers.

The LLM must name the words that its answer rests on, and a filter looks whether they are said.
Questions are phrased as about something heard (Voxtral, arXiv:2507.13264, section 3).

A row: `What does the man hope for?` (He hoped there would be stew) -> `He hopes for stew.`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from pipeline.tasks.base import Brief, LLMTask, alone, spoken
from pipeline.text import spaced, words
from schemas import replies
from schemas.sample import Sample


class QuestionAnswer(LLMTask):
    """Up to `pairs` of them a transcript; each becomes a sample."""

    reply: ClassVar[type[replies.Reply]] = replies.QuestionAnswers
    variables: ClassVar[frozenset[str]] = frozenset({"transcript", "pairs", "question"})
    fewest_words: ClassVar[int] = 5

    pairs: Annotated[int, Field(ge=1, le=8)] = 2
    words_per_pair: PositiveInt = 7
    """Of a shorter utterance fewer questions are asked: there is not enough in it."""
    most_tokens: int = 768

    def values(self, draft: Sample, brief: Brief) -> dict[str, Any]:
        return {"transcript": spoken(draft), "pairs": self._most(draft)}

    def _most(self, draft: Sample) -> int:
        """How many questions there is enough said for: one for each `words_per_pair`."""
        said = spoken(draft)
        length = len(words(said)) if spaced(draft.utterances[0].language) else len(said) // 2
        return max(1, min(self.pairs, length // self.words_per_pair))

    def answer(self, draft: Sample, brief: Brief, reply: replies.QuestionAnswers) -> Iterable[Sample]:
        for number, pair in enumerate(reply.pairs[: self._most(draft)]):
            yield self.sample(
                alone(draft),
                brief,
                pair.answer,
                number=number,
                values={"question": pair.question},
                evidence=pair.evidence,
            )

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        wanted, got = words(sample.answer), words(output)
        shared = sum(min(wanted.count(w), got.count(w)) for w in set(wanted))
        f1 = 2 * shared / (len(wanted) + len(got)) if wanted or got else 1.0
        return {"exact": float(wanted == got), "f1": f1}
