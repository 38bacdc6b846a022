"""What the tasks share that ask for words by their number or place."""

from __future__ import annotations

import re

_READ_OTHERWISE = re.compile(r"[\d%&@#№$€£₽+=°§/*|]")


def countable(text: str) -> bool:
    """Whether each word that is written is one that is said; `25 %` and `Tom & Jerry` are more."""
    return _READ_OTHERWISE.search(text) is None
