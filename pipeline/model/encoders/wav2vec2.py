"""wav2vec 2.0 and its kin, which hear waveforms: 50 frames a second (arXiv 2006.11477).

HuBERT (2106.07447), WavLM (2110.13900) and data2vec (2202.03555) differ in how they were trained, and in details
of their layers. Convolutions, norms and positions are masked, so that a clip in a batch gives what it gives alone
in transformers; models whose first norm is over time, which transformers can only run clip by clip, included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Data2VecAudioModel, HubertModel, Wav2Vec2Model, WavLMModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from pipeline.model import features
from pipeline.model.encoders.base import WINDOW, Encoder
from schemas.arrow import SAMPLING_RATE

_ARCHITECTURES = {
    "wav2vec2": Wav2Vec2Model,
    "hubert": HubertModel,
    "wavlm": WavLMModel,
    "data2vec-audio": Data2VecAudioModel,
}


class Wav2Vec2(Encoder):
    """Encoders of waveforms. Convolutions behind the last layer, which some translation models have, are left out."""

    is_plugin = True
    model_types = tuple(_ARCHITECTURES)

    @classmethod
    def architecture(cls, config: Any) -> Any:
        return _ARCHITECTURES[config.model_type]

    @classmethod
    def own(cls, config: Any) -> Any:
        config = super().own(config)
        # Masks of pretraining would fall on the training of others.
        config.mask_time_prob = config.mask_feature_prob = 0.0
        config.add_adapter = False
        return config

    @classmethod
    def usual(cls, config: Any) -> dict[str, Any]:
        return {"do_normalize": True}

    def measure(self) -> None:
        self.width = self.config.hidden_size
        self.depth = self.config.num_hidden_layers + 1
        self.window = WINDOW
        self._convolutions = list(zip(self.config.conv_kernel, self.config.conv_stride, strict=True))
        self._shortest, hop = 1, 1  # samples that one frame hears; and from one to the next
        for kernel, stride in self._convolutions:
            self._shortest += (kernel - 1) * hop
            hop *= stride
        self.rate = SAMPLING_RATE / hop
        for layer in self.module.modules():
            if isinstance(layer, WavLMAttention):
                layer.__class__ = _Attention

    def frames(self, samples: int) -> int:
        samples = max(samples, self._shortest)
        for kernel, stride in self._convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

    def counts(self, lengths: Tensor) -> Tensor:
        lengths = lengths.clamp(min=self._shortest)
        for kernel, stride in self._convolutions:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """A, S: the waveforms, standardised where the feature extractor says so."""
        sound = features.fitted(waveforms, lengths, max(waveforms.shape[1], self._shortest))
        if self.extractor_config["do_normalize"]:
            sound = features.standardised(sound, lengths.clamp(min=1), spare=0, inside=1e-7)
        return sound

    def hidden(self, features: Tensor, lengths: Tensor, mask: Tensor, every_layer: bool) -> Sequence[Tensor]:
        model: Any = self.module
        stable = getattr(self.config, "do_stable_layer_norm", False)
        projected = model.feature_projection(self._convolved(features.to(self.dtype), lengths))
        state = projected[0] if isinstance(projected, tuple) else projected  # A, T, D
        state = state.masked_fill(~mask[..., None], 0.0)
        state = state + _positions(model.encoder.pos_conv_embed, state, mask)
        state = model.encoder.dropout(state if stable else model.encoder.layer_norm(state))
        states = []
        wavlm = self.config.model_type == "wavlm"
        attention, bias = mask if wavlm else self.attention(state, mask), None
        for layer in model.encoder.layers:
            if every_layer:
                states.append(state)
            if wavlm:
                state, bias = layer(state, attention_mask=attention, position_bias=bias)
            else:
                state = layer(state, attention_mask=attention)
        return [*states, model.encoder.layer_norm(state) if stable else state]

    def _convolved(self, sound: Tensor, lengths: Tensor) -> Tensor:
        """A, T, C: what the convolutions make of A, S. None is padded, so they keep within a clip's own samples."""
        model: Any = self.module
        lengths = lengths.clamp(min=self._shortest)
        state = sound[:, None]
        for layer, (kernel, stride) in zip(model.feature_extractor.conv_layers, self._convolutions, strict=True):
            lengths = (lengths - kernel) // stride + 1
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                state = layer.activation(_normed_over_time(norm, layer.conv(state), lengths))
            else:
                state = layer(state)
        return state.transpose(1, 2)


def _normed_over_time(norm: nn.GroupNorm, state: Tensor, lengths: Tensor) -> Tensor:
    """A, C, T: a group norm of one channel a group, over the frames of each clip alone."""
    behind = ~features.valid(lengths, state.shape[2])[:, None]
    count = lengths[:, None, None]
    mean = state.masked_fill(behind, 0.0).sum(2, keepdim=True, dtype=norm.weight.dtype) / count
    state = state - mean.to(state.dtype)
    variance = state.masked_fill(behind, 0.0).square().sum(2, keepdim=True) / count
    state = state * (variance + norm.eps).rsqrt()
    return state * norm.weight[:, None] + norm.bias[:, None]


def _positions(embedding: Any, state: Tensor, mask: Tensor) -> Tensor:
    """A, T, D: positions by convolution, with 0 behind each clip before every one, as behind the end of T."""
    behind = ~mask[:, None]
    state = state.transpose(1, 2)
    if hasattr(embedding, "layers"):  # data2vec
        for layer in embedding.layers:
            state = layer(state.masked_fill(behind, 0.0))
        return state.transpose(1, 2)
    if getattr(embedding, "batch_norm", None) is not None:
        state = embedding.batch_norm(state)
    state = embedding.conv(state.masked_fill(behind, 0.0))
    return cast(Tensor, embedding.activation(embedding.padding(state)).transpose(1, 2))


class _Attention(WavLMAttention):
    """WavLM's, by way of its linear modules: transformers reads their weights only, and LoRA on them does nothing."""

    def torch_multi_head_self_attention(  # type: ignore[override]
        self, hidden_states: Tensor, attention_mask: Tensor, gated_position_bias: Tensor
    ) -> tuple[Tensor, None]:
        """A, T, D.

        Args:
            hidden_states: A, T, D.
            attention_mask: A, T bool.
            gated_position_bias: A * heads, T, T.
        """
        clips, frames, width = hidden_states.shape
        shape = (clips, frames, self.num_heads, self.head_dim)
        query, key, value = (
            linear(hidden_states).view(shape).transpose(1, 2) for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gated_position_bias.view(clips, self.num_heads, frames, frames)
        bias = bias.masked_fill(~attention_mask[:, None, None], float("-inf"))
        dropout = self.dropout if self.training else 0.0
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout)
        return self.out_proj(heard.transpose(1, 2).reshape(clips, frames, width)), None
