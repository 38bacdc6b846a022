"""`earwitness closed-world`: proof of the trainer without any pretrained weights."""

from __future__ import annotations

import os
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline import storage
from pipeline.plugins import require
from pipeline.terminal import Terminal, escape

console = Terminal()
_NEEDED = ("torch", "transformers", "peft", "accelerate", "safetensors", "matplotlib")


def closed_world(
    size: Annotated[
        Literal["tiny", "full"], typer.Option(help="tiny: two CPU cores, half an hour. full: one GPU, ten minutes.")
    ] = "tiny",
    out: Annotated[Path | None, typer.Option(help="The folder. Default: out/closed_world-SIZE", **storage.DISK)] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")] = "auto",
) -> None:
    """Make an encoder and an LLM from nothing, train the real recipe on them, and report what it hears.

    Run it again to go on after a stop: finished parts are kept.
    """
    for package in _NEEDED:
        require(package, extra="train", what="the closed world")
    if device == "auto":
        torch = require("torch", extra="train", what="the closed world")
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = out or Path("out") / f"closed_world-{size}"
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    began = time.monotonic()

    def tell(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.0f} s[/dim]  {escape(text)}", highlight=False, soft_wrap=True)

    # Flows are above this package, which they order; so it is asked for by name.
    page = import_module("flows.closed_world").run(size, folder, device, tell)
    console.print(page.with_name("report.md").read_text("utf-8"), highlight=False, markup=False, soft_wrap=True)
