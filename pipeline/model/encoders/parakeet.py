"""Parakeet's FastConformer: 12.5 frames a second (arXiv 2305.05084).

The encoder of CTC, RNN-T and TDT models. Convolutions bring 100 frames of log-mel a second down, by 8 as a rule,
so adapters need less of it: `{kind: conv, strides: [1, 1]}` keeps the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import ParakeetEncoder

from pipeline.model import features
from pipeline.model.encoders.base import WINDOW, Encoder
from pipeline.model.features import valid
from schemas.arrow import SAMPLING_RATE


class Parakeet(Encoder):
    """Parakeet's encoder."""

    is_plugin = True
    model_types = ("parakeet_encoder", "parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
    prefixes = ("model.encoder.", "encoder.")

    @classmethod
    def architecture(cls, config: Any) -> Any:
        return ParakeetEncoder

    @classmethod
    def usual(cls, config: Any) -> dict[str, Any]:
        return {
            "feature_size": config.num_mel_bins,
            "n_fft": 512,
            "win_length": 400,
            "hop_length": 160,
            "preemphasis": 0.97,
        }

    def measure(self) -> None:
        self.width = self.config.hidden_size
        self.depth = self.config.num_hidden_layers + 1
        self.window = WINDOW
        self._hop = int(self.extractor_config["hop_length"])
        self._halvings = int(log2(self.config.subsampling_factor))
        self._kernel, self._stride = self.config.subsampling_conv_kernel_size, self.config.subsampling_conv_stride
        self._shortest = 2 * self._hop  # of one frame of log-mel the variance is not known
        self.rate = SAMPLING_RATE / self._hop / self._stride**self._halvings

    def frames(self, samples: int) -> int:
        frames = max(samples, self._shortest) // self._hop
        for _ in range(self._halvings):
            frames = (frames + (self._kernel - 1) // 2 * 2 - self._kernel) // self._stride + 1
        return frames

    def counts(self, lengths: Tensor) -> Tensor:
        lengths = lengths.clamp(min=self._shortest) // self._hop
        for _ in range(self._halvings):
            lengths = (lengths + (self._kernel - 1) // 2 * 2 - self._kernel) // self._stride + 1
        return lengths

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """A, F, M."""
        setting = self.extractor_config
        return features.parakeet(
            waveforms,
            lengths.clamp(min=self._shortest),
            max(waveforms.shape[1], self._shortest) // self._hop,
            bands=int(setting["feature_size"]),
            fft=int(setting["n_fft"]),
            size=int(setting["win_length"]),
            hop=self._hop,
            emphasis=float(setting["preemphasis"] or 0.0),
        )

    def hidden(self, features: Tensor, lengths: Tensor, mask: Tensor, every_layer: bool) -> Sequence[Tensor]:
        model: Any = self.module
        mel = valid(lengths.clamp(min=self._shortest) // self._hop, features.shape[1])
        state = model.subsampling(features.to(self.dtype), mel) * model.input_scale  # A, T, D
        places = F.dropout(model.encode_positions(state), model.dropout_positions, model.training)
        state = F.dropout(state, model.dropout, model.training)
        attention = mask[:, None, None, :]  # it goes into the bias of positions, whatever the kind of attention
        states = []
        for layer in model.layers:
            if every_layer:
                states.append(state)
            state = layer(state, attention_mask=attention, position_embeddings=places)
        return [*states, state]
