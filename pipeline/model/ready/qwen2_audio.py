"""Qwen2-Audio (arXiv 2407.10759): Whisper's encoder pooled by two, a linear layer, Qwen; 25 positions a second.

Its own processor cuts sound off after 30 s. Here longer sound goes on in further windows, between the same marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from torch import Tensor

from pipeline.model.base import Samples
from pipeline.model.ready.base import Ready, library, pooled, whisper
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample


class Qwen2Audio(Ready):
    """`Qwen/Qwen2-Audio-7B-Instruct`."""

    is_plugin = True
    model_types = ("qwen2_audio",)
    architecture = "Qwen2AudioForConditionalGeneration"

    @classmethod
    def read(cls, name: str, known: dict[str, Any]) -> tuple[Any, Any]:
        tokenizer, extractor = super().read(name, known)
        if not tokenizer.chat_template:  # older files leave it to the processor
            tokenizer.chat_template = library.Qwen2AudioProcessor.default_chat_template.fget(None)
        return tokenizer, extractor

    def shown(self, token: str) -> str:
        return f"<|audio_bos|>{token}<|audio_eos|>"

    def worded(self, sample: Sample) -> Sample:
        """The sounds are counted, as its template does where it is given sound apart from text."""
        heard = 0
        messages = []
        for message in sample.messages:
            first, *others = message.content.split(AUDIO_PLACEHOLDER)
            for number, text in enumerate(others, heard + 1):
                first += f"Audio {number}: {AUDIO_PLACEHOLDER}\n" + text.removeprefix("\n")
            heard += len(others)
            messages.append(replace(message, content=first))
        return replace(sample, messages=tuple(messages))

    def places(self, samples: int) -> int:
        whole, rest = divmod(samples, int(self.extractor.n_samples))
        return whole * pooled(self.extractor, self.extractor.n_samples) + (pooled(self.extractor, rest) if rest else 0)

    def features(self, sounds: Sequence[Samples]) -> dict[str, Tensor]:
        features, mask = whisper(self.extractor, sounds)
        return {"input_features": features, "feature_attention_mask": mask}

    def heard(self, sounds: dict[str, Tensor]) -> Tensor:
        """Padding included: its class masks that on the way to the LLM."""
        frames = self._part(self.encoder)(sounds["input_features"]).last_hidden_state
        found: Tensor = self._part(self.adapter)(frames)
        return found
