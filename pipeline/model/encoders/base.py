"""Encoder: an audio encoder of transformers with its features, hearing clips of what length they are.

Shapes: A clips, S samples, T frames, D the encoder's width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging

from pipeline import plugins
from pipeline.model.base import ModelError
from pipeline.model.features import valid
from schemas.arrow import SAMPLING_RATE

WINDOW = 30 * SAMPLING_RATE  # of encoders that have no bound of their own: attention grows with the square


class Encoder(nn.Module, ABC):
    """A family of encoders. What a clip gives does not depend on its batch."""

    is_plugin: ClassVar[bool] = False
    model_types: ClassVar[tuple[str, ...]]
    """Of transformers' configurations; of whole models too, whose encoder alone is then taken."""
    prefixes: ClassVar[tuple[str, ...]] = ()
    """What precedes the encoder's weights in files of whole models, where transformers does not know it."""
    heard_at: ClassVar[int] = SAMPLING_RATE
    """Hz that its feature extractor must say."""
    last_norm: ClassVar[str | None] = None
    """Where in `module` the norm behind the last layer is, if an adapter can take it over."""

    module: nn.Module
    config: Any
    """The encoder's own, within that of a whole model."""
    extractor_config: dict[str, Any]
    """How its features are made: what `preprocessor_config.json` says."""
    width: int
    """D."""
    depth: int
    """How many hidden states it can give; the first are the embeddings, the last is what it says."""
    window: int
    """Samples that it hears at once."""
    rate: float
    """Frames a second."""

    def __init__(
        self, config: Any, extractor_config: Mapping[str, Any] | None = None, module: nn.Module | None = None
    ) -> None:
        """Builds it.

        Args:
            config: transformers' configuration of the encoder, or of a whole model with such an encoder.
            extractor_config: The feature extractor's; the family's usual one if omitted.
            module: With weights; one of random weights is made if omitted.
        """
        super().__init__()
        self.config = self.own(config)
        self.extractor_config = self.usual(self.config) | dict(extractor_config or {})
        rate = self.extractor_config.get("sampling_rate", SAMPLING_RATE)
        if rate != self.heard_at:
            raise ModelError(f"the encoder {self.config.model_type} hears {rate} Hz; only {self.heard_at} Hz fits")
        self.module = self.built(self.config) if module is None else module
        self.config = self.module.config  # it knows the kind of attention that was chosen
        self._released: list[nn.Module] | None = None
        self.measure()
        self.module.eval()

    @classmethod
    def own(cls, config: Any) -> Any:
        """A copy of the encoder's configuration, taken out of a whole model's, with layers dropped at random off."""
        for name in ("encoder_config", "audio_config"):
            config = getattr(config, name, None) or config
        config = copy.deepcopy(config)
        for name in ("layerdrop", "encoder_layerdrop"):
            if hasattr(config, name):
                setattr(config, name, 0.0)
        return config

    @classmethod
    @abstractmethod
    def architecture(cls, config: Any) -> Any:
        """The class in transformers of the encoder alone."""

    @classmethod
    @abstractmethod
    def usual(cls, config: Any) -> dict[str, Any]:
        """Settings of the features where the feature extractor's are not known."""

    @classmethod
    def built(cls, config: Any) -> nn.Module:
        """The encoder with random weights."""
        made: nn.Module = cls.architecture(config)(config)
        return made

    @abstractmethod
    def measure(self) -> None:
        """Sets `width`, `depth`, `window` and `rate`."""

    @abstractmethod
    def frames(self, samples: int) -> int:
        """T of a clip of so many samples. Exact, and at least 1."""

    @abstractmethod
    def features(self, waveforms: Tensor, lengths: Tensor) -> Any:
        """What the model is given, in fp32, on the waveforms' device."""

    @abstractmethod
    def hidden(self, features: Any, lengths: Tensor, mask: Tensor, every_layer: bool) -> Sequence[Tensor]:
        """The hidden states, each A, T, D: all `depth` of them, or the last alone.

        Args:
            lengths: A, samples.
            mask: A, T bool.
        """

    def release_norm(self) -> nn.Module | None:
        """Takes the norm behind the last layer out of the encoder, for an adapter that has it from now on.

        Returns:
            The norm, also when it has been taken before; None of an encoder that has none to give.
        """
        if self._released is None and self.last_norm is not None:
            self._released = [self.module.get_submodule(self.last_norm)]  # in a list, lest it be registered again
            self.module.set_submodule(self.last_norm, nn.Identity())
        return self._released[0] if self._released else None

    def train(self, mode: bool = True) -> Self:
        """Training mode, if there is something to train: frozen, it is to say the same each time.

        Batch norms keep their statistics in any case, or a clip would depend on its batch.
        """
        super().train(mode and any(p.requires_grad for p in self.module.parameters()))
        for part in self.module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor, every_layer: bool = False) -> tuple[Tensor, Tensor]:
        """What it hears.

        Args:
            waveforms: A, S at 16 kHz, mono, from -1 to 1; what lies behind a clip's length is ignored.
            lengths: A int64, samples; none above `window`.
            every_layer: Whether all hidden states are wanted.

        Returns:
            The frames (A, T, D), 0 in the padding, or of every layer (depth, A, T, D); and how many each clip has (A).
        """
        if waveforms.shape[1] > self.window:
            raise ModelError(
                f"the encoder {self.config.model_type} hears {self.window} samples at once, not "
                f"{waveforms.shape[1]}: cut longer sound into chunks"
            )
        if self.module.training:
            self.train()  # what is trained may have changed since
        counts = self.counts(lengths)
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            features = self.features(waveforms, lengths)
        mask = valid(counts, self.frames(waveforms.shape[1]))
        states = self.hidden(features, lengths, mask, every_layer)
        states = [state.masked_fill(~mask[..., None], 0.0) for state in states]
        return (torch.stack(states) if every_layer else states[-1]), counts

    @abstractmethod
    def counts(self, lengths: Tensor) -> Tensor:
        """A int64: `frames` of each clip, on the device."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.module.parameters()).dtype

    def attention(self, states: Tensor, mask: Tensor) -> Any:
        """What transformers' layers take as mask of attention, for states (A, T, D) and A, T bool."""
        if self.config._attn_implementation == "sdpa":
            return mask[:, None, None, :]  # all queries of a clip see the same keys
        return create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)

    @classmethod
    def load(cls, name: str, revision: str = "", dtype: str = "float32") -> Self:
        """The encoder of a hub id or folder, by its weights alone; decoders and heads are left out.

        Raises:
            ModelError: It cannot be read, is of another family, or lacks weights of the encoder.
        """
        known = {"revision": revision} if revision else {}
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False, **known)
            extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False, **known).to_dict()  # type: ignore[no-untyped-call]
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(f"the encoder {name!r} cannot be loaded: {error}") from error
        if config.model_type not in cls.model_types:
            raise ModelError(f"{name!r} is a {config.model_type}, not one of {', '.join(cls.model_types)}")
        own = cls.own(config)
        mapping = {f"^{prefix}": "" for prefix in cls.prefixes} or None
        told: dict[str, Any] = {}
        try:
            with _quiet():
                module, told = cls.architecture(own).from_pretrained(
                    name,
                    config=own,
                    dtype=getattr(torch, dtype),
                    key_mapping=mapping,
                    output_loading_info=True,
                    **known,
                )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"the encoder {name!r} cannot be loaded: {error}") from error
        if lacking := sorted(told["missing_keys"]):
            raise ModelError(
                f"{name!r} lacks weights of its encoder, such as {', '.join(lacking[:3])} ({len(lacking)} in all)"
            )
        return cls(config, {key: value for key, value in extractor.items() if _is_plain(value)}, module)


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers lists the weights of decoders and heads that are left out; that they are is meant."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _is_plain(value: Any) -> bool:
    """Whether a setting can be kept in a configuration file; banks of filters are made anew."""
    return isinstance(value, bool | int | float | str | None)


def family(model_type: str) -> type[Encoder]:
    """The class for a model type of transformers.

    Raises:
        ModelError: There is none; the message lists the known ones.
    """
    known: dict[str, type[Encoder]] = {}
    for name in plugins.names("model.encoders"):
        found = plugins.load("model.encoders", name)
        known |= dict.fromkeys(found.model_types, found)
    if model_type not in known:
        raise ModelError(
            f"no encoder of the type {model_type!r} is known.{plugins.nearest(model_type, sorted(known))} "
            f"There are: {', '.join(sorted(known))}"
        )
    return known[model_type]


def load(name: str, revision: str = "", dtype: str = "float32") -> Encoder:
    """The encoder of a hub id or folder, whatever its family.

    Raises:
        ModelError: It cannot be read, or no family fits.
    """
    try:
        known = {"revision": revision} if revision else {}
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **known)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the encoder {name!r} cannot be loaded: {error}") from error
    return family(config.model_type).load(name, revision, dtype)


def from_config(config: Any, extractor_config: Mapping[str, Any] | None = None) -> Encoder:
    """An encoder of random weights, for those that are then loaded into it."""
    return family(config.model_type)(config, extractor_config)
