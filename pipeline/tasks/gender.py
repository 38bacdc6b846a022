"""Whether a man or a woman speaks, e.g. in Kaldi's spk2gender.

A row: `Is it a man or a woman?` -> `A woman.`
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.tasks._label import LabelTask


class Gender(LabelTask):
    """Asks about the label `gender`."""

    field_name: ClassVar[str] = "gender"
