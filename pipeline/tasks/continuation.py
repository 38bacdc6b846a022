"""Continuation: go on where the speaker stopped.

Source: BLSP (Wang et al., arXiv:2309.00916) and Ultravox: what the LLM writes after the transcript is
what the model is to say after the audio.

A row: `Continue what is said.` (He hoped there would be stew) -> `with plenty of carrots, but ...`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import PositiveInt

from pipeline.tasks.base import Brief, LLMTask, alone, spoken
from schemas.sample import Sample


class Continuation(LLMTask):
    """The LLM's own continuation, a few dozen words."""

    variables: ClassVar[frozenset[str]] = frozenset({"transcript", "most_words"})
    fewest_words: ClassVar[int] = 4

    most_words: PositiveInt = 50
    most_tokens: int = 256

    def values(self, draft: Sample, brief: Brief) -> dict[str, Any]:
        return {"transcript": spoken(draft), "most_words": self.most_words}

    def answer(self, draft: Sample, brief: Brief, reply: str) -> Iterable[Sample]:
        language = draft.utterances[0].language
        yield self.sample(alone(draft), brief, reply, language=language, values={"most_words": self.most_words})
