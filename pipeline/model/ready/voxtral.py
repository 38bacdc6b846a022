"""Voxtral (arXiv 2507.13264): Whisper's encoder, four frames side by side, Llama; 12.5 positions a second.

Sound is padded to whole windows of 30 s, and the silence takes positions, too: 375 a window, whatever is said.
Its files have Mistral's own tokenizer. transformers reads that, and writes its chat template, with the package
mistral-common, of the extra `voxtral`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils.hub import cached_file

from pipeline.model.base import ModelError, Samples
from pipeline.model.ready.base import Ready, library

_BEGIN = "[BEGIN_AUDIO]"


class Voxtral(Ready):
    """`mistralai/Voxtral-Mini-3B-2507` and `mistralai/Voxtral-Small-24B-2507`."""

    is_plugin = True
    model_types = ("voxtral",)
    architecture = "VoxtralForConditionalGeneration"
    extra = "voxtral"

    @classmethod
    def read(cls, name: str, known: dict[str, Any]) -> tuple[Any, Any]:
        # In transformers' form: Mistral's own backend renders and tokenises at once, and leaves no text between.
        file = cached_file(name, "tekken.json", _raise_exceptions_for_missing_entries=False, **known)
        if file is None:
            tokenizer = library.AutoTokenizer.from_pretrained(
                name, mistral_format=False, trust_remote_code=False, **known
            )
        else:
            from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer

            tokenizer = convert_tekken_tokenizer(file)
        if not tokenizer.chat_template:
            raise ModelError(
                f"{name} has no chat template: `pip install 'earwitness[voxtral]'`, with which transformers makes one, "
                "or put a `chat_template.jinja` into its folder"
            )
        return tokenizer, library.WhisperFeatureExtractor.from_pretrained(name, **known)

    def shown(self, token: str) -> str:
        return _BEGIN + token

    @property
    def _window(self) -> int:
        """Samples."""
        return int(2 * self.model.config.audio_config.max_source_positions * self.extractor.hop_length)

    def places(self, samples: int) -> int:
        config = self.model.config.audio_config
        stacked = config.intermediate_size // config.hidden_size
        return -(-samples // self._window) * int(config.max_source_positions // stacked)

    def features(self, sounds: Sequence[Samples]) -> dict[str, Tensor]:
        found = []
        for sound in sounds:
            made = self.extractor(
                sound,
                sampling_rate=self.extractor.sampling_rate,
                padding=True,
                truncation=False,
                pad_to_multiple_of=self._window,
                return_tensors="pt",
            )["input_features"][0]  # bands, frames of all windows
            found += made.split(self._window // self.extractor.hop_length, dim=1)
        return {"input_features": torch.stack(found)}
