"""Catalogues that are to be asked for: which languages, how often."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from pipeline.readers.tool_queries import ToolQueries
from pipeline.tools.catalogue import SHIPPED
from tests.reading import read

HOME = SHIPPED / "home.json"


def test_so_many_queries_of_each_language() -> None:
    found = read("tool_queries", HOME, queries=3)
    assert Counter(u.language for u in found) == {"en": 3, "pt": 3, "ru": 3}
    found = read("tool_queries", HOME, queries=2, languages=["Russian"])
    assert Counter(u.language for u in found) == {"ru": 2}


def test_a_language_that_is_none() -> None:
    with pytest.raises(ValidationError, match="'xx' is no language: a BCP-47 tag"):
        ToolQueries(name="c", path=str(HOME), languages=["en", "xx"])
