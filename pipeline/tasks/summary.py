"""Summary of what is said.

A row: `Sum up the recording in one sentence.` -> `A man looks forward to a dinner of stew.`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pipeline.tasks.base import Brief, LLMTask, alone
from schemas.sample import Sample


class Summary(LLMTask):
    """Shorter than what is said, in the language of the instruction."""

    fewest_words: ClassVar[int] = 15

    most_tokens: int = 192

    def answer(self, draft: Sample, brief: Brief, reply: str) -> Iterable[Sample]:
        yield self.sample(alone(draft), brief, reply)
