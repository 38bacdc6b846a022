"""A closed world of the smallest size: bases that have learnt for a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.closed_world import ears, texts, tongue
from pipeline.closed_world.ears import EarsSize
from pipeline.closed_world.texts import World
from pipeline.closed_world.tongue import TongueSize

EARS = EarsSize(hidden=32, layers=1, channels=8, steps=2, frames=2000)
TONGUE = TongueSize(hidden=32, layers=1, heads=2, vocabulary=500, steps=8, tokens=1000)


@pytest.fixture(scope="session")
def catalogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogues")
    texts.write_catalogues(folder)
    return folder


@pytest.fixture(scope="session")
def world(catalogues: Path) -> World:
    return World(catalogues)


@pytest.fixture(scope="session")
def bases(catalogues: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """Folders of ears and tongue, and what was told while they learnt."""
    folder, told = tmp_path_factory.mktemp("bases"), []
    torch.set_num_threads(1)
    ears.train(folder / "ears", catalogues, EARS, tell=told.append)
    tongue.train(folder / "tongue", catalogues, TONGUE, tell=told.append, every=4)
    return folder / "ears", folder / "tongue", told
