"""Variants of times of day: `15:30` is half past three, `половина четвёртого`, `três e meia`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.spoken.en import English
from pipeline.spoken.pt import Portuguese
from pipeline.spoken.ru import Russian
from pipeline.spoken.ru_dates import cardinal, ordinal

_EN = re.compile(r"(?P<h>\d{1,2})(?::(?P<m>\d\d))?(?: ?(?P<half>[ap])\.? ?m\.?)?", re.IGNORECASE)
_HOURS_MINUTES = re.compile(r"(?P<h>\d{1,2}) ?[:h] ?(?P<m>\d\d)?")


def _parsed(found: re.Match[str] | None) -> tuple[int, int] | None:
    if not found:
        return None
    hour, minute = int(found["h"]), int(found["m"] or 0)
    return (hour, minute) if hour <= 24 and minute < 60 else None


def times_en(speaker: English, words: str) -> Iterator[str]:
    """English: by the clock of twelve and of twenty-four hours."""
    found = _EN.fullmatch(words)
    time = _parsed(found)
    if not found or not time or not (found["m"] or found["half"]):
        return
    hour, minute = time
    half = (found["half"] or "").lower()
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    twelve, after = hour % 12 or 12, (hour + 1) % 12 or 12
    name = "pm" if hour % 24 >= 12 else "am"
    say, number = speaker.cardinal, str(minute).rjust(2, "0")
    part = {"am": ["in the morning"], "pm": ["in the afternoon", "in the evening", "at night"]}[name]
    bare = [f"{say(twelve)} {speaker.minutes(number)}", f"{twelve} {number}"]
    yield f"{twelve} {number}{name}" if minute else f"{twelve}{name}"
    if not minute:
        bare = [say(twelve), str(twelve), f"{say(twelve)} o'clock", f"{twelve} o'clock", f"{twelve} 00"]
        yield f"{say(hour)} hundred"
        yield f"{say(hour)} hundred hours"
        yield from {0: ["midnight"], 12: ["noon", "midday"], 24: ["midnight"]}.get(hour, [])
        yield from bare[2:]
    elif minute % 5 == 0 or minute < 30:
        past = {15: "quarter", 30: "half", 45: "quarter"}.get(minute)
        gone = past or say(minute if minute < 30 else 60 - minute)
        bare.append(f"{gone} {'past' if minute <= 30 else 'to'} {say(twelve if minute <= 30 else after)}")
        if minute <= 15:
            bare.append(f"{gone} after {say(twelve)}")
        yield from bare
    else:
        yield from bare
    for form in bare:
        for end in (name, f"{name[0]} m", *part):
            yield f"{form} {end}"
    if hour > 12 and minute:
        yield f"{say(hour)} {speaker.minutes(number)}"
    yield f"{hour} {number}"


def times_ru(speaker: Russian, words: str) -> Iterator[str]:
    """Russian: `половина четвёртого`, `без пяти четыре`, hours and minutes."""
    time = _parsed(re.fullmatch(r"(?P<h>\d{1,2}):(?P<m>\d\d)", words))
    if not time:
        return
    hour, minute = time
    noun = speaker.counted_hours
    for h in dict.fromkeys((hour, hour % 12 or 12)):
        for case in "ngd":
            hours = noun(h, case)
            if minute:
                yield f"{hours} {speaker.counted_minutes(minute, case)}"
                yield f"{cardinal(h, case)} {'ноль ' * (minute < 10)}{cardinal(minute, case)}"
            else:
                yield hours
                yield f"{cardinal(h, case)} ноль ноль"
        yield f"{h} {minute:02}"
        if not minute:
            yield f"{h} {'час' if h % 20 == 1 else 'часа' if h % 20 in (2, 3, 4) else 'часов'}"
            if h == 1:
                yield "час"
    after = (hour + 1) % 12 or 12
    following = ordinal(after, "g")
    if minute == 30:
        yield from (
            f"половина {following}",
            f"половину {following}",
            f"пол {following}",
            f"пол{following}",
            f"половине {following}",
        )
    if minute == 15:
        yield f"четверть {following}"
    if minute == 45:
        yield f"без четверти {cardinal(after)}"
        yield f"без пятнадцати {cardinal(after)}"
    if minute > 30:
        yield f"без {cardinal(60 - minute, 'g')} {'час' if after == 1 else cardinal(after)}"
    if 0 < minute < 30 and minute % 5 == 0:
        yield f"{cardinal(minute)} минут {following}"


def times_pt(speaker: Portuguese, words: str) -> Iterator[str]:
    """Portuguese: `três e meia`, `um quarto para as quatro`, hours and minutes."""
    time = _parsed(_HOURS_MINUTES.fullmatch(words))
    if not time:
        return
    hour, minute = time
    say = speaker.cardinal

    def feminine(number: int) -> str:
        return speaker.gendered(say(number), feminine=True)

    for h in dict.fromkeys((hour, hour % 12 or 12)):
        hours = f"{feminine(h)} hora{'s' * (h != 1)}"
        yield hours if not minute else f"{hours} e {say(minute)} minuto{'s' * (minute != 1)}"
        yield f"{h} h {minute:02}" if minute else f"{h} h"
        yield f"{h}h{minute:02}" if minute else f"{h} horas"
        yield f"{h} {minute:02}"
        if minute:
            yield f"{feminine(h)} e {say(minute)}"
            yield f"{hours} e {say(minute)}"
            yield f"{h} e {minute}"
        if minute == 30:
            yield from (f"{feminine(h)} e meia", f"{hours} e meia", f"{h} e meia")
        if minute == 15:
            yield f"{feminine(h)} e um quarto"
    after = (hour + 1) % 12 or 12
    if minute > 30:
        left, the = 60 - minute, "a" if after == 1 else "as"
        yield f"{say(left)} para {the} {feminine(after)}"
        yield f"{feminine(after)} menos {'um quarto' if left == 15 else say(left)}"
        if left == 15:
            yield f"um quarto para {the} {feminine(after)}"
    if not minute:
        yield from {0: ["meia-noite"], 12: ["meio-dia"], 24: ["meia-noite"]}.get(hour, [])
    if hour == 12 and minute == 30:
        yield "meio-dia e meia"
