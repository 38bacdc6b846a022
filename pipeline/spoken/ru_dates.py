"""Russian dates, times and phone numbers, and numbers in their cases."""

from __future__ import annotations

import re
from functools import lru_cache

from pipeline.spoken.ru_forms import CASE_AFTER
from pipeline.spoken.speaker import Match, Speaker, words_of

MONTHS = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()
MONTH = rf"(?P<month>(?i:{'|'.join(MONTHS)})(?!\w)|(?:янв|февр?|мар|апр|авг|сент?|окт|нояб?|дек)(?!\w)\.?)"
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
_NOMINATIVE = frozenset("сегодня завтра вчера".split())


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


class Calendar(Speaker):
    """What of Russian stands in a calendar or on a clock."""

    def case_of(self, match: Match) -> str:
        """The case that the word before asks for."""
        before = self.before(match)
        if before in ("с", "со"):
            return "g"
        return CASE_AFTER.get(before, "n")

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
