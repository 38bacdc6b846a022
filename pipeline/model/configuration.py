"""The configuration of AudioLM."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


class AudioLMConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What AudioLM is made of. Its encoders and its LLM keep the configurations of their own classes."""

    model_type = "audio_lm"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper"),
        "second_encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper", optional=True),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    encoder_config: Any = None
    second_encoder_config: Any = None
    """Of an encoder whose frames go beside those of the first."""
    text_config: Any = None
    extractors: list[dict[str, Any]] | None = None
    """How each encoder's features are made of samples, as its feature extractor says."""
    adapter: dict[str, Any] | None = None
    """`kind` names a file of `pipeline/model/adapters`; the rest are its options."""
    audio_token_id: int = 0
    """It may lie beyond the LLM's vocabulary: it is never looked up."""
    lora: list[str] | None = None
    """The parts that LoRA is saved for: `language_model`, `encoders`."""
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.adapter = dict(self.adapter or {"kind": "conv"})
        self.lora = list(self.lora or [])
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def encoder_configs(self) -> list[Any]:
        """One or two."""
        return [c for c in (self.encoder_config, self.second_encoder_config) if c is not None]

    @property
    def weighted_layers(self) -> bool:
        """Whether the adapter takes a weighted sum of the encoder's layers."""
        return bool((self.adapter or {}).get("weighted_layers"))
