"""Repeat: say back what was heard, or its first or last words.

Rows: `Repeat after the speaker.` -> `turn left at the bank`; `Repeat the last 2 words.` -> `the bank`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pipeline.tasks._words import countable
from pipeline.tasks.base import Brief, Task, alone, spoken
from pipeline.text import lowered, spaced
from schemas.sample import Sample

_LONGEST = 6  # words that are asked for from the beginning or the end


class Repeat(Task):
    """The words as they are said."""

    kinds: ClassVar[tuple[str, ...]] = ("all", "first_words", "last_words")
    variables: ClassVar[frozenset[str]] = frozenset({"n"})
    may_copy: ClassVar[bool] = True

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        utterance = draft.utterances[0]
        text = spoken(draft)
        said = lowered(text)
        kind, n, response = "all", 0, text
        if spaced(utterance.language) and len(said) > 3 and countable(text):
            kind = brief.rng.choice(self.kinds)
            n = brief.rng.randint(2, min(_LONGEST, len(said) - 1))
        if kind == "first_words":
            response = " ".join(said[:n])
        elif kind == "last_words":
            response = " ".join(said[-n:])
        yield self.sample(alone(draft), brief, response, kind=kind, language=utterance.language, values={"n": n})
