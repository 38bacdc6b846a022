"""AudioLM: audio encoders, an adapter and a causal LM with LoRA, and ready audio LLMs beside it.

They come with torch and transformers, so they are imported when they are asked for:
`from pipeline.model import AudioLM` makes AutoModel, AutoConfig and AutoProcessor of transformers know AudioLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.plugins import require

if TYPE_CHECKING:
    from pipeline.model.assembly import compose, load
    from pipeline.model.audio_lm import AudioLM
    from pipeline.model.processing import AudioLMProcessor

__all__ = ["AudioLM", "AudioLMProcessor", "compose", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("torch", "transformers", "peft"):
        require(package, extra="train", what="a model")
    from pipeline.model import assembly, audio_lm, processing

    places: dict[str, Any] = {"AudioLM": audio_lm, "AudioLMProcessor": processing}
    return getattr(places.get(name, assembly), name)
