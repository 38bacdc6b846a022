"""Terminal: what is shown of data is text, whatever it holds. Nothing in it moves the cursor or sets a colour.

Markup (`[red]`) belongs to our own words: put `escape` around what comes from a corpus, a dataset or a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

__all__ = ["Terminal", "escape", "harmless"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""All but the tab and the line end; and what turns the direction of writing, so that a line reads as another."""


def harmless(text: str) -> str:
    """A text in which each control character is shown as U+FFFD."""
    return text if text.isprintable() else _CONTROL.sub("\ufffd", text)


class Terminal(Console):
    """A console that hands no control character on but its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, piece by piece."""
        for piece in super().render(renderable, options):
            if piece.control or piece.text.isprintable():
                yield piece
            else:
                yield Segment(harmless(piece.text), piece.style)
