"""Tiny encoders of every family, and sound for them to hear."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from pipeline.model import tiny
from pipeline.model.encoders import base
from pipeline.model.encoders.base import Encoder

KINDS = [*tiny.ENCODERS, "wav2vec2 stable", "hubert batch norm", "data2vec", "wav2vec2_bert relative"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def sound(samples: int = 480_000) -> torch.Tensor:
    """Samples that rise and fall as speech does: a voice of gliding pitch, noise, and pauses."""
    rng = np.random.default_rng(3)
    at = np.arange(samples) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(1.7 * at)) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 30)) + 0.3 * rng.normal(size=samples)
    loud = np.clip(np.sin(7 * at) + 0.4 * np.sin(2.3 * at), 0, None)
    return torch.from_numpy((0.1 * voice * loud + 0.001 * rng.normal(size=samples)).astype(np.float32))


def batch(encoder: Encoder, *lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of these lengths with noise behind them, where nobody should listen."""
    rows = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1))
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = sound()[1000 : 1000 + length] if length < 400_000 else sound()[:length]
    return rows, torch.tensor(lengths)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder of each kind of `pipeline.model.tiny`, saved."""
    folder = tmp_path_factory.mktemp("encoders")
    for kind in tiny.ENCODERS:
        tiny.encoder(folder / kind, kind, hidden=32)
    return folder


@pytest.fixture(scope="session")
def made(folders: Path) -> dict[str, Encoder]:
    """One of each kind."""
    encoders = {kind: base.load(str(folders / kind)) for kind in tiny.ENCODERS}
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    waves = usual | {"conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 4}
    torch.manual_seed(0)
    configs = {
        "wav2vec2 stable": transformers.Wav2Vec2Config(
            **waves, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, num_conv_pos_embeddings=16
        ),
        "hubert batch norm": transformers.HubertConfig(**waves, conv_pos_batch_norm=True, num_conv_pos_embeddings=16),
        "data2vec": transformers.Data2VecAudioConfig(**waves),
        "wav2vec2_bert relative": transformers.Wav2Vec2BertConfig(
            **usual, feature_projection_input_dim=160, position_embeddings_type="relative"
        ),
    }
    encoders |= {name: base.from_config(config) for name, config in configs.items()}
    for encoder in encoders.values():
        for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
            if "norm" in name and tensor.is_floating_point():  # as after training, and none of them without effect
                tensor.data = tensor.data + 0.2 * torch.rand(tensor.shape)
    return encoders


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest, made: dict[str, Encoder]) -> Encoder:
    """Each in turn."""
    return made[request.param]
