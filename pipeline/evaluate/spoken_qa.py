"""Spoken question answering: whether an answer is the expected one, and how many of its words are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from pipeline.evaluate.figures import Figure, mean, share
from pipeline.evaluate.items import Item
from pipeline.text import base, spaced, words

EXACT = (
    "qa-exact/earwitness-1: normalised answers are equal (as SQuAD's: small letters, no punctuation, no articles of "
    "the language); Wilson 95 %"
)
F1 = "qa-f1/earwitness-1: F1 of the words that both have (of characters in unspaced languages), mean over rows"
FREE_F1 = "free-f1/earwitness-1: as qa-f1/earwitness-1, of texts that have no single right form: likeness, not quality"
_ARTICLES = {
    "en": frozenset("a an the".split()),
    "pt": frozenset("o a os as um uma uns umas".split()),
    "es": frozenset("el la los las lo un una unos unas".split()),
    "fr": frozenset("le la les l un une des".split()),
    "de": frozenset("der die das den dem des ein eine einen einem einer eines".split()),
    "it": frozenset("il lo la i gli le l un uno una".split()),
    "nl": frozenset("de het een".split()),
}
"""Languages that are not here have no articles, or none is left out."""


@lru_cache(maxsize=8192)
def normalise(text: str, language: str | None) -> tuple[str, ...]:
    """What of an answer is compared: its words without articles, or the characters of unspaced languages."""
    found = [part for word in words(text) for part in re.split("['-]", word) if part]
    if not spaced(language):
        return tuple("".join(found))
    left_out = _ARTICLES.get(base(language), frozenset())
    # An answer that is nothing but an article is one: `which letter is said?`
    return tuple(word for word in found if word not in left_out) or tuple(found)


def exact(reference: str, output: str, language: str | None) -> bool:
    """Whether two answers are the same."""
    return normalise(reference, language) == normalise(output, language)


def f1(reference: str, output: str, language: str | None) -> float:
    """Harmonic mean of the shares of their words that two answers have in common; 1 for two empty ones."""
    wanted, got = normalise(reference, language), normalise(output, language)
    if not wanted or not got:
        return float(wanted == got)
    shared = (Counter(wanted) & Counter(got)).total()
    return 2 * shared / (len(wanted) + len(got))


def figures(items: Sequence[Item]) -> list[Figure]:
    """Exact match and F1."""
    pairs = [(i.turn.sample.answer or i.turn.reference.content, i.output, i.turn.sample.language) for i in items]
    return [share("exact", [float(exact(*p)) for p in pairs], EXACT), mean("f1", [f1(*p) for p in pairs], F1)]


def free(items: Sequence[Item]) -> list[Figure]:
    """F1 against the reference of texts that might as well be others."""
    pairs = [(i.turn.reference.content, i.output, i.turn.sample.language) for i in items]
    return [mean("f1", [f1(*p) for p in pairs], FREE_F1)]
