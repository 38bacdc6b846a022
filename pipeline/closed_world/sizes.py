"""Sizes: what `tiny` does on two CPU cores in half an hour, and `full` on one GPU in ten minutes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.closed_world.datasets import DataSize
from pipeline.closed_world.ears import EarsSize
from pipeline.closed_world.tongue import TongueSize

ADAPTERS: dict[str, dict[str, Any]] = {
    "mlp": {"factor": 2},
    "conv": {"strides": [2, 1]},
    "pool": {"factor": 2},
    "stack": {"factor": 2},
    "qformer": {"window": 2, "width": 128, "heads": 4, "layers": 1},
}
"""With options by which each gives about 12.5 tokens a second of an encoder of 25 frames."""
MAIN = "mlp"


@dataclass(frozen=True)
class Steps:
    """Of the curriculum's three stages."""

    adapter: int
    lora: int
    tasks: int

    @property
    def total(self) -> int:
        """Of all together."""
        return self.adapter + self.lora + self.tasks


@dataclass(frozen=True)
class TrainingSize:
    """How long the model learns."""

    steps: Steps = Steps(250, 150, 600)
    short: Steps = Steps(100, 50, 150)
    """Of the comparisons, which are many."""
    rank: int = 32
    adapter_rate: float = 2e-3
    lora_rate: float = 1e-3
    tokens: int = 2500
    """Positions in a batch."""
    validation: int = 200
    """Steps between two."""


@dataclass(frozen=True)
class Size:
    """All of it."""

    name: str
    data: DataSize = field(default_factory=DataSize)
    ears: EarsSize = field(default_factory=EarsSize)
    tongue: TongueSize = field(default_factory=TongueSize)
    training: TrainingSize = field(default_factory=TrainingSize)
    compared: int = 100
    """Rows on which the comparisons are evaluated."""
    at_once: int = 2
    """Trainings beside each other."""
    speakers: int = 0
    """Processes that speak and draw texts ahead of the bases' learning: a GPU would wait for one."""
    readers: int = 0
    """Processes that read ahead of each training."""


TINY = Size("tiny")
FULL = Size(
    "full",
    DataSize(queries=20_000, sentences=20_000, test_queries=400, test_sentences=200),
    EarsSize(hidden=256, layers=8, channels=64, steps=4000, frames=24_000, learning_rate=2e-3, masks=True),
    TongueSize(hidden=256, layers=6, heads=8, steps=5000, tokens=12_000, learning_rate=3e-3),
    TrainingSize(Steps(500, 300, 1200), Steps(150, 100, 250), rank=64, tokens=16_000),
    compared=300,
    at_once=4,
    speakers=10,
    readers=2,
)
SIZES = {size.name: size for size in (TINY, FULL)}
