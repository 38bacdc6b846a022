"""Russian as it is said: numbers stand in the case and gender of what they count."""

from __future__ import annotations

import re
from functools import lru_cache

from pipeline.spoken.lexicon import any_of
from pipeline.spoken.ru_forms import CASE_AFTER, Noun, agreement, noun, ordinal_case
from pipeline.spoken.speaker import DASH, SPACE, Match, Rule, Speaker, words_of

MONTHS = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()
_MONTH = rf"(?P<month>(?i:{'|'.join(MONTHS)})(?!\w)|(?:янв|февр?|мар|апр|авг|сент?|окт|нояб?|дек)(?!\w)\.?)"
_SUFFIXES = {
    "й": "nm", "ый": "nm", "ой": "gf", "ий": "nm", "я": "nf", "ая": "nf", "е": "nn", "ое": "nn", "ые": "np", "ю": "af",
    "ую": "af", "го": "gm", "ого": "gm", "му": "dm", "ому": "dm", "м": "im", "ым": "im", "ом": "pm", "х": "gp",
    "ых": "gp", "ми": "ip", "ыми": "ip",
}  # fmt: skip
_ADJECTIVE = ("ых", "их", "ые", "ие")
_YEARS = {
    "год": "n",
    "года": "g",
    "году": "p",
    "годом": "i",
    "годе": "p",
    "годы": "np",
    "годов": "gp",
    "годах": "pp",
    "годам": "dp",
}
_ONE_THOUSAND = re.compile(r"^(?:одна|одной|одну) (?=тысяч)")
_HALVES = {"m": "полтора", "n": "полтора", "f": "полторы"}
_FRACTIONS = {2: ("вторая", "вторых"), 3: ("треть", "трети"), 4: ("четверть", "четверти")}
_NOMINATIVE = frozenset("сегодня завтра вчера это было".split())


@lru_cache(maxsize=16384)
def cardinal(number: int, case: str = "n", gender: str = "m") -> str:
    """A number in a case; `1999` begins with a plain `тысяча`."""
    said = words_of(number, "ru", "cardinal", case=case, gender=gender, animate=False)
    return _ONE_THOUSAND.sub("", said)


@lru_cache(maxsize=16384)
def ordinal(number: int, case: str = "n", gender: str = "m") -> str:
    """An ordinal in a case; gender `p` is the plural."""
    said = words_of(
        number, "ru", "ordinal", case=case, gender="m" if gender == "p" else gender, plural=gender == "p", animate=False
    )
    return _ONE_THOUSAND.sub("", said)


