"""What is wrong with a catalogue or a grammar."""

from __future__ import annotations


class CatalogueError(ValueError):
    """A catalogue or a grammar that cannot be used; the message names file, tool and field, and what is expected."""
