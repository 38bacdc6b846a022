"""`earwitness train` and `earwitness overfit`; as a program what `torchrun` starts.

torchrun --nproc-per-node 4 -m pipeline.train.command RECIPE --out FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline import mirror, storage
from pipeline.plugins import require
from pipeline.terminal import Terminal, escape

if TYPE_CHECKING:
    from pipeline.train.forecast import Forecast
    from pipeline.train.gate import Gate
    from pipeline.train.loop import Outcome
    from pipeline.train.run import Run
    from pipeline.train.setup import Setup

_MAIN = os.environ.get("RANK", "0") == "0"  # of several processes this one speaks and writes
console = Terminal(quiet=not _MAIN)
errors = Terminal(stderr=True)
_NEEDED = ("torch", "transformers", "peft", "accelerate", "safetensors", "tensorboard", "matplotlib")


def train(
    recipe: Annotated[
        str, typer.Argument(help="A training recipe's file, or the name of a shipped one: tiny, speechverse, ...")
    ],
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: out/NAME", **storage.DISK)] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="A dataset's folder, in place of the recipe's; may be repeated.", **mirror.OPTION),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only try the largest batches, and forecast memory and time.")
    ] = False,
) -> None:
    """Train a model by a recipe. Run it again to go on after a stop: no step is done twice."""
    with _packages():
        from pipeline.train import run as running
        from pipeline.train.loop import MODEL
        from pipeline.train.setup import prepare

        setup = prepare(recipe, data or ())
        folder = out or Path("out") / setup.recipe.name
        with running.alone(folder) if _MAIN and not dry_run else nullcontext():
            setup.refuse_foreign(folder)
            console.print(f"[bold]{setup.recipe.name}[/bold]  {escape(f'{setup.path} -> {folder}')}")
            if not dry_run and running.finished(setup, folder):
                console.print(f"This run is finished; its model is in {escape(str(folder / MODEL))}.")
                return
            with _told_how_to_go_on(folder):
                run = ready(setup, folder, again=dry_run)
                if not dry_run:
                    tell(run.train(console), folder)
    if dry_run:
        console.print("Nothing was trained: this was a dry run.")


def ready(setup: Setup, folder: Path, again: bool = False) -> Run:
    """A run that has passed its preflight.

    Args:
        setup: Of the recipe.
        folder: The run's.
        again: Whether the preflight is done though it was passed before.
    """
    from pipeline.train import forecast, preflight
    from pipeline.train.run import Run, newest

    with console.status("loading") as status:
        run = Run.prepare(setup, folder, status.update)
        last = newest(setup, folder)
        if last is not None and not again:
            console.print(f"Going on after step {last.progress.overall}; the preflight was passed when it began.")
            return run
        found: Forecast = preflight.check(run, status.update)
    console.print(forecast.table(found))
    gigabytes = [f"{size / 1e9:.1f}" for size in (found.memory, found.memory_there, found.disk, found.disk_free)]
    console.print("memory {} GB of {}; disk {} GB of {} free".format(*gigabytes), highlight=False)
    return run


def tell(outcome: Outcome, folder: Path) -> None:
    """Says what a run came to, and what can be done next."""
    from pipeline.train import curves
    from pipeline.train.forecast import duration

    table = Table(title=f"{outcome.steps:,} steps, {duration(outcome.seconds)} of them now", title_justify="left")
    for name in ("stage", "steps", "best", "ended, because"):
        table.add_column(name)
    for stage in outcome.stages:
        best = f"{stage.best.figure} {stage.best.value:.3f} at step {stage.best.step}" if stage.best else ""
        table.add_row(stage.stage, f"{stage.steps:,}", best, stage.why)
    console.print(table)
    console.print(f"Curves and samples: [cyan]{escape(str(folder / curves.PAGE))}[/cyan]")
    model = escape(str(outcome.model))
    console.print(f"The model: [cyan]{model}[/cyan]")
    console.print(f"Measure it: [cyan]earwitness evaluate {model} DATASET[/cyan]")


def overfit(
    dataset: Annotated[Path, typer.Argument(help="A finished dataset's folder.", **mirror.OPTION)],
    recipe: Annotated[str, typer.Option(help="Whose model and learning rates are tried.")] = "tiny",
    rows: Annotated[int, typer.Option(min=2, help="So many are learnt by heart.")] = 16,
    steps: Annotated[int, typer.Option(min=2, help="At most so many.")] = 600,
    seed: Annotated[int, typer.Option(help="Of new weights, and of what is shuffled.")] = 0,
) -> None:
    """See whether a model can learn from sound at all: some rows by heart, and not if their sound is shuffled."""
    with _packages(), tempfile.TemporaryDirectory() as folder:
        from pipeline.train import overfit as gate
        from pipeline.train.setup import prepare

        setup = prepare(recipe, [dataset])
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("loading", total=steps, loss="")
            parts = iter(("learning", "learning shuffled pairs"))

            def told(step: int, loss: float) -> None:
                if step == 1:
                    progress.update(bar, description=next(parts))
                progress.update(bar, completed=step, loss=f"loss {loss:.4f}")

            found = gate.run(setup.recipe, Path(folder), rows=rows, steps=steps, seed=seed, told=told)
            progress.update(bar, visible=False)
    _verdict(found)
    if not found.passed:
        raise typer.Exit(1)


def _verdict(found: Gate) -> None:
    from pipeline.train.gate import LOSS

    table = Table("", "loss", "must be", "exact", "must be")
    all_of_them, most = f"{found.rows} of {found.rows}", found.rows // 4
    for row in (
        ("as trained", found.loss, f"under {LOSS}", found.exact, all_of_them),
        ("with the sound of others", found.shuffled_loss, "", found.shuffled_exact, "0"),
        ("trained on shuffled sound", found.control_loss, f"over {LOSS}", found.control_exact, f"at most {most}"),
    ):
        name, loss, bound, exact, wanted = row
        table.add_row(name, f"{loss:.4f}", bound, f"{exact} of {found.rows}", wanted)
    console.print(table)
    wrong = [(reference, said) for reference, said in found.answers if reference != said]
    for reference, said in wrong[:4]:
        console.print(Text.assemble(("not exact: ", "yellow"), reference, (" -> ", "dim"), said))
    took = f"{found.steps} steps, {found.seconds:.0f} s"
    if found.passed:
        console.print(f"[green]passed[/green] ({took}): the model learns what it hears, and from nothing else.")
    else:
        console.print(f"[red]failed[/red] ({took}): {found.hint}.")


@contextmanager
def _packages() -> Iterator[None]:
    """Asks for the packages before any work.

    Raises:
        MissingExtra: One is not installed.
        TrainingError: Memory is used up.
    """
    for package in _NEEDED:
        require(package, extra="train", what="training")
    from pipeline.train.engine import TrainingError

    try:
        yield
    except MemoryError as error:
        raise TrainingError(str(error) or "there is no free memory: see `earwitness train --dry-run`") from error


@contextmanager
def _told_how_to_go_on(folder: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run at once; its last checkpoint stays."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt as interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if _MAIN:
            text = f"What was done up to the last checkpoint is in {folder}; the same command goes on from there."
            errors.print(f"\n[yellow]Stopped.[/yellow] {escape(text)}", soft_wrap=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # Other processes of the run may wait for this one for ever.
        os._exit(128 + (signal.SIGTERM if isinstance(interruption, _Terminated) else signal.SIGINT))
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _interrupt(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """`train` as one of several processes."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    application.command()(train)
    try:
        application()
    except Exception as error:
        if not type(error).__module__.startswith(("pipeline.", "schemas.")):
            raise
        which = "" if _MAIN else f" (process {os.environ['RANK']})"
        errors.print(Text.assemble((f"Error{which}: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
