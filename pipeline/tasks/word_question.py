"""Questions about words and their places, whose answers are computed.

Rows: `How many words are said?` -> `7`; `Which word comes right after "hoped"?` -> `there`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from pipeline.tasks._words import countable
from pipeline.tasks.base import Brief, Task, alone, spoken
from pipeline.text import lowered, spaced
from schemas.sample import Sample
from schemas.utterance import Utterance

_ONCE = 0.2  # how often a word that is said once is asked about


class WordQuestion(Task):
    """How many words, which one is first, last, n-th, before or after another, and how often."""

    kinds: ClassVar[tuple[str, ...]] = ("count", "first", "last", "nth", "after", "before", "often")
    variables: ClassVar[frozenset[str]] = frozenset({"word", "n"})
    fewest_words: ClassVar[int] = 3

    def fits(self, utterance: Utterance) -> bool:
        return super().fits(utterance) and spaced(utterance.language) and countable(utterance.transcript)

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        kind, values, answer = brief.rng.choice(list(_questions(lowered(spoken(draft)), brief)))
        yield self.sample(alone(draft), brief, answer, kind=kind, values=values)


def _questions(said: list[str], brief: Brief) -> Iterator[tuple[str, dict[str, Any], str]]:
    """One question of each kind that has a single answer."""
    counts = Counter(said)
    parts = Counter(part for word in said for part in re.split("['-]", word))
    whole = [w for w in said if parts[w] <= counts[w]]  # not `well` beside `well-known`: both are heard
    yield "count", {}, str(len(said))
    yield "first", {}, said[0]
    yield "last", {}, said[-1]
    place = brief.rng.randrange(1, min(len(said) - 1, 8))
    yield "nth", {"n": place + 1}, said[place]
    once = [i for i, w in enumerate(said) if counts[w] == 1 and w in whole]
    if before := [i for i in once if i + 1 < len(said)]:
        i = brief.rng.choice(before)
        yield "after", {"word": said[i]}, said[i + 1]
    if after := [i for i in once if i > 0]:
        i = brief.rng.choice(after)
        yield "before", {"word": said[i]}, said[i - 1]
    # Most words are said once: were the word drawn from all, a model would learn to say `once`.
    repeated = sorted({w for w in whole if counts[w] > 1})
    if repeated or brief.rng.random() < _ONCE:
        word = brief.rng.choice(repeated if repeated and brief.rng.random() >= _ONCE else sorted(set(whole)))
        yield "often", {"word": word}, str(counts[word])
