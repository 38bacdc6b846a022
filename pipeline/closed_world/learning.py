"""Learning: the optimizer of the closed world's bases, which have minutes to learn what others learn in days.

Matrices by Muon (Jordan 2024, kellerjordan.github.io/posts/muon), which needs about half the steps of AdamW here;
embeddings, norms, biases and convolutions by AdamW. Both rates rise together and fall as a cosine.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

_GRADIENT = 1.0
_LEAST = 0.02  # of the rate, at the end
_BETAS = (0.9, 0.98)


def has_bf16(device: str) -> bool:
    """Whether the machine multiplies such matrices quicker: GPUs do, and CPUs with AVX-512 BF16 or AMX."""
    if torch.device(device).type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def quick(device: str) -> AbstractContextManager[None]:
    """bf16 where that is quicker."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=has_bf16(device))


class Learning:
    """One step after another, of as many as are planned.

    Args:
        model: What learns.
        rate: Of AdamW, and of Muon, whose updates are made as large.
        steps: Planned.
        warmup: Share of them in which the rate rises.
        decay: Of weights.
    """

    def __init__(self, model: nn.Module, rate: float, steps: int, warmup: float = 0.05, decay: float = 0.02) -> None:
        named = dict(model.named_parameters())
        matrices = [
            p
            for name, p in named.items()
            if p.ndim == 2 and not name.endswith(("embed_tokens.weight", "bias_u", "bias_v"))
        ]
        others = [p for p in named.values() if all(p is not one for one in matrices)]
        self._parameters = list(named.values())
        self._optimizers: list[Any] = [
            torch.optim.Muon(matrices, rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, rate, betas=_BETAS, weight_decay=decay),
        ]
        self._rate, self._steps, self._warm, self._done = rate, steps, max(1, round(steps * warmup)), 0

    def step(self, loss: Tensor) -> float:
        """Learns from a loss, and tells it."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, _GRADIENT)
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, self._done / self._steps)))
        share = min(1.0, (self._done + 1) / self._warm) * (_LEAST + (1 - _LEAST) * falling)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._done += 1
        return float(loss.detach())
