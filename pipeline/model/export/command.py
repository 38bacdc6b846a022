"""`earwitness export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import storage
from pipeline.plugins import require


def export(
    model: Annotated[str, typer.Argument(help="The folder of a trained model, as a run writes it, or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must be new or empty.", **storage.DISK)],
    format: Annotated[  # noqa: A002 - the option's name
        str,
        typer.Option(
            help="audio_flamingo3: models with the adapter `pool`, for transformers and vLLM. own: ready audio LLMs, "
            "in the format of their own class."
        ),
    ] = "audio_flamingo3",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Write a model as others load and serve it, with LoRA merged and no code of ours."""
    made = require("pipeline.model.export.base", extra="train", what="earwitness export")
    if dtype not in made.DTYPES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(made.DTYPES)}", param_hint="--dtype")
    done = made.export(model, out, format, dtype)
    if done.merged:
        typer.echo(f"LoRA is merged. {done.folder} holds the model; its README.md says how it is served.")
    else:
        typer.echo(
            f"The model has no LoRA: its LLM is exported as it is. {done.folder} holds the model; its README.md says "
            "how it is served."
        )