class Russian(Speaker):
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
            (rf"(?P<l>[0-3]?[0-9]){DASH}(?P<r>[0-3]?[0-9]){SPACE}(?={_MONTH})", self._date_range),
            (rf"(?P<d>[0-3]?[0-9])(?:-?го|-?е)?{SPACE}{_MONTH}{year}", self._date),
            (
                rf"(?P<d>[0-3]?[0-9])(?:-?го)?(?={SPACE}(?:по|до|и){SPACE}[0-3]?[0-9](?:-?е|-?го)?{SPACE}{_MONTH})",
                self._day_before,
            ),
            (rf"(?P<y>[12][0-9]{{3}}){SPACE}?(?P<w>год(?:а|у|ом|е|ы|ов|ах|ам)?(?!\w)|гг?(?:\.|(?!\w)))", self._year),
            (
                rf"(?P<y>[12][0-9]{{3}}){SPACE}?{DASH}{SPACE}?(?P<z>[12][0-9]{{3}}){SPACE}?(?P<w>год(?:ы|ов|ах|ам)(?!\w)|гг?(?:\.|(?!\w)))",
                self._years,
            ),
            (r"(?P<h>[01]?[0-9]|2[0-4]):(?P<m>[0-5][0-9])(?::(?P<sec>[0-5][0-9]))?(?![0-9:])", self._time),
            (r"(?P<l>[0-9]+):(?P<r>[0-9]+)(?![\w:])", self._ratio),
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
            (r"(?P<n>[IVX]+)(?= (?:век|съезд|тысячелети))", self._roman),
            (r"/(?P<n>[0-9]{1,2})(?!\w)", self._slash),
            (r"[0-9]+(?:\.[0-9]+){2,}(?!\w)", self._address),
            (rf"(?P<w>{any_of(lexicon.declined)})(?= ?[А-ЯЁA-Z0-9])", self._declined),
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

    def case_of(self, match: Match) -> str:
        """The case that the word before asks for."""
        before = self.before(match)
        if before in ("с", "со"):
            return "g"
        return CASE_AFTER.get(before, "n")

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

    def _numeric_date(self, m: Match) -> str | None:
        day, month = int(m["d"]), int(m["m"])
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return None
        at = f" в {m['t']}" if m.groupdict().get("t") else ""
        return f"{self._day(day, m)} {MONTHS[month - 1]} {ordinal(int(m['year']), 'g')} года{at}" + self.full_stop(m)

    def _day(self, day: int, m: Match, following: str = "") -> str:
        before = self.before(m)
        case = {
            "к": "d",
            "ко": "d",
            "на": "a",
            "за": "a",
            "по": "a",
            "под": "a",
            "между": "i",
            "перед": "i",
            "о": "p",
        }.get(before, "g")
        return ordinal(day, "n" if before in _NOMINATIVE else case, "n")

    def _day_before(self, m: Match) -> str:
        return self._day(int(m["d"]), m)

    def _date_range(self, m: Match) -> str:
        return f"с {ordinal(int(m['l']), 'g', 'n')} по {ordinal(int(m['r']), 'a', 'n')} "

    def _date(self, m: Match) -> str | None:
        day, name = int(m["d"]), m["month"].rstrip(".").lower()
        if not 1 <= day <= 31:
            return None
        month = m["month"] if name in MONTHS else next(full for full in MONTHS if full.startswith(name))
        year = f" {ordinal(int(m['year']), 'g')} года" if m["year"] else ""
        return f"{self._day(day, m)} {month}{year}{self.full_stop(m)}"

    def _year(self, m: Match) -> str:
        written, before = m["w"].rstrip("."), self.before(m)
        if written in ("г", "гг"):
            case = {
                "в": "p",
                "к": "d",
                "с": "g",
                "до": "g",
                "от": "g",
                "после": "g",
                "на": "a",
                "за": "a",
                "перед": "i",
            }
            chosen = case.get(before, "n")
            word = {"n": "год", "a": "год", "g": "года", "d": "году", "p": "году", "i": "годом"}[chosen]
        else:
            word, chosen = written, _YEARS[written][0]
            chosen = "d" if written == "году" and before in ("к", "ко", "по") else chosen
        return f"{ordinal(int(m['y']), chosen, 'p' if _YEARS.get(written, '')[1:] else 'm')} {word}{self.full_stop(m)}"

    def _years(self, m: Match) -> str:
        before, written = self.before(m), m["w"].rstrip(".")
        word = {"в": "годах", "с": "годов", "до": "годов"}.get(before, "годы") if written in ("г", "гг") else written
        case = _YEARS[word][0]
        return f"{ordinal(int(m['y']), case)} – {ordinal(int(m['z']), case)} {word}{self.full_stop(m)}"

    def _time(self, m: Match) -> str:
        case = self.case_of(m)
        case = "n" if case in "ap" else case
        hour, minute = int(m["h"]), m["m"]
        if minute == "00":
            said = f"{cardinal(hour, case)} ноль-ноль"
        elif minute[0] == "0":
            said = f"{cardinal(hour, case)} ноль {cardinal(int(minute), case)}"
        else:
            said = f"{cardinal(hour, case)} {cardinal(int(minute), case)}"
        return said + (f" и {cardinal(int(m['sec']))} секунд" if m["sec"] else "")

    def _ratio(self, m: Match) -> str:
        return f"{self.whole(m['l'])} к {self.whole(m['r'])}"

    def _phone(self, m: Match) -> str:
        plus = "плюс " if m.group()[0] == "+" else ""
        groups = re.findall("[0-9]+", m.group())
        if len(groups) == 1 and len(groups[0]) == 11:
            groups = [g for g in re.split(r"^(.)(...)(...)(..)(..)$", groups[0]) if g]
        elif len(groups) == 2 and len(groups[1]) == 10:
            groups = [groups[0], *(g for g in re.split(r"^(...)(...)(..)(..)$", groups[1]) if g)]
        return plus + ", ".join(self.code_digits(g) if len(g) <= 3 else self.digits(g) for g in groups)

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
