"""Resampling of frames, so that those of two encoders can go side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.model.features import valid


def resample(frames: Tensor, counts: Tensor, wanted: Tensor, longest: int) -> Tensor:
    """Frames at another rate, clip by clip: each new frame is the mean of the old ones that it overlaps.

    Args:
        frames: ..., A, T, D.
        counts: A: how many frames each clip has.
        wanted: A: how many it is to have.
        longest: T', at least the largest of `wanted`.

    Returns:
        ..., A, T', D; 0 in the padding.
    """
    # With the clip as wanted * counts units long, the edges of old and new frames are whole numbers: exact.
    old = torch.arange(frames.shape[-2], device=frames.device) * wanted[:, None]  # A, T
    new = torch.arange(longest, device=frames.device) * counts[:, None]  # A, T'
    ends = torch.minimum(new[..., None] + counts[:, None, None], old[:, None] + wanted[:, None, None])
    overlap = (ends - torch.maximum(new[..., None], old[:, None])).clamp(min=0)  # A, T', T
    overlap = overlap * (valid(counts, frames.shape[-2])[:, None] & valid(wanted, longest)[..., None])
    weights = overlap.to(frames.dtype) / counts[:, None, None].to(frames.dtype)
    return weights @ frames
