"""Any other label that a corpus carries: age, dialect, topic, fluency, ...

A row, with `field: age`: `What is the age of the speaker?` -> `thirties`.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.tasks._label import LabelTask
from pipeline.tasks.base import Brief


class Label(LabelTask):
    """Asks about the label that the recipe names."""

    variables: ClassVar[frozenset[str]] = frozenset({"choices", "label", "field"})
    field_name: ClassVar[str] = ""

    name: str
    """The label, as the reader calls it."""

    @property
    def field(self) -> str:
        return self.name

    def values(self, choices: str, label: str, brief: Brief) -> dict[str, str]:
        return {"choices": choices, "label": label, "field": brief.prompts.name(self.name).replace("_", " ")}
