"""Slots: the details of a request, e.g. in SLURP.

A row: `List the details as name: value.` -> `date: tomorrow; place_name: paris`. The label `slots` (or
`entities`) is a JSON object, or a list of `{"type": ..., "filler": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, ClassVar

from pipeline.tasks.base import Brief, Task, alone
from pipeline.text import normalise, without_tags
from schemas.sample import Sample
from schemas.utterance import Utterance

_FIELDS = ("slots", "entities")


class Slots(Task):
    """All slots and their values, in their order."""

    outcomes: ClassVar[tuple[str, ...]] = ("none",)

    def fits(self, utterance: Utterance) -> bool:
        return super().fits(utterance) and _slots(utterance) is not None

    def make(self, draft: Sample, brief: Brief) -> Iterable[Sample]:
        pairs = _slots(draft.utterances[0]) or []
        text = "; ".join(f"{name}: {value}" for name, value in pairs)
        response = text or brief.prompts.response(brief.rng, "none")
        yield self.sample(alone(draft), brief, response)

    def score(self, sample: Sample, output: str) -> dict[str, float]:
        wanted, got = ({normalise(pair) for pair in text.split(";") if ":" in pair} for text in (sample.answer, output))
        hits = len(wanted & got)
        return {"f1": 2 * hits / (len(wanted) + len(got)) if wanted or got else 1.0}


def _slots(utterance: Utterance) -> list[tuple[str, str]] | None:
    text = next((utterance.labels[f] for f in _FIELDS if f in utterance.labels), None)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(v, dict) and "type" in v for v in value):
        pairs = [(v["type"], v.get("filler", v.get("value"))) for v in value]
    else:
        return None
    texts = [(_text(name), _text(filler)) for name, filler in pairs]
    return [(name, filler) for name, filler in texts if name and filler]


def _text(value: Any) -> str:
    """A value of JSON as it is said, without what stands for audio in messages; empty for what cannot be."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value)))
    return without_tags(str(value)) if isinstance(value, str | int | float) else ""
