"""Scoring: validation rows are scored by the tasks that made them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pipeline import plugins
from schemas.sample import Sample

_FIGURES = ("correct", "f1", "exact")  # the first that a task has counts


def score(sample: Sample, said: str) -> dict[str, float]:
    """How right an answer to a row is, as `correct`, from 0 to 1.

    A dataset may hold rows of a task that is not here: right is then what is so to the letter.
    """
    if sample.task not in plugins.names("tasks"):
        return {"correct": float(said == sample.response)}
    figures: dict[str, float] = _task(sample.task).score(sample, said)
    return {"correct": next((figures[name] for name in _FIGURES if name in figures), 0.0)}


@lru_cache(maxsize=64)
def _task(name: str) -> Any:
    return plugins.load("tasks", name).model_construct()  # its options are about making rows
