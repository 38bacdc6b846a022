"""Formats: a trained model as files that others load and serve."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from transformers import AutoConfig

from pipeline import plugins
from pipeline.model.assembly import load
from pipeline.model.base import ModelError
from pipeline.model.export._card import card

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Format(ABC):
    """One file a format."""

    is_plugin: ClassVar[bool] = False
    title: ClassVar[str]
    """As people call it."""
    use: ClassVar[str]
    """Markdown: how it is loaded and served; what it cannot do. `{name}` is the folder's name."""

    @abstractmethod
    def check(self, speech: Any) -> None:
        """Complains of a model that the format has no place for.

        Raises:
            ModelError: It says what does not fit, and what would.
        """

    @abstractmethod
    def write(self, speech: Any, folder: Path) -> None:
        """Writes weights, configuration, tokenizer and what else is read.

        Args:
            speech: Checked, its LoRA merged.
            folder: Empty.
        """


class Exported(NamedTuple):
    """What was done."""

    folder: Path
    merged: bool
    """Whether there was LoRA."""


def export(name: str, out: Path, format: str = "audio_flamingo3", dtype: str = "auto") -> Exported:  # noqa: A002
    """Writes a model in a format; either whole or not at all.

    Args:
        name: A model's folder or hub id.
        out: A folder that is not there, or empty.
        format: A file of `pipeline/model/export`.
        dtype: Of the weights; `auto` is that of the model's own.

    Raises:
        ModelError: The model does not fit the format, its LoRA changes nothing, or the folder is taken.
        UnknownPlugin: There is no such format.
    """
    chosen: Format = plugins.load("model.export", format)()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} is there already: give another folder, or remove it")
    speech: Any = load(name, dtype=_dtype(name) if dtype == "auto" else dtype)
    chosen.check(speech)
    has_lora = any(True for part in ("lora", "encoder_lora") for _ in speech.named(part))
    if has_lora and not speech.changed():
        raise ModelError(
            f"the LoRA of {name} changes nothing, so it was not trained: check that a stage of the recipe has `lora` "
            "in its `trains`, and that this is the model of its end"
        )
    speech.merge()
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        chosen.write(speech, scratch)
        (scratch / "README.md").write_text(card(name, speech, chosen.title, chosen.use, out.name, merged=has_lora))
        for path in (scratch, *scratch.rglob("*")):  # scratch files are for their owner alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return Exported(out, has_lora)


def _dtype(name: str) -> str:
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the model {name!r} cannot be loaded: {error}") from error
    return str(config.dtype or "float32").removeprefix("torch.")
