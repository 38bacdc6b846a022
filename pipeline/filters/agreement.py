"""Speech that an ASR engine hears otherwise than it should be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, ClassVar

from num2words import num2words
from pydantic import Field, NonNegativeInt
from rapidfuzz import fuzz

from pipeline.spoken import variants
from pipeline.stage import Filter
from pipeline.text import base, spaced
from pipeline.wer import Errors, Words, compare, edits, forms, normalise, said
from schemas.sample import Mention, Rejection, Sample
from schemas.utterance import Utterance

_ANOTHER_TEXT = 0.5  # CER from which on a word too many is no slip
_NUMERALS = (*range(21), *range(30, 100, 10), 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 10**6)
_TELLING = 3  # letters of a word that says something, as articles do not
_STEM = 4  # letters by which an inflected numeral is recognised: двадцать, двадцати
_WITHIN_NUMBERS = frozenset("and point dot e vírgula ponto и целых целая точка запятая".split())
_WHOLE = "", ""
Span = tuple[int, int]


class Agreement(Filter):
    """Compares hypotheses with transcripts. Speech that nobody has listened to passes.

    A sample whose arguments were lost in a hypothesis that is right otherwise is told apart from one where
    something else is said.
    """

    order: ClassVar[int] = -10  # of what is not said, nothing else needs to be judged
    after_voice: ClassVar[bool] = True

    most_wer: Annotated[float, Field(ge=0)] = 0.3
    """For one utterance. A mismatch needs too high a WER and too high a CER: words may be parted otherwise."""
    most_cer: Annotated[float, Field(ge=0)] = 0.15
    most_cer_unspaced: Annotated[float, Field(ge=0)] = 0.3
    """The only bound for Chinese, Japanese, Thai and others that part no words."""
    allowance: NonNegativeInt = 1
    """So many wrong words are too few to judge by: in a short utterance each weighs much."""
    likeness: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How like its words (a share of their characters) an argument must be heard. Numbers must be right."""

    def reason(self, sample: Sample) -> Rejection | None:
        for place, utterance in enumerate(sample.utterances):
            if utterance.hypothesis is None:
                continue
            mentions = [m for m in sample.mentions if m.utterance == place]
            verdict = self._judge(utterance, utterance.hypothesis, mentions)
            if verdict is not None:
                return verdict
        return None

    def _judge(self, utterance: Utterance, hypothesis: str, mentions: list[Mention]) -> Rejection | None:
        language = utterance.language
        errors = compare(said(utterance), hypothesis, language)
        if not errors.reference:
            return None  # nothing but hesitations
        if not errors.hypothesis:
            return Rejection("nothing_heard", f"where {utterance.transcript!r} should be said")
        lost = [
            m
            for m in mentions
            if not self._is_heard(m.words, utterance, hypothesis) or _is_longer(errors, _wordings(m.words, language))
        ]
        if self._mismatch(errors) and not (lost and self._agrees_otherwise(errors, lost, language)):
            rate = f"WER {errors.wer:.2f}, CER {errors.cer:.2f}" if errors.wer is not None else f"CER {errors.cer:.2f}"
            return Rejection("transcript_mismatch", f"{rate}: {hypothesis!r} for {utterance.transcript!r}")
        if lost:
            what = ", ".join(f"{m.words!r} ({m.argument})" for m in lost)
            return Rejection("argument_not_heard", f"{what} in {hypothesis!r}")
        return None

    def _mismatch(self, errors: Errors) -> bool:
        wer, cer = errors.wer, errors.cer or 0.0
        if wer is None:
            return cer > self.most_cer_unspaced and errors.character_edits > self.allowance
        if wer <= self.most_wer or cer <= self.most_cer:
            return False
        return errors.word_edits > self.allowance or cer > _ANOTHER_TEXT

    def _agrees_otherwise(self, errors: Errors, lost: list[Mention], language: str | None) -> bool:
        """Whether the errors lie where the lost arguments should be."""
        spans = [s for m in lost if (s := _first(errors.reference, _wordings(m.words, language))) is not None]
        inside = {i for begin, end in spans for i in range(begin, end)}
        edges = {i for begin, end in spans for i in range(begin, end + 1)}
        forgiven = 2 * len(inside) + 2  # words more: a value may have more words than the one that was meant
        wrong = 0
        for chunk in edits(errors.reference, errors.hypothesis):
            if chunk.type == "insert":
                more = chunk.hyp_end_idx - chunk.hyp_start_idx
                excused = min(more, forgiven) if chunk.ref_start_idx in edges else 0
                forgiven -= excused
                wrong += more - excused
            elif chunk.type != "equal":
                wrong += sum(i not in inside for i in range(chunk.ref_start_idx, chunk.ref_end_idx))
        rest = len(errors.reference) - len(inside)
        most = self.most_wer if errors.wer is not None else self.most_cer_unspaced
        return bool(spans) and wrong <= most * rest

    def _is_heard(self, wanted: str, utterance: Utterance, hypothesis: str) -> bool:
        language = utterance.language
        heard, wordings = forms(hypothesis, language), _wordings(wanted, language)
        if not wordings:
            return True  # it has no words
        if not spaced(language):
            return any("".join(w) in "".join(h) for w in wordings for h in heard)
        numerals = _numerals(base(language))
        around = {
            _around(form, span, numerals)
            for text in said(utterance)
            for form in forms(text, language)
            for wording in wordings
            for span in _spans(form, wording)
        }
        if _WHOLE in around:
            around = {_WHOLE}  # in `5 of AX 205` only the first is meant
        for form in heard:
            for wording in wordings:
                if any(_is_whole(form, span, around, numerals) for span in _spans(form, wording)):
                    return True
                if self.likeness < 1.0 and _resembles(form, wording, self.likeness, numerals):
                    return True
        return False


