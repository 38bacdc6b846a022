"""The words that matter most in what is said.

A row: `List the key words.` -> `stew, dinner, turnips`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pipeline.tasks.base import Brief, LLMTask, alone, said, spoken
from pipeline.text import normalise
from schemas import replies
from schemas.sample import Sample


class Keywords(LLMTask):
    """As they are said, most important first."""

    reply: ClassVar[type[replies.Reply]] = replies.Keywords
    variables: ClassVar[frozenset[str]] = frozenset({"transcript", "most"})
    fewest_words: ClassVar[int] = 8

    most: Annotated[int, Field(ge=1, le=8)] = 4

    def values(self, draft: Sample, brief: Brief) -> dict[str, Any]:
        return {"transcript": spoken(draft), "most": self.most}

    def answer(self, draft: Sample, brief: Brief, reply: replies.Keywords) -> Iterable[Sample]:
        found: dict[str, str] = {}
        for keyword in reply.keywords:
            found.setdefault(normalise(keyword), keyword)
        chosen = list(found.values())[: self.most]
        language = draft.utterances[0].language
        sample = self.sample(alone(draft), brief, ", ".join(chosen), language=language, values={"most": self.most})
        missing = [k for k in chosen if not said(sample, k)]
        yield sample.reject("keyword_not_said", f"{missing[0][:80]!r} is not in the transcript") if missing else sample

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        wanted, got = ({normalise(k) for k in text.split(",")} - {""} for text in (sample.answer, output))
        hits = len(wanted & got)
        return {"f1": 2 * hits / (len(wanted) + len(got)) if wanted or got else 1.0}
