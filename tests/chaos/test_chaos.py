"""The short form of `make chaos`: several disturbances in a row, each at one moment, and then the one check."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.chaos.disturbances import (
    Busy,
    Cut,
    DamagedManifests,
    DamagedMemo,
    DamagedPlan,
    Disturbance,
    FullDisk,
    KillAll,
    KillWorker,
    LoseEndpoint,
    Page,
    SecondRun,
    Skipped,
    Terminate,
    trial,
)
from tests.chaos.world import World
from tests.prefect_server import PrefectServer

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("prefect")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("chaos") / "world", prefect_server)
    yield made
    made.close()


def in_a_row(world: World, *runs: tuple[float, tuple[type[Disturbance], ...]]) -> None:
    """Disturbs one run after the other, each by several things at a moment, until one is left alone."""
    made = [[kind(world, number) for kind in kinds] for number, (_, kinds) in enumerate(runs)]
    recipe = made[0][0].recipe
    assert world.undisturbed(recipe)
    out, begun, allowed = world.fresh(), len(world.endpoint.served), 0
    for (moment, _), disturbances in zip(runs, made, strict=True):
        run = world.begin(out, recipe=recipe)
        assert world.until(run, out, begun, moment), run.output[-3000:]
        for disturbance in disturbances:
            disturbance.strike(run, out)
        run.end()
        assert re.search(disturbances[-1].says, " ".join(run.output.split())), run.output[-3000:]
        for disturbance in disturbances:
            disturbance.relieve(out)
            allowed += disturbance.repeats
    last = world.begin(out, recipe=recipe)
    assert last.end() == 0, last.output[-3000:]
    world.check(out, recipe, begun, allowed)


def test_killed_terminated_and_two_at_once(world: World) -> None:
    in_a_row(world, (0.1, (SecondRun, KillWorker, Terminate)), (0.5, (KillAll,)))


def test_an_endpoint_that_lies_and_dies_and_a_folder_that_is_damaged(world: World) -> None:
    in_a_row(world, (0.1, (Busy, Cut, Page, LoseEndpoint)), (0.6, (DamagedMemo, DamagedManifests, DamagedPlan)))


def test_a_full_disk(world: World) -> None:
    try:
        outcome = trial(FullDisk(world, 2), 0.5)
    except Skipped as reason:
        pytest.skip(str(reason))
    assert outcome.runs > 1
