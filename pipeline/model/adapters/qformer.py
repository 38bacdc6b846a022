"""A Q-Former on each window of frames: SALMONN (arXiv 2310.13289, section 3.1).

Learnt queries look at windows of 17 frames, 0.33 s of an encoder of 50 Hz, and each gives a token.
T' = max(1, floor(T / 17)) for one query a window: 30 s (1500 frames) are 88 tokens. The frames that are left over
belong to the last window; SALMONN leaves them out, and with them the end of what was said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.adapters.base import SCALE, Adapter, AdapterOptions, spread
from pipeline.model.base import ModelError


class QFormerOptions(AdapterOptions):
    """Of `qformer`."""

    window: PositiveInt = 17
    """Frames of a window."""
    queries: PositiveInt = 1
    """Of each window."""
    layers: PositiveInt = 2
    width: PositiveInt = 768
    """Of the queries; a multiple of `heads`."""
    heads: PositiveInt = 12


class QFormer(Adapter):
    """Layers of BERT's kind with cross-attention, and a linear layer behind them; before them a LayerNorm."""

    is_plugin = True
    options_model = QFormerOptions
    options: QFormerOptions

    def __init__(self, width_in: int, width_out: int, options: QFormerOptions, depths: Sequence[int] = ()) -> None:
        super().__init__(width_in, width_out, options, depths)
        if options.width % options.heads:
            raise ModelError(f"adapter qformer: width: {options.width} is no multiple of heads, {options.heads}")
        self.norm = nn.LayerNorm(width_in)
        self.queries = nn.Parameter(0.02 * torch.randn(options.queries, options.width))
        self.layers = nn.ModuleList(_Layer(options.width, options.heads, width_in) for _ in range(options.layers))
        self.linear = nn.Linear(options.width, width_out)
        self.set_scale(SCALE)

    def set_scale(self, scale: float) -> None:
        spread(self.linear, scale)

    def tokens(self, frames: int) -> int:
        return max(1, frames // self.options.window) * self.options.queries

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        window, count = self.options.window, max(1, frames.shape[1] // self.options.window)
        reach = 2 * window - 1  # with all that can be left over
        state = self.norm(frames.to(self.norm.weight.dtype))
        state = F.pad(state, (0, 0, 0, max(0, (count - 1) * window + reach - state.shape[1])))
        windows = (lengths // window).clamp(min=1)  # of each sound
        own = torch.arange(reach, device=lengths.device)
        starts = torch.arange(0, count * window, window, device=lengths.device)
        last = starts == (windows[:, None] - 1) * window  # A, W
        ends = torch.where(last, lengths[:, None], starts + window)
        seen = starts[:, None] + own < ends[..., None]  # A, W, reach
        queries = self.queries.expand(len(frames), count, -1, -1)
        for layer in self.layers:
            queries = layer(queries, state, seen, window)
        return self.linear(queries.flatten(1, 2)), windows * self.options.queries


class _Layer(nn.Module):
    """Attention among a window's queries, then to its frames, then a feed-forward part; norms behind each."""

    def __init__(self, width: int, heads: int, width_in: int) -> None:
        super().__init__()
        self.heads = heads
        self.own_qkv = nn.Linear(width, 3 * width)
        self.own_out = nn.Linear(width, width)
        self.own_norm = nn.LayerNorm(width)
        self.cross_q = nn.Linear(width, width)
        self.cross_kv = nn.Linear(width_in, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.cross_norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, frames: Tensor, seen: Tensor, window: int) -> Tensor:
        """A, W, Q, width.

        Args:
            queries: A, W, Q, width.
            frames: A, T, D; long enough for the last window.
            seen: A, W, R bool: which of the R frames from its first on each window looks at.
            window: Frames from the first of one window to that of the next.
        """
        query, key, value = self.own_qkv(queries).chunk(3, dim=-1)
        heard = self._attend(query, key, value, None)
        queries = self.own_norm(queries + self.own_out(heard))
        # Keys and values are made once a frame, then laid out by window: A, W, R, width.
        pairs = self.cross_kv(frames).unfold(1, seen.shape[2], window)[:, : seen.shape[1]].transpose(2, 3)
        key, value = pairs.chunk(2, dim=-1)
        heard = self._attend(self.cross_q(queries), key, value, seen[:, :, None, None])
        queries = self.cross_norm(queries + self.cross_out(heard))
        return self.norm(queries + self.narrow(F.gelu(self.wide(queries))))  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """A, W, Q, width."""
        query, key, value = (
            part.reshape(*part.shape[:3], self.heads, -1).transpose(2, 3) for part in (query, key, value)
        )
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(2, 3).flatten(3)
