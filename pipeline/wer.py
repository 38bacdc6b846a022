"""WER: how far a hypothesis is from what was said. The `transcribe` stage, filters and evaluation measure alike.

Neither side is held to one way of writing: numerals may be digits or words (both sides are compared as they
are written and as they are spoken, and the nearest pair counts), ё may be е, words may be hyphenated, English
ones contracted or spelled as in Britain, and hesitations may be left out. Edits are counted by jiwer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jiwer

from pipeline import spelling
from pipeline.spoken import spoken
from pipeline.text import base, spaced, without_tags, words
from schemas.utterance import Utterance

Words = tuple[str, ...]

_HESITATIONS = {
    "en": frozenset("uh uhm um umm erm er ah hm hmm mm mmm mhm".split()),
    "ru": frozenset("э ээ эээ эм эмм мм ммм гм хм хмм".split()),
    "pt": frozenset("ahn ãh hã hm hmm ééé".split()),
}
_OTHER_HESITATIONS = frozenset("hm hmm mm mmm mhm".split())
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}")  # `p.m.`
_THOUSANDS = re.compile(r"(?<=\d)[,\u00a0\u202f](?=\d{3}(?!\d))")
_EXACT = 0.0


@dataclass(frozen=True, slots=True)
class Errors:
    """What parts a hypothesis from a reference, in the forms in which they are nearest."""

    reference: Words
    """Characters in languages whose words are not parted by spaces."""
    hypothesis: Words
    words: int
    """Of the reference; 0 in languages whose words are not parted by spaces."""
    word_edits: int
    characters: int
    character_edits: int

    @property
    def wer(self) -> float | None:
        """Word edits for each word of the reference."""
        return self.word_edits / self.words if self.words else None

    @property
    def cer(self) -> float | None:
        """The same of characters, with the spaces between words."""
        return self.character_edits / self.characters if self.characters else None


def rates(errors: Iterable[Errors]) -> tuple[float | None, float | None]:
    """WER and CER of several together: all edits over all words and characters of the references."""
    every = list(errors)
    words_said, characters = sum(e.words for e in every), sum(e.characters for e in every)
    return (
        round(sum(e.word_edits for e in every) / words_said, 6) if words_said else None,
        round(sum(e.character_edits for e in every) / characters, 6) if characters else None,
    )


def said(utterance: Utterance) -> tuple[str, ...]:
    """What is said in an utterance: its transcript, and what a voice was given if that differs."""
    return tuple(dict.fromkeys(text for text in (utterance.transcript, utterance.spoken) if text))


@lru_cache(maxsize=4096)  # the stage and the filter ask for the same
def compare(references: Sequence[str], hypothesis: str, language: str | None) -> Errors:
    """A hypothesis against a reference.

    Args:
        references: What was said, as a tuple of texts that say the same: see `said`.
        hypothesis: What was heard.
        language: Of both; None is compared as it is written.
    """
    said = dict.fromkeys(form for text in references for form in forms(text, language))
    heard = forms(hypothesis, language)
    found = (_errors(one, other, spaced(language)) for one in said for other in heard)
    return min(found, key=lambda e: (e.wer or _EXACT, e.cer or _EXACT, -e.words, -e.characters))


@lru_cache(maxsize=4096)
def forms(text: str, language: str | None) -> tuple[Words, ...]:
    """A text as it is written and as it is spoken, normalised: words, or characters of unspaced languages."""
    written = normalise(text, language)
    if language is None:
        return (written,)
    aloud = normalise(spoken(without_tags(text), language), language)
    return (written,) if aloud == written or not aloud else (written, aloud)


@lru_cache(maxsize=8192)
def normalise(text: str, language: str | None) -> Words:
    """What of a text is compared: words in small letters, or characters of unspaced languages.

    Tags, punctuation, hyphens and hesitations are gone.
    """
    text = _INITIALS.sub(lambda m: m[0].replace(".", ""), _THOUSANDS.sub("", without_tags(text)))
    found = words(text)
    if not spaced(language):
        return tuple("".join(found).replace("-", "").replace("'", ""))
    tongue = base(language)
    if tongue == "en":
        found = spelling.expanded(_bare(" ".join(found))).split()
    parts = [part for word in found for part in word.replace("-", " ").replace("'", " ").split()]
    hesitations = _HESITATIONS.get(tongue, _OTHER_HESITATIONS)
    parts = [part for part in parts if part not in hesitations]
    if tongue == "en":
        return tuple(part for word in parts for part in spelling.one_way(word).split())
    return tuple(parts)


def _bare(text: str) -> str:
    """English without the accents that some words have from elsewhere: `café`."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def edits(reference: Words, hypothesis: Words) -> list[jiwer.AlignmentChunk]:
    """The alignment of two lists of words: runs that are equal, substituted, deleted or inserted."""
    assert reference
    result = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return list(result.alignments[0])


def _errors(reference: Words, hypothesis: Words, by_words: bool) -> Errors:
    separator = " " if by_words else ""
    said, heard = separator.join(reference), separator.join(hypothesis)
    words_said = len(reference) if by_words else 0
    if reference == hypothesis:
        return Errors(reference, hypothesis, words_said, 0, len(said), 0)
    if not reference or not hypothesis:  # all is inserted, or all is lost
        most = max(len(reference), len(hypothesis)) if by_words else 0
        return Errors(reference, hypothesis, words_said, most, len(said), max(len(said), len(heard)))
    word_edits = _count(jiwer.process_words(said, heard)) if by_words else 0
    return Errors(
        reference, hypothesis, words_said, word_edits, len(said), _count(jiwer.process_characters(said, heard))
    )


def _count(result: jiwer.WordOutput | jiwer.CharacterOutput) -> int:
    return int(result.substitutions + result.deletions + result.insertions)
