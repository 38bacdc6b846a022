"""Adapter: the bridge from an encoder's frames to what the LLM reads in place of tokens.

Shapes: A sounds, T frames, D the encoders' width, T' tokens, H the LLM's width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import plugins
from pipeline.model.base import ModelError
from pipeline.model.encoders.base import Encoder
from pipeline.model.features import valid
from schemas.recipe import Options

SCALE = 0.02  # root mean square of LLMs' embeddings, where nothing better is known
AFTER_GELU = 0.65  # root mean square of the GELU of what is normally distributed


class AdapterOptions(Options):
    """What every adapter takes."""

    weighted_layers: bool = False
    """Whether it is given a learnable weighted sum of the encoder's layers, in place of the last
    (SpeechVerse, arXiv 2405.08295, section 3.1)."""


class Adapter(nn.Module, ABC):
    """From frames to tokens. What a sound gives does not depend on its batch, nor on what lies in the padding.

    A new one gives embeddings whose root mean square is about `SCALE`, or what `set_scale` was told, whatever
    the scale of the frames: an LLM does not heed text beside embeddings that are many times larger.
    """

    is_plugin: ClassVar[bool] = False
    options_model: ClassVar[type[AdapterOptions]] = AdapterOptions

    def __init__(self, width_in: int, width_out: int, options: AdapterOptions, depths: Sequence[int] = ()) -> None:
        """Builds it with random weights.

        Args:
            width_in: D, of all encoders together.
            width_out: H.
            options: Of the adapter's own `options_model`.
            depths: How many hidden states each encoder gives; needed for `weighted_layers`.
        """
        super().__init__()
        self.width_in, self.width_out, self.options = width_in, width_out, options
        self.layer_weights: nn.ParameterList | None = None
        if options.weighted_layers:
            assert depths, "weighted layers need the encoders' depths"
            self.layer_weights = nn.ParameterList(nn.Parameter(torch.zeros(depth)) for depth in depths)

    @abstractmethod
    def tokens(self, frames: int) -> int:
        """T' of so many frames. Exact, and at least 1 of 1 frame or more."""

    @abstractmethod
    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of each sound.

        Args:
            frames: A, T, D.
            lengths: A int64: how many of the frames are of each sound.

        Returns:
            A, T', H with anything in the padding, and how many tokens each sound has (A).
        """

    @abstractmethod
    def set_scale(self, scale: float) -> None:
        """Makes a new adapter's output have about this root mean square: that of the LLM's own embeddings."""

    def adopt(self, encoders: Sequence[Encoder]) -> None:
        """Takes over what is the encoders' and goes on in the adapter; nothing, as a rule.

        It is to be called whenever the encoders are new or newly loaded, and before the adapter's weights are loaded.
        """

    def mix(self, layers: Tensor, encoder: int = 0) -> Tensor:
        """The learnt sum over layers: all weigh the same at first.

        Args:
            layers: depth, A, T, D: all hidden states of an encoder.
            encoder: Which one.

        Returns:
            A, T, D.
        """
        assert self.layer_weights is not None, "the option weighted_layers is off"
        weights = self.layer_weights[encoder].softmax(0)
        return torch.einsum("d,datw->atw", weights.to(layers.dtype), layers)


def spread(linear: nn.Linear, root_mean_square: float) -> None:
    """Draws a linear layer's weights so that its output has this size, where its input has that of 1."""
    nn.init.normal_(linear.weight, std=root_mean_square / linear.in_features**0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def stacked(frames: Tensor, lengths: Tensor, factor: int) -> Tensor:
    """A, ceil(T / factor), factor * D: frames side by side, with 0 behind the last of each sound."""
    frames = frames.masked_fill(~valid(lengths, frames.shape[1])[..., None], 0.0)
    frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % factor))
    return frames.reshape(frames.shape[0], -1, factor * frames.shape[2])


def make(spec: Mapping[str, Any], width_in: int, width_out: int, depths: Sequence[int] = ()) -> Adapter:
    """The adapter that a recipe's `adapter` describes.

    Raises:
        ModelError: It lacks `kind`, or an option is unknown or of another type.
        UnknownPlugin: There is no such kind.
    """
    given = dict(spec)
    kind = given.pop("kind", None)
    if not isinstance(kind, str):
        raise ModelError(f"`adapter` needs a `kind`: one of {', '.join(plugins.names('model.adapters'))}")
    found: type[Adapter] = plugins.load("model.adapters", kind)
    try:
        options = found.options_model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "options"
        raise ModelError(
            f"the adapter {kind} does not take {name}: {first['msg']}."
            f"{plugins.nearest(name, list(found.options_model.model_fields))} "
            f"Its options are: {', '.join(found.options_model.model_fields)}"
        ) from error
    return found(width_in, width_out, options, depths)
