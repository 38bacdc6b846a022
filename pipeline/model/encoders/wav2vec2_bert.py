"""Wav2Vec2-BERT: 50 frames a second of filter banks (Seamless, arXiv 2312.05187, section 3.2).

Two frames of Kaldi's filter banks, 10 ms apart and standardised over the clip, make one; an odd last one is left
out, as in transformers, which masks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Wav2Vec2BertModel

from pipeline.model import features
from pipeline.model.encoders.base import WINDOW, Encoder
from schemas.arrow import SAMPLING_RATE


class Wav2Vec2Bert(Encoder):
    """Its encoder; the convolutions and the layer behind it, which some models have, are left out."""

    is_plugin = True
    model_types = ("wav2vec2-bert",)

    @classmethod
    def architecture(cls, config: Any) -> Any:
        return Wav2Vec2BertModel

    @classmethod
    def own(cls, config: Any) -> Any:
        config = super().own(config)
        # Masks of pretraining would fall on the training of others.
        config.mask_time_prob = config.mask_feature_prob = 0.0
        config.add_adapter = config.use_intermediate_ffn_before_adapter = False
        return config

    @classmethod
    def usual(cls, config: Any) -> dict[str, Any]:
        return {"num_mel_bins": 80, "stride": config.feature_projection_input_dim // 80}

    def measure(self) -> None:
        self.width = self.config.hidden_size
        self.depth = self.config.num_hidden_layers + 1
        self.window = WINDOW
        self._stride = int(self.extractor_config["stride"])
        # Of one frame the variance is not known.
        self._shortest = features.KALDI_WINDOW + (max(self._stride, 2) - 1) * features.KALDI_HOP
        self.rate = SAMPLING_RATE / features.KALDI_HOP / self._stride

    def frames(self, samples: int) -> int:
        return features.kaldi_frames(max(samples, self._shortest)) // self._stride

    def counts(self, lengths: Tensor) -> Tensor:
        return self._banks(lengths) // self._stride

    def _banks(self, lengths: Tensor) -> Tensor:
        """How many frames of filter banks each clip has."""
        return 1 + (lengths.clamp(min=self._shortest) - features.KALDI_WINDOW) // features.KALDI_HOP

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """A, T, stride * M."""
        bands = int(self.extractor_config["num_mel_bins"])
        frames = features.kaldi_frames(max(waveforms.shape[1], self._shortest))
        # Kaldi counts in steps of 16-bit sound.
        banks = features.kaldi(waveforms * 2.0**15, lengths, frames, bands=bands, window="povey")
        banks = features.standardised(banks, self._banks(lengths), spare=1, inside=1e-7)
        whole = frames // self._stride
        return banks[:, : whole * self._stride].reshape(len(banks), whole, self._stride * bands)

    def hidden(self, features: Tensor, lengths: Tensor, mask: Tensor, every_layer: bool) -> Sequence[Tensor]:
        model: Any = self.module
        state = model.feature_projection(features.to(self.dtype))[0].masked_fill(~mask[..., None], 0.0)
        attention = self.attention(state, mask)
        state = model.encoder.dropout(state)
        positions = model.encoder.embed_positions
        places = None if positions is None else positions(state)
        states = []
        for layer in model.encoder.layers:
            if every_layer:
                states.append(state)
            state = layer(
                state, attention_mask=attention, relative_position_embeddings=places, conv_attention_mask=mask
            )
        return [*states, state]
