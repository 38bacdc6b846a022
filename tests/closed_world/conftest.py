"""A closed world of the smallest size: all of it, made once."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline import build as building
from pipeline import finish, setup
from pipeline.build import Job
from pipeline.closed_world import runs
from pipeline.closed_world import world as worlds
from pipeline.closed_world.datasets import DataSize
from pipeline.closed_world.ears import EarsSize
from pipeline.closed_world.sizes import Size, Steps, TrainingSize
from pipeline.closed_world.texts import World
from pipeline.closed_world.tongue import TongueSize
from pipeline.closed_world.world import ClosedWorld

NANO = Size(
    "tiny",
    DataSize(queries=30, sentences=30, test_queries=6, test_sentences=4),
    EarsSize(hidden=32, layers=1, channels=8, steps=2, frames=2000),
    TongueSize(hidden=32, layers=1, heads=2, vocabulary=1024, steps=30, tokens=1000),
    TrainingSize(Steps(2, 1, 2), Steps(1, 1, 1), rank=2, tokens=1500, validation=50),
    compared=4,
    at_once=1,
)


@dataclass(frozen=True)
class Made:
    """A closed world, and what was said while it was made."""

    out: Path
    page: Path
    told: list[str]
    printed: str

    def again(self) -> list[str]:
        """What is told when it is made once more."""
        told: list[str] = []
        ClosedWorld(NANO, self.out, build, told.append).run()
        return told


def build(recipe: Path, out: Path) -> None:
    """As the flow does, without Prefect."""
    made = setup.prepare(str(recipe))
    job = Job(str(recipe), str(out), fingerprint=made.fingerprint, workers=1)
    plan = made.plan(out)
    for unit in plan.units:
        building.build_unit(job, unit)
    finish.finish(job, plan)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    out, told, printed = tmp_path_factory.mktemp("world"), [], io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(worlds, "COMPARED", runs.COMPARED[:1])
        torch.set_num_threads(1)
        page = ClosedWorld(NANO, out, build, told.append).run()
    return Made(out, page, told, printed.getvalue())


@pytest.fixture(scope="session")
def world(made: Made) -> World:
    return World(made.out / "recipes" / "catalogues")
