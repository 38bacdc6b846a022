"""`earwitness train` and `earwitness overfit`, as people run them; and the flow around a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from rich.console import Console
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipeline.recipes import RecipeError
from pipeline.shards import FolderInUse
from pipeline.train import curves
from pipeline.train.command import overfit, train
from pipeline.train.run import alone
from pipeline.train.watch import METRICS, SAMPLES, lines
from schemas.training import TrainingRecipe
from tests.conftest import ROOT

Recipe = Callable[..., TrainingRecipe]

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("prefect")]

STAGES = [
    {"name": "adapter", "trains": ["adapter"], "tasks": {"transcription": 1}, "steps": 8, "warmup": 1},
    {"name": "tasks", "trains": ["adapter", "lora"], "steps": 2, "warmup": 1},
]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


@pytest.fixture
def recipe(training_recipe: Recipe, tmp_path: Path) -> Path:
    return written(training_recipe, tmp_path)


def written(training_recipe: Recipe, folder: Path, **changes: Any) -> Path:
    """The recipe of two short stages."""
    made = training_recipe({"stages": STAGES} | changes)
    with open(folder / "short.yaml", "w") as stream:
        YAML().dump(made.model_dump(mode="json"), stream)
    return folder / "short.yaml"


class Flow(NamedTuple):
    """What a run of the flow has left."""

    out: Path
    artifacts: dict[str, Any]
    tasks: list[str]


@pytest.fixture(scope="module")
def flow(training_recipe: Recipe, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """The recipe's run, undisturbed, by the flow."""
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    from flows.train import train as flow

    folder = tmp_path_factory.mktemp("flow")
    recipe, out = str(written(training_recipe, folder)), folder / "run"
    with pytest.MonkeyPatch.context() as patch, prefect_test_harness(server_startup_timeout=120):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for _ in range(2):  # a finished run stays as it is
            assert flow(recipe, str(out), [str(dataset)]) == str(out / "model")
        with get_client(sync_client=True) as client:
            kept = {str(artifact.key): artifact.data for artifact in client.read_artifacts()}
            tasks = sorted(run.name.rsplit("-", 1)[0] for run in client.read_task_runs())
    return Flow(out, kept, tasks)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipeline.train.command", *map(str, arguments)]


def begin(env: dict[str, str], recipe: Path, out: Path, until: int) -> subprocess.Popen[str]:
    """A run that has done some steps."""
    process = subprocess.Popen(
        command(recipe, "--out", out), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len([line for line in lines(out / METRICS) if line["kind"] == "step"]) >= until:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise TimeoutError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process: to import torch takes longer than all they do."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.train.command.console", Console(width=160))


def test_a_run_that_is_stopped_goes_on(
    env: dict[str, str], here: None, recipe: Path, flow: Flow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Ctrl-C; and it ends with the weights of an undisturbed one."""
    stopped = begin(env, recipe, tmp_path / "run", 3)
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert f"is in {tmp_path / 'run'}; the same command goes on from there." in " ".join(told.split())
    assert "Traceback" not in told

    train(str(recipe), tmp_path / "run")
    said = capsys.readouterr().out
    assert "Going on after step" in said
    assert "earwitness evaluate" in said
    steps = [line["overall"] for line in lines(tmp_path / "run" / METRICS) if line["kind"] == "step"]
    assert steps == list(range(1, 11))
    assert {line["overall"] for line in lines(tmp_path / "run" / SAMPLES)} == {2, 4, 6, 8, 10}
    assert (tmp_path / "run" / curves.PAGE).is_file()

    assert weights(tmp_path / "run") == weights(flow.out)

    train(str(recipe), tmp_path / "run")
    assert "This run is finished" in capsys.readouterr().out
    other = recipe.with_name("other.yaml")
    other.write_text(recipe.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(RecipeError, match="holds a run of another recipe; these differ: seed was 0 and is 1"):
        train(str(other), tmp_path / "run")


def weights(out: Path) -> dict[str, bytes]:
    """All tensors of the saved model."""
    return {
        f"{file.name} {name}": tensor.numpy().tobytes()
        for file in sorted((out / "model").rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_two_processes(env: dict[str, str], training_recipe: Recipe, tmp_path: Path) -> None:
    short = {"stages": [STAGES[0] | {"steps": 2}], "validation": {"share": 0.0}}
    recipe = written(training_recipe, tmp_path, **short)
    start = command(recipe, "--out", tmp_path / "run")
    start[1:2] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(start, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("forecast: ") == 1, "one of them speaks"
    steps = [line["overall"] for line in lines(tmp_path / "run" / METRICS) if line["kind"] == "step"]
    assert steps == [1, 2]


def test_a_dry_run_trains_nothing(here: None, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(str(recipe), tmp_path / "run", dry_run=True)
    said = capsys.readouterr().out
    assert "forecast: " in said
    assert "Nothing was trained" in said
    assert not (tmp_path / "run").exists()


def test_a_folder_serves_one_run_at_a_time(here: None, recipe: Path, tmp_path: Path) -> None:
    with alone(tmp_path / "run"), pytest.raises(FolderInUse, match=r"another run is training in .*give another --out"):
        train(str(recipe), tmp_path / "run")


def test_the_command_line_stays_quick() -> None:
    """It asks for torch only when something is trained."""
    code = (
        "import sys, pipeline.train.command; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_the_gate(here: None, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the bases that are built in; where it fails the exit code says so."""
    overfit(dataset, rows=4, steps=80)
    assert "passed" in capsys.readouterr().out
    with pytest.raises(typer.Exit) as ended:
        overfit(dataset, rows=4, steps=3)
    assert ended.value.exit_code == 1
    assert "failed" in capsys.readouterr().out


def test_the_flow_leaves_artifacts(flow: Flow) -> None:
    assert (flow.out / "model" / "config.json").is_file()
    assert flow.tasks == ["preflight", "training"]
    assert flow.artifacts.keys() == {"tiny-training", "tiny-validations", "tiny-progress"}
    assert float(flow.artifacts["tiny-progress"]) == 100
    assert "| adapter |" in flow.artifacts["tiny-training"]
    assert len(json.loads(flow.artifacts["tiny-validations"])) == 5
