"""Variants: in how many ways an argument can be said, or be written down by who heard it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator

from pipeline.spoken import en, pt, ru, ru_dates
from pipeline.spoken.ru_forms import noun
from pipeline.spoken.speaker import Speaker, words_of
from pipeline.spoken.variants_of_time import times_en, times_pt, times_ru

_CODE = re.compile(
    r"[^\s@]*(?:[^\W\d_][^\s@]*[0-9]|[0-9][^\s@]*[^\W\d_]|[0-9]-[0-9])[^\s@]*|[0-9]{3,}|\+?[0-9][0-9 ()-]{5,}[0-9]"
)
_ISO = re.compile(r"(?P<y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})")
_MEASURED = re.compile(r"(?P<n>[0-9]+(?:[.,][0-9]+)?) ?(?P<u>\D+)")
_CASES = "ngdaip"


def _codes(speaker: Speaker, words: str) -> Iterator[str]:
    """A code with its signs said or not, its digits one by one or in groups, its letters apart or together."""
    if not _CODE.fullmatch(words):
        return
    runs = re.findall(r"[^\W\d_]+|[0-9]+", words)
    yield "".join(runs)
    yield " ".join(runs)
    yield " ".join(" ".join(run) if run.isalpha() else run for run in runs)
    yield " ".join("".join(runs))
    yield re.sub(r"[-_/.:]", "", words)
    yield re.sub(r"(?<=[^\W\d_])[-_/.:](?=[0-9])", "", words)
    yield re.sub(r"[^\w\s]", "-", words)
    signs = {said for sign, said in speaker.lexicon.separators.items() if sign != "by"}
    spoken = speaker.say(words)
    yield " ".join(word for word in spoken.replace("-", " ").split() if word not in signs)
    by_digit = [speaker.digits(run) if _is_number(run) else speaker.run(run) for run in runs]
    yield " ".join(by_digit)
    yield " ".join(speaker.whole(run) if _is_number(run) else speaker.run(run) for run in runs)
    yield " ".join(speaker.digits(run) if _is_number(run) else speaker.letters(run.upper()) for run in runs)
    yield " ".join(speaker.digits(run) if _is_number(run) else " ".join(run) for run in runs)
    paired = [" ".join(speaker.pairs(run)) if _is_number(run) else speaker.run(run) for run in runs]
    yield " ".join(paired)
    if speaker.language == "en":
        yield " ".join(paired).replace("zero", "oh")
        yield " ".join(by_digit).replace("zero", "oh")


def _measures(speaker: Speaker, words: str) -> Iterator[str]:
    """`5 mg` as it may be written down: together, and with the unit in words."""
    found = _MEASURED.fullmatch(words)
    if not found or found["u"].strip() not in speaker.lexicon.units:
        return
    number, unit = found["n"], found["u"].strip()
    yield f"{number}{unit}"
    yield f"{number} {unit}"
    said = speaker.say(words)
    if unit.isalpha():
        for form in speaker.lexicon.forms(speaker.lexicon.units, unit)[:3]:
            if len(form) > 1:
                yield f"{number} {form}"
    yield said.replace(" and ", " ") if speaker.language == "en" else said


def _english(speaker: Speaker, words: str) -> Iterator[str]:
    assert isinstance(speaker, en.English)
    yield from times_en(speaker, words)
    day = _date(
        words, rf"(?P<month>{'|'.join(en.MONTHS)}) (?P<d>\d+)(?:st|nd|rd|th)?(?:,? (?P<y>\d{{4}}))?", en.MONTHS
    ) or _date(
        words,
        rf"(?:the )?(?P<d>\d+)(?:st|nd|rd|th)? (?:of )?(?P<month>{'|'.join(en.MONTHS)})(?: (?P<y>\d{{4}}))?",
        en.MONTHS,
    )
    if day:
        year, month, number = day
        named, nth = en.MONTHS[month - 1], speaker.ordinal(number)
        short = f"{number}{nth[-2:]}"
        ends = ["", f" {year}", f" {speaker.year(str(year))}"] if year else [""]
        for end in ends:
            for day_said in (str(number), short, nth, speaker.cardinal(number)):
                yield f"{named} {day_said}{end}"
                yield f"{day_said} {named}{end}"
                yield f"{named} the {day_said}{end}"
                yield f"{day_said} of {named}{end}"
    yield from _codes(speaker, words)
    yield from _measures(speaker, words)
    said = speaker.say(words)
    if " hundred and " in said or " thousand and " in said:
        yield said.replace(" hundred and ", " hundred ").replace(" thousand and ", " thousand ")
    if said.startswith(("one hundred", "one thousand")):
        yield f"a{said[3:]}"


def _russian(speaker: Speaker, words: str) -> Iterator[str]:
    assert isinstance(speaker, ru.Russian)
    yield from times_ru(speaker, words)
    day = _date(
        words, rf"(?P<d>\d+) (?P<month>{'|'.join(ru_dates.MONTHS)})(?: (?P<y>\d{{4}})(?: года| г\.)?)?", ru_dates.MONTHS
    ) or _date(words, r"(?P<d>\d+)\.(?P<month>\d+)\.(?P<y>\d{4})", ru_dates.MONTHS)
    if day:
        year, month, number = day
        ends = ["", f" {year} года", f" {ru_dates.ordinal(year, 'g')} года", f" {year}"] if year else [""]
        for end in ends:
            yield f"{number} {ru_dates.MONTHS[month - 1]}{end}"
            yield f"{number}-го {ru_dates.MONTHS[month - 1]}{end}"
            for case in _CASES:
                yield f"{ru_dates.ordinal(number, case, 'n')} {ru_dates.MONTHS[month - 1]}{end}"
    yield from _codes(speaker, words)
    yield from _measures(speaker, words)
    found = re.fullmatch(r"([0-9]{1,9})(?: ?(\D+))?", words)
    if not found or (found[1][0] == "0" and len(found[1]) > 1):
        return
    number, unit = int(found[1]), (found[2] or "").strip()
    for case in _CASES:
        if unit in speaker.lexicon.units:
            yield speaker.counted_noun(found[1], noun(speaker.lexicon.forms(speaker.lexicon.units, unit)), case)
            continue
        for gender in "mfn":
            yield f"{ru_dates.cardinal(number, case, gender)} {unit}".rstrip()


def _portuguese(speaker: Speaker, words: str) -> Iterator[str]:
    assert isinstance(speaker, pt.Portuguese)
    yield from times_pt(speaker, words)
    day = _date(
        words, rf"(?P<d>\d+)[º°]? de (?P<month>{'|'.join(pt.MONTHS)})(?: de (?P<y>\d{{4}}))?", pt.MONTHS
    ) or _date(words, r"(?P<d>\d+)[/.-](?P<month>\d+)[/.-](?P<y>\d{4})", pt.MONTHS)
    if day:
        year, month, number = day
        ends = ["", f" de {year}", f" de {speaker.whole(str(year))}"] if year else [""]
        days = [str(number), speaker.cardinal(number)] + (["primeiro", "1º", "um"] if number == 1 else [])
        for end in ends:
            for said in days:
                yield f"{said} de {pt.MONTHS[month - 1]}{end}"
    yield from _codes(speaker, words)
    yield from _measures(speaker, words)
    if re.fullmatch("[0-9]{1,9}", words) and (words[0] != "0" or len(words) == 1):
        yield speaker.gendered(speaker.cardinal(int(words)), feminine=True)
        yield words_in_brazil(words)
    elif (found := re.fullmatch(r"([1-9][0-9]{0,8}) (\D+)", words)) is not None:
        yield f"{speaker.gendered(speaker.cardinal(int(found[1])), feminine=True)} {found[2]}"
        yield f"{speaker.cardinal(int(found[1]))} {found[2]}"


def words_in_brazil(digits: str) -> str:
    """A number as Brazil says it."""
    return words_of(int(digits), "pt_BR")


def _date(words: str, pattern: str, months: list[str]) -> tuple[int | None, int, int] | None:
    """Year, month and day of a date in ISO form or in a language's; None for other texts."""
    found = _ISO.fullmatch(words) or re.fullmatch(pattern, words, re.IGNORECASE)
    if not found:
        return None
    groups = found.groupdict()
    name = groups.get("month") or groups.get("m") or ""
    month = int(name) if name.isdigit() else [m.lower() for m in months].index(name.lower()) + 1
    year = int(groups["y"]) if groups["y"] else None
    try:
        dt.date(year or 2000, month, int(groups["d"]))
    except ValueError:
        return None
    return year, month, int(groups["d"])


def _is_number(run: str) -> bool:
    return run.isascii() and run.isdigit()


FORMS: dict[str, Callable[[Speaker, str], Iterator[str]]] = {"en": _english, "ru": _russian, "pt": _portuguese}
"""By language: the further forms of a text."""
