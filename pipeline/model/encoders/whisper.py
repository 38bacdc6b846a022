"""Whisper: 50 frames a second of up to 30 s (arXiv 2212.04356), and Voxtral's encoder, which is one.

A clip costs what it lasts: the embeddings of the first positions are taken, and attention ends where it does.
Its features are those that it has when padded to 30 s. What differs is that no frame attends to the silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.model import features
from pipeline.model.encoders.base import Encoder
from schemas.arrow import SAMPLING_RATE

_CONTEXT = 2  # mel frames beyond its own that the last frame hears through the two convolutions


class Whisper(Encoder):
    """Encoders of Whisper's kind."""

    is_plugin = True
    model_types = ("whisper", "voxtral", "voxtral_encoder")
    prefixes = ("model.encoder.", "encoder.", "model.audio_tower.", "audio_tower.")
    last_norm = "layer_norm"

    @classmethod
    def architecture(cls, config: Any) -> Any:
        return WhisperEncoder if config.model_type == "whisper" else VoxtralEncoder

    @classmethod
    def usual(cls, config: Any) -> dict[str, Any]:
        return {"feature_size": config.num_mel_bins, "n_fft": 400, "hop_length": 160}

    def measure(self) -> None:
        self.width = self.config.d_model
        self.depth = self.config.encoder_layers + 1
        self._hop = int(self.extractor_config["hop_length"])
        self._most = 2 * self.config.max_source_positions  # mel frames
        self.window = self._most * self._hop
        self.rate = SAMPLING_RATE / self._hop / 2

    def frames(self, samples: int) -> int:
        return max(1, -(-samples // (2 * self._hop)))

    def counts(self, lengths: Tensor) -> Tensor:
        return ((lengths + 2 * self._hop - 1) // (2 * self._hop)).clamp(min=1)

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """A, M, F, with two frames of silence behind the longest clip, where the window has room."""
        frames = min(-(-waveforms.shape[1] // self._hop) + _CONTEXT, self._most)
        return features.whisper(
            waveforms,
            lengths,
            frames,
            bands=self.config.num_mel_bins,
            fft=int(self.extractor_config["n_fft"]),
            hop=self._hop,
        )

    def hidden(self, features: Tensor, lengths: Tensor, mask: Tensor, every_layer: bool) -> Sequence[Tensor]:
        model: Any = self.module
        state = F.gelu(model.conv1(features.to(self.dtype)))
        state = F.gelu(model.conv2(state)).transpose(1, 2)[:, : mask.shape[1]]  # A, T, D
        state = state + model.embed_positions.weight[: state.shape[1]]
        state = F.dropout(state, model.dropout, model.training)
        attention = self.attention(state, mask)
        states = []
        for layer in model.layers:
            if every_layer:
                states.append(state)
            state = layer(state, attention)
        return [*states, model.layer_norm(state)]
