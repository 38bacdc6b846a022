"""Responses that nobody would listen to."""

from __future__ import annotations

from pydantic import PositiveInt

from pipeline.stage import Filter
from schemas.sample import Rejection, Sample

_BY_TASK = {"question_answer": 600, "summary": 500, "continuation": 800, "keywords": 200}


class Length(Filter):
    """A bound on the characters of what an LLM wrote."""

    most_characters: PositiveInt = 1500
    by_task: dict[str, PositiveInt] = _BY_TASK
    """Goes before `most_characters`."""

    def reason(self, sample: Sample) -> Rejection | None:
        if not sample.provenance.engine:
            return None
        most, length = self.by_task.get(sample.task, self.most_characters), len(sample.response)
        return Rejection("reply_too_long", f"{length} characters, at most {most}") if length > most else None
