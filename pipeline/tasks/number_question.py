"""Questions about the numbers that are said, whose answers are computed.

Rows: `Which numbers are mentioned? Write them in digits.` -> `25, 3`; `What do they add up to?` -> `28`.
Where a number may be meant in another way (a year, a time, an inflected form that is not known), no
question is asked: a wrong answer would teach worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

from pipeline.tasks.base import Brief, Task, alone
from pipeline.text import base, presentable, spaced, words
from schemas.sample import Sample
from schemas.utterance import Utterance

_LARGEST = 9999  # numbers up to here are known by their words
_NO_WHOLE = re.compile(r"\d[.,:/]\d|\d[^\W\d_]|[^\W\d_]\d|[%$€£₽°]|\b0\d|\d{10}|\d-|[-–−]\d|\d \d{2}")
_AND = frozenset({"and", "e", "и"})
_ARTICLES = {"en": {"one"}, "pt": {"um", "uma"}, "ru": {"один", "одна", "одно"}}
"""Words that are as often no number as one."""
_VARIANTS = {
    "en": [("hundred and", "hundred"), ("thousand and", "thousand")],
    "pt": [
        *(("dois", "duas"), ("um", "uma"), ("entos", "entas"), ("catorze", "quatorze")),
        *(("dezasseis", "dezesseis"), ("dezassete", "dezessete"), ("dezanove", "dezenove")),
    ],
    "ru": [("два", "две"), ("один", "одна"), ("один", "одно"), ("одна тысяча", "тысяча")],
}
_DOUBTFUL = {
    "en": (
        r"hundreds?|thousands?|[mb]illions?|dozens?|hal(f|ves)|quarters?|double|triple|oh|point|percent"
        r"|o'clock|minus|negative|(twen|thir|for|fif|six|seven|eigh|nine)ties"
    ),
    "pt": (
        r"cent[oe]\w*|mil|milh\w+|bilh\w+|mei[ao]|metade|dúzias?|dezenas?|vírgula|ponto|quartos?|terços?|horas?"
        r"|menos|negativ[oa]s?"
    ),
    "ru": (
        r"об[ае]\w*|обоих|полтор\w+|пол\w?|половин\w+|четверт\w+|одн(ого|ому|им|ом|ой|у|их|ими)"
        r"|дв(ух|ум|умя|ое|оих|ести|ух\w+)|тр([её]х|[её]м|емя|ое|оих)|четыр\w+|пят(и|ью|еро|ый|ого|ая|ую)"
        r"|шест(и|ью|еро)|сем(и|ью|еро)|вос(ьми|емью)\w*|девят(и|ью|еро)|десят(и|ью|еро|ок|ка|ки|ков)"
        r"|\w+(надцати|надцатью|дцати|дцатью|десяти|десятью|сот|стам|стами|стах)|сорока|девяноста|ста"
        r"|тысяч\w*|миллион\w*|миллиард\w*|процент\w*|час\w*|минус\w*|нул\w+|нол[яюеи]\w*"
        r"|четвер(о|ых|ым|ыми)|сотн\w+|сотен|дюжин\w*"
    ),
}
"""Words that make the numbers around them doubtful."""
_ORDINALS = {
    "en": r"firsts?|seconds?|thirds?|fourths?|(\w+f|six|seven|eigh|nin|\w*ten|\w+een|\w+ie|\w+d)ths?",
    "pt": r"terços?|quint[oa]s?|sext[oa]s?|sétim[oa]s?|oitav[oa]s?|non[oa]s?|décim[oa]s?|avos|centésim\w+|milésim\w+",
    "ru": (
        r"(перв|втор|пят|шест|седьм|восьм|девят|десят|сот|тысячн|сороков|\w+надцат|\w+дцат|\w+десят|\w+сот)"
        r"(ый|ой|ая|ое|ые|ого|ому|ым|ом|ую|ых|ыми|ым)|трет(ий|ь\w+)|четв[её]рт\w+"
    ),
}
"""Words that make another number of the one before them: twenty-first, two thirds."""


class NumberQuestion(Task):
    """Which numbers, which is the largest, what is their sum."""

    kinds: ClassVar[tuple[str, ...]] = ("list", "largest", "sum")

    def fits(self, utterance: Utterance) -> bool:
        return super().fits(utterance) and spaced(utterance.language) and bool(_numbers(utterance))

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        numbers = _numbers(draft.utterances[0])
        kind = brief.rng.choice(self.kinds if len(numbers) > 1 else self.kinds[:1])
        answers = {
            "list": ", ".join(map(str, numbers)),
            "largest": str(max(numbers)),
            "sum": str(sum(numbers)),
        }
        yield self.sample(alone(draft), brief, answers[kind], kind=kind)


def _numbers(utterance: Utterance) -> list[int]:
    """The whole numbers of a transcript, in their order; none if one of them is in doubt."""
    text = presentable(utterance.transcript, utterance.language)
    language = base(utterance.language)
    if language not in _VARIANTS or _NO_WHOLE.search(text):
        return []
    tokens = [w for token in words(text) for w in token.split("-")]
    found: list[tuple[int, int, int]] = []  # where it begins and ends, and the number
    at = 0
    while at < len(tokens):
        length, value = _longest_number(tokens[at:], language)
        if value is not None:
            found.append((at, at + length, value))
        elif re.fullmatch(_DOUBTFUL[language], tokens[at]):
            return []
        elif re.fullmatch(_ORDINALS[language], tokens[at]):
            before = at - 1 if tokens[at - 1] in _AND else at  # one hundred and first
            if found and found[-1][1] == before:
                return []
        at += length
    touching = set()
    for (start, end, first), (begin, _, second) in pairwise(found):
        if end == begin:
            touching |= {start, begin}
            if first > 9 or second > 9:
                return []  # nineteen eighty four, ten thirty
    single = {begin for begin, end, _ in found if end == begin + 1} - touching
    if any(tokens[begin] in _ARTICLES[language] for begin in single):
        return []  # a book and a pen; but one, two, three
    return [value for _, _, value in found]


def _longest_number(tokens: list[str], language: str) -> tuple[int, int | None]:
    """How many tokens make the number that they begin with, and the number; (1, None) if none."""
    if tokens[0].isdecimal():
        return 1, int(tokens[0])
    known = _spoken_numbers(language)
    best: tuple[int, int | None] = (1, None)
    for length in range(1, min(len(tokens), 8) + 1):
        value = known.get(" ".join(tokens[:length]))
        if value is not None:
            best = (length, value)
    return best


@lru_cache(maxsize=32)
def _spoken_numbers(language: str) -> dict[str, int]:
    """Numbers by the words for them, in all their variants."""
    from num2words import num2words

    known = {" ".join(words(num2words(n, lang=language).replace("-", " "))): n for n in range(_LARGEST + 1)}
    for usual, variant in _VARIANTS[language]:
        known |= {spoken.replace(usual, variant): n for spoken, n in known.items() if usual in spoken}
    return known
