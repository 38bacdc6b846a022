"""Russian cases: of units, whose forms are known, and of numbers, from the words around them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.spoken.lexicon import Lexicon

# Cases as num2words calls them: n, g, d, a, i, p.
CASE_AFTER = {
    **dict.fromkeys(
        """от до из без около у для после кроме вокруг свыше более менее больше меньше против среди порядка течение
        не_менее позже раньше ранее старше младше выше ниже размере количестве ото изо безо""".split(),
        "g",
    ),
    **dict.fromkeys("к ко благодаря согласно равно равен".split(), "d"),
    **dict.fromkeys("над между перед".split(), "i"),
    **dict.fromkeys("о об обо при".split(), "p"),
    **dict.fromkeys("в во на за через про сквозь".split(), "a"),
}
_NO_NOUNS = frozenset(
    """и или ли если при после также ни на в во с со к ко по до от из за о об у а но да не раза уже ещё бы же для
    утра дня ночи вечера мы вы ты они сегодня завтра сейчас пожалуйста потом или дома рядом туда быстро""".split()
)
_FEMININE_DATIVE = ("тке", "вке", "бке", "чке", "шке", "нке", "дке", "ице", "оте", "ире", "яче", "ьме", "уте", "нде")
_SOFT_FEMININE = ("ость", "есть", "знь", "сть")


@dataclass(frozen=True, slots=True)
class Noun:
    """What a unit is called: `миллиграмм, миллиграмма, миллиграммов, m` and words that stay as they are."""

    one: str
    few: str
    many: str
    gender: str = "m"
    tail: str = ""

    def after(self, number: int, case: str = "n") -> str:
        """The form after a number, with its tail."""
        single = number % 10 == 1 and number % 100 != 11
        return f"{self._form(number, single, case)} {self.tail}".rstrip()

    def part(self) -> str:
        """The form after a fraction: `две десятых миллиграмма`."""
        return f"{self.few} {self.tail}".rstrip()

    def _form(self, number: int, single: bool, case: str) -> str:
        if case in "na":
            if single:
                return self.one[:-1] + _FEMININE_A[self.one[-1]] if case == "a" and self.gender == "f" else self.one
            return self.few if number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14) else self.many
        if case == "g" or self.gender[0] in "xn":
            return self.few if single and self.gender[0] != "x" else self.one if single else self.many
        stem, soft = self.few[:-1], self.one[-1] in "яь" or self.few[-1] == "я"
        if not single:
            return stem + (_SOFT if soft else _HARD)[case]
        if self.gender == "f":
            dative = "и" if stem.endswith("и") else "е"
            return stem + {"d": dative, "p": dative, "i": "ей" if soft else "ой"}[case]
        return stem + {"d": "ю" if soft else "у", "p": "е", "i": "ем" if soft else "ом"}[case]


_FEMININE_A = {"а": "у", "я": "ю"}
_HARD = {"d": "ам", "i": "ами", "p": "ах"}
_SOFT = {"d": "ям", "i": "ями", "p": "ях"}


def noun(forms: list[str]) -> Noun:
    """A noun from its forms in the lexicon."""
    return Noun(*forms)


def agreement(number: int, word: str, before: str, lexicon: Lexicon) -> tuple[str, str]:
    """Case and gender of a number from the noun after it and the preposition before it."""
    single = number % 10 == 1 and number % 100 != 11
    if not word or word in _NO_NOUNS:
        return CASE_AFTER.get(before, "g" if before in ("с", "со") else "n"), "m"
    if single:
        return _single(word, before, lexicon)
    if len(word) > 3:
        if word.endswith(("ами", "ями", "ьми")):
            return "i", "m"
        if word.endswith(("ах", "ях")):
            return "p", "m"
        if word.endswith(("ам", "ям", "ым", "им")) and (CASE_AFTER.get(before, "d") == "d" or before == "по"):
            return "d", "m"
    case = CASE_AFTER.get(before, "g" if before in ("с", "со") else "n")
    if case == "g" and before in ("с", "со") and word.endswith(("а", "я")) and word not in lexicon.neuter:
        case = "n"
    if case not in ("g", "a", "n"):  # the noun's ending does not bear it out
        case = case if before in ("между", "к", "ко") and not word.endswith(("а", "я", "ы", "и")) else "n"
    feminine = word.endswith(("ы", "и", "ые", "ие")) and word not in lexicon.neuter
    return case, "f" if feminine else "m"


def _single(word: str, before: str, lexicon: Lexicon) -> tuple[str, str]:
    """Of a number that ends in one: the noun is in the singular, and its ending tells the most."""
    if word in lexicon.masculine:
        return "n", "m"
    if word in lexicon.neuter:
        return "n", "n"
    case = CASE_AFTER.get(before, "n")
    last, two = word[-1], word[-2:]
    if case == "g" or (before in ("с", "со") and last in "аяыи"):
        return "g", "f" if last in "ыи" or two in ("ой", "ей") else "m"
    if case == "d" or (before == "по" and last in "уюеи"):
        return "d", "f" if last in "еи" or two in ("ой", "ей") else "m"
    if case == "i" or (before in ("с", "со") and two in ("ом", "ем", "ём", "ой", "ей", "ью", "ым", "им")):
        return "i", "m" if two in ("ом", "ем", "ём", "ым", "им") else "f"
    if case == "p" or (case == "a" and (last == "и" or (last == "е" and two not in ("ое", "ее", "ие")))):
        return "p", "f" if last == "и" or word.endswith(_FEMININE_DATIVE) or two in ("ой", "ей") else "m"
    if two in ("ую", "юю") or (last in "ую" and len(word) > 2):
        return "a", "f"
    if last in "ая":
        return "n", "f"
    if last in "оеё":
        return "n", "n"
    if last == "ь":
        return "n", "f" if word in lexicon.feminine or word.endswith(_SOFT_FEMININE) else "m"
    return "n", "m"


def ordinal_case(word: str, number: int, before: str, lexicon: Lexicon) -> tuple[str, str] | None:
    """Case and gender of an ordinal before a noun that is counted off (`на 5 этаже`); None for others."""
    for known, gender in lexicon.ordinal_nouns.items():
        stem = known[:-1] if gender in "nf" else known
        if not word.startswith(stem[:-2] if known.endswith("ень") else stem):
            continue
        ending = word[len(stem) :]
        forms = {
            "m": {"": "n", "а": "g", "у": "d", "ом": "i", "е": "p"},
            "n": {"о": "n", "а": "g", "у": "d", "ом": "i", "е": "p"},
            "f": {"а": "n", "ы": "g", "и": "g", "е": "p", "у": "a", "ой": "i", "ей": "i", "я": "n", "ю": "a"},
        }[gender]
        if known.endswith("ень"):
            forms, ending = {"ень": "n", "ня": "g", "ню": "d", "нем": "i", "не": "p"}, word[len(known) - 3 :]
        case = forms.get(ending)
        if case is None:
            return None
        few = number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14)
        if case == "g" and few and CASE_AFTER.get(before) != "g":
            return None  # `2 этажа` are counted
        if case == "d" and gender == "m" and before in ("в", "на"):
            case = "p"
        if case == "n" and before in ("в", "на", "за", "через", "про"):
            case = "a"
        return case, gender
    return None
