"""AudioLM: audio encoders, an adapter and a causal LM with LoRA, and ready audio LLMs beside it.

`load` and `compose` come with torch and transformers, so they are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.plugins import require

if TYPE_CHECKING:
    from pipeline.model.assembly import compose, load

__all__ = ["compose", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("torch", "transformers", "peft"):
        require(package, extra="train", what="a model")
    from pipeline.model import assembly

    return getattr(assembly, name)
