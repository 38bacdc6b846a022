"""Rows at a glance: the columns that figures and choices need, without touching the sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import shards


class Voiced(NamedTuple):
    """What is counted of an utterance."""

    id: str
    seconds: float | None
    language: str | None
    voice: str | None
    licence: str | None
    effects: list[tuple[str, str]]
    heard: bool
    """Whether an ASR engine has listened."""


class Glance(NamedTuple):
    """What is counted of a row."""

    id: str
    task: str
    language: str
    """Of the speech; of the response where that is unknown."""
    split: str
    outcome: str
    situation: str
    reason: str | None
    """Why it is set aside; None for kept rows."""
    wer: float | None
    utterances: list[Voiced]


_ROW = ("id", "task", "language", "split", "outcome", "situation", "rejected", "scores", "utterances")


def glances(path: Path) -> Iterator[Glance]:
    """The rows of a shard in their order. Its pages with sound are mapped, not read."""
    for batch in shards.batches(path, list(_ROW)):
        heard = _utterances(batch["utterances"])
        plain = (batch[name].to_pylist() for name in _ROW[:-2])
        wers = pc.struct_field(batch["scores"], "wer").to_pylist()
        rows = zip(*plain, wers, heard, strict=True)
        for id_, task, language, split, outcome, situation, reason, wer, voiced in rows:
            spoken = next((v.language for v in voiced if v.language), None)
            known = spoken or language or "unknown"
            yield Glance(id_, task, known, split, outcome or "", situation or "", reason, wer, voiced)


def _utterances(column: pa.ListArray) -> list[list[Voiced]]:
    """The utterances of each row; only the fields that are counted become Python objects."""
    flat = column.flatten()
    names = ("id", "seconds", "language", "voice", "licence")
    fields = (pc.struct_field(flat, name).to_pylist() for name in names)
    heard = pc.is_valid(pc.struct_field(flat, "hypothesis")).to_pylist()
    columns = zip(*fields, _effects(flat), heard, strict=True)
    voiced = [
        Voiced(id_, seconds, language, voice, licence, _pairs(effects), was_heard)
        for id_, seconds, language, voice, licence, effects, was_heard in columns
    ]
    each = iter(voiced)
    lengths = pc.list_value_length(column).to_pylist()
    return [[next(each) for _ in range(length or 0)] for length in lengths]


def _effects(flat: pa.StructArray) -> list[Any]:
    column = pc.struct_field(flat, "effects")
    if not pc.any(pc.greater(pc.list_value_length(column), 0)).as_py():
        return [None] * len(flat)  # as nearly always: no list is made for each
    return list(column.to_pylist())


def _pairs(effects: list[dict[str, str]] | None) -> list[tuple[str, str]]:
    return [(pair["name"], pair["value"]) for pair in effects or ()]
