"""Lexicons: what of a language's spoken form is data, `data/text/spoken.<language>.yaml`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec
from ruamel.yaml import YAML

FOLDER = Path(__file__).resolve().parent.parent.parent / "data" / "text"


class Lexicon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a language says what is not written as words."""

    letters: dict[str, str]
    """Names of letters, by the capital; empty where voices know them."""
    words: dict[str, str]
    """Capital letters that are no acronym to be spelled, and how they are said."""
    spelled: frozenset[str]
    """Acronyms that are spelled although they could be read."""
    parts: dict[str, str]
    """Runs of small letters within codes and addresses, and how they are said."""
    domains: frozenset[str]
    """What host names end with."""
    separators: dict[str, str]
    """Signs within codes and addresses; `by` is the x of `M8x40`."""
    plain_hyphens: frozenset[str]
    """Words whose hyphen before a number is not said: `covid-19`."""
    titles: dict[str, str]
    """Abbreviations before a name; their full stop ends no sentence."""
    before_numbers: dict[str, str]
    """Abbreviations and signs that mean this only before a number."""
    abbreviations: dict[str, str]
    never_last: frozenset[str]
    """Abbreviations whose full stop ends no sentence, even before a capital."""
    digit_cues: frozenset[str]
    """Words after which a number is a code."""
    units: dict[str, str]
    """After a number: its forms, parted by commas; which ones is the language's affair."""
    scales: dict[str, str]
    """Thousands and millions between a number and what is counted."""
    currencies: dict[str, str]
    symbols: dict[str, str]
    """Signs where no other rule took them."""
    declined: dict[str, str] = {}
    """Abbreviations whose case depends on the word before them."""
    regions: dict[str, dict[str, str]] = {}
    """Words that a region says in another way."""
    ordinal_nouns: dict[str, str] = {}
    """Nouns, with their gender, before which a number is an ordinal."""
    feminine: frozenset[str] = frozenset()
    masculine: frozenset[str] = frozenset()
    neuter: frozenset[str] = frozenset()

    def forms(self, of: dict[str, str], key: str) -> list[str]:
        """The forms of a unit, scale or currency."""
        return [form.strip() for form in of[key].split(",")]


@lru_cache(maxsize=8)
def load(language: str) -> Lexicon:
    """The shipped lexicon of a language.

    Raises:
        ValueError: A lexicon that is not as it should be; the message names file and place.
    """
    path = FOLDER / f"spoken.{language}.yaml"
    try:
        return msgspec.convert(YAML(typ="safe").load(path.read_text(encoding="utf-8")), Lexicon)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}") from error


def any_of(entries: Iterable[str]) -> str:
    """A pattern for any of some texts, the longest first; those that begin alike share a branch.

    Spaces match no-break ones too.
    """
    by_first: dict[str, list[str]] = defaultdict(list)
    for entry in sorted(entries, key=len, reverse=True):
        by_first[entry[0]].append(re.escape(entry[1:]).replace("\\ ", "[ \u00a0\u202f]"))
    if not by_first:
        return r"(?!)"
    return "(?:" + "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in by_first.items()) + ")"
