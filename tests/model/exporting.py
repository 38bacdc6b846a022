"""A model to export: AudioLM of tiny bases with the adapter `pool`, as if it had been trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.model import compose, tiny
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample
from schemas.training import ModelSpec
from tests.examples import sentences, sound, utterance

ASKED = "What was said?"


def composed(folder: Path, adapter: str = "pool", kind: str = "qwen2", encoder: str = "whisper") -> Any:
    """AudioLM of random weights; its bases stay in the folder. vLLM asks for heads of 32 dimensions."""
    if not (folder / kind).exists():
        tiny.llm(folder / kind, sentences("en"), hidden=128, heads=4, kind=kind)
    if not (folder / encoder).exists():
        tiny.encoder(folder / encoder, encoder)
    spec = ModelSpec(encoders=[str(folder / encoder)], adapter={"kind": adapter}, llm=str(folder / kind))
    return compose(spec, seed=1)


def trained(folder: Path) -> Path:
    """Saved with LoRA and an adapter that are far from where they began."""
    torch.set_num_threads(1)
    model = composed(folder)
    model.add_lora(4, 8.0, 0.0, ["q_proj", "v_proj", "down_proj"])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for part in ("lora", "adapter"):
            for _, parameter in model.named(part):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save(folder / "model")
    return folder / "model"


def asked(seconds: float, **fields: Any) -> Sample:
    """A spoken question."""
    own = utterance("x", audio=sound(seconds, 200 + 100 * seconds))
    messages = (Message("user", AUDIO_PLACEHOLDER + ASKED), Message("assistant", "So."))
    return Sample(f"r{seconds}", (own,), "train", messages=messages, **fields)


def greedy(model: Any, samples: list[Sample], most_tokens: int = 12) -> list[list[int]]:
    """What it says to all of them in one batch."""
    encoded = [model.encode(sample, answer=False) for sample in samples]
    return model.generate(model.collate(encoded, left=True), most_tokens=most_tokens)
