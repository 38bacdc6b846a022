"""Frames stacked, and two linear layers: SLAM-LLM, TinyLLaVA, Voxtral.

arXiv 2402.08846, 2402.14289 (which does not stack), 2507.13264 (section 2.2).
Stacks of 4 frames. T' = ceil(T / 4): an encoder of 50 Hz comes to 12.5 Hz, and 30 s (1500 frames) are 375 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.adapters.base import AFTER_GELU, SCALE, Adapter, AdapterOptions, spread, stacked


class MLPOptions(AdapterOptions):
    """Of `mlp`."""

    factor: PositiveInt = 4
    """Frames of a stack."""
    width: PositiveInt | None = None
    """Between the two layers; the LLM's if omitted."""


class MLP(Adapter):
    """Linear, GELU, linear. The LayerNorm before them is ours: frames of some encoders are hundreds of times larger."""

    is_plugin = True
    options_model = MLPOptions
    options: MLPOptions

    def __init__(self, width_in: int, width_out: int, options: MLPOptions, depths: Sequence[int] = ()) -> None:
        super().__init__(width_in, width_out, options, depths)
        stack, width = width_in * options.factor, options.width or width_out
        self.norm = nn.LayerNorm(stack)
        self.linear_1 = nn.Linear(stack, width)
        self.linear_2 = nn.Linear(width, width_out)
        spread(self.linear_1, 1.0)
        self.set_scale(SCALE)

    def set_scale(self, scale: float) -> None:
        spread(self.linear_2, scale / AFTER_GELU)

    def tokens(self, frames: int) -> int:
        return -(-frames // self.options.factor)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        state = stacked(frames.to(self.norm.weight.dtype), lengths, self.options.factor)  # A, T', D * factor
        state = self.linear_2(F.gelu(self.linear_1(self.norm(state))))  # A, T', H
        return state, (lengths + self.options.factor - 1) // self.options.factor
