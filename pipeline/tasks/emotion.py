"""How the speaker feels, e.g. in MELD, IEMOCAP or RAVDESS.

A row: `What does the speaker feel?` -> `Anger.`
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.tasks._label import LabelTask


class Emotion(LabelTask):
    """Asks about the label `emotion`."""

    field_name: ClassVar[str] = "emotion"
