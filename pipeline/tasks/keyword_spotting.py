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
from pipeline.text import base, lowered, normalise, presentable, spaced, words
from schemas.sample import Sample
from schemas.utterance import Utterance

_SHORTEST = 4  # letters: shorter words are mostly function words, and hard to hear alone
_SOUND_ALIKE = """
there their they're / here hear / where wear / right write / whole hole / piece peace / would wood / your you're
knew new / through threw / which witch / wait weight / road rode / made maid / main mane / mail male / sale sail
tail tale / plain plane / break brake / great grate / meet meat / week weak / flower flour / whether weather
course coarse / allowed aloud / board bored / some sum / four for fore / night knight / seen scene
past passed / sight site cite
steel steal / sweet suite / waist waste / heard herd / hour our / know no / buy by bye / one won
conserto concerto / sessão seção cessão / sela cela / ouve houve / caçar cassar / acento assento / cozer coser
кампания компания / плод плот / молот молод / луг лук / полоскать поласкать / посветить посвятить
"""
_ALIKE = {word: group for group, line in enumerate(re.split("[/\n]", _SOUND_ALIKE)) for word in line.split()}
"""The common words that nobody can tell apart by ear, by their number."""


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
        absent = None if rng.random() < self.present else _absent(draft, brief, rng)
        outcome, keyword = ("absent", absent) if absent else ("present", rng.choice(_candidates(utterance)))
        response = brief.prompts.response(rng, outcome, keyword=keyword)
        yield self.sample(
            alone(draft), brief, response, answer=brief.prompts.name(outcome), values={"keyword": keyword}
        )

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        return {"correct": float(words(sample.answer)[:1] == words(output)[:1])}


def _candidates(utterance: Utterance) -> list[str]:
    text = presentable(utterance.transcript, utterance.language)
    return sorted({w for w in lowered(text) if len(w) >= _SHORTEST and w.isalpha()})


def _absent(draft: Sample, brief: Brief, rng: random.Random) -> str | None:
    """A word of another utterance that this one has not, about as long as its own words; None if there is none.

    The prompts' own words serve where there are no others, but only for speech in their language: in any
    other they would give the answer away.
    """
    language = base(draft.utterances[0].language)
    own = {part for w in words(draft.utterances[0].transcript) for part in (w, *re.split("['-]", w))}
    others = {w for u in draft.utterances[1:] for w in _candidates(u) if _unheard(w, own)}
    pool = sorted(others)
    if not pool and language in ("", brief.language):
        pool = [w for w in brief.prompts.content.words if _unheard(w, own)]
    if not pool:
        return None
    length = len(rng.choice(_candidates(draft.utterances[0])))
    near = sorted(pool, key=lambda w: (abs(len(w) - length), w))[: max(3, len(pool) // 4)]
    return rng.choice(near)


def _unheard(word: str, own: set[str]) -> bool:
    """Whether neither a word is said, nor one that it is a part of, sounds like, or (perhaps) is a form of."""
    plain = normalise(word)
    alike = _ALIKE.get(plain, -1)
    return not any(plain in o or plain[:_SHORTEST] == o[:_SHORTEST] or _ALIKE.get(o) == alike for o in own)
