"""Setup: a training recipe, checked with all that it names before any work is done."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import xxhash
from ruamel.yaml import YAML

from pipeline import mirror, plugins, recipes, shards
from pipeline.recipes import Document, Problems, RecipeError
from pipeline.train import bases, batches
from pipeline.train.checkpoints import differences
from pipeline.train.rows import DataError, Rows
from pipeline.weights import content_of
from schemas.manifest import DatasetManifest
from schemas.training import ModelSpec, TrainingRecipe

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "training"
RECIPE, RUN = "recipe.yaml", "run.json"  # in the run's folder

Keys = tuple[int | str, ...]
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NOT_SHAPING: Any = {
    **dict.fromkeys(("name", "description", "data", "model", "checkpoints"), True),
    # How it is computed, not what.
    **dict.fromkeys(("compile", "sharding", "gradient_checkpointing"), True),
    "batches": {"workers", "cache_encoder"},
}
_PACKAGES = ("earwitness", "torch", "transformers", "peft", "accelerate", "numpy")


class Setup:
    """A training recipe, checked.

    Args:
        document: The recipe's file.
        recipe: As it stands there.

    Raises:
        RecipeError: Names file, line, key, value and what is expected, of all that is wrong.
    """

    def __init__(self, document: Document, recipe: TrainingRecipe) -> None:
        self._document, self._problems = document, Problems()
        self.datasets: dict[str, DatasetManifest] = {}
        data = [spec.model_copy(update={"path": self._dataset(n, spec.path)}) for n, spec in enumerate(recipe.data)]
        self.recipe = recipe.model_copy(update={"data": data, "model": self._model(recipe.model)})
        self._check_stages()
        self._check_rest()
        self._problems.tell()

    @property
    def path(self) -> Path:
        """The recipe's file."""
        return self._document.path

    def complain(self, keys: Keys, text: str) -> RecipeError:
        """An error at a key of the recipe."""
        return self._document.complain(keys, text)

    def _dataset(self, number: int, path: str) -> str:
        at: Keys = ("data", number, "path")
        with self._problems:
            try:
                folder = self._document.resolve(path, at)
            except RecipeError as error:
                raise RecipeError(f"{error}. `--data FOLDER` names another dataset") from error
            if folder in self.datasets:
                raise self.complain(at, f"{folder} is named twice: give it a `weight` instead")
            self.datasets[folder] = self._manifest(mirror.folder(folder), at)
            return folder
        return path

    def _manifest(self, folder: Path, at: Keys) -> DatasetManifest:
        try:
            return Rows([folder]).manifests[0]
        except DataError as error:
            raise self.complain(at, str(error)) from error

    def _model(self, spec: ModelSpec) -> ModelSpec:
        given = self._document.values["model"]
        if spec.ready:
            with self._problems:
                if "adapter" in given:
                    raise self.complain(("model", "adapter"), "a `ready` model brings its own: leave it out")
            return spec.model_copy(update={"ready": self._base(spec.ready, ("model", "ready"), ())})
        encoders = [self._base(n, ("model", "encoders", i), bases.ENCODERS) for i, n in enumerate(spec.encoders)]
        named: dict[str, Any] = {"encoders": encoders, "llm": self._base(spec.llm, ("model", "llm"), bases.LLMS)}
        with self._problems:
            named["adapter"] = self._adapter(dict(spec.adapter))
        for name in spec.revision:
            with self._problems:
                if name not in (*spec.encoders, spec.llm, spec.ready):
                    raise self.complain(("model", "revision", name), "no part of the model has this id")
        return spec.model_copy(update=named)

    def _base(self, name: str, at: Keys, builtin: Sequence[str]) -> str:
        """A base by its full name: a folder's path, an id on the Hub or a built-in one."""
        with self._problems:
            if name.startswith(bases.BUILTIN):
                if name not in builtin:
                    there = f" There are: {', '.join(builtin)}" if builtin else " None can stand here"
                    raise self.complain(at, f"no base {name!r} is built in.{there}")
                return name
            local = name.startswith((".", "/", "~", "$")) or (self.path.parent / name).is_dir()
            if not local:
                if not _HUB.fullmatch(name):
                    raise self.complain(at, f"{name!r} is neither a folder nor an id on the Hub, OWNER/NAME")
                return name
            folder = self._document.resolve(name, at)
            if not (Path(folder) / "config.json").is_file():
                raise self.complain(at, f"{folder} is no model of transformers: config.json is not in it")
            return folder
        return name

    def _adapter(self, values: dict[str, Any]) -> dict[str, Any]:
        at: Keys = ("model", "adapter")
        kind = values.pop("kind", None)
        if not isinstance(kind, str):
            there = f"; there are: {', '.join(plugins.names('model.adapters'))}"
            raise self._document.missing("kind", values, at, there)
        plugins.require("torch", extra="train", what="training")
        model = self._document.plugin("model.adapters", kind, (*at, "kind")).options_model
        return {"kind": kind, **self._document.check(model, values, at).model_dump()}

    def _check_stages(self) -> None:
        there = sorted({task for manifest in self.datasets.values() for task in manifest.tasks})
        for number, stage in enumerate(self.recipe.stages):
            at: Keys = ("stages", number)
            for task in stage.tasks or {} if self.datasets else {}:
                with self._problems:
                    if task not in there:
                        hint = f"{plugins.nearest(task, there)} There are: {', '.join(there)}"
                        raise self.complain((*at, "tasks", task), f"no row of the data is of this task.{hint}")
            for part in stage.learning_rates:
                with self._problems:
                    if part not in stage.trains:
                        text = f"the stage does not train it; `trains` has: {', '.join(stage.trains)}"
                        raise self.complain((*at, "learning_rates", part), text)
            with self._problems:
                if stage.steps is not None and stage.warmup >= stage.steps:
                    text = f"{stage.warmup} steps of warm-up in a stage of {stage.steps}: lower it"
                    raise self.complain((*at, "warmup"), text)
            for key in ("patience", "until"):
                with self._problems:
                    if getattr(stage, key) is not None and not self.recipe.validation.share:
                        raise self.complain((*at, key), "nothing is validated on: raise `validation.share` above 0")

    def _check_rest(self) -> None:
        recipe = self.recipe
        with self._problems:
            if recipe.validation.decode > recipe.validation.rows:
                text = f"{recipe.validation.decode} rows are to be decoded of {recipe.validation.rows} (`rows`)"
                raise self.complain(("validation", "decode"), text)
        with self._problems:
            training = [s.name for s in recipe.stages if {"encoder", "encoder_lora"} & set(s.trains)]
            if recipe.batches.cache_encoder is True and training:
                text = f"the encoder changes while {training[0]!r} trains it: set it to auto or false"
                raise self.complain(("batches", "cache_encoder"), text)

    @cached_property
    def shaping(self) -> dict[str, Any]:
        """All that the trained weights follow from, as plain values."""
        spec = self.recipe.model
        identity = {
            name: bases.identity(name)
            if name.startswith(bases.BUILTIN)
            else content_of(name) or f"{name}@{spec.revision.get(name, '')}"
            for name in (*spec.encoders, spec.llm, spec.ready)
            if name
        }
        parts = {
            "encoders": [identity[name] for name in spec.encoders],
            "llm": identity.get(spec.llm, ""),
            "ready": identity.get(spec.ready, ""),
            "adapter": {} if spec.ready else spec.adapter,
        }
        data = [
            {"dataset": _content(self.datasets[spec.path]), "weight": spec.weight, "place": number}
            for number, spec in enumerate(self.recipe.data)
        ]
        rest = self.recipe.model_dump(mode="json", exclude=_NOT_SHAPING)
        versions = {"version": _version("earwitness"), "batches_version": batches.VERSION}
        return {**versions, "model": parts, "data": data, **rest}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of `shaping`: a checkpoint of another one is refused."""
        return xxhash.xxh3_128_hexdigest(orjson.dumps(self.shaping, option=orjson.OPT_SORT_KEYS))

    def refuse_foreign(self, out: Path) -> None:
        """One folder, one run.

        Raises:
            RecipeError: The folder holds the run of another recipe, and the message says what differs; or
                files that are no run.
        """
        try:
            held = json.loads((out / RUN).read_bytes())
            known, before = str(held["fingerprint"]), dict(held["shaping"])
        except FileNotFoundError:
            ours = bases.FOLDER  # of a run that has not begun
            there = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
            foreign = [name for name in there if name != ours and not name.startswith(".")]
            if foreign:
                raise RecipeError(f"{out} holds {foreign[0]} and is no training run: give another --out") from None
            return
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{out / RUN} is damaged ({error}): give another --out") from error
        if known != self.fingerprint:
            differing = "; ".join(differences(before, self.shaping)) or "the version of its fingerprint"
            raise RecipeError(
                f"{out} holds a run of another recipe; these differ: {differing}. "
                "Give another --out, or take back the change to go on with that run"
            )

    def write(self, out: Path) -> None:
        """Puts the resolved recipe into the run's folder, and what it is known by."""
        resolved = self.recipe.model_dump(mode="json")
        if self.recipe.model.ready:
            del resolved["model"]["adapter"]
        text = StringIO()
        text.write(f"# Resolved from {self.path.name}; fingerprint {self.fingerprint}\n")
        YAML().dump(resolved, text)
        packages = {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()}
        run = {"fingerprint": self.fingerprint, "shaping": self.shaping, "packages": packages}
        shards.write_atomically(out / RECIPE, text.getvalue().encode())
        shards.write_atomically(out / RUN, json.dumps(run, indent=1).encode())


def _content(manifest: DatasetManifest) -> str:
    """What tells a dataset's train rows from others, wherever they lie."""
    files = [file.digest for file in manifest.splits["train"].shards]
    return f"{manifest.name} {xxhash.xxh3_128_hexdigest(' '.join((manifest.fingerprint, *files)).encode())}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def prepare(recipe: str, data: Sequence[Path] = ()) -> Setup:
    """A training recipe as a checked setup.

    Args:
        recipe: Its file, or the name of a shipped one.
        data: Folders of datasets in place of those that the recipe names.

    Raises:
        RecipeError: Names file, line, key, value and what is expected.
        MissingExtra: Torch is not installed.
    """
    document = Document(recipes.find(recipe, SHIPPED))
    values = document.values
    if data:
        values = values | {"data": [{"path": folder.absolute().as_posix()} for folder in data]}
    return Setup(document, document.check(TrainingRecipe, values, ()))
