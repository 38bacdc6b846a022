"""The command line, as people type it. What `build` does in full is in test_flow, `corpora` in test_survey."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import recipes
from pipeline.cli import COMMANDS
from tests.building import build
from tests.conftest import ROOT


def earwitness(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    wide = os.environ | {"COLUMNS": "160"} | env
    return subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, timeout=120, check=False)


def fails(*arguments: object, **env: str) -> str:
    done = earwitness(*arguments, **env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    recipe = folder / "small.yaml"
    recipe.write_text(
        f"name: small\ncorpora: [{{reader: jsonl, name: tones, path: {corpus}}}]\n"
        "tasks: {transcription: , keyword_spotting: , emotion: , slots: }\nsplit: {test: 0.3}\nsamples_per_utterance: all\n"
        "filters: {duration: {longest: 3.5}, duplicates: false}\nshards: {utterances: 5}\n"
    )
    build(recipe, folder / "out")
    return folder / "out"


class TestHelp:
    """What a newcomer reads."""

    def test_of_all(self) -> None:
        said = earwitness("--help").stdout
        assert "earwitness build quickstart" in said
        assert all(name in said for name in COMMANDS)

    def test_without_arguments_it_is_the_same(self) -> None:
        assert "Commands" in earwitness().stdout

    @pytest.mark.parametrize("command", sorted(COMMANDS))
    def test_of_each(self, command: str) -> None:
        done = earwitness(command, "--help")
        assert done.returncode == 0
        assert COMMANDS[command].__doc__ is not None
        assert COMMANDS[command].__doc__.split(":")[0].split(".")[0] in " ".join(done.stdout.split())

    def test_an_unknown_command(self) -> None:
        done = earwitness("biuld")
        assert done.returncode == 2
        assert "biuld" in done.stderr


class TestRecipes:
    """`recipes`"""

    def test_lists_all_that_ship(self) -> None:
        said = earwitness("recipes").stdout
        assert all(name in said for name in recipes.shipped())

    def test_paths_are_whole_on_a_narrow_terminal(self) -> None:
        said = earwitness("recipes", COLUMNS="40").stdout
        assert {str(path) for path in recipes.shipped().values()} <= {line.strip() for line in said.splitlines()}


class TestBuild:
    """What is wrong is said before any work."""

    def test_an_unknown_recipe(self) -> None:
        said = fails("build", "quikstart")
        assert "quikstart" in said
        assert "Did you mean" in said
        assert "quickstart" in said

    def test_a_wrong_key(self, tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
        said = fails("build", write_recipe("typo", smaples_per_utterance=2), "--out", tmp_path / "out")
        assert "smaples_per_utterance: unknown key" in said
        assert "samples_per_utterance" in said
        assert not (tmp_path / "out").exists()

    def test_a_variable_that_is_not_set(self) -> None:
        env = {"CORPORA": ""}
        said = fails("build", "spoken_qa", **env)
        assert "does not exist" in said or "not set" in said

    def test_an_output_folder_below_a_file(self, tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
        (tmp_path / "file").touch()
        said = fails("build", write_recipe(), "--out", tmp_path / "file" / "out")
        assert str(tmp_path / "file") in said
        assert "give another --out" in said

    def test_prefect_has_no_place_for_its_records(self, tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
        (tmp_path / "file").touch()
        home = tmp_path / "file" / "home"
        said = fails("build", write_recipe(), "--out", tmp_path / "out", PREFECT_HOME=str(home), PREFECT_API_URL="")
        assert f"{home}: Prefect cannot keep its records here" in said
        assert "set PREFECT_HOME" in said

    def test_prefects_server_does_not_answer(self, tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
        url = "http://127.0.0.1:9/api"
        env = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": url}
        said = fails("build", write_recipe(), "--out", tmp_path / "out", **env)
        assert "Prefect failed" in said
        assert url in said
        assert "PREFECT_API_URL" in said

    def test_a_folder_that_holds_another_dataset(self, dataset: Path, write_recipe: Callable[..., Path]) -> None:
        said = fails("build", write_recipe("other"), "--out", dataset)
        assert "holds the dataset 'small'" in said
        assert "give another --out" in said


class TestInspect:
    """`inspect`"""

    def test_sums_up(self, dataset: Path) -> None:
        said = earwitness("inspect", dataset).stdout
        assert "small: " in said
        assert "set aside" in said
        assert "too_long" in said
        assert "transcription" in said
        assert "hours of source audio by language" in said
        assert "No row of emotion, slots: no utterance fits" in said
        assert "No row of emotion, slots: " in (dataset / "README.md").read_text()

    def test_a_row(self, dataset: Path) -> None:
        said = earwitness("inspect", dataset, "--row", 3).stdout
        assert "row 3" in said
        assert "<|audio|>" in said
        assert "assistant:" in said

    def test_a_rejected_row(self, dataset: Path) -> None:
        said = earwitness("inspect", dataset, "--row", 0, "--rejected").stdout
        assert "too_long" in said

    def test_its_sound(self, dataset: Path, tmp_path: Path) -> None:
        done = earwitness("inspect", dataset, "--row", 0, "--wav", tmp_path / "row.wav")
        assert done.returncode == 0
        with wave.open(str(tmp_path / "row.wav")) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
            assert 1.0 < sound.getnframes() / 16_000 < 3.6

    def test_a_row_that_is_not_there(self, dataset: Path) -> None:
        said = fails("inspect", dataset, "--row", 10_000)
        assert "10000" in said
        assert "rows" in said

    def test_a_row_before_the_first(self, dataset: Path) -> None:
        done = earwitness("inspect", dataset, "--row", -1)
        assert done.returncode == 2
        assert "greater than or equal to 0" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_place_for_its_sound_that_is_not_there(self, dataset: Path, tmp_path: Path) -> None:
        said = fails("inspect", dataset, "--row", 0, "--wav", tmp_path / "none" / "row.wav")
        assert f"{tmp_path / 'none' / 'row.wav'}: No such file or directory" in said
        assert "mend the path" in said

    def test_no_dataset(self, tmp_path: Path) -> None:
        assert str(tmp_path) in fails("inspect", tmp_path)

    def test_verifies(self, dataset: Path, tmp_path: Path) -> None:
        assert "as they were written" in earwitness("inspect", dataset, "--verify").stdout
        shard = next(dataset.glob("train/shard-*.arrow"))
        content = shard.read_bytes()
        middle = len(content) // 2
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        try:
            assert shard.name in fails("inspect", dataset, "--verify")
        finally:
            shard.write_bytes(content)
