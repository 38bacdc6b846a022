"""Companions: for each utterance some others of its split and language, of other speakers where there are such.

Neighbours in the order of a hash: a choice that needs no more than the listing itself, spreads evenly,
and does not depend on how the listing is cut into units.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import planfile

NEIGHBOURS = 64  # places in hash order that are searched for a companion of another speaker


def choose(files: Sequence[Path], gone: Any, count: int) -> tuple[Any, Any]:
    """Companions for all utterances of a split.

    Args:
        files: Its plan files, in their order.
        gone: Rows, among those of all files, that are no company.
        count: How many.

    Returns:
        The rows of the companions of each row, -1 where there are fewer; and hashes of all rows' ids.
    """
    names = ["speaker", "language", "problem", "catalogue", "name"]
    table = pa.concat_tables([planfile.columns(path, names) for path in files])
    usable = pc.and_(table["problem"].is_null(), table["catalogue"].is_null()).to_numpy().copy()
    usable[gone] = False
    speaker, language = _codes(table["speaker"]), _codes(table["language"])
    hashed = table["name"].to_numpy()
    chosen = np.full((len(hashed), count), -1, np.int32)
    for tongue in np.unique(language):
        places = np.flatnonzero((language == tongue) & usable)
        _choose(places[np.argsort(hashed[places], kind="stable")], speaker, chosen)
    return chosen, hashed


def _choose(order: Any, speaker: Any, chosen: Any) -> None:
    """Fills the rows of `order` with the next utterances of other speakers, or else of the same."""
    size, count = len(order), chosen.shape[1]
    filled = np.zeros(size, np.int64)
    own = speaker[order]
    for step in range(1, min(NEIGHBOURS, size - 1) + 1):
        other = np.roll(order, -step)
        fresh = (speaker[other] != own) & (filled < count)
        for column in range(count):  # two companions of one utterance have two speakers too
            earlier = chosen[order, column]
            known = (earlier >= 0) & (speaker[earlier] == speaker[other])
            fresh &= ~known
        at = np.flatnonzero(fresh)
        chosen[order[at], filled[at]] = other[at]
        filled[at] += 1
        if (filled == count).all():
            return
    for step in range(1, min(count, size - 1) + 1):  # too few speakers: their other utterances
        other = np.roll(order, -step)
        there = (chosen[order] == other[:, None]).any(axis=1)
        at = np.flatnonzero((filled < count) & ~there)
        chosen[order[at], filled[at]] = other[at]
        filled[at] += 1


def _codes(column: pa.ChunkedArray) -> Any:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
