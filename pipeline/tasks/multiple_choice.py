"""A question with four options; the answer is a letter.

A row: `What does the man hope for?` A. fish B. stew C. soup D. bread -> `B`
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from msgspec.structs import replace

from pipeline.tasks.base import Brief, LLMTask, alone
from pipeline.text import normalise
from schemas import replies
from schemas.sample import Sample

LETTERS = "ABCD"
_LETTERED = re.compile(r"\(?[A-Da-d][.):]\s+(?=\S)")


class MultipleChoice(LLMTask):
    """One right and three wrong options, shuffled by the sample's seed."""

    reply: ClassVar[type[replies.Reply]] = replies.MultipleChoice
    variables: ClassVar[frozenset[str]] = frozenset({"transcript", "question", "options"})
    fewest_words: ClassVar[int] = 5

    def answer(self, draft: Sample, brief: Brief, reply: replies.MultipleChoice) -> Iterable[Sample]:
        options = [reply.correct, *reply.wrong]
        if all(_LETTERED.match(option) for option in options):  # we give them letters ourselves
            options = [_LETTERED.sub("", option, count=1) for option in options]
        correct = options[0]
        brief.rng.shuffle(options)
        letter = LETTERS[options.index(correct)]
        listed = "\n".join(f"{name}. {option}" for name, option in zip(LETTERS, options, strict=True))
        sample = self.sample(
            alone(draft),
            brief,
            letter,
            choices=options,
            values={"question": reply.question, "options": listed},
            evidence=reply.evidence,
        )
        if len({normalise(option) for option in options}) < len(options):
            sample = sample.reject("options_not_distinct", " | ".join(option[:80] for option in options))
        yield replace(sample, answer=letter)

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        found = re.match(r"\W*([A-D])(?:\W*$|[^\w\s'’])", output.strip())  # but not `A man ...`
        parsed = found[1] if found else ""
        return {"correct": float(parsed == sample.answer), "parsed": float(bool(parsed))}
