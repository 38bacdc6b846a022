"""Frames averaged, and a projection: Qwen2-Audio (arXiv 2407.10759, section 2), Audio Flamingo 3 (2507.08128).

Means of 2 frames; an odd last one is left out, as there. T' = max(1, floor(T / 2)): an encoder of 50 Hz comes to
25 Hz, and 30 s (1500 frames) are 750 tokens.

Over Whisper it computes what transformers' `AudioFlamingo3Encoder` and `AudioFlamingo3MultiModalProjector` do:
there the encoder's last norm follows the mean. So the norm is taken from the encoder (`norm` is their
`audio_tower.layer_norm`), and `linear_1` and `linear_2`, with biases and GELU between, are their projector's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.adapters.base import AFTER_GELU, SCALE, Adapter, AdapterOptions, spread
from pipeline.model.encoders.base import Encoder
from pipeline.model.features import valid


class PoolOptions(AdapterOptions):
    """Of `pool`."""

    factor: PositiveInt = 2
    """Frames of a mean. Only 2 can be exported in the format of Audio Flamingo 3."""


class Pool(Adapter):
    """Mean, LayerNorm, linear, GELU, linear."""

    is_plugin = True
    options_model = PoolOptions
    options: PoolOptions

    def __init__(self, width_in: int, width_out: int, options: PoolOptions, depths: Sequence[int] = ()) -> None:
        super().__init__(width_in, width_out, options, depths)
        self.norm = nn.LayerNorm(width_in)
        self.linear_1 = nn.Linear(width_in, width_out)
        self.linear_2 = nn.Linear(width_out, width_out)
        spread(self.linear_1, 1.0)
        self.set_scale(SCALE)

    def adopt(self, encoders: Sequence[Encoder]) -> None:
        """Takes over the last norm of a single encoder, with its weights, where the family gives it away."""
        norm = encoders[0].release_norm() if len(encoders) == 1 else None
        if isinstance(norm, nn.LayerNorm):
            with torch.no_grad():
                self.norm.weight.copy_(norm.weight)
                self.norm.bias.copy_(norm.bias)

    def set_scale(self, scale: float) -> None:
        spread(self.linear_2, scale / AFTER_GELU)

    def tokens(self, frames: int) -> int:
        return max(1, frames // self.options.factor)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        factor, whole = self.options.factor, self.tokens(frames.shape[1])
        state = frames.to(self.norm.weight.dtype)
        state = state.masked_fill(~valid(lengths, state.shape[1])[..., None], 0.0)
        state = F.pad(state, (0, 0, 0, max(0, factor - state.shape[1])))[:, : whole * factor]
        state = state.reshape(len(state), whole, factor, -1).sum(2)  # A, T', D
        starts = torch.arange(0, whole * factor, factor, device=lengths.device)
        state = state / (lengths[:, None] - starts).clamp(1, factor)[..., None]
        return self.linear_2(F.gelu(self.linear_1(self.norm(state)))), (lengths // factor).clamp(min=1)
