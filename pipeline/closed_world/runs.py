"""Runs: the recipes of the trainings, and the trainings themselves.

The main one follows the shipped curriculum (data/training/speechverse.yaml): the adapter on transcription, then LoRA on
the same, then all tasks. The others differ from a short one of the kind in one thing each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from ruamel.yaml import YAML

from pipeline.closed_world.sizes import ADAPTERS, MAIN, Size, Steps, TrainingSize

CURRICULUM = "curriculum"
JOINT, DISTILLED = "joint", "distilled"


@dataclass(frozen=True)
class Compared:
    """A training that differs from a short one of the curriculum in one thing."""

    name: str
    """Of its folder."""
    adapter: str = MAIN
    joint: bool = False
    distilled: bool = False


COMPARED = (
    *(Compared(f"adapter-{kind}", kind) for kind in ADAPTERS),
    Compared(JOINT, joint=True),
    Compared(DISTILLED, distilled=True),
)
SHORT = f"adapter-{MAIN}"
"""The one from which the others differ."""


def recipe(
    size: Size, data: Path, ears: Path, tongue: Path, of: Compared | None = None, *, precision: str = "fp32"
) -> dict[str, Any]:
    """A training recipe.

    Args:
        size: Of the closed world.
        data: The dataset.
        ears: The encoder.
        tongue: The LLM.
        of: In what it differs from the main run; that itself if omitted.
        precision: `bf16` where the machine is quicker with that.
    """
    own, training = of or Compared(CURRICULUM), size.training
    steps = training.short if of else training.steps
    stages = _joint(steps, training) if own.joint else _curriculum(steps, training)
    if own.distilled:
        stages = [stage | {"loss": {"cross_entropy": 0.0, "distillation": 1.0}} for stage in stages]
    every = training.validation if of is None else steps.total
    return {
        "name": own.name,
        "description": "A run of the closed world.",
        "data": [{"path": data.absolute().as_posix()}],
        "model": {
            "encoders": [ears.absolute().as_posix()],
            "adapter": {"kind": own.adapter, **ADAPTERS[own.adapter]},
            "llm": tongue.absolute().as_posix(),
            "attention": "eager",  # rows are short, and a CPU is slow at torch's own in bf16
        },
        "lora": {"rank": training.rank, "alpha": float(2 * training.rank)},
        "stages": stages,
        "batches": {"tokens": training.tokens, "seconds": 600.0, "workers": size.readers},
        "validation": {"share": 0.03, "every": every, "rows": 96, "decode": 32, "most_tokens": 48},
        "checkpoints": {"every": every, "best": 1},
        "precision": precision,
    }


def _curriculum(steps: Steps, size: TrainingSize) -> list[dict[str, Any]]:
    both = {"trains": ["adapter", "lora"], "learning_rates": {"adapter": size.adapter_rate / 2, "lora": size.lora_rate}}
    only = {"tasks": {"transcription": 1.0}}
    return [
        {"name": "adapter", "trains": ["adapter"], **only, "learning_rate": size.adapter_rate, **_steps(steps.adapter)},
        {"name": "lora", **both, **only, **_steps(steps.lora)},
        {"name": "tasks", **both, **_steps(steps.tasks)},
    ]


def _joint(steps: Steps, size: TrainingSize) -> list[dict[str, Any]]:
    rates = {"adapter": size.adapter_rate, "lora": size.lora_rate}
    return [{"name": "joint", "trains": ["adapter", "lora"], "learning_rates": rates, **_steps(steps.total)}]


def _steps(count: int) -> dict[str, int]:
    return {"steps": count, "warmup": min(30, count // 10)}


def write(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a recipe's file."""
    text = StringIO()
    YAML(typ="safe", pure=True).dump(dict(content), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), "utf-8")
    return path


def train(path: Path, out: Path) -> Path:
    """Trains by a recipe, or goes on; what a person would see is written to a file beside the folder.

    Args:
        path: The recipe's file.
        out: The run's folder.

    Returns:
        The model's folder.
    """
    from pipeline.train import run as running
    from pipeline.train.loop import MODEL
    from pipeline.train.setup import prepare

    setup = prepare(str(path))
    with running.alone(out), out.with_name(f"{out.name}.log.txt").open("a", encoding="utf-8") as log:
        setup.refuse_foreign(out)
        if not running.finished(setup, out):
            running.Run.prepare(setup, out).train(Console(file=log, width=120))
    return out / MODEL
