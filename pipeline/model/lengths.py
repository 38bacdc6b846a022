"""How long sound is cut up, and how many positions it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.model.adapters.base import Adapter
from pipeline.model.base import Samples
from pipeline.model.encoders.base import Encoder

_SHORTEST = 400  # samples, 25 ms: shorter sound is followed by silence, for features need a window's length


class Lengths:
    """Arithmetic on samples, frames and positions; weights are not touched.

    Args:
        encoders: One or two; the first decides how many frames there are.
        adapter: Behind them.
    """

    def __init__(self, encoders: Sequence[Encoder], adapter: Adapter) -> None:
        self._frames, self._tokens = encoders[0].frames, adapter.tokens
        self.window = min(encoder.window for encoder in encoders)
        """Samples; longer sound is cut into pieces of so many, and a rest."""

    def pieces(self, samples: int) -> list[int]:
        """The samples of each piece that a sound is cut into."""
        whole, rest = divmod(samples, self.window)
        cut = [self.window] * whole
        return [*cut, max(rest, _SHORTEST)] if rest or not whole else cut

    def tokens(self, samples: int) -> int:
        """How many positions of the LLM a sound takes."""
        return sum(self._tokens(self._frames(piece)) for piece in self.pieces(samples))

    def cut(self, sounds: Iterable[Samples]) -> dict[str, Tensor]:
        """The pieces of sounds, as AudioLM takes them: `waveforms` (A, S) and `lengths` (A); nothing of none."""
        found: list[Samples] = []
        lengths: list[int] = []
        for sound in sounds:
            pieces = self.pieces(len(sound))
            lengths += pieces
            found += [sound[n * self.window : n * self.window + piece] for n, piece in enumerate(pieces)]
        if not found:
            return {}
        waveforms = np.zeros((len(found), max(lengths)), np.float32)
        for row, piece in zip(waveforms, found, strict=True):
            row[: len(piece)] = piece
        return {"waveforms": torch.from_numpy(waveforms), "lengths": torch.tensor(lengths)}
