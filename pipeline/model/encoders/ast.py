"""Audio Spectrogram Transformer, for sounds of any kind: 10 frames a second of up to 10.2 s (arXiv 2104.01778).

It sees patches of 16 frames by 16 bands of Kaldi's filter banks, 10 apart. A frame here is the mean over the bands
of the patches that begin together. Short clips are not padded to 10 s: the positions of their patches are cut out
of the grid of positions. The last patch holds what is left of the clip, and the padding that the model knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ASTModel

from pipeline.model import features
from pipeline.model.encoders.base import Encoder
from schemas.arrow import SAMPLING_RATE


class AST(Encoder):
    """Audio Spectrogram Transformer."""

    is_plugin = True
    model_types = ("audio-spectrogram-transformer",)

    @classmethod
    def architecture(cls, config: Any) -> Any:
        return ASTModel

    @classmethod
    def usual(cls, config: Any) -> dict[str, Any]:
        return {
            "num_mel_bins": config.num_mel_bins,
            "do_normalize": True,
            "mean": -4.2677393,  # of AudioSet
            "std": 4.5689974,
        }

    def measure(self) -> None:
        config = self.config
        self.width = config.hidden_size
        self.depth = config.num_hidden_layers + 1
        self._patch, self._stride = int(config.patch_size), int(config.time_stride)
        self._bands = (config.num_mel_bins - self._patch) // config.frequency_stride + 1  # patches above each other
        self._most = (config.max_length - self._patch) // self._stride + 1  # patches side by side
        self.window = features.KALDI_WINDOW + (self._banks(self._most) - 1) * features.KALDI_HOP
        self.rate = SAMPLING_RATE / features.KALDI_HOP / self._stride

    def _banks(self, patches: int) -> int:
        """Frames of filter banks that so many patches take."""
        return self._patch + (patches - 1) * self._stride

    def frames(self, samples: int) -> int:
        banks = features.kaldi_frames(max(samples, features.KALDI_WINDOW))
        return 1 + max(0, -(-(banks - self._patch) // self._stride))

    def counts(self, lengths: Tensor) -> Tensor:
        banks = self._own(lengths)
        return 1 + ((banks - self._patch + self._stride - 1) // self._stride).clamp(min=0)

    def _own(self, lengths: Tensor) -> Tensor:
        """Frames of filter banks of each clip."""
        return 1 + (lengths.clamp(min=features.KALDI_WINDOW) - features.KALDI_WINDOW) // features.KALDI_HOP

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """A, F, M."""
        setting = self.extractor_config
        frames = self._banks(self.frames(waveforms.shape[1]))
        banks = features.kaldi(waveforms, lengths, frames, bands=int(setting["num_mel_bins"]), window="hann")
        banks = banks.masked_fill(~features.valid(self._own(lengths), frames)[..., None], 0.0)
        if setting["do_normalize"]:
            banks = (banks - float(setting["mean"])) / (2 * float(setting["std"]))
        return banks

    def hidden(self, features: Tensor, lengths: Tensor, mask: Tensor, every_layer: bool) -> Sequence[Tensor]:
        model: Any = self.module
        given = model.embeddings
        patches = given.patch_embeddings.projection(features.to(self.dtype).transpose(1, 2)[:, None])
        patches = patches.permute(0, 2, 3, 1)  # A, bands, T, D
        clips, bands, frames, width = patches.shape
        places = given.position_embeddings[:, 2:].view(1, bands, self._most, width)[:, :, :frames]
        first = torch.cat([given.cls_token, given.distillation_token], 1) + given.position_embeddings[:, :2]
        state = torch.cat([first.expand(clips, -1, -1), (patches + places).flatten(1, 2)], 1)
        state = given.dropout(state)
        seen = torch.cat([mask.new_ones(clips, 2), mask[:, None].expand(-1, bands, -1).flatten(1)], 1)
        attention = self.attention(state, seen)
        states = []
        for layer in model.layers:
            if every_layer:
                states.append(state)
            state = layer(state, attention)
        states.append(model.layernorm(state))
        return [state[:, 2:].view(clips, bands, frames, width).mean(1) for state in states]
