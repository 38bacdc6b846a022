"""Latency: how long a single question takes, from its sound in memory to the last token.

One question after another, nothing else in the batch, after one that warms up; so it is what a user would wait for, not
the throughput of the evaluation. Decoding the audio, the encoder and, of the cascade, the ASR engine are in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import seeds
from pipeline.evaluate.asking import PLAIN, Asker
from pipeline.evaluate.predictions import key_of
from pipeline.evaluate.questions import Questions
from pipeline.evaluate.results import Latency
from pipeline.evaluate.systems import System
from pipeline.shards import write_atomically

NAME = "latency.json"
_CONTROLS = frozenset({"shuffled", "silent", "text_only"})  # who would wait for those


def measured(
    asker: Asker,
    systems: Sequence[System],
    questions: Questions,
    folder: Path,
    key: Callable[[System, str], str],
) -> dict[str, Latency]:
    """Of each system that is no control; those that were measured before are not again."""
    count = questions.settings.timed
    if not count:
        return {}
    path = folder / NAME
    known: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    chosen = sorted(questions.turns, key=lambda turn: seeds.share("latency", turn.id))[: count + 1]
    asked = key_of(turns=[turn.id for turn in chosen])  # times of other questions do not compare
    found: dict[str, Latency] = {}
    for system in systems:
        if system.name in _CONTROLS:
            continue
        name = f"{key(system, PLAIN)} {questions.settings.device} {asked}"
        if name not in known:
            timings = [asker.time(system, questions.with_sound(turn)) for turn in chosen]
            seconds = [t.seconds for t in timings[1:] if t is not None]  # the first warms up
            firsts = [t.first for t in timings[1:] if t is not None and not math.isnan(t.first)]
            known[name] = [seconds, firsts]
            write_atomically(path, json.dumps(known).encode())
        seconds, firsts = known[name]
        if seconds:
            median, p90 = np.quantile(seconds, (0.5, 0.9))
            first = float(np.median(firsts)) if firsts else None
            found[system.name] = Latency(len(seconds), float(median), float(p90), first)
    return found
