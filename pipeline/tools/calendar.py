"""Days and times of day as people say them, in the languages of the shipped catalogues."""

from __future__ import annotations

import datetime as dt
import random

_DAYS = {
    "en": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "ru": ["понедельник", "вторник", "среда", "четверг", "пятница", "суббота", "воскресенье"],
    "pt": ["segunda-feira", "terça-feira", "quarta-feira", "quinta-feira", "sexta-feira", "sábado", "domingo"],
}
_RU_ON = ["в ~понедельник", "во ~вторник", "в ~среду", "в ~четверг", "в ~пятницу", "в ~субботу", "в ~воскресенье"]
_RU_OF = ["понедельника", "вторника", "среды", "четверга", "пятницы", "субботы", "воскресенья"]
_MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "ru": "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split(),
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro".split(),
}
DATE_FORMS = ("", "on", "by", "from")
TIME_FORMS = ("", "at", "by")
LANGUAGES = tuple(_DAYS)


def weekday(day: dt.date, language: str) -> str:
    """`Friday`, `пятница`, `sexta-feira`."""
    return _DAYS[language][day.weekday()]


def day_and_month(day: dt.date, language: str) -> str:
    """`November 24`, `24 ноября`, `24 de novembro`."""
    month = _MONTHS[language][day.month - 1]
    return {"en": f"{month} {day.day}", "ru": f"{day.day} {month}", "pt": f"{day.day} de {month}"}[language]


def date_forms(day: dt.date, today: dt.date, language: str, rng: random.Random) -> dict[str, str]:
    """One way to name a day, in all its forms; `~` stands before the words that carry it."""
    ahead = (day - today).days
    if ahead in (1, 2) and rng.random() < 0.7:
        return _relative(ahead, language)
    if 2 <= ahead <= 6 and rng.random() < 0.6:
        return _by_weekday(day.weekday(), language)
    named = day_and_month(day, language)
    if language == "en" and rng.random() < 0.3:
        named = f"{day.day} {_MONTHS['en'][day.month - 1]}"
    return {
        "en": {"": named, "on": f"on ~{named}", "by": f"by ~{named}", "from": f"from ~{named}"},
        "ru": {"": named, "on": named, "by": f"до ~{named}", "from": f"с ~{named}"},
        "pt": {"": named, "on": f"no dia ~{named}", "by": f"até ~{named}", "from": f"a partir de ~{named}"},
    }[language]


def _relative(ahead: int, language: str) -> dict[str, str]:
    if language == "ru":
        word = ("завтра", "послезавтра")[ahead - 1]
        day = ("завтрашнего дня", "послезавтрашнего дня")[ahead - 1]
        return {"": word, "on": word, "by": f"до ~{day}", "from": f"с ~{day}"}
    word = {"en": ("tomorrow", "the day after tomorrow"), "pt": ("amanhã", "depois de amanhã")}[language][ahead - 1]
    by, since = {"en": ("by", "from"), "pt": ("até", "a partir de")}[language]
    return {"": word, "on": word, "by": f"{by} ~{word}", "from": f"{since} ~{word}"}


def _by_weekday(number: int, language: str) -> dict[str, str]:
    name = _DAYS[language][number]
    if language == "ru":
        return {"": name, "on": _RU_ON[number], "by": f"до ~{_RU_OF[number]}", "from": f"с ~{_RU_OF[number]}"}
    if language == "pt":
        return {
            "": name,
            "on": f"{'no' if number >= 5 else 'na'} ~{name}",
            "by": f"até ~{name}",
            "from": f"a partir de ~{name}",
        }
    return {"": name, "on": f"on ~{name}", "by": f"by ~{name}", "from": f"from ~{name}"}


def time_forms(time: dt.time, language: str) -> dict[str, str]:
    """A time of day as it is written, in all its forms."""
    if language == "ru":
        named = f"{time.hour}:{time.minute:02}"
        return {"": named, "at": f"в ~{named}", "by": f"до ~{named}"}
    if language == "pt":
        named = f"{time.hour}h{time.minute:02}" if time.minute else f"{time.hour}h"
        at = "à" if time.hour in (0, 1) else "às"
        return {"": named, "at": f"{at} ~{named}", "by": f"até {at} ~{named}"}
    half = "am" if time.hour < 12 else "pm"
    hour = time.hour % 12 or 12
    named = f"{hour}:{time.minute:02} {half}" if time.minute else f"{hour} {half}"
    return {"": named, "at": f"at ~{named}", "by": f"by ~{named}"}
