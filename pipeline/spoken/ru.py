"""Russian as it is said: numbers stand in the case and gender of what they count."""

from __future__ import annotations

from pipeline.spoken.lexicon import any_of
from pipeline.spoken.ru_dates import MONTH, Calendar, cardinal, ordinal
from pipeline.spoken.ru_forms import Noun, agreement, noun, ordinal_case
from pipeline.spoken.speaker import DASH, SPACE, Match, Rule

_SUFFIXES = {
    "й": "nm", "ый": "nm", "ой": "gf", "ий": "nm", "я": "nf", "ая": "nf", "е": "nn", "ое": "nn", "ые": "np", "ю": "af",
    "ую": "af", "го": "gm", "ого": "gm", "му": "dm", "ому": "dm", "м": "im", "ым": "im", "ом": "pm", "х": "gp",
    "ых": "gp", "ми": "ip", "ыми": "ip",
}  # fmt: skip
_ADJECTIVE = ("ых", "их", "ые", "ие")
_HALVES = {"m": "полтора", "n": "полтора", "f": "полторы"}
_FRACTIONS = {2: ("вторая", "вторых"), 3: ("треть", "трети"), 4: ("четверть", "четверти")}


class Russian(Calendar):
    """Cases come from prepositions, from endings of nouns, and from what is known of units."""

    language = "ru"
    number = rf"(?>[0-9]{{1,3}}(?:{SPACE}[0-9]{{3}})+(?![0-9])(?:,[0-9]+)?|[0-9]+(?:[,.][0-9]+)?)"
    groups = r"[ \u00a0\u202f]"
    point = "запятая"
    minus = "минус"

    def rules(self) -> list[Rule]:
        """See `Speaker.rules`."""
        lexicon, n = self.lexicon, self.number
        unit, currency, scale = any_of(lexicon.units), any_of(lexicon.currencies), any_of(lexicon.scales)
        year = rf"(?:{SPACE}(?P<year>[12][0-9]{{3}})(?!\w)(?P<of>{SPACE}?(?:года|г\.|г(?!\w)))?)?"
        return [
            (
                r"(?P<year>[12][0-9]{3})-(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3][0-9])"
                r"(?:T(?P<t>[0-2][0-9]:[0-5][0-9])(?:[0-9:.]*)Z?)?(?!\w)",
                self._numeric_date,
            ),
            (
                r"(?P<d>[0-3]?[0-9])[./](?P<m>[01]?[0-9])[./](?P<year>[12][0-9]{3})(?:[ \u00a0]?(?:г\.|года))?(?!\w)",
                self._numeric_date,
            ),
            (rf"(?P<l>[0-3]?[0-9]){DASH}(?P<r>[0-3]?[0-9]){SPACE}(?={MONTH})", self._date_range),
            (rf"(?P<d>[0-3]?[0-9])(?:-?го|-?е)?{SPACE}{MONTH}{year}", self._date),
            (
                rf"(?P<d>[0-3]?[0-9])(?:-?го)?(?={SPACE}(?:по|до|и){SPACE}[0-3]?[0-9](?:-?е|-?го)?{SPACE}{MONTH})",
                self._day_before,
            ),
            (rf"(?P<y>[12][0-9]{{3}}){SPACE}?(?P<w>год(?:а|у|ом|е|ы|ов|ах|ам)?(?!\w)|гг?(?:\.|(?!\w)))", self._year),
            (
                rf"(?P<y>[12][0-9]{{3}}){SPACE}?{DASH}{SPACE}?(?P<z>[12][0-9]{{3}}){SPACE}?(?P<w>год(?:ы|ов|ах|ам)(?!\w)|гг?(?:\.|(?!\w)))",
                self._years,
            ),
            (r"(?P<h>[01]?[0-9]|2[0-4]):(?P<m>[0-5][0-9])(?::(?P<sec>[0-5][0-9]))?(?!:?[0-9])", self._time),
            (r"(?P<l>[0-9]+):(?P<r>[0-9]+)(?!:?\w)", self._ratio),
            (r"(?:\+7|8)[ (-]{0,2}[0-9]{3}[ )-]{0,2}[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{2}(?!\w)", self._phone),
            (r"\+[0-9](?:[ ().-]{0,2}[0-9]){6,14}(?!\w)|[0-9]{3}-[0-9]{2}-[0-9]{2}(?!\w)", self._phone),
            (rf"(?P<sign>[-\u2212])?(?P<c>[$€£¥₽]){SPACE}?(?P<n>{n})(?:{SPACE}?(?P<k>{scale})(?!\w))?", self._money),
            (rf"(?P<n>{n})(?:{SPACE}?(?P<k>{scale}))?{SPACE}?(?P<c>{currency})(?!\w)", self._money),
            (
                rf"(?P<l>{n}){SPACE}?{DASH}{SPACE}?(?P<r>{n})(?:{SPACE}?(?P<u>{unit}|{scale}|{currency})(?!\w))?(?![\w-])",
                self._range,
            ),
            (rf"(?P<l>[0-9]{{1,9}})(?P<and>{SPACE}и{SPACE})(?P<r>[0-9]{{1,9}})(?!\w|[,.:][0-9]|-)", self._between),
            (r"(?:(?P<i>[0-9]{1,3}) )?(?P<a>[1-9][0-9]?)/(?P<b>[1-9][0-9]?)(?![\w/])", self._fraction),
            (r"(?P<l>[0-9]{2,3})/(?P<r>[0-9]{2,3})(?![\w/])", self._over),
            (rf"(?P<i>{n})(?P<f>[½¼¾⅓⅔])(?!\w)", self._mixed),
            (rf"(?P<l>{n}){SPACE}?[xх×]{SPACE}?(?P<r>{n})(?:{SPACE}?(?P<u>{unit}))?(?!\w)", self._by),
            (rf"(?P<s>[-\u2212])?(?P<n>{n}){SPACE}?(?P<u>{unit})(?!\w)", self._measure),
            (rf"(?P<n>{n}){SPACE}?(?P<u>{scale})(?!\w)", self._scaled),
            (rf"(?P<n>[0-9]{{1,4}})-?(?P<e>{'|'.join(sorted(_SUFFIXES, key=len, reverse=True))})(?!\w)", self._ordinal),
            (r"(?P<n>[0-9]{1,4})-?(?P<e>ти|мя|ью|ёх|ех)(?!\w)", self._oblique),
            (r"/(?P<n>[0-9]{1,2})(?!\w)", self._slash),
            (r"[0-9]+(?:\.[0-9]+){2,}(?!\w)", self._address),
        ]

    def names(self) -> list[Rule]:
        """See `Speaker.names`."""
        return [
            (r"(?P<n>[IVX]+)(?= (?:век|съезд|тысячелети))", self._roman),
            (rf"(?P<w>{any_of(self.lexicon.declined)})(?= ?[А-ЯЁA-Z0-9])", self._declined),
        ]

    def cardinal(self, number: int) -> str:
        """See `Speaker.cardinal`."""
        return cardinal(number)

    def code_digits(self, digits: str) -> str:
        """Up to three as a number, four in pairs, leading zeros and longer ones one by one."""
        if len(digits) == 4 and digits[0] != "0" and digits[2] != "0":
            return f"{self.cardinal(int(digits[:2]))} {self.cardinal(int(digits[2:]))}"
        if digits[0] == "0" or len(digits) > 3:
            zeros = len(digits) - len(digits.lstrip("0"))
            rest = digits[zeros:]
            if zeros and 0 < len(rest) < 3:
                return f"{self.digits('0' * zeros)} {self.cardinal(int(rest))}"
            return self.digits(digits)
        return self.cardinal(int(digits))

    def decimal(self, whole: str, decimals: str, gender: str = "m") -> str:
        """`2,5` is two and a half; others are tenths, hundredths, thousandths."""
        number = int(whole)
        if decimals == "5" and number == 1:
            return f"{_HALVES[gender]}"
        if decimals == "5" and 2 <= number <= 100 and number % 10 != 1:
            return f"{cardinal(number, gender=gender)} с половиной"
        decimals = decimals.rstrip("0") or "0"
        if len(decimals) > 3 or len(whole) > 12 or decimals == "0":
            return f"{self.whole(whole)} запятая {self.digits(decimals)}"
        unit = "целая" if number % 10 == 1 and number % 100 != 11 else "целых"
        part = int(decimals)
        name = {1: "десят", 2: "сот", 3: "тысячн"}[len(decimals)]
        single = part % 10 == 1 and part % 100 != 11
        return f"{cardinal(number, gender='f')} {unit} {cardinal(part, gender='f')} {name}{'ая' if single else 'ых'}"

    def plain(self, whole: str, decimals: str, match: Match) -> str:
        """A number in the case and gender of the noun after it."""
        if decimals:
            return self.decimal(whole, decimals)
        if len(whole) > 12 or (whole[0] == "0" and len(whole) > 1):
            return self.whole(whole)
        number, word, before = int(whole), self.after(match), self.before(match)
        nth = ordinal_case(word, number, before, self.lexicon)
        if nth and 0 < number < 200:
            return ordinal(number, *nth)
        if number == 1 and word in ("ночи", "дня", "часа") and before in ("в", ""):
            return "час"
        hours = before in ("в", "к", "ко", "до", "с", "после", "около") and word in ("ночи", "утра", "дня", "вечера")
        skip = int(word.endswith(_ADJECTIVE) and bool(self.after(match, 1)))
        case, gender = agreement(number, "" if hours else self.after(match, skip), before, self.lexicon)
        return cardinal(number, case, gender)

    # --- money and measures

    def counted_noun(self, written: str, known: Noun, case: str) -> str:
        """A number and what it counts."""
        whole, decimals = self.parse(written)
        if decimals.strip("0"):
            half = decimals == "5" and 2 <= int(whole) <= 100 and int(whole) % 10 != 1
            said = self.decimal(whole, decimals, "f" if known.gender in ("f", "xf") else "m")
            return f"{said} {known.after(int(whole)) if half else known.part()}"
        if len(whole) > 12 or (whole[0] == "0" and len(whole) > 1):
            return f"{self.whole(whole)} {known.part()}"
        if known.gender[0] == "x" and case not in ("n", "a"):
            case = "g"
        gender = known.gender if known.gender in ("m", "f", "n") else "f" if known.gender == "xf" else "m"
        return f"{cardinal(int(whole), case, gender)} {known.after(int(whole), case)}"

    def counted_hours(self, hours: int, case: str = "n") -> str:
        """`три часа`."""
        return self.counted_noun(str(hours), self._noun("ч"), case)

    def counted_minutes(self, minutes: int, case: str = "n") -> str:
        """`тридцать минут`."""
        return self.counted_noun(str(minutes), self._noun("мин"), case)

    def _noun(self, written: str) -> Noun:
        key = written.replace("\u00a0", " ").replace("\u202f", " ")
        for kind in (self.lexicon.units, self.lexicon.scales, self.lexicon.currencies):
            if key in kind:
                return noun(self.lexicon.forms(kind, key)[: 5 if kind is self.lexicon.units else 4])
        raise AssertionError(key)

    def _money(self, m: Match) -> str:
        forms = self.lexicon.forms(self.lexicon.currencies, m["c"])
        unit, part = noun(forms[:4]), noun(forms[4:])
        whole, decimals = self.parse(m["n"])
        sign = "минус " if m.groupdict().get("sign") else ""
        case = self.case_of(m)
        if m["k"]:
            return f"{sign}{self.counted_noun(m['n'], self._noun(m['k']), case)} {unit.many}{self.full_stop(m)}"
        if len(decimals) != 2:
            return f"{sign}{self.counted_noun(m['n'], unit, case)}{self.full_stop(m)}"
        said = []
        if int(whole) or not int(decimals):
            said.append(self.counted_noun(whole, unit, case))
        if int(decimals):
            said.append(self.counted_noun(str(int(decimals)), part, case))
        return sign + " ".join(said) + self.full_stop(m)

    def _measure(self, m: Match) -> str:
        sign = "минус " if m["s"] else ""
        return f"{sign}{self.counted_noun(m['n'], self._noun(m['u']), self.case_of(m))}{self.full_stop(m)}"

    def _scaled(self, m: Match) -> str:
        return self.counted_noun(m["n"], self._noun(m["u"]), self.case_of(m)) + self.full_stop(m)

    def _range(self, m: Match) -> str | None:
        (lw, ld), (rw, rd) = self.parse(m["l"]), self.parse(m["r"])
        left, right = float(f"{lw}.{ld}"), float(f"{rw}.{rd}")
        if (left >= right and (len(m["l"]) > 2 or len(m["r"]) > 2)) or len(lw) > 12 or len(rw) > 12:
            return None
        if lw[0] == "0" or rw[0] == "0" or ld or rd:
            said = (
                f"{self.decimal(lw, ld) if ld else self.whole(lw)} – {self.decimal(rw, rd) if rd else self.whole(rw)}"
            )
            return said + (f" {self._noun(m['u']).part()}" if m["u"] else "") + self.full_stop(m)
        case = self.case_of(m)
        bare = case in ("n", "a")
        numbers = [cardinal(int(w), "g" if bare else case) for w in (lw, rw)]
        if bare and left >= right:
            return f"{cardinal(int(lw))} {cardinal(int(rw))}"
        joined = f"от {numbers[0]} до {numbers[1]}" if case == "n" else " – ".join(numbers)
        if case == "a":
            joined = f"{cardinal(int(lw), 'a')} – {cardinal(int(rw), 'a')}"
        known = self._noun(m["u"]) if m["u"] else None
        unit = f" {known.after(int(rw), {'n': 'g', 'a': 'a'}.get(case, case))}" if known else ""
        return joined + unit + self.full_stop(m)

    def _between(self, m: Match) -> str | None:
        if self.before(m) != "между":
            return None
        return f"{cardinal(int(m['l']), 'i')}{m['and']}{cardinal(int(m['r']), 'i')}"

    def _fraction(self, m: Match) -> str | None:
        above, below = int(m["a"]), int(m["b"])
        if (above, below) == (24, 7):
            return "двадцать четыре на семь"
        if above >= below or below > 10:
            return None
        if below in _FRACTIONS:
            said = f"{cardinal(above, gender='f')} {_FRACTIONS[below][above != 1]}"
        else:
            said = (
                f"{cardinal(above, gender='f')} {ordinal(below, 'n', 'f') if above == 1 else ordinal(below, 'g', 'p')}"
            )
        return f"{self.whole(m['i'])} и {said}" if m["i"] else said

    def _over(self, m: Match) -> str:
        return f"{self.whole(m['l'])} на {self.whole(m['r'])}"

    def _mixed(self, m: Match) -> str:
        return f"{self.whole(self.parse(m['i'])[0])} и {self.lexicon.symbols[m['f']]}"

    def _by(self, m: Match) -> str:
        right = self.counted_noun(m["r"], self._noun(m["u"]), "n") if m["u"] else self._amount(m["r"])
        return f"{self._amount(m['l'])} на {right}"

    def _amount(self, written: str) -> str:
        whole, decimals = self.parse(written)
        return self.decimal(whole, decimals) if decimals else self.whole(whole)

    # --- ordinals and the rest

    def _ordinal(self, m: Match) -> str | None:
        number, ending, before = int(m["n"]), m["e"], self.before(m)
        case, gender = _SUFFIXES[ending][0], _SUFFIXES[ending][1]
        if m["n"][0] == "0":
            return None
        if ending == "х" and number < 5:
            return cardinal(number, "g")
        if ending == "е" and number % 10 == 0 and number > 10:
            gender = "p"
        if ending == "х" and before in ("в", "на", "о"):
            case = "p"
        if ending == "м" and before in ("в", "на", "о", "при"):
            case = "p"
        if ending == "ой" and before in ("в", "на", "о", "при"):
            case = "p"
        return ordinal(number, case, gender)

    def _oblique(self, m: Match) -> str | None:
        case = {"ти": "g", "ёх": "g", "ех": "g", "мя": "i", "ью": "i"}[m["e"]]
        return cardinal(int(m["n"]), case) if m["n"][0] != "0" else None

    def _roman(self, m: Match) -> str | None:
        number = _roman(m["n"])
        nth = ordinal_case(self.after(m), number, self.before(m), self.lexicon)
        return ordinal(number, *nth) if nth and number else None

    def _slash(self, m: Match) -> str:
        return f"слэш {self.whole(m['n'])}"

    def _declined(self, m: Match) -> str:
        nominative, genitive, dative, prepositional = self.lexicon.forms(self.lexicon.declined, m["w"])
        before = self.before(m)
        if before in ("на", "в", "о", "об", "при"):
            return prepositional
        if before in ("по", "к", "ко"):
            return dative
        return genitive if before in ("с", "от", "до", "из", "около", "возле", "у", "для", "вдоль") else nominative


def _roman(numeral: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10}[c] for c in numeral]
    return sum(-v if v < max(values[i:]) else v for i, v in enumerate(values))
