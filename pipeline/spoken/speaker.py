"""Speaker: what the languages share in saying a written text; each language is a subclass with its own rules.

A rule is a pattern and a method that gets the match, sees the words around it, and gives what is said, or
None if the text is not of its kind after all; then the next rule that matches there is asked. Rules come
from the particular to the general: an address before a number, a number before a lone digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import ClassVar

from num2words import num2words

from pipeline.spoken.lexicon import Lexicon, any_of, load

Match = re.Match[str]
Rule = tuple[str, Callable[[Match], str | None]]

DASH = r"[-\u2010-\u2014\u2212]"
SPACE = r"[ \u00a0\u202f]"
CAPITAL = "A-ZÀ-ÖØ-ÞА-ЯЁ"
_LONGEST_CARDINAL = 15  # digits; longer ones are read one by one
_LONG = 6  # digits without separators that are still read as one number
_NAMED = re.compile(r"\(\?P<\w+>")
_BEFORE = re.compile(r"([^\W\d_]+)[ \u00a0\u202f]+$")
_AFTER = re.compile(r"[ \u00a0\u202f]([^\W\d_]+)")
_PARTS = re.compile(r"[^\W\d_]+|[0-9]+|[^\w\s]|_")
_MOST_PASSES = 8


@lru_cache(maxsize=65536)
def words_of(number: int, language: str, to: str = "cardinal", **form: str | bool) -> str:
    """A number in words, by num2words, without the commas that a voice would pause at."""
    return str(num2words(number, lang=language, to=to, **form)).replace(",", "")


class Speaker:
    """Says texts of one language."""

    language: ClassVar[str]
    number: ClassVar[str]
    """Pattern of a number as the language writes it, decimals and thousands included."""
    groups: ClassVar[str]
    """What may part thousands."""
    point: ClassVar[str]
    """What stands before decimals."""
    vowels: ClassVar[str] = "aeiouyáéíóúâêôãõаеёиоуыэюя"

    def __init__(self, region: str = "") -> None:
        self.region = region
        self.lexicon: Lexicon = load(self.language)
        self._spelled = {word.casefold() for word in self.lexicon.spelled}
        lexicon = self.lexicon
        domains = any_of(lexicon.domains)
        label = r"[^\W_](?:[\w-]{0,62}[^\W_])?"
        n = self.number
        self._rules: list[tuple[re.Pattern[str], Callable[[Match], str | None]]] = []
        first: list[Rule] = [
            (r"https?://[^\s<>\"]*[^\s<>\".,;:!?)]", self._address),
            (rf"[\w.+-]{{0,63}}\w@(?:{label}\.){{1,9}}{label}", self._address),
            (rf"(?:{label}\.){{1,9}}{domains}(?::[0-9]+)?(?:/[\w./-]*\w)?(?![\w@-])", self._address),
            (r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2}|:[0-9]+)?(?!\.?[\w])", self._address),
            (r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?!\w)", self._hardware),
        ]
        last: list[Rule] = [
            (rf"(?P<w>{any_of(lexicon.before_numbers)}){SPACE}?(?=[0-9])", self._before_number),
            (rf"(?P<l>[0-9]{{3,}}){DASH}(?P<r>[0-9]{{1,2}})(?![\w-])", self._code),
            (
                r"(?=[^\s0-9]*[0-9])(?=[0-9]*[^\W\d]|[0-9]+(?:[-_/.:][^\W_]+){2})[^\W_]+(?:[-_/.:+#][^\W_]+)*",
                self._code,
            ),
            (rf"(?P<s>[-\u2212])?(?P<n>{n})(?!\w)", self._plain_number),
            (rf"(?P<w>{any_of(lexicon.titles)})\.?(?= (?:[{CAPITAL}]|(?:and|e|и) ))", self._title),
            (rf"(?P<w>{any_of(lexicon.abbreviations)})(?![^\W\d_])", self._abbreviation),
            (rf"(?:[{CAPITAL}]\.{SPACE}?)+[{CAPITAL}](?!\w)(?:\.(?!\w))?", self._initials),
            (rf"(?P<w>{any_of(w for w in lexicon.words if not w.isupper())})(?![\w-])", self._word),
            (rf"(?P<w>[{CAPITAL}]{{2,6}})(?P<s>['’]?s)?(?![\w]|-[0-9]|\.[^\W\d_])", self._acronym),
            (rf"[{CAPITAL}]{{2,}}-[{CAPITAL}]{{2,}}(?!\w)", self._code),
        ]
        self._compile(
            (r"(?=[^\s@.:]*[@.:]|[0-9A-Fa-f]{2}-)", first),
            (r"(?=[^0-9\n]{0,12}[0-9])", self.rules()),
            ("", self.names() + last),
        )

    def rules(self) -> list[Rule]:
        """What this language writes in its own way, with a digit in it: dates, times, money, measures, ordinals."""
        raise NotImplementedError

    def names(self) -> list[Rule]:
        """Abbreviations without a digit that need more than the lexicon."""
        return []

    def say(self, text: str) -> str:
        """A text as it is said."""
        for _ in range(_MOST_PASSES):  # what one pass has said may bare something else, rarely
            said = self._pass(text)
            if said == text:
                break
            text = said
        return text

    def _compile(self, *blocks: tuple[str, list[Rule]]) -> None:
        """One pattern for all rules; a block's gate spares its rules where they cannot match."""
        gated = []
        for gate, rules in blocks:
            branches = []
            for pattern, method in rules:
                branches.append(f"(?P<r{len(self._rules)}>{_NAMED.sub('(?:', pattern)})")
                self._rules.append((re.compile(rf"(?<!\w)(?:{pattern})"), method))
            gated.append(f"{gate}(?:{'|'.join(branches)})")
        loose = re.compile(rf"[0-9]+|{any_of(self.lexicon.symbols)}")  # wherever they stand, even within words
        self._any = re.compile(rf"(?<!\w)(?:{'|'.join(gated)})|(?P<r{len(self._rules)}>{loose.pattern})")
        self._rules.append((loose, self._loose))

    def _pass(self, text: str) -> str:
        done, pieces = 0, list[str]()
        found = self._any.search(text)
        while found:
            start = found.start()
            end = start + 1  # if no rule takes it, another sign may follow within the word
            assert found.lastgroup is not None
            for pattern, method in self._rules[int(found.lastgroup[1:]) :]:
                inner = pattern.match(text, start)
                said = method(inner) if inner else None
                if inner and said is not None:
                    end = inner.end()
                    left, right = _apart(text, start, said, end)
                    pieces += [text[done:start], left, said, right]
                    done = end
                    break
            found = self._any.search(text, end)
        return "".join([*pieces, text[done:]]) if pieces else text

    # --- around a match

    def before(self, match: Match) -> str:
        """The word just before, in small letters; '' if there is none."""
        found = _BEFORE.search(match.string, max(0, match.start() - 24), match.start())
        return found[1].lower() if found else ""

    def after(self, match: Match, skip: int = 0) -> str:
        """The word just after, in small letters, or the one after that; '' if there is none."""
        found = _AFTER.match(match.string, match.end())
        while found and skip:
            found, skip = _AFTER.match(match.string, found.end()), skip - 1
        return found[1].lower() if found else ""

    def full_stop(self, match: Match, ends: bool = True) -> str:
        """The full stop of an abbreviation that also ends a sentence."""
        if not match.group().endswith("."):
            return ""
        rest = match.string[match.end() : match.end() + 3].lstrip(" \u00a0")
        return "." if not rest or rest[0] == "\n" or (ends and rest[0].isupper()) else ""

    # --- numbers

    def parse(self, written: str) -> tuple[str, str]:
        """Digits before and after the decimal point."""
        whole, _, decimals = re.sub(self.groups, "", written).replace(",", ".").partition(".")
        return whole, decimals

    def cardinal(self, number: int) -> str:
        """`204`: two hundred and four."""
        return words_of(number, self.language)

    def whole(self, digits: str) -> str:
        """Digits of a whole number: read as one number, or one by one if they are too many or begin with 0."""
        if len(digits) > _LONGEST_CARDINAL or (digits[0] == "0" and len(digits) > 1):
            return self.digits(digits)
        return self.cardinal(int(digits))

    def digits(self, digits: str) -> str:
        """Digits one by one."""
        return " ".join(self.cardinal(int(digit)) for digit in digits)

    def pairs(self, digits: str) -> list[str]:
        """Digits two by two; an odd one comes first."""
        odd = len(digits) % 2
        two = [digits[:odd]] * odd + [digits[i : i + 2] for i in range(odd, len(digits), 2)]
        return [self.whole(pair) for pair in two]

    def code_digits(self, digits: str) -> str:
        """Digits within a code: up to two as a number, others one by one."""
        return self.cardinal(int(digits)) if len(digits) < 3 and digits[0] != "0" else self.digits(digits)

    def decimal(self, whole: str, decimals: str) -> str:
        """A number with decimals."""
        raise NotImplementedError

    def plain(self, whole: str, decimals: str, match: Match) -> str:
        """A number where nothing tells what it counts, but for the words around it."""
        raise NotImplementedError

    minus: ClassVar[str]

    def _plain_number(self, m: Match) -> str | None:
        whole, decimals = self.parse(m["n"])
        sign = f"{self.minus} " if m["s"] else ""
        if not decimals and m["n"].isdigit() and not sign:
            if len(whole) > _LONG and not whole.endswith("000"):
                return self.digits(whole)  # an order's number rather than how many
            if len(whole) > 2 and self._announced(m):
                return self.code_digits(whole)
        return sign + self.plain(whole, decimals, m)

    def _announced(self, m: Match) -> bool:
        """Whether the one or two words before say that a number is a code."""
        cues, last = self.lexicon.digit_cues, self.before(m)
        if last in cues or not last:
            return last in cues
        before = _BEFORE.search(m.string[: m.start()].rstrip()[: -len(last)][-24:])
        return before is not None and f"{before[1].lower()} {last}" in cues

    def _loose(self, m: Match) -> str:
        found = m.group()
        return self.whole(found) if found[0].isdigit() else self.lexicon.symbols[found]

    # --- letters, codes and addresses

    def letters(self, letters: Iterable[str]) -> str:
        """Letters by their names."""
        return " ".join(self.lexicon.letters.get(c, c) for c in letters)

    def readable(self, word: str) -> bool:
        """Whether capital letters are read as a word rather than spelled."""
        shape = "".join("v" if c in self.vowels else "c" for c in word.lower())
        return word.casefold() not in self._spelled and ("cvc" in shape or shape.startswith("vcv"))

    def run(self, letters: str, shortest: int = 4) -> str:
        """Letters within a code or an address: spelled, unless they are long enough to be a word and look like one."""
        known = self.lexicon.parts.get(letters.lower()) or self.lexicon.words.get(letters)
        if known is not None:
            return known
        if letters.islower():
            shape = "".join("v" if c in self.vowels else "c" for c in letters)
            word = len(letters) >= shortest and ("cvc" in shape or ("v" in shape and len(letters) > 3))
            return letters if word and "cccc" not in shape else self.letters(letters.upper())
        if len(letters) > 3 and (letters.istitle() or self.readable(letters)):
            return letters
        return self.letters(letters.upper())

    def spell_out(self, code: str, shortest: int = 4) -> str:
        """A code or an address: its letters, digits and the signs between them; shorter letters are no words."""
        parts, said = _PARTS.findall(code), []
        for place, part in enumerate(parts):
            if part.isdigit():
                said.append(self.code_digits(part) if part.isascii() else part)
            elif part in "xXхХ×" and 0 < place < len(parts) - 1 and parts[place - 1][-1].isdigit():
                said.append(self.lexicon.separators["by"])
            else:
                said.append(self.lexicon.separators.get(part, part) if not part.isalpha() else self.run(part, shortest))
        return " ".join(said)

    def _address(self, m: Match) -> str:
        return self.spell_out(re.sub(r"^(https?)://", r"\1 ", m.group()), shortest=3)

    def _hardware(self, m: Match) -> str:
        pairs = re.split("[:-]", m.group())
        return ", ".join(
            " ".join(self.letters(c.upper()) if c.isalpha() else self.cardinal(int(c)) for c in p) for p in pairs
        )

    def _code(self, m: Match) -> str | None:
        code = m.group()
        if re.fullmatch(self.number, code):
            return None
        hyphened = re.fullmatch(rf"([^\W\d_]{{2,}})-({self.number})", code)
        if hyphened and hyphened[1].lower() in self.lexicon.plain_hyphens:
            return f"{hyphened[1]} {self.whole(hyphened[2])}" if hyphened[2].isdigit() else None
        counted = re.fullmatch(r"([0-9]{1,4})((?:-[^\W\d_]{3,})+)", code)
        if counted and code.islower() and counted[1][0] != "0":  # `30-minute`
            return self.counted(int(counted[1]), counted[2])
        alone = re.fullmatch(rf"([{CAPITAL}])-([1-9][0-9]?)", code)
        said = self.spell_out(alone.expand(r"\1\2") if alone else code)  # `F-16`
        return None if said == code else said

    def counted(self, number: int, words: str) -> str:
        """`30-minute`."""
        return self.cardinal(number) + words

    def _acronym(self, m: Match) -> str | None:
        word, plural = m["w"], m["s"] or ""
        known = self.lexicon.words.get(word)
        if known is not None:
            return None if known == word else known + plural
        if self._shouted(m) or self.readable(word):
            return None
        return self.letters(word) + (self.plural_letters if plural else "")

    plural_letters: ClassVar[str] = ""

    def _shouted(self, m: Match) -> bool:
        """Whether the words around are all in capitals too: then nothing can be told from them."""
        around = m.string[max(0, m.start() - 40) : m.start()] + m.string[m.end() : m.end() + 40]
        return any(map(str.isalpha, around)) and not any(map(str.islower, around))

    def _initials(self, m: Match) -> str | None:
        return self.letters(filter(str.isalpha, m.group())) + self.full_stop(m)

    # --- abbreviations

    def _word(self, m: Match) -> str:
        return self.lexicon.words[m["w"]]

    def _before_number(self, m: Match) -> str:
        return self.lexicon.before_numbers[_single_spaced(m["w"])] + " "

    def _title(self, m: Match) -> str | None:
        return self.lexicon.titles[m["w"]]

    def _abbreviation(self, m: Match) -> str | None:
        said = self.lexicon.abbreviations[_single_spaced(m["w"])]
        ends = m["w"] not in self.lexicon.never_last
        return said.removesuffix(".") + (self.full_stop(m, ends) or "." * said.endswith("."))


def _single_spaced(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def _apart(text: str, start: int, said: str, end: int) -> tuple[str, str]:
    """Spaces before and after what is said, where it would run into a word."""
    left = " " if start and said[:1].isalnum() and text[start - 1].isalnum() else ""
    right = " " if end < len(text) and said[-1:].isalnum() and text[end].isalnum() else ""
    return left, right
