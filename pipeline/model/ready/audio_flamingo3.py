"""Audio Flamingo 3 (arXiv 2507.08128): Whisper's encoder pooled by two, a projector, Qwen2; 25 positions a second.

Any length, in windows of 30 s. Its template puts the sound of a turn before its text, and knows one sound a turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace
from torch import Tensor

from pipeline.model.base import RowError, Samples
from pipeline.model.ready.base import Ready, pooled, whisper
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample


class AudioFlamingo3(Ready):
    """`nvidia/audio-flamingo-3-hf`, and what `earwitness export` writes."""

    is_plugin = True
    model_types = ("audioflamingo3",)
    architecture = "AudioFlamingo3ForConditionalGeneration"

    def worded(self, sample: Sample) -> Sample:
        messages = []
        for message in sample.messages:
            count = message.content.count(AUDIO_PLACEHOLDER)
            if count > 1:
                raise RowError(f"row {sample.id} has a turn with {count} sounds: Audio Flamingo 3 hears one a turn")
            text = message.content.replace(AUDIO_PLACEHOLDER, "")
            messages.append(replace(message, content=AUDIO_PLACEHOLDER + text) if count else message)
        return replace(sample, messages=tuple(messages))

    def places(self, samples: int) -> int:
        return pooled(self.extractor, samples)

    def features(self, sounds: Sequence[Samples]) -> dict[str, Tensor]:
        features, mask = whisper(self.extractor, sounds)
        return {"input_features": features, "input_features_mask": mask}
