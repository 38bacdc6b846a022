"""Keyword spotting: is a word said?

A row: `Is the word "dinner" spoken?` -> `Yes.` 70 % of the words are said, as in SpeechVerse
(arXiv:2405.08295, table 8); the others are said elsewhere in the same corpus, so that they are
plausible.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.tasks.base import Brief, Task, alone
from pipeline.text import lowered, normalise, presentable, spaced, words
from schemas.sample import Sample
from schemas.utterance import Utterance

_SHORTEST = 4  # letters: shorter words are mostly function words, and hard to hear alone


class KeywordSpotting(Task):
    """A yes-or-no question about one word."""

    outcomes: ClassVar[tuple[str, ...]] = ("present", "absent")
    variables: ClassVar[frozenset[str]] = frozenset({"keyword"})
    companions: ClassVar[int] = 3

    present: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Share of words that are said."""

    def fits(self, utterance: Utterance) -> bool:
        return super().fits(utterance) and spaced(utterance.language) and bool(_candidates(utterance))

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        utterance, rng = draft.utterances[0], brief.rng
        outcome = "present" if rng.random() < self.present else "absent"
        if outcome == "present":
            keyword = rng.choice(_candidates(utterance))
        else:
            keyword = _absent(draft, brief, rng)
        response = brief.prompts.response(rng, outcome, keyword=keyword)
        yield self.sample(
            alone(draft), brief, response, answer=brief.prompts.name(outcome), values={"keyword": keyword}
        )

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        return {"correct": float(words(sample.answer)[:1] == words(output)[:1])}


def _candidates(utterance: Utterance) -> list[str]:
    text = presentable(utterance.transcript, utterance.language)
    return sorted({w for w in lowered(text) if len(w) >= _SHORTEST and w.isalpha()})


def _absent(draft: Sample, brief: Brief, rng: random.Random) -> str:
    """A word of another utterance that this one has not, about as long as its own words."""
    own = {part for w in words(draft.utterances[0].transcript) for part in (w, *re.split("['-]", w))}
    others = {w for u in draft.utterances[1:] for w in _candidates(u) if _unheard(w, own)}
    pool = sorted(others) or [w for w in brief.prompts.content.words if _unheard(w, own)]
    length = len(rng.choice(_candidates(draft.utterances[0])))
    near = sorted(pool, key=lambda w: (abs(len(w) - length), w))[: max(3, len(pool) // 4)]
    return rng.choice(near)


def _unheard(word: str, own: set[str]) -> bool:
    """Whether neither a word is said, nor one that it is a part of, nor (perhaps) another form of it."""
    plain = normalise(word)
    return not any(plain in o or plain[:_SHORTEST] == o[:_SHORTEST] for o in own)
