"""Transcription: say what is said.

A row: `Write down what you hear.` -> `He hoped there would be stew for dinner`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pipeline.tasks.base import Brief, Task, alone, spoken
from pipeline.text import words
from schemas.sample import Sample


class Transcription(Task):
    """The transcript, without marks for noises and not in capitals."""

    may_copy: ClassVar[bool] = True

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        language = draft.utterances[0].language
        yield self.sample(alone(draft), brief, spoken(draft), language=language)

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        import jiwer

        reference, hypothesis = " ".join(words(sample.answer)), " ".join(words(output))
        return {"wer": float(jiwer.wer(reference, hypothesis)), "cer": float(jiwer.cer(reference, hypothesis))}
