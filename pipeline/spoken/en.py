"""English as it is said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from pipeline.spoken.lexicon import any_of
from pipeline.spoken.speaker import DASH, SPACE, Match, Rule, Speaker, words_of

MONTHS = "January February March April May June July August September October November December".split()
_SHORT = {m[:3]: m for m in MONTHS} | {"Sept": "September"}
_MONTH = rf"(?P<month>(?:{'|'.join(MONTHS)})(?!\w)|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec)(?!\w)\.?)"
_HALF = rf"(?:{SPACE}?(?P<half>[aApP])(?:m|M|\.{SPACE}?m\.|\.{SPACE}?M\.)(?!\w))"
_AM_PM = rf"{SPACE}?[aApP](?:m|M|\.m\.|\.M\.)(?!\w)"
_CLOCK = r"(?:[01]?[0-9]|2[0-4]):[0-5][0-9](?::[0-5][0-9])?(?!:?[0-9])"
_TIME = rf"(?:{_CLOCK}(?:{_AM_PM})?|(?:1[0-2]|0?[1-9]){_AM_PM})"
_YEAR_CUES = frozenset(
    """in since year until till by from of spring summer autumn fall winter early late mid circa around before after
    january february march april may june july august september october november december""".split()
)
_ATTRIBUTES = frozenset(
    """tablet tablets capsule capsules pill pills dose doses pack packs bottle bottles bolt bolts screw screws
    pipe pipes cable cables hose hoses drive drives disk disks plate plates box boxes bag bags walk race""".split()
)
_SMALL = frozenset("of and or in at for to per is on from with a the by was are were that if but".split())
_DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
_STREET_BEFORE = re.compile(r"(?:^|[^.\w])[\w']+ [A-Z0-9][\w']*[ \u00a0]$|^(?!.*\b(?:Visit|Meet|Call|See)\b).+[0-9] ?$")


class English(Speaker):
    """Voices know the names of letters when they are dotted (`U.S.B`): espeak says a lone A as the article."""

    language = "en"
    number = r"(?>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?)"
    groups = ","
    point = "point"
    vowels = "aeiouy"
    minus = "minus"
    plural_letters: ClassVar[str] = "'s"

    def rules(self) -> list[Rule]:
        """See `Speaker.rules`."""
        lexicon, n = self.lexicon, self.number
        unit, currency, scale = any_of(lexicon.units), any_of(lexicon.currencies), any_of(lexicon.scales)
        year = r"(?:,?[ \u00a0](?P<year>[12][0-9]{3})(?![\w%]|[.,:][0-9]))?"
        return [
            (
                r"(?P<y>[12][0-9]{3})-(?P<m>0[1-9]|1[0-2])-(?P<d>[0-3][0-9])(?:T(?P<t>[0-2][0-9]:[0-5][0-9])(?:[0-9:.]*)Z?)?(?!\w)",
                self._iso_date,
            ),
            (r"(?P<a>[0-9]{1,2})(?P<s>[/.])(?P<b>[0-9]{1,2})[/.](?P<y>[0-9]{4})(?!\w)", self._numeric_date),
            (rf"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?{SPACE}(?:of{SPACE})?{_MONTH}{year}", self._day_first),
            (
                rf"{_MONTH}{SPACE}(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?(?![\w%:]|[.,][0-9]|{DASH}[0-9]){year}",
                self._month_first,
            ),
            (rf"(?P<l>{_TIME}|[1-9](?=-)|1[0-2](?=-)){SPACE}?{DASH}{SPACE}?(?P<r>{_TIME})", self._time_range),
            (rf"(?P<h>[01]?[0-9]|2[0-4]):(?P<m>[0-5][0-9])(?::(?P<sec>[0-5][0-9]))?(?!:?[0-9]){_HALF}?", self._time),
            (rf"(?P<h>1[0-2]|0?[1-9]){_HALF}", self._time),
            (r"(?P<l>[0-9]+):(?P<r>[0-9]+)(?!:?\w)", self._ratio),
            (r"\+[0-9](?:[ ().-]{0,2}[0-9]){6,14}(?!\w)", self._phone),
            (r"(?:1[ -])?\(?[0-9]{3}\)?[ -][0-9]{3}-[0-9]{4}(?!\w)", self._phone),
            (r"[0-9]{3}-[0-9]{4}(?![\w-])", self._phone),
            (r"0[0-9]{2,4}[ -][0-9]{3,4}[ -][0-9]{3,4}(?!\w)", self._phone),
            (rf"(?P<sign>[-\u2212])?(?P<c>{currency}){SPACE}?(?P<n>{n})(?:{SPACE}?(?P<k>{scale})(?!\w))?", self._money),
            (rf"(?P<n>{n})(?:{SPACE}(?P<k>{scale}))?{SPACE}?(?P<c>{currency})(?!\w)", self._money),
            (rf"(?P<l>{n}){SPACE}?{DASH}{SPACE}?(?P<r>{n})(?:{SPACE}?(?P<u>{unit}))?(?![\w-])", self._range),
            (r"(?:(?P<i>[0-9]{1,3}) )?(?P<a>[1-9][0-9]?)/(?P<b>[1-9][0-9]?)(?![\w/])", self._fraction),
            (r"(?P<l>[0-9]{2,3})/(?P<r>[0-9]{2,3})(?![\w/])", self._over),
            (rf"(?P<i>{n})(?P<f>[½¼¾⅓⅔])(?!\w)", self._mixed),
            (rf"(?P<l>{n}){SPACE}?[x×]{SPACE}?(?P<r>{n})(?:{SPACE}?(?P<u>{unit}))?(?!\w)", self._by),
            (r"(?P<n>(?:1[0-9]|20)[0-9]0|[2-9]0)['’]?s(?!\w)", self._decade),
            (rf"(?P<s>[-\u2212])?(?P<n>{n}){SPACE}?(?P<u>{unit})(?!\w)", self._measure),
            (rf"(?P<n>{n})[x×](?!\w)", self._times),
            (r"(?P<n>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:st|nd|rd|th)(?!\w)", self._ordinal),
            (r"/(?P<n>[0-9]{1,2})(?!\w)", self._slash),
            (r"[0-9]+(?:\.[0-9]+){2,}(?!\w)", self._address),
        ]

    def names(self) -> list[Rule]:
        """See `Speaker.names`."""
        return [(r"(?P<w>St)\.?(?= [A-Z])|(?P<e>St|Dr)\.(?!\w)", self._street)]

    def letters(self, letters: Iterable[str]) -> str:
        """Dotted capitals: `U.S.B`."""
        return ".".join(letters)

    def spell_out(self, code: str, shortest: int = 4) -> str:
        """A lone A is no article: `A-four`."""
        return re.sub(
            r"(?<![\w.]) A(?![\w.])", "-A", re.sub(r"(?<![\w.])A (?=\w)", "A-", super().spell_out(code, shortest))
        )

    def decimal(self, whole: str, decimals: str) -> str:
        """Decimals are read one by one."""
        return f"{self.whole(whole or '0')} point {self.digits(decimals)}"

    def plain(self, whole: str, decimals: str, match: Match) -> str:
        """A number, or a year after words that lead one to expect it."""
        if decimals:
            return self.decimal(whole, decimals)
        if len(whole) == 4 and match["n"].isdigit() and "1100" <= whole <= "2099":
            cue = self.before(match) in _YEAR_CUES and whole[1:] != "000"
            if cue and (whole >= "1900" or not self.after(match).endswith("s")):
                return self.year(whole)
            if whole >= "1900" and not self.after(match):
                return self.year(whole)
        return self.whole(whole)

    def year(self, year: str) -> str:
        """`2026`: twenty twenty-six."""
        return words_of(int(year), "en", "year").replace("oh-", "oh ")

    def ordinal(self, number: int) -> str:
        """`21`: twenty-first."""
        return words_of(number, "en", "ordinal")

    def date(self, year: str | None, month: int, day: int, first: str = "month", the: str = "the ") -> str | None:
        """A date with the month or the day first."""
        if not 1 <= day <= 31:
            return None
        named, nth = MONTHS[month - 1], self.ordinal(day)
        said = f"{named} {nth}" if first == "month" else f"{the}{nth} of {named}"
        return said + (f", {self.year(year)}" if year else "")

    def _iso_date(self, m: Match) -> str | None:
        said = self.date(m["y"], int(m["m"]), int(m["d"]))
        return said and said + (f" at {m['t']}" if m["t"] else "")

    def _numeric_date(self, m: Match) -> str | None:
        a, b = int(m["a"]), int(m["b"])
        day_first = a > 12 or m["s"] == "." or self.region in ("GB", "AU", "NZ", "IE", "IN", "ZA")
        day, month = (a, b) if day_first else (b, a)
        if not 1 <= month <= 12:
            return None
        return self.date(m["y"], month, day, "day" if day_first else "month", "" if self.before(m) == "the" else "the ")

    def _day_first(self, m: Match) -> str | None:
        stop = self.full_stop(m) if not m["year"] else ""
        said = self.date(m["year"], _month(m), int(m["day"]), "day", "" if self.before(m) == "the" else "the ")
        return said and said + stop

    def _month_first(self, m: Match) -> str | None:
        return self.date(m["year"], _month(m), int(m["day"]))

    def _time_range(self, m: Match) -> str:
        return f"{m['l']} to {m['r']}"  # the next pass says both

    def _time(self, m: Match) -> str | None:
        hour, groups = int(m["h"]), m.groupdict()
        minute, half = groups.get("m"), m["half"]
        said = self.cardinal(hour)
        if minute and minute != "00":
            said += f" {self.minutes(minute)}"
        elif not half:
            said += " o'clock" if 1 <= hour <= 12 else " hundred"
        if groups.get("sec"):
            said += f" and {self.cardinal(int(m['sec']))} second{'s' * (int(m['sec']) != 1)}"
        if not half:
            return said
        return f"{said} {half.lower()}.m" + "." * (m.string[m.end() : m.end() + 1] != ".")

    def minutes(self, minute: str) -> str:
        """`05`: oh five."""
        return f"oh {self.cardinal(int(minute))}" if minute[0] == "0" else self.cardinal(int(minute))

    def _ratio(self, m: Match) -> str:
        return f"{self.whole(m['l'])} to {self.whole(m['r'])}"

    def _phone(self, m: Match) -> str:
        plus = "plus " if m.group()[0] == "+" else ""
        return plus + ", ".join(self.digits(group) for group in re.findall("[0-9]+", m.group()))

    def amount(self, written: str) -> str:
        """A number before what is counted."""
        whole, decimals = self.parse(written)
        return self.decimal(whole, decimals) if decimals else self.whole(whole)

    def _money(self, m: Match) -> str:
        one, many, cent, cents = self.lexicon.forms(self.lexicon.currencies, m["c"])
        whole, decimals = self.parse(m["n"])
        sign = "minus " if m.groupdict().get("sign") else ""
        if m["k"]:
            return f"{sign}{self.amount(m['n'])} {self.lexicon.scales[m['k']]} {many}"
        if len(decimals) > 2:
            return f"{sign}{self.decimal(whole, decimals)} {many}"
        part = int(decimals.ljust(2, "0")) if decimals else 0
        said = [f"{self.whole(whole)} {one if int(whole) == 1 else many}"] if int(whole) or not part else []
        if part:
            said.append(f"{self.cardinal(part)} {cent if part == 1 else cents}")
        return sign + " and ".join(said)

    def _unit(self, unit: str, one: bool) -> str:
        forms = self.lexicon.forms(self.lexicon.units, unit.replace("\u00a0", " "))
        return forms[0 if one else 1]

    def _measure(self, m: Match) -> str:
        sign = "minus " if m["s"] else ""
        word = self.after(m)
        attribute = word in _ATTRIBUTES or (bool(word) and word not in _SMALL and self.before(m) in ("a", "an", "the"))
        one = m["n"] == "1" or attribute  # a five milligram tablet
        return f"{sign}{self.amount(m['n'])} {self._unit(m['u'], one)}{self.full_stop(m)}"

    def _range(self, m: Match) -> str | None:
        left, right = (float(".".join(self.parse(m[side]))) for side in "lr")
        if left >= right and (len(m["l"]) > 2 or len(m["r"]) > 2):
            return None
        years = len(m["l"]) == len(m["r"]) == 4 and 1100 <= left < right <= 2099 and not m["u"]
        say = self.year if years else self.amount
        return (
            f"{say(m['l'])} to {say(m['r'])}" + (f" {self._unit(m['u'], False)}" if m["u"] else "") + self.full_stop(m)
        )

    def _fraction(self, m: Match) -> str | None:
        above, below = int(m["a"]), int(m["b"])
        if (above, below) == (24, 7):
            return "twenty-four seven"
        if above >= below or below > 20:
            return None
        one, several = _DENOMINATORS.get(below) or (self.ordinal(below), f"{self.ordinal(below)}s")
        said = f"{self.cardinal(above)} {one if above == 1 else several}"
        if m["i"]:
            part = f"a {one}" if above == 1 else said
            return f"{self.whole(m['i'])} and {part}"
        return said

    def _over(self, m: Match) -> str:
        return f"{self.whole(m['l'])} over {self.whole(m['r'])}"

    def _mixed(self, m: Match) -> str:
        return f"{self.amount(m['i'])} and {self.lexicon.symbols[m['f']].replace('one ', 'a ')}"

    def _by(self, m: Match) -> str:
        unit = f" {self._unit(m['u'], False)}" if m["u"] else ""
        return f"{self.amount(m['l'])} by {self.amount(m['r'])}{unit}{self.full_stop(m)}"

    def _times(self, m: Match) -> str:
        return f"{self.amount(m['n'])} times"

    def _ordinal(self, m: Match) -> str | None:
        whole, _ = self.parse(m["n"])
        return self.ordinal(int(whole)) if len(whole) <= 12 else None

    def _decade(self, m: Match) -> str:
        said = self.year(m["n"]) if len(m["n"]) == 4 else self.cardinal(int(m["n"]))
        return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"

    def _slash(self, m: Match) -> str:
        return f"slash {self.whole(m['n'])}"

    def _street(self, m: Match) -> str | None:
        """Street after a name (`Main St.`), Saint before one; Drive likewise, but Doctor is a title."""
        left = m.string[max(0, m.start() - 32) : m.start()]
        after_name = _STREET_BEFORE.search(left) is not None
        if m["w"]:
            return "Saint" if not after_name else f"Street{self.full_stop(m)}"
        if not after_name:
            return None
        return ("Street" if m["e"] == "St" else "Drive") + self.full_stop(m)


def _month(m: Match) -> int:
    return MONTHS.index(_SHORT.get(m["month"].rstrip("."), m["month"].rstrip("."))) + 1
