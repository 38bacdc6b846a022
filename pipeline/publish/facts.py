"""What a card tells of a dataset's rows and no manifest does: of each shard once, then remembered. Reads no audio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from pipeline import shards

SECONDS = (0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Where the bars of the durations begin; the last one has no end."""
_COLUMNS = ["audios", "task", "utterances", "provenance"]
_SEPARATOR = "\t"


class Facts(BaseModel):
    """Of the kept rows of a shard, or of many."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    rows: int = 0
    single: bool = True
    """Whether every row has exactly one audio."""
    durations: list[int] = [0] * len(SECONDS)
    """Rows by seconds of speech."""
    sources: dict[str, float] = {}
    """Seconds of rows by corpus, licence and language, which tabs part."""
    voices: dict[str, float] = {}
    """The same by engine, its licence and voice, of synthetic speech."""
    prompts: dict[str, int] = {}
    """Rows that an LLM wrote by task, language, digest of the prompt file, engine and model."""

    def table(self, name: str) -> list[tuple[tuple[str, ...], float]]:
        """`sources`, `voices` or `prompts`, most first."""
        counts: dict[str, float] = getattr(self, name)
        return [(tuple(key.split(_SEPARATOR)), n) for key, n in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]


def of_shard(path: Path) -> Facts:
    """Reads a shard's columns, all but its sound."""
    found = Facts(durations=[0] * len(SECONDS))
    for batch in shards.batches(path, _COLUMNS):
        _add(found, batch)
    return found


def together(some: Iterable[Facts]) -> Facts:
    """Of all shards."""
    total = Facts(durations=[0] * len(SECONDS))
    for facts in some:
        total.rows += facts.rows
        total.single = total.single and facts.single
        total.durations = [a + b for a, b in zip(total.durations, facts.durations, strict=True)]
        for name in ("sources", "voices", "prompts"):
            counts = Counter(getattr(total, name))
            counts.update(getattr(facts, name))
            setattr(total, name, dict(counts))
    total.single = total.single and total.rows > 0
    return total


def _add(found: Facts, batch: pa.RecordBatch) -> None:
    audios, utterances = batch["audios"], batch["utterances"]
    found.rows += batch.num_rows
    found.single = found.single and audios.null_count == 0 and bool((audios.value_lengths().to_numpy() == 1).all())
    spoken = utterances.flatten()
    seconds = spoken.field("seconds")
    of_row = np.bincount(
        pc.list_parent_indices(utterances).to_numpy(),
        weights=pc.fill_null(seconds, 0.0).to_numpy(zero_copy_only=False),
        minlength=batch.num_rows,
    )
    places = np.searchsorted(SECONDS, of_row, side="right") - 1
    counts = np.bincount(places, minlength=len(SECONDS))
    found.durations = [a + int(b) for a, b in zip(found.durations, counts, strict=True)]
    delivery = spoken.field("delivery")
    engine, licence = (pc.struct_field(delivery, name) for name in ("engine", "licence"))
    _sum(found.sources, seconds, spoken.field("corpus"), spoken.field("licence"), spoken.field("language"))
    synthetic = delivery.is_valid()
    _sum(
        found.voices,
        *(column.filter(synthetic) for column in (seconds, engine, licence, spoken.field("voice"))),
    )
    made = batch["provenance"]
    language = pc.struct_field(pc.extract_regex(made.field("instruction"), r"^[^/]*/(?P<language>[^/]*)/"), "language")
    written = pc.not_equal(made.field("engine"), "")
    columns = (batch["task"], language, *(made.field(name) for name in ("prompt", "engine", "model")))
    ones = pa.array(np.ones(batch.num_rows, np.int64))
    _sum(found.prompts, *(column.filter(written) for column in (ones, *columns)))


def _sum(into: dict[str, Any], values: pa.Array, *keys: pa.Array) -> None:
    """Adds values by keys."""
    names = [f"key{number}" for number in range(len(keys))]
    texts = [pc.fill_null(key.cast(pa.string()), "") for key in keys]
    summed = pa.table([*texts, values], names=[*names, "value"]).group_by(names).aggregate([("value", "sum")])
    for *key, value in zip(*(summed[name].to_pylist() for name in (*names, "value_sum")), strict=True):
        name = _SEPARATOR.join(part.replace(_SEPARATOR, " ") for part in key)
        into[name] = into.get(name, 0) + (value or 0)
