"""Scoring: validation rows are scored by the tasks that made them, tool dialogues by the calls of one response."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pipeline import plugins
from pipeline.tools import matching, turns
from schemas.sample import Sample

_FIGURES = ("correct", "f1", "exact")  # the first that a task has counts


def score(sample: Sample, said: str) -> dict[str, float]:
    """How right an answer to a row is, as `correct`, from 0 to 1.

    A dataset may hold rows of a task that is not here: right is then what is so to the letter. Of tool dialogues the
    calls that the last response is to make are right, or none where it makes none.

    Args:
        sample: Cut after the response that was asked for.
        said: In its place.
    """
    if turns.concerns_tools(sample):
        calls = matching.calls_of(said)
        offered = turns.schemas(sample)
        right = not isinstance(calls, str) and matching.mismatch(turns.wanted(sample), calls, offered) is None
        return {"correct": float(right)}
    if sample.task not in plugins.names("tasks"):
        return {"correct": float(said == sample.response)}
    figures: dict[str, float] = _task(sample.task).score(sample, said)
    return {"correct": next((figures[name] for name in _FIGURES if name in figures), 0.0)}


@lru_cache(maxsize=64)
def _task(name: str) -> Any:
    return plugins.load("tasks", name).model_construct()  # its options are about making rows
