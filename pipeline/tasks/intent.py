"""What the speaker wants, e.g. in SLURP or Fluent Speech Commands.

A row: `What is the intent?` -> `play music.`
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.tasks._label import LabelTask


class Intent(LabelTask):
    """Asks about the label `intent`."""

    field_name: ClassVar[str] = "intent"
