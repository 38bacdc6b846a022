"""The closed world as a job: its datasets are built by the shipped flow, all else is in `pipeline.closed_world`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows import build_dataset
from flows._watching import shown
from pipeline.closed_world.report import TEXT
from pipeline.closed_world.sizes import SIZES
from pipeline.closed_world.world import ClosedWorld

Told = Callable[[str], None]


def build(recipe: Path, out: Path) -> None:
    """Builds a dataset, here and now."""
    build_dataset.run(recipe, out)


@flow(name="closed-world", persist_result=False)
def closed_world(size: str = "tiny", out: str = "out/closed_world", device: str = "cpu") -> str:
    """Makes bases, trains and evaluates on them, and reports.

    Args:
        size: `tiny` or `full`.
        out: The folder; a further run into it goes on.
        device: As torch names it.
    """
    page = run(size, Path(out), device, print)
    shown("the page", create_markdown_artifact, (page.with_name(TEXT)).read_text("utf-8"), key=f"closed-world-{size}")
    return str(page)


def run(size: str, out: Path, device: str, tell: Told) -> Path:
    """The same without Prefect around it.

    Returns:
        The report's page.
    """
    return ClosedWorld(SIZES[size], out, build, tell, device).run()
