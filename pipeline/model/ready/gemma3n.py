"""Gemma 3n: a Universal Speech Model (arXiv 2303.01037) as encoder; 188 positions for 30 s, however short the sound.

Its own processor cuts sound off after 30 s. Here longer sound goes on in further windows, between the same marks.
transformers needs the package timm (extra `gemma3n`) for its eyes, which are not used here, and kept as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from pipeline.model.base import Samples
from pipeline.model.ready.base import Ready, library, windows
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample

_WINDOW = 480_000  # samples, 30 s
_MARGIN = 2048  # samples: what the convolutions hear beyond the last frame that counts


class Gemma3n(Ready):
    """`google/gemma-3n-E2B-it` and `google/gemma-3n-E4B-it`."""

    is_plugin = True
    model_types = ("gemma3n",)
    architecture = "Gemma3nForConditionalGeneration"
    extra = "gemma3n"
    adapter = "model.embed_audio"

    @classmethod
    def read(cls, name: str, known: dict[str, Any]) -> tuple[Any, Any]:
        tokenizer = library.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **known)
        return tokenizer, library.Gemma3nAudioFeatureExtractor.from_pretrained(name, **known)

    def shown(self, token: str) -> str:
        config = self.model.config
        begin, end = self.tokenizer.convert_ids_to_tokens([config.boa_token_id, config.eoa_token_id])
        return f"\n\n{begin}{token}{end}\n\n"

    def worded(self, sample: Sample) -> Sample:
        """Without spaces around sound, as its template does where it is given sound apart from text."""
        spaces = re.compile(rf"\s*{re.escape(AUDIO_PLACEHOLDER)}\s*")
        messages = [replace(m, content=spaces.sub(AUDIO_PLACEHOLDER, m.content)) for m in sample.messages]
        return replace(sample, messages=tuple(messages))

    def places(self, samples: int) -> int:
        return -(-samples // _WINDOW) * int(self.model.config.audio_soft_tokens_per_image)

    def features(self, sounds: Sequence[Samples]) -> dict[str, Tensor]:
        """Each as it is beside a longer one: the silence behind it is heard in the same way alone."""
        pieces = windows(sounds, _WINDOW)
        wide = min(max(map(len, pieces)) + _MARGIN, _WINDOW)
        made = self.extractor([*pieces, np.zeros(wide, np.float32)], return_tensors="np")
        return {name: torch.from_numpy(made[name][:-1]) for name in ("input_features", "input_features_mask")}

    def heard(self, sounds: dict[str, Tensor]) -> Tensor:
        """The encoder's own mask is of what it shall not hear."""
        return super().heard(sounds | {"input_features_mask": ~sounds["input_features_mask"].bool()})
