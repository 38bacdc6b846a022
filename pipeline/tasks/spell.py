"""Spelling a word that is said.

A row: `Spell the last word.` -> `D I N N E R`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pipeline.tasks._words import countable
from pipeline.tasks.base import Brief, Task, alone, spoken
from pipeline.text import lowered, presentable, spaced, words
from schemas.sample import Sample
from schemas.utterance import Utterance


class Spell(Task):
    """Letter by letter, in capitals."""

    kinds: ClassVar[tuple[str, ...]] = ("first", "last", "longest", "nth")
    variables: ClassVar[frozenset[str]] = frozenset({"n"})

    def fits(self, utterance: Utterance) -> bool:
        text = presentable(utterance.transcript, utterance.language)
        return super().fits(utterance) and spaced(utterance.language) and countable(text) and bool(_spellable(text))

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        said = lowered(spoken(draft))
        longest = sorted(said, key=len)[-2:]
        places = {"first": 0, "last": len(said) - 1, "nth": brief.rng.randrange(min(len(said), 8))}
        if len(longest) == 1 or len(longest[0]) < len(longest[1]):
            places["longest"] = said.index(longest[-1])
        spellable = set(_spellable(spoken(draft)))
        possible = sorted(kind for kind, i in places.items() if said[i] in spellable)
        if not possible:
            places["nth"] = next(i for i, w in enumerate(said) if w in spellable)
            possible = ["nth"]
        kind = brief.rng.choice(possible)
        word = said[places[kind]]
        yield self.sample(alone(draft), brief, " ".join(word.upper()), kind=kind, values={"n": places[kind] + 1})

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        return {"correct": float("".join(words(output)).replace("-", "") == "".join(words(sample.answer)))}


def _spellable(text: str) -> list[str]:
    """Words of letters only, whose capitals are single letters too (ß is not)."""
    return [w for w in lowered(text) if w.isalpha() and len(w) > 1 and len(w.upper()) == len(w)]