@lru_cache(maxsize=4096)
def _wordings(text: str, language: str | None) -> tuple[Words, ...]:
    """All ways to say an argument, normalised."""
    texts = [text, *variants(text, language)]
    return tuple(dict.fromkeys(words for t in texts if (words := normalise(t, language))))


def _first(words: Words, wordings: tuple[Words, ...]) -> Span | None:
    return next((span for wording in wordings for span in _spans(words, wording)), None)


def _spans(words: Words, wanted: Words) -> Iterator[Span]:
    """Where words stand in others, whole words only, however they are parted: `ax 204` is `a x 2 0 4`."""
    whole = "".join(wanted)
    for begin in range(len(words)):
        rest = whole
        for end in range(begin, len(words)):
            if not rest.startswith(words[end]):
                break
            rest = rest[len(words[end]) :]
            if not rest:
                yield begin, end + 1
                break


def _is_longer(errors: Errors, wordings: tuple[Words, ...]) -> bool:
    """Whether more is heard where an argument is said: `New York` for `York`."""
    span = _first(errors.reference, wordings)
    if errors.wer is None or not errors.word_edits or span is None:
        return False
    there: list[str] = []
    more: list[str] = []
    for chunk in edits(errors.reference, errors.hypothesis):
        words = errors.hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert" and span[0] <= chunk.ref_start_idx <= span[1]:
            there += words
            more += words
        elif chunk.type in ("equal", "substitute"):
            there += (w for i, w in enumerate(words, chunk.ref_start_idx) if span[0] <= i < span[1])
    if "".join(there) in {"".join(wording) for wording in wordings}:
        return False  # parted otherwise
    return any(len(word) >= _TELLING and word not in errors.reference for word in more)


def _around(words: Words, span: Span, numerals: frozenset[str]) -> tuple[str, str]:
    """The parts of the same number on both sides of a stretch: '' where there is none."""
    begin, end = span
    before, after = "", ""
    if _is_numeral(words[begin], numerals):
        before = _continued(words[:begin][::-1], numerals)
    if _is_numeral(words[end - 1], numerals):
        after = _continued(words[end:], numerals)
    return before, after


def _continued(words: Words, numerals: frozenset[str]) -> str:
    place = 1 if words and words[0] in _WITHIN_NUMBERS else 0
    return words[place] if len(words) > place and _is_numeral(words[place], numerals) else ""


def _is_whole(words: Words, span: Span, around: set[tuple[str, str]], numerals: frozenset[str]) -> bool:
    """Whether a number is not part of a larger one: `five` is not heard in `twenty five`."""
    found = _around(words, span, numerals)
    return found == _WHOLE or found in around


def _resembles(words: Words, wanted: Words, likeness: float, numerals: frozenset[str]) -> bool:
    if any(_is_numeral(word, numerals) for word in wanted):
        return False
    text = "".join(wanted)
    for size in range(max(1, len(wanted) - 1), len(wanted) + 2):
        for begin in range(len(words) - size + 1):
            if fuzz.ratio("".join(words[begin : begin + size]), text) >= 100 * likeness:
                return True
    return False


def _is_numeral(word: str, numerals: frozenset[str]) -> bool:
    return word in numerals or any(map(str.isdigit, word)) or word[:_STEM] in numerals


@lru_cache(maxsize=64)
def _numerals(language: str) -> frozenset[str]:
    """Words that numbers are made of, and their first letters."""
    found: set[str] = set()
    for kind in ("cardinal", "ordinal"):
        for number in _NUMERALS:
            try:
                text = str(num2words(number, lang=language, to=kind))
            except (NotImplementedError, KeyError, IndexError, TypeError, ValueError):
                break  # num2words does not know the language, or not this kind of number
            found.update(normalise(text, language or None))
    found -= _WITHIN_NUMBERS
    return frozenset(found | {word[:_STEM] for word in found if len(word) >= _STEM})
