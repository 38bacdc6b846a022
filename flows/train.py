"""Training as a job that a schedule starts: preflight, training, and evaluation of what came of it.

A run that was killed goes on from its last checkpoint when the flow is run again: checkpoints are the truth.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows._watching import on_page, progressing, shown
from flows.evaluate import evaluate as evaluation
from pipeline import mirror, storage

if TYPE_CHECKING:  # torch is needed where a run runs, not where it is deployed from
    from pipeline.train.run import Run
    from pipeline.train.setup import Setup


@task(name="preflight", cache_policy=NO_CACHE, persist_result=False)
def preflight(setup: Setup, out: str) -> Run:
    """Loads the model, and tries the largest batches if the run has not begun yet."""
    from pipeline.train.command import ready

    return ready(setup, Path(out))


@task(name="training", cache_policy=NO_CACHE, persist_result=False)
def training(run: Run) -> None:
    """Trains, or goes on."""
    from pipeline.train.command import console

    run.train(console)


@task(name="training-in-processes", cache_policy=NO_CACHE, persist_result=False)
def training_in_processes(recipe: str, data: list[str], out: str, processes: int) -> None:
    """The same by `torchrun`, which begins with the preflight."""
    from pipeline.train.engine import TrainingError

    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    own = ["-m", "pipeline.train.command", recipe, "--out", out, *(f"--data={folder}" for folder in data)]
    ended = subprocess.run([*several, *own], check=False)
    if ended.returncode:
        raise TrainingError(f"training in {processes} processes ended with {ended.returncode}; its log says why")


@flow(name="train", persist_result=False)
def train(
    recipe: str,
    out: str,
    data: list[str] | None = None,
    processes: Annotated[int, Field(ge=1)] = 1,
    evaluate: list[str] | None = None,
) -> str:
    """Trains a model by a recipe.

    Args:
        recipe: Its file, or the name of a shipped one.
        out: The run's folder.
        data: Folders of datasets in place of the recipe's.
        processes: How many train together: as many as there are GPUs.
        evaluate: Folders of datasets on whose test splits the model is evaluated at the end.

    Returns:
        The model's folder.
    """
    from pipeline.train import curves
    from pipeline.train.curves import History
    from pipeline.train.loop import MODEL
    from pipeline.train.run import alone, finished
    from pipeline.train.setup import prepare
    from pipeline.train.watch import Share

    folder, given = storage.on_disk(out), [str(mirror.folder(path).absolute()) for path in data or ()]
    setup = prepare(recipe, [Path(path) for path in given])
    setup.refuse_foreign(folder)
    name = setup.recipe.name.replace("_", "-")
    if not finished(setup, folder):
        with on_page(), progressing(f"{name}-progress", Share(folder), "Steps that are done"):
            if processes > 1:
                training_in_processes(recipe, given, out, processes)
            else:
                with alone(folder):
                    training(preflight(setup, out))
    history = History.read(folder)
    shown("the training", create_markdown_artifact, curves.summary(folder, history), key=f"{name}-training")
    shown("the validations", create_table_artifact, curves.validations(history), key=f"{name}-validations")
    for dataset in evaluate or ():
        evaluation(str(folder / MODEL), dataset, str(folder / "evaluation" / Path(dataset).name))
    return str(folder / MODEL)
