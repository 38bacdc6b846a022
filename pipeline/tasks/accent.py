"""The speaker's accent, e.g. in Common Voice.

A row: `Which accent do you hear?` -> `Scottish.`
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.tasks._label import LabelTask


class Accent(LabelTask):
    """Asks about the label `accent`."""

    field_name: ClassVar[str] = "accent"
