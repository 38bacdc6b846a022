"""Portuguese as it is said: European, unless the region is Brazil.

Numbers agree with the noun after them as far as its ending, or the lexicon, shows its gender.
"""

from __future__ import annotations

import re

from pipeline.spoken.lexicon import any_of
from pipeline.spoken.speaker import DASH, SPACE, Match, Rule, Speaker, words_of

MONTHS = "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro".split()
_MONTH = rf"(?P<month>(?i:{'|'.join(MONTHS)})(?!\w))"
_SHORT_MONTH = rf"(?P<month>(?:{'|'.join(m[:3] for m in MONTHS)})(?!\w)\.?)"
_TIME = r"(?:[01]?[0-9]|2[0-4])(?:h(?:[0-5][0-9])?|:[0-5][0-9])(?!:?\w)"
_FEMININE = re.compile(r"(?:[^eo]ma|[^m]a|ção|são|dade|gem|tude|ície)$")
_FEMININE_MANY = re.compile(r"(?:[^eo]mas|[^m]as|ções|sões|dades|gens|tudes|ícies)$")
_ADJECTIVES = frozenset("grandes novos novas últimos últimas primeiros primeiras outros outras bons boas".split())
_SMALL = frozenset("mas às das nas apenas a da na para à pela uma e ou de do com".split())
_DENOMINATORS = {2: ("meio", "meios"), 3: ("terço", "terços")}
_MILLIONS = re.compile(r"(.*(?:ilhão|ilhões|ilião|iliões|lhões|lhão)(?: |$))?(.*)")
_ONE, _TWO = re.compile(r"\bum\b"), re.compile(r"\bdois\b")


