"""Forecast: what a run will take, as the preflight has measured it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from pipeline.shards import DiskError
from pipeline.train import curriculum
from pipeline.train.engine import Engine

_KEPT = 3  # checkpoints beside the best: the last two, and the one that is being written


@dataclass(frozen=True)
class StageForecast:
    """What a stage will be like."""

    name: str
    steps: int
    """At most."""
    rows: int
    """Of an epoch."""
    hours_of_audio: float
    """Of an epoch."""
    padding: float
    """Share of positions, of an epoch."""
    trains: dict[str, int]
    """Weights by part."""
    tried: int
    """Passes."""
    memory: int
    """Bytes at the peak, of the process that has most."""
    step_seconds: float
    validation_seconds: float
    """Of one validation; 0 where nothing is validated on."""
    seconds: float
    """Of all of it."""


@dataclass(frozen=True)
class Forecast:
    """What a run will cost."""

    stages: tuple[StageForecast, ...]
    memory: int
    memory_there: int
    """Bytes of the device."""
    disk: int
    """Bytes that its folder will take at the peak."""
    disk_free: int

    @property
    def seconds(self) -> float:
        """Of all stages, if none ends early."""
        return sum(stage.seconds for stage in self.stages)


def table(forecast: Forecast) -> Table:
    """For people."""
    shown = Table(title=f"forecast: {duration(forecast.seconds)} if no stage ends early", title_justify="left")
    for name in ("stage", "trains", "rows", "audio", "padding", "steps", "a step", "memory", "time"):
        shown.add_column(name, justify="left" if name in ("stage", "trains") else "right")
    for stage in forecast.stages:
        shown.add_row(
            stage.name,
            ", ".join(f"{part} {count(weights)}" for part, weights in stage.trains.items()),
            f"{stage.rows:,}",
            f"{stage.hours_of_audio:.2f} h",
            f"{stage.padding:.1%}",
            f"{stage.steps:,}",
            f"{stage.step_seconds:.2f} s",
            f"{stage.memory / 1e9:.1f} GB",
            duration(stage.seconds),
        )
    return shown


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    for name, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def count(weights: int) -> str:
    """How many weights, in three digits."""
    for name, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if weights >= size:
            return f"{weights / size:.3g}{name}"
    return str(weights)


def disk_needed(engine: Engine, out: Path) -> tuple[int, int]:
    """Bytes that checkpoints and the model will take, and those that are free.

    Raises:
        DiskError: They are too few.
    """
    recipe = engine.recipe
    parts = curriculum.trained_until(recipe, len(recipe.stages) - 1)
    trained = sum(p.numel() for p in curriculum.parameters(engine.speech_lm, parts).values())
    one = trained * 4 * 3  # weights and two moments of AdamW, in fp32
    whole = _bytes(engine.speech_lm.model.parameters())
    needed = one * (recipe.checkpoints.best + _KEPT) + 2 * whole  # the model is written beside an older one
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DiskError(
            errno.ENOSPC,
            f"{place}: {needed / 1e9:.1f} GB are needed ({recipe.checkpoints.best + _KEPT} checkpoints of "
            f"{one / 1e9:.2f} GB, and the model of {whole / 1e9:.2f} GB), and {free / 1e9:.1f} GB are free: "
            "free some space, lower `checkpoints.best`, or give another --out",
        )
    return needed, free


def memory_there(engine: Engine) -> int:
    """Bytes of the device; 0 where nobody knows."""
    if engine.state.device.type == "cuda":
        return int(torch.cuda.get_device_properties(engine.state.device).total_memory)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemTotal"))) * 1024
    except (OSError, StopIteration, ValueError):
        return 0


def _bytes(parameters: Iterator[nn.Parameter]) -> int:
    tensors: dict[int, Tensor] = {id(p): p for p in parameters}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
