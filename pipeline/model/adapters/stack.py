"""Frames stacked, normed and gated: Ultravox (github.com/fixie-ai/ultravox, `UltravoxProjector`).

Stacks of 8 frames, RMSNorm, a linear layer, SwiGLU, RMSNorm, a linear layer. T' = ceil(T / 8): an encoder of
50 Hz comes to 6.25 Hz, and 30 s (1500 frames) are 188 tokens, the last of half a stack.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.adapters.base import SCALE, Adapter, AdapterOptions, spread, stacked
from pipeline.model.base import ModelError


class StackOptions(AdapterOptions):
    """Of `stack`."""

    factor: PositiveInt = 8
    """Frames of a stack."""
    width: PositiveInt | None = None
    """Before the gate, which halves it; the LLM's if omitted. Even."""


class Stack(Adapter):
    """The layers have Ultravox's names, and no biases, as there."""

    is_plugin = True
    options_model = StackOptions
    options: StackOptions

    def __init__(self, width_in: int, width_out: int, options: StackOptions, depths: Sequence[int] = ()) -> None:
        super().__init__(width_in, width_out, options, depths)
        width = options.width or width_out
        if width % 2:
            raise ModelError(f"adapter stack: width: {width} is odd, and the gate halves it")
        self.ln_pre = nn.RMSNorm(width_in * options.factor, eps=1e-6)
        self.linear_1 = nn.Linear(width_in * options.factor, width, bias=False)
        self.ln_mid = nn.RMSNorm(width // 2, eps=1e-6)
        self.linear_2 = nn.Linear(width // 2, width_out, bias=False)
        spread(self.linear_1, 1.0)
        self.set_scale(SCALE)

    def set_scale(self, scale: float) -> None:
        spread(self.linear_2, scale)

    def tokens(self, frames: int) -> int:
        return -(-frames // self.options.factor)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        state = stacked(frames.to(self.ln_pre.weight.dtype), lengths, self.options.factor)  # A, T', D * factor
        state, gate = self.linear_1(self.ln_pre(state)).chunk(2, dim=-1)
        state = self.linear_2(self.ln_mid(F.silu(gate) * state))  # A, T', H
        return state, (lengths + self.options.factor - 1) // self.options.factor
