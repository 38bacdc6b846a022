"""Spoken form: a written text as a voice is to say it.

Numbers, dates, times, money, measures, phone numbers, abbreviations, acronyms, part numbers and addresses
become words of the language, in the case and gender that the words around them show; all else stays as it
is written. Numerals come from num2words (LGPL), the rest from `data/text/spoken.<language>.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from pipeline.spoken.speaker import Speaker
from pipeline.spoken.variants import FORMS
from pipeline.text import base, normalise


@lru_cache(maxsize=8192)  # the stage, the filter and metrics ask for the same
def spoken(text: str, language: str | None) -> str:
    """A text as it is said; one without digits, signs and abbreviations comes back unchanged.

    Said twice it is the same: `spoken(spoken(text)) == spoken(text)`.

    Args:
        text: As it is written.
        language: BCP-47 tag; a region matters where it says otherwise (`pt-BR`, `en-GB`). Texts of languages
            without a lexicon come back unchanged.
    """
    speaker = speaker_of(language)
    return speaker.say(text) if speaker else text


def variants(words: str, language: str | None) -> list[str]:
    """Forms by which what is written could be heard or written down, normalised by `pipeline.text.normalise`.

    `15:30` gives `15 30`, `fifteen thirty`, `half past three`, `three thirty pm` and so on: whoever asks
    whether an argument was heard looks for any of them. The written form comes first.
    """
    speaker = speaker_of(language)
    if speaker is None:
        found = [words]
    else:
        found = [words, speaker.say(words), *FORMS[speaker.language](speaker, words.strip())]
    plain = [form for text in found if (form := normalise(text))]
    return list(dict.fromkeys([*plain, *(form.replace("-", " ") for form in plain)]))


@lru_cache(maxsize=64)
def speaker_of(language: str | None) -> Speaker | None:
    """Who says texts of a language; None for those that nobody here knows."""
    known = _SPEAKERS.get(base(language))
    assert known is None or language is not None
    parts = (language or "").replace("_", "-").split("-")[1:]
    region = next((part.upper() for part in parts if len(part) == 2), "")
    return known()(region) if known else None


def _english() -> type[Speaker]:
    from pipeline.spoken.en import English

    return English


def _portuguese() -> type[Speaker]:
    from pipeline.spoken.pt import Portuguese

    return Portuguese


def _russian() -> type[Speaker]:
    from pipeline.spoken.ru import Russian

    return Russian


_SPEAKERS: dict[str, Callable[[], type[Speaker]]] = {"en": _english, "pt": _portuguese, "ru": _russian}
LANGUAGES = tuple(_SPEAKERS)
"""Languages whose spoken form is known."""
