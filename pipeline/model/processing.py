"""AudioLM's processor: text with `<|audio|>` and sounds to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from pipeline.model.adapters import base as adapters
from pipeline.model.base import ModelError, Samples
from pipeline.model.configuration import AudioLMConfig
from pipeline.model.encoders import base as encoders
from pipeline.model.lengths import Lengths
from schemas.arrow import SAMPLING_RATE
from schemas.conversation import AUDIO_PLACEHOLDER


class AudioLMProcessor(ProcessorMixin):
    """A tokenizer, and the arithmetic of how many positions a sound takes."""

    def __init__(self, tokenizer: Any, hearing: dict[str, Any]) -> None:
        """Puts them together.

        Args:
            tokenizer: With the audio token.
            hearing: Of the configuration what counts positions; see `settings`.
        """
        super().__init__(tokenizer)  # type: ignore[no-untyped-call]
        self.hearing = hearing
        if tokenizer.pad_token is None:  # as Llama's and Mistral's; what is padded is masked
            tokenizer.pad_token = tokenizer.eos_token

    @staticmethod
    def settings(config: AudioLMConfig) -> dict[str, Any]:
        """Of a model's configuration, what counts positions."""
        return {
            "encoders": [c.to_dict() for c in config.encoder_configs],
            "extractors": config.extractors,
            "adapter": config.adapter,
        }

    @cached_property
    def spans(self) -> Lengths:
        """Made without weights."""
        with torch.device("meta"):
            made = [AudioLMConfig(encoder_config=c).encoder_config for c in self.hearing["encoders"]]
            ears = [
                encoders.from_config(*pair)
                for pair in zip(made, self.hearing["extractors"] or [None] * len(made), strict=True)
            ]
            adapter = adapters.make(self.hearing["adapter"], sum(e.width for e in ears), 8, [e.depth for e in ears])
        return Lengths(ears, adapter)

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Samples | Sequence[Samples] | None = None,
        *,
        sampling_rate: int = SAMPLING_RATE,
        padding_side: str = "left",
        **_: Any,
    ) -> BatchFeature:
        """Inputs of `AudioLM.forward` and `generate`.

        Args:
            text: Of each row, rendered by the chat template; `<|audio|>` stands for each sound.
            audio: All sounds of all rows, in their order; 16 kHz, mono, from -1 to 1.
            sampling_rate: Of the sounds; 16000 or an error.
            padding_side: `left` for generation.
        """
        if sampling_rate != SAMPLING_RATE:
            raise ModelError(f"sound of {sampling_rate} Hz is given, {SAMPLING_RATE} Hz is heard: resample it")
        rows = [text] if isinstance(text, str) else list(text)
        sounds: list[Any] = [] if audio is None else [audio] if getattr(audio, "ndim", 0) == 1 else list(audio)
        places = sum(row.count(AUDIO_PLACEHOLDER) for row in rows)
        if places != len(sounds):
            raise ModelError(f"the text has {places} placeholders {AUDIO_PLACEHOLDER}, {len(sounds)} sounds are given")
        counts = iter(self.spans.tokens(len(sound)) for sound in sounds)
        expanded = []
        for row in rows:
            first, *others = row.split(AUDIO_PLACEHOLDER)
            expanded.append(first + "".join(AUDIO_PLACEHOLDER * next(counts) + other for other in others))
        made = self.tokenizer(
            expanded, add_special_tokens=False, padding=True, padding_side=padding_side, return_tensors="pt"
        )
        data = {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
        return BatchFeature(data | self.spans.cut(sounds))

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Any, *, tokenize: bool = False, **options: Any
    ) -> Any:
        """The conversation as text, by the tokenizer's template; parts of the type `audio` become `<|audio|>`.

        Of a list of conversations a list of texts.
        """
        if conversation and not isinstance(conversation[0], dict):
            return [self.apply_chat_template(one, tokenize=tokenize, **options) for one in conversation]
        plain = [message | {"content": _flat(message.get("content", ""))} for message in conversation]
        return self.tokenizer.apply_chat_template(plain, tokenize=tokenize, **options)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "waveforms", "lengths"]


def _flat(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.get("type") not in ("audio", "text"):
            raise ModelError(f"a message has a part of the type {part.get('type')!r}; only audio and text are taken")
    return "".join(AUDIO_PLACEHOLDER if part["type"] == "audio" else part["text"] for part in content)


AutoProcessor.register(AudioLMConfig, AudioLMProcessor)  # type: ignore[no-untyped-call]
