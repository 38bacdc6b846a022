"""Training recipes: what ships loads, and whatever is wrong with one is told with file, line, key, value and cure."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline import plugins, recipes
from pipeline.recipes import RecipeError
from pipeline.train import bases, setup
from pipeline.train.setup import Setup, prepare
from schemas.training import TrainingRecipe

GOOD = """\
name: good
data:
  - path: DATASET
model:
  encoders: [BASES/whisper]
  adapter: {kind: stack}
  llm: BASES/qwen2
stages:
  - name: adapter
    trains: [adapter]
    tasks: {transcription: 1}
    warmup: 2
    steps: 10
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, dataset: Path, bases: Path) -> Write:
    """The good recipe with one text replaced."""

    def change(text: str = "", by: str = "", name: str = "recipe.yaml") -> Path:
        assert text in GOOD
        content = GOOD.replace(text, by) if text else GOOD
        place = tmp_path / name
        place.write_text(content.replace("DATASET", str(dataset)).replace("BASES", str(bases)))
        return place

    return change


@pytest.mark.parametrize("name", sorted(recipes.shipped(setup.SHIPPED)))
def test_what_ships_loads(name: str, dataset: Path) -> None:
    made = prepare(name, [dataset])
    assert made.recipe.name == name
    assert made.recipe.description
    assert made.path.read_text().startswith("# ")


def test_the_reference_names_every_key() -> None:
    text = (setup.SHIPPED / "reference.yaml").read_text()

    def keys(model: type[BaseModel]) -> set[str]:
        found = set(model.model_fields)
        for field in model.model_fields.values():
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found |= keys(kind)
        return found

    lacking = {key for key in keys(TrainingRecipe) if not re.search(rf"\b{key}:", text)}
    assert not lacking
    assert all(kind in text for kind in plugins.names("model.adapters"))


def test_a_good_recipe(write: Write, dataset: Path, bases: Path) -> None:
    made = prepare(str(write()))
    assert made.recipe.data[0].path == str(dataset)
    assert made.recipe.model.llm == str(bases / "qwen2")
    assert made.recipe.model.adapter["weighted_layers"] is False


CASES: list[tuple[str, str, str, list[str]]] = [
    ("unknown key", "stages:", "stagse:", [":8: stagse: unknown key. Did you mean 'stages'?", "stages: is missing"]),
    ("unknown nested key", "    warmup: 2", "    warm_up: 2", [":12: stages.0.warm_up: unknown key", "'warmup'"]),
    ("a part", "trains: [adapter]", "trains: [adaptor]", [":10: stages.0.trains.0:", "not 'adaptor'"]),
    ("no end", "    steps: 10\n", "", [":9: stages.0: exactly one of `steps` and `epochs` is needed"]),
    ("two bounds", "steps: 10", "steps: 10\n    epochs: 1", ["exactly one of `steps` and `epochs`"]),
    ("long warm-up", "warmup: 2", "warmup: 10", [":12: stages.0.warmup: 10 steps of warm-up in a stage of 10"]),
    ("task", "{transcription: 1}", "{transcribe: 1}", [":11: stages.0.tasks.transcribe: no row", "'transcription'?"]),
    ("rate", "warmup: 2", "warmup: 2\n    learning_rates: {lora: 1e-4}", ["learning_rates.lora: the stage does not"]),
    ("data not there", "path: DATASET", "path: ./nowhere", [":3: data.0.path:", "nowhere does not exist", "--data"]),
    ("a variable", "path: DATASET", "path: $NO_SUCH_SET", [":3: data.0.path:", "NO_SUCH_SET", "is not set", "--data"]),
    ("no dataset", "path: DATASET", "path: BASES", [":3: data.0.path:", "no dataset of ours"]),
    ("twice", "- path: DATASET", "- path: DATASET\n  - path: DATASET", [":4: data.1.path:", "named twice", "weight"]),
    ("adapter", "kind: stack", "kind: stak", [":6: model.adapter.kind: model.adapters has no 'stak'", "'stack'?"]),
    (
        "its option",
        "kind: stack",
        "kind: stack, weighted: true",
        [":6: model.adapter.weighted: unknown", "'weighted_l"],
    ),
    ("no kind", "kind: stack", "knd: stack", [":6: model.adapter: `kind` is missing (is `knd` a slip?)", "conv"]),
    ("model not there", "llm: BASES/qwen2", "llm: ./qwen", [":7: model.llm:", "does not exist"]),
    ("no model", "llm: BASES/qwen2", "llm: DATASET", [":7: model.llm:", "no model of transformers: config.json"]),
    ("no id", "llm: BASES/qwen2", "llm: a b/c", [":7: model.llm: 'a b/c' is neither a folder nor an id on the Hub"]),
    (
        "built in",
        "[BASES/whisper]",
        "['builtin:tiny-whispr']",
        [":5: model.encoders.0: no base", "builtin:tiny-whisper"],
    ),
    ("its place", "llm: BASES/qwen2", "llm: builtin:tiny-whisper", [":7: model.llm: no base", "builtin:tiny-llm"]),
    ("revision", "  llm:", "  revision: {a/b: main}\n  llm:", [":7: model.revision.a/b: no part of the model"]),
    ("ready", "  encoders: [BASES/whisper]\n", "  ready: BASES/qwen2\n", [":4: model: give either `ready`, or"]),
    ("decode", "stages:", "validation: {rows: 2, decode: 4}\nstages:", [":8: validation.decode: 4 rows are to be"]),
    ("no YAML", "model:", "model: [", ["recipe.yaml:"]),
]


