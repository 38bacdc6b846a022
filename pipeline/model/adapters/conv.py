"""Two blocks of 1-D convolution: SpeechVerse (arXiv 2405.08295, section 3.1).

Each block is a convolution of kernel 3 and a LayerNorm. With strides 2, 2 an encoder of 50 Hz comes to 12.5 Hz:
T' = ceil(ceil(T / 2) / 2), so 30 s (1500 frames) are 375 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.adapters.base import SCALE, Adapter, AdapterOptions
from pipeline.model.base import ModelError
from pipeline.model.features import valid


class ConvOptions(AdapterOptions):
    """Of `conv`."""

    strides: Annotated[list[PositiveInt], Field(min_length=1)] = [2, 2]
    """One block each."""
    kernel: PositiveInt = 3
    """Odd."""
    width: PositiveInt | None = None
    """Between the blocks; the encoder's if omitted."""


class Conv(Adapter):
    """Convolution, LayerNorm and GELU, and so on; the last block ends with its norm, which sets the scale."""

    is_plugin = True
    options_model = ConvOptions
    options: ConvOptions

    def __init__(self, width_in: int, width_out: int, options: ConvOptions, depths: Sequence[int] = ()) -> None:
        super().__init__(width_in, width_out, options, depths)
        if options.kernel % 2 == 0:
            raise ModelError(
                f"adapter conv: kernel: {options.kernel} is even; an odd one hears as much before a frame as behind it"
            )
        inner = [options.width or width_in] * (len(options.strides) - 1)
        widths = [width_in, *inner, width_out]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, options.kernel, stride, options.kernel // 2)
            for a, b, stride in zip(widths[:-1], widths[1:], options.strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.set_scale(SCALE)

    def set_scale(self, scale: float) -> None:
        nn.init.constant_(self.norms[-1].weight, scale)  # type: ignore[arg-type]

    def tokens(self, frames: int) -> int:
        for stride in self.options.strides:
            frames = -(-frames // stride)
        return frames

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        state = frames.to(self.norms[-1].weight.dtype)  # type: ignore[arg-type]
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if number:
                state = F.gelu(state)
            state = state.masked_fill(~valid(lengths, state.shape[1])[..., None], 0.0)
            state = norm(convolution(state.transpose(1, 2)).transpose(1, 2))
            stride = self.options.strides[number]
            lengths = (lengths + stride - 1) // stride
        return state, lengths  # A, T', H
