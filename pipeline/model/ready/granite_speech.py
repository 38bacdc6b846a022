"""Granite Speech (arXiv 2505.08699): a conformer, a window-level Q-Former, Granite; 3 positions for 15 frames of 50 Hz.

The class takes no mask, so what is in the padding would be heard. Here sounds of equal length go through its encoder
together, and others apart: each says what it says alone. Its features are made without torchaudio, and equal.

Its files come with LoRA, which is on where there is sound, and off for text alone. That LoRA is what is trained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from pipeline.model import lora
from pipeline.model.base import Batch, ModelError, Samples
from pipeline.model.ready.base import Ready, library
from schemas.arrow import SAMPLING_RATE

_USUAL = {"sample_rate": SAMPLING_RATE, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80}


class GraniteSpeech(Ready):
    """`ibm-granite/granite-speech-3.3-2b` and its like."""

    is_plugin = True
    model_types = ("granite_speech",)
    architecture = "GraniteSpeechForConditionalGeneration"
    encoder = "model.encoder"
    adapter = "model.projector"

    extractor: dict[str, int]
    """Settings of the mel features."""

    @classmethod
    def read(cls, name: str, known: dict[str, Any]) -> tuple[Any, Any]:
        tokenizer = library.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **known)
        settings, _ = library.GraniteSpeechFeatureExtractor.get_feature_extractor_dict(name, **known)
        mel = _USUAL | {key: settings[key] for key in _USUAL if key in settings} | settings.get("melspec_kwargs", {})
        if mel["sample_rate"] != SAMPLING_RATE:
            raise ModelError(f"{name} hears {mel['sample_rate']} Hz; only {SAMPLING_RATE} Hz fits")
        return tokenizer, mel

    def _load_lora(self, known: dict[str, Any]) -> None:
        super()._load_lora(known)
        model, llm = self.model, self._part(self.llm)
        if getattr(model, "_hf_peft_config_loaded", False):
            # transformers has put it in its places; from here on it is as if placed here, and off only for the teacher.
            llm.peft_config = model.peft_config
            model._hf_peft_config_loaded = False
            del model._weight_conversions  # of LoRA's names: by them the rest would be saved under wrong ones
            for name, parameter in model.named_parameters():
                if lora.MARK in name:
                    parameter.data = parameter.data.float()

    def add_lora(
        self, rank: int, alpha: float, dropout: float, targets: Sequence[str], *, encoder: bool = False
    ) -> None:
        own = getattr(self._part(self.llm), "peft_config", {}).get("default")
        if encoder or own is None:
            super().add_lora(rank, alpha, dropout, targets, encoder=encoder)
            return
        if (rank, alpha, set(targets)) != (own.r, own.lora_alpha, set(own.target_modules)):
            raise ModelError(
                f"{self.name} comes with LoRA, which is trained on: set `lora` to rank: {own.r}, alpha: "
                f"{float(own.lora_alpha)}, targets: [{', '.join(sorted(own.target_modules))}]"
            )

    def places(self, samples: int) -> int:
        config = self.model.config
        frames = (samples // self.extractor["hop_length"] + 1) // 2
        return -(-frames // int(config.window_size)) * int(config.window_size // config.downsample_rate)

    def features(self, sounds: Sequence[Samples]) -> dict[str, Tensor]:
        made = [_features(torch.from_numpy(sound), self.extractor) for sound in sounds]
        return {
            "input_features": torch.nn.utils.rnn.pad_sequence(made, batch_first=True),  # A, T, 2 * bands
            "lengths": torch.tensor([len(one) for one in made]),
        }

    def heard(self, sounds: dict[str, Tensor]) -> Tensor:
        return super().heard({"input_features": sounds["input_features"]})

    def prompt(self, batch: Batch) -> dict[str, Tensor]:
        if not batch.sounds:
            return super().prompt(batch)
        model = self.model.model
        kind = next(self._part(self.encoder).parameters()).dtype
        alike: dict[int, list[int]] = defaultdict(list)
        for number, length in enumerate(batch.sounds["lengths"].tolist()):
            alike[length].append(number)
        heard: dict[int, Tensor] = {}
        for length, numbers in alike.items():
            features = batch.sounds["input_features"][numbers, :length].to(kind)
            heard |= zip(numbers, model.get_audio_features(features).pooler_output, strict=True)
        spoken = torch.cat([heard[number] for number in sorted(heard)])  # of all sounds, H
        return {"inputs_embeds": model.get_merged_audio_embeddings(batch.ids, spoken)}


def _features(sound: Tensor, mel: dict[str, int]) -> Tensor:
    """T, 2 * bands: log-mel of a clip, bounded by its largest value, two frames side by side."""
    fft, bands = mel["n_fft"], mel["n_mels"]
    window = torch.hann_window(mel["win_length"])
    spectrum = torch.stft(sound, fft, mel["hop_length"], mel["win_length"], window, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    levels = (power.T @ _bank(fft, bands)).clamp(min=1e-10).log10()  # F, bands
    levels = torch.maximum(levels, levels.max() - 8.0) / 4 + 1
    return levels[: len(levels) // 2 * 2].reshape(-1, 2 * bands)


@lru_cache(maxsize=4)
def _bank(fft: int, bands: int) -> Tensor:
    """Bins, bands: triangles of equal height."""
    made = mel_filter_bank(
        num_frequency_bins=1 + fft // 2,
        num_mel_filters=bands,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm=None,
        mel_scale="htk",
    )
    return torch.from_numpy(made).float()