@pytest.mark.parametrize(("change", "by", "said"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_wrong_is_told(write: Write, change: str, by: str, said: list[str]) -> None:
    path = write(change, by)
    with pytest.raises(RecipeError) as caught:
        prepare(str(path))
    message = str(caught.value)
    assert "recipe.yaml" in message
    for part in said:
        assert part in message, message


def test_all_that_is_wrong_is_told_together(write: Write) -> None:
    path = write("trains: [adapter]", "trains: [adapter, encoder]\n    patience: 2")
    content = path.read_text() + "validation: {share: 0, decode: 900}\nbatches: {cache_encoder: true}\n"
    path.write_text(content.replace("kind: stack", "kind: stak"))
    with pytest.raises(RecipeError) as caught:
        prepare(str(path))
    told = str(caught.value).splitlines()
    assert len(told) == 4
    for key in ("model.adapter.kind", "stages.0.patience", "validation.decode", "batches.cache_encoder"):
        assert any(key in line for line in told)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'speachverse'.*Did you mean 'speechverse'\?"):
        prepare("speachverse")


class TestFingerprint:
    """It follows from what shapes the weights, and from nothing else."""

    @pytest.mark.parametrize(
        ("change", "by", "same"),
        [
            ("name: good", "name: other", True),
            ("stages:", "batches: {workers: 0}\nstages:", True),
            ("stages:", "checkpoints: {every: 3}\nsharding: fsdp2\ncompile: true\nstages:", True),
            ("kind: stack", "kind: stack, weighted_layers: false", True),
            ("kind: stack", "kind: stack, weighted_layers: true", False),
            ("stages:", "seed: 1\nstages:", False),
            ("stages:", "batches: {tokens: 256}\nstages:", False),
            ("warmup: 2", "warmup: 3", False),
            ("path: DATASET", "path: DATASET\n    weight: 2", False),
        ],
    )
    def test_of_changes(self, write: Write, change: str, by: str, same: bool) -> None:
        one, other = prepare(str(write())), prepare(str(write(change, by, "other.yaml")))
        assert (one.fingerprint == other.fingerprint) is same

    def test_of_other_weights_under_the_same_name(self, write: Write, bases: Path, tmp_path: Path) -> None:
        from pipeline.model import tiny

        tiny.encoder(tmp_path / "whisper", seed=5)
        other = prepare(str(write("BASES/whisper", f"{tmp_path}/whisper")))
        shutil.copytree(bases / "whisper", tmp_path / "copy")
        same = prepare(str(write("BASES/whisper", f"{tmp_path}/copy")))
        assert same.fingerprint == prepare(str(write())).fingerprint
        assert other.fingerprint != prepare(str(write())).fingerprint

    def test_wherever_the_data_lies(self, write: Write, dataset: Path, tmp_path: Path) -> None:
        (tmp_path / "moved").symlink_to(dataset)
        assert prepare(str(write()), [tmp_path / "moved"]).fingerprint == prepare(str(write())).fingerprint


class TestFolder:
    """One folder, one run."""

    def made(self, write: Write, **changes: str) -> Setup:
        return prepare(str(write(**changes)))

    def test_the_same_recipe_goes_on(self, write: Write, tmp_path: Path) -> None:
        one = self.made(write)
        one.refuse_foreign(tmp_path / "run")
        one.write(tmp_path / "run")
        self.made(write, text="name: good", by="name: other").refuse_foreign(tmp_path / "run")

    def test_another_is_refused_with_what_differs(self, write: Write, tmp_path: Path) -> None:
        self.made(write).write(tmp_path / "run")
        other = self.made(write, text="steps: 10", by="steps: 20")
        with pytest.raises(RecipeError, match=r"these differ: stages\.0\.steps was 10 and is 20\. Give another --out"):
            other.refuse_foreign(tmp_path / "run")

    def test_what_is_no_run_is_refused(self, write: Write, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"holds recipe\.yaml and is no training run"):
            self.made(write).refuse_foreign(tmp_path)

    def test_the_resolved_recipe_is_a_recipe(self, write: Write, tmp_path: Path) -> None:
        one = self.made(write)
        one.write(tmp_path / "run")
        again = prepare(str(tmp_path / "run" / setup.RECIPE))
        assert again.recipe == one.recipe
        assert json.loads((tmp_path / "run" / setup.RUN).read_text())["fingerprint"] == again.fingerprint


def test_builtin_bases_are_made_once(dataset: Path, tmp_path: Path) -> None:
    recipe = prepare("tiny", [dataset]).recipe
    placed = bases.place(recipe, tmp_path)
    names = [*placed.model.encoders, placed.model.llm]
    assert all(Path(name).is_relative_to(tmp_path) for name in names)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert bases.place(recipe, tmp_path) == placed
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    tokenizer: dict[str, Any] = json.loads((Path(placed.model.llm) / "tokenizer.json").read_text())
    assert "Ġlamp" in tokenizer["model"]["vocab"]  # it has read the rows


def test_yaml_gives_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    YAML().dump({"a": 1}, path)
    path.write_text(
        "name: a\ndata: [{path: x}]\nmodel: {ready: x}\noptimizer: {betas: [0.9, 0.99]}\nstages:\n"
        "  - {name: s, trains: [lora], steps: 9, warmup: 0, learning_rate: 1e-4}\n"
    )
    document = recipes.Document(path)
    recipe = document.check(TrainingRecipe, document.values, ())
    assert recipe.stages[0].learning_rate == 1e-4
    assert recipe.optimizer.betas == (0.9, 0.99)
