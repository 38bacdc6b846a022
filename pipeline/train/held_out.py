"""Held out: which rows of the train split are validated on.

Speakers are drawn, and all rows in which one of them is heard are kept out of training. A row that such a speaker
shares with one who was not drawn is kept out, too: the other may be heard in training, so these rows are told apart,
and drawn for validation only where there are no others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.model.base import RowError
from pipeline.seeds import derive
from pipeline.train.bucketing import mixed
from pipeline.train.index import Index, Ints


@dataclass(frozen=True)
class HeldOut:
    """N rows of the train split, in two parts."""

    mask: npt.NDArray[np.bool_]
    """N. True where a row is not trained on."""
    shared: npt.NDArray[np.bool_]
    """N. True where it is not, and yet somebody in it is heard in training, too."""
    by: str
    """What was drawn: `speaker`; or `recording`, where all rows have one and the same speaker."""

    @property
    def training(self) -> Ints:
        """Numbers of the rows that are trained on."""
        return np.flatnonzero(~self.mask)

    def drawn(self, most: int, seed: int) -> Ints:
        """Numbers of at most so many rows to validate on, in their order; always the same ones."""
        rows = np.flatnonzero(self.mask & ~self.shared)
        rows = rows if len(rows) else np.flatnonzero(self.mask)
        order = np.argsort(mixed(rows, derive(seed, "validation")), kind="stable")
        return np.sort(rows[order[:most]])


def hold_out(index: Index, share: float, seed: int) -> HeldOut:
    """Keeps a share of the speakers out of training, one at least; none if the share is 0.

    The draw depends on the speaker's name and the seed alone: more data later moves nobody from one side to the other.

    Raises:
        RowError: Nothing would be left to train on.
    """
    nothing = np.zeros(len(index), np.bool_)
    if not share:
        return HeldOut(nothing, nothing, "speaker")
    for by, names, of in (
        ("speaker", index.speakers, index.speakers_of),
        ("recording", index.recordings, index.recordings_of),
    ):
        found, which, rows = np.unique(names, return_inverse=True, return_counts=True)
        if len(found) < 2:
            continue
        draws = mixed(found, derive(seed, "held out"))
        out = draws < np.uint64(share * 2.0**64)
        if not out.any():
            out[np.lexsort((draws, rows))[0]] = True  # whoever has the fewest rows
        mask, others = nothing.copy(), nothing.copy()
        mask[of[out[which]]] = True
        others[of[~out[which]]] = True
        if not mask.all():
            return HeldOut(mask, mask & others, by)
    raise RowError(
        f"`validation.share` {share:g} leaves no row to train on: of all {len(index):,} rows the speaker is kept out. "
        "Set it to 0, or add data of other speakers"
    )