class Portuguese(Speaker):
    """Feminine numbers are made of num2words' masculine ones."""

    language = "pt"
    number = (
        rf"(?>[0-9]{{1,3}}(?:\.[0-9]{{3}})+(?:,[0-9]+)?|[0-9]{{1,3}}(?:{SPACE}[0-9]{{3}})+(?![0-9])(?:,[0-9]+)?"
        r"|[0-9]+(?:[,.][0-9]+)?)"
    )
    groups = r"\.(?=[0-9]{3}(?:[.,]|$))|[ \u00a0\u202f]"
    point = "vírgula"
    minus = "menos"

    def rules(self) -> list[Rule]:
        """See `Speaker.rules`."""
        lexicon, n = self.lexicon, self.number
        unit, currency, scale = any_of(lexicon.units), any_of(lexicon.currencies), any_of(lexicon.scales)
        of_year = rf"(?:{SPACE}de{SPACE}(?P<year>[12][0-9]{{3}})(?!\w))?"
        return [
            (
                r"(?P<year>[12][0-9]{3})-(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3][0-9])"
                r"(?:T(?P<t>[0-2][0-9]:[0-5][0-9])(?:[0-9:.]*)Z?)?(?!\w)",
                self._numeric_date,
            ),
            (r"(?P<d>[0-3]?[0-9])[/.-](?P<m>[01]?[0-9])[/.-](?P<year>[12][0-9]{3})(?!\w)", self._numeric_date),
            (rf"(?P<d>[0-3]?[0-9])(?P<o>[º°])?{SPACE}de{SPACE}{_MONTH}{of_year}", self._date),
            (rf"(?P<d>[0-3]?[0-9])(?P<o>[º°])?{SPACE}(?:de{SPACE})?{_SHORT_MONTH}{of_year}", self._date),
            (rf"(?P<l>{_TIME}){SPACE}?{DASH}{SPACE}?(?P<r>{_TIME})", self._time_range),
            (r"(?P<h>[01]?[0-9]|2[0-4]):(?P<m>[0-5][0-9])(?::(?P<sec>[0-5][0-9]))?(?:h(?!\w))?(?!:?[0-9])", self._time),
            (rf"(?P<h>[01]?[0-9]|2[0-4]){SPACE}?h{SPACE}?(?P<m>[0-5][0-9])(?:{SPACE}?min)?(?!\w)", self._time),
            (rf"(?P<h>{n}){SPACE}?hs?(?!\w)", self._hours),
            (r"(?P<l>[0-9]+):(?P<r>[0-9]+)(?!:?\w)", self._ratio),
            (r"\+[0-9](?:[ ().-]{0,2}[0-9]){6,14}(?!\w)", self._phone),
            (
                r"\(?[0-9]{2}\)?[ ][0-9]{4,5}-[0-9]{4}(?!\w)|[0-9]{4,5}-[0-9]{4}(?!\w)|0800(?:[ -][0-9]{3,4}){2}(?!\w)",
                self._phone,
            ),
            (r"[29][0-9]{2} [0-9]{3} [0-9]{3}(?!\w|,[0-9])", self._phone),
            (
                r"[0-9]{5}-[0-9]{3}(?!\w)|[0-9]{4}-[0-9]{3}(?!\w)|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?!\w)",
                self._postcode,
            ),
            (rf"(?P<sign>[-\u2212])?(?P<c>{currency}){SPACE}?(?P<n>{n})(?:{SPACE}?(?P<k>{scale})(?!\w))?", self._money),
            (rf"(?P<n>{n})(?:{SPACE}(?P<k>{scale})(?:{SPACE}de)?)?{SPACE}?(?P<c>{currency})(?!\w)", self._money),
            (rf"(?P<l>{n}){SPACE}?{DASH}{SPACE}?(?P<r>{n})(?:{SPACE}?(?P<u>{unit}))?(?![\w-])", self._range),
            (r"(?:(?P<i>[0-9]{1,3}) (?:e )?)?(?P<a>[1-9][0-9]?)/(?P<b>[1-9][0-9]?)(?![\w/])", self._fraction),
            (r"(?P<l>[0-9]{2,3})/(?P<r>[0-9]{2,3})(?![\w/])", self._over),
            (rf"(?P<i>{n})(?P<f>[½¼¾⅓⅔])(?!\w)", self._mixed),
            (rf"(?P<l>{n}){SPACE}?[x×]{SPACE}?(?P<r>{n})(?:{SPACE}?(?P<u>{unit}))?(?!\w)", self._by),
            (rf"(?P<s>[-\u2212])?(?P<n>{n}){SPACE}?(?P<u>{unit})(?!\w)", self._measure),
            (rf"(?P<n>{n})[x×](?!\w)", self._times),
            (r"(?P<n>[0-9]{1,3})(?:\.)?(?P<g>[ºª°oa])(?P<s>s)?(?!\w)", self._ordinal),
            (r"/(?P<n>[0-9]{1,2})(?!\w)", self._slash),
            (r"(?![0-9]{1,3}(?:\.[0-9]{3})+(?![.0-9]))[0-9]+(?:\.[0-9]+){2,}(?!\w)", self._address),
        ]

    def cardinal(self, number: int) -> str:
        """`16`: dezasseis, in Brazil dezesseis."""
        return words_of(number, "pt_BR" if self.region == "BR" else "pt")

    def regional(self, word: str) -> str:
        """A word as the region says it."""
        known = self.lexicon.regions.get(self.region)
        return " ".join(known.get(w, w) for w in word.split(" ")) if known else word

    def gendered(self, said: str, feminine: bool) -> str:
        """`vinte e dois` of something feminine: vinte e duas."""
        if not feminine:
            return said
        found = _MILLIONS.fullmatch(said)
        assert found is not None
        tail = _TWO.sub("duas", _ONE.sub("uma", found[2])).replace("entos", "entas")
        return (found[1] or "") + tail

    def is_feminine(self, word: str, one: bool) -> bool:
        """Whether a noun is feminine: by the lexicon or by its ending."""
        if word in self.lexicon.feminine:
            return True
        if word in self.lexicon.masculine or word in _SMALL or re.search(r"gramas?$", word):
            return False
        return (_FEMININE if one else _FEMININE_MANY).search(word) is not None

    def decimal(self, whole: str, decimals: str) -> str:
        """Up to two decimals are read as a number."""
        after = self.digits(decimals) if decimals[0] == "0" or len(decimals) > 2 else self.cardinal(int(decimals))
        return f"{self.whole(whole)} vírgula {after}"

    def plain(self, whole: str, decimals: str, match: Match) -> str:
        """A number that agrees with the noun after it."""
        word = self.after(match)
        if word in _ADJECTIVES:
            word = word if word.endswith("as") else self.after(match, 1) or word
        feminine = self.is_feminine(word, whole == "1")
        if not feminine and self.before(match) in ("às", "as") and len(whole) < 3:
            feminine = True  # hours
        return self.gendered(self.decimal(whole, decimals) if decimals else self.whole(whole), feminine)

    def counted(self, number: int, words: str) -> str:
        """`2-horas`."""
        return self.gendered(self.cardinal(number), self.is_feminine(words.rpartition("-")[2], number == 1)) + words

    def _numeric_date(self, m: Match) -> str | None:
        day, month = int(m["d"]), int(m["m"])
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return None
        at = f" às {m['t']}" if m.groupdict().get("t") else ""
        return f"{self._day(m, day)} de {MONTHS[month - 1]} de {self.whole(m['year'])}{at}"

    def _day(self, m: Match, day: int) -> str:
        first = m.groupdict().get("o") or self.region == "BR" or self.before(m) != "dia"
        return "primeiro" if day == 1 and first else self.cardinal(day)

    def _date(self, m: Match) -> str | None:
        day, name = int(m["d"]), m["month"].rstrip(".").lower()
        if not 1 <= day <= 31:
            return None
        month = m["month"] if name in MONTHS else next(full for full in MONTHS if full.startswith(name))
        year = f" de {self.whole(m['year'])}" if m["year"] else ""
        return f"{self._day(m, day)} de {month}{year}" + (self.full_stop(m) if not year else "")

    def _time_range(self, m: Match) -> str:
        return f"{m['l']} às {m['r']}"  # the next pass says both

    def _hour(self, hour: int) -> str:
        return self.gendered(self.cardinal(hour), feminine=True)

    def _hours(self, m: Match) -> str:
        whole, decimals = self.parse(m["h"])
        said = self.decimal(whole, decimals) if decimals else self.whole(whole)
        return f"{self.gendered(said, True)} hora{'s' * (m['h'] != '1')}"

    def _time(self, m: Match) -> str:
        hour, minute, second = int(m["h"]), int(m["m"]), m.groupdict().get("sec")
        said = self._hour(hour) if hour else "zero horas"
        if minute:
            said += f" e {self.cardinal(minute)}"
        elif hour:
            said += " hora" if hour == 1 else " horas"
        return said + (f" e {self.cardinal(int(second))} segundos" if second else "")

    def _ratio(self, m: Match) -> str:
        return f"{self.whole(m['l'])} para {self.whole(m['r'])}"

    def _phone(self, m: Match) -> str:
        plus = "mais " if m.group()[0] == "+" else ""
        return plus + ", ".join(self.digits(group) for group in re.findall("[0-9]+", m.group()))

    def _postcode(self, m: Match) -> str:
        return ", ".join(self.digits(group) for group in re.findall("[0-9]+", m.group()))

    def amount(self, written: str, feminine: bool = False) -> str:
        """A number before what is counted."""
        whole, decimals = self.parse(written)
        return self.gendered(self.decimal(whole, decimals) if decimals else self.whole(whole), feminine)

    def _money(self, m: Match) -> str:
        one, many, cent, cents, gender = (
            self.regional(form) for form in self.lexicon.forms(self.lexicon.currencies, m["c"])
        )
        whole, decimals = self.parse(m["n"])
        sign = "menos " if m.groupdict().get("sign") else ""
        if m["k"]:
            of = "" if m["k"] == "mil" else "de "
            return f"{sign}{self.amount(m['n'])} {self.lexicon.scales[m['k']]} {of}{many}"
        if len(decimals) > 2:
            return f"{sign}{self.decimal(whole, decimals)} {many}"
        part = int(decimals.ljust(2, "0")) if decimals else 0
        said = []
        if int(whole) or not part:
            number = self.gendered(self.whole(whole), gender == "f")
            of = " de" if re.search("(?:lhão|lhões|lião|liões)$", number) else ""
            said.append(f"{number}{of} {one if int(whole) == 1 else many}")
        if part:
            said.append(f"{self.cardinal(part)} {cent if part == 1 else cents}")
        return sign + " e ".join(said)

    def _measured(self, number: str, unit: str) -> str:
        one, many, gender = self.lexicon.forms(self.lexicon.units, unit.replace("\u00a0", " "))
        whole, _ = self.parse(number)
        single = whole.lstrip("0") in ("", "1") and number != "0"  # `1,5 litro`
        return f"{self.amount(number, gender == 'f')} {self.regional(one if single else many)}"

    def _measure(self, m: Match) -> str:
        return f"{'menos ' if m['s'] else ''}{self._measured(m['n'], m['u'])}"

    def _range(self, m: Match) -> str | None:
        left, right = (float(".".join(self.parse(m[side]))) for side in "lr")
        if left >= right and (len(m["l"]) > 2 or len(m["r"]) > 2):
            return None
        if m["u"]:
            feminine = self.lexicon.forms(self.lexicon.units, m["u"].replace("\u00a0", " "))[-1] == "f"
            return f"{self.amount(m['l'], feminine)} a {self._measured(m['r'], m['u'])}"
        feminine = self.is_feminine(self.after(m), one=False)
        return f"{self.amount(m['l'], feminine)} a {self.amount(m['r'], feminine)}"

    def _fraction(self, m: Match) -> str | None:
        above, below = int(m["a"]), int(m["b"])
        if (above, below) == (24, 7):
            return "vinte e quatro por sete"
        if above >= below or below > 10:
            return None
        one, several = _DENOMINATORS.get(below) or (self._nth(below), f"{self._nth(below)}s")
        said = f"{self.cardinal(above)} {one if above == 1 else several}"
        if below == 2:
            said = "meio"
        return f"{self.whole(m['i'])} e {said}" if m["i"] else said

    def _nth(self, number: int) -> str:
        return words_of(number, "pt", "ordinal")

    def _over(self, m: Match) -> str:
        return f"{self.whole(m['l'])} por {self.whole(m['r'])}"

    def _mixed(self, m: Match) -> str:
        return f"{self.amount(m['i'])} e {self.lexicon.symbols[m['f']]}"

    def _by(self, m: Match) -> str:
        right = self._measured(m["r"], m["u"]) if m["u"] else self.amount(m["r"])
        return f"{self.amount(m['l'])} por {right}"

    def _times(self, m: Match) -> str:
        return f"{self.amount(m['n'], feminine=True)} {'vez' if m['n'] == '1' else 'vezes'}"

    def _ordinal(self, m: Match) -> str | None:
        if m["n"][0] == "0":
            return None
        said = self._nth(int(m["n"]))
        if m["g"] in "ªa":
            said = re.sub(r"o\b", "a", said)
        return re.sub(r"([oa])\b", r"\1s", said) if m["s"] else said

    def _slash(self, m: Match) -> str:
        return f"barra {self.whole(m['n'])}"
