"""The closed world: its parts one after another, and beside each other where they do not need each other.

catalogues, recipes -> datasets (the shipped flow) -> ears | tongue -> runs -> evaluations -> report
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.closed_world import datasets, measure, report, runs, texts
from pipeline.closed_world.beside import Work, make_all
from pipeline.closed_world.datasets import CONDITIONS, TRAIN
from pipeline.closed_world.learning import has_bf16
from pipeline.closed_world.parts import Part, Told, fingerprint
from pipeline.closed_world.runs import COMPARED, CURRICULUM
from pipeline.closed_world.sizes import Size
from pipeline.closed_world.texts import World

Build = Callable[[Path, Path], None]
"""Builds the dataset of a recipe in a folder: the shipped flow."""
_HERE = Path(__file__).resolve().parent
_BASES = ("texts.py", "voices.py", "learning.py")
TEST = "unseen_voices"
"""On which the comparisons are measured."""


class ClosedWorld:
    """All parts of one size in a folder.

    Args:
        size: How large everything is.
        out: The folder.
        build: Builds datasets.
        tell: Is told what happens.
        device: As torch names it.
    """

    def __init__(self, size: Size, out: Path, build: Build, tell: Told, device: str = "cpu") -> None:
        self._size, self._out, self._build, self._tell, self._device = size, out, build, tell, device
        self._threads = max(1, (os.cpu_count() or 1) // size.at_once) if device == "cpu" else 0
        self._precision = "bf16" if has_bf16(device) else "fp32"
        self._catalogues = out / "recipes" / "catalogues"
        self._took: dict[str, float] = {}

    def run(self) -> Path:
        """Makes what is not there yet, and writes the report.

        Returns:
            The report's page.
        """
        began = time.monotonic()
        texts.write_catalogues(self._catalogues)
        self._datasets()
        self._make([self._ears(), self._tongue()])
        self._make([self._training(CURRICULUM, None), *(self._training(one.name, one) for one in COMPARED)])
        self._make([*map(self._condition, CONDITIONS), *(self._comparison(one.name) for one in COMPARED)])
        main = {name: measure.read(self._measured(name)) for name in CONDITIONS}
        compared = {one.name: measure.read(self._measured(one.name))["end_to_end"] for one in COMPARED}
        took = dict(self._took)
        found = report.Findings(self._size, main, compared, took, time.monotonic() - began, self._out)
        page = report.write(found)
        self._tell(f"the report: {page}")
        return page

    def _make(self, parts: Iterable[tuple[Part, Work]]) -> None:
        self._took |= make_all(list(parts), self._size.at_once, self._tell)

    def _datasets(self) -> None:
        """Small ones after the large one; the flow itself uses all cores."""
        recipes = self._out / "recipes"
        own = {"size": asdict(self._size.data), "world": self._world()}
        mark = Part("recipes", recipes / "written", fingerprint(own))
        self._took |= {"recipes": mark.make(lambda _: self._write_recipes(recipes), self._tell)}
        for name in (TRAIN, *CONDITIONS):
            recipe = recipes / f"{name}.yaml"
            state = fingerprint(
                {"name": name}, [recipe, recipes / "text" / f"{name}.en.txt", *texts.WORLD.rglob("*.*")]
            )
            part = Part(f"dataset {name}", self._dataset(name), state)
            self._took |= {part.name: part.make(partial(self._build, recipe), self._tell)}

    def _write_recipes(self, folder: Path) -> None:
        datasets.write_recipes(folder, World(self._catalogues), self._size.data)

    def _ears(self) -> tuple[Part, Work]:
        state = fingerprint({"size": asdict(self._size.ears), "world": self._world()}, _own("ears.py", *_BASES))
        work = partial(make_ears, self._catalogues, self._size, self._threads, self._device)
        return Part("ears", self._out / "ears", state), work

    def _tongue(self) -> tuple[Part, Work]:
        state = fingerprint(
            {"size": asdict(self._size.tongue), "world": self._world()}, _own("tongue.py", "reading.py", *_BASES)
        )
        work = partial(make_tongue, self._catalogues, self._size, self._threads, self._device)
        return Part("tongue", self._out / "tongue", state), work

    def _training(self, name: str, of: runs.Compared | None) -> tuple[Part, Work]:
        data, ears, tongue = self._dataset(TRAIN), self._out / "ears", self._out / "tongue"
        content = runs.recipe(self._size, data, ears, tongue, of, precision=self._precision)
        path = runs.write(self._out / "recipes" / "training" / f"{name}.yaml", content)
        before = [_mark(folder) for folder in (data, ears, tongue)]
        state = fingerprint({"recipe": content, "device": self._device}, before)
        return Part(f"run {name}", self._out / "runs" / name, state), partial(train, path, self._threads, self._device)

    def _condition(self, name: str) -> tuple[Part, Work]:
        return self._evaluation(name, CURRICULUM, name, measure.SYSTEMS, None)

    def _comparison(self, name: str) -> tuple[Part, Work]:
        return self._evaluation(name, name, TEST, ("end_to_end",), self._size.compared)

    def _evaluation(
        self, name: str, run: str, dataset: str, systems: tuple[str, ...], limit: int | None
    ) -> tuple[Part, Work]:
        own: Mapping[str, Any] = {"systems": systems, "limit": limit}
        before = [_mark(self._out / "runs" / run), _mark(self._dataset(dataset))]
        part = Part(f"evaluation {name}", self._measured(name), fingerprint(own, [*before, *_own("measure.py")]))
        work = partial(
            evaluate,
            self._out / "runs" / run / "model",
            self._dataset(dataset),
            ears=self._out / "ears",
            systems=systems,
            limit=limit,
            threads=self._threads,
            device=self._device,
        )
        return part, work

    def _dataset(self, name: str) -> Path:
        return self._out / "datasets" / name

    def _measured(self, name: str) -> Path:
        return self._out / "evaluations" / name

    def _world(self) -> str:
        return fingerprint({}, [path for path in texts.WORLD.rglob("*.*") if path.is_file()])


def _mark(folder: Path) -> Path:
    return Part("", folder, "").mark


def _own(*names: str) -> list[Path]:
    return [_HERE / name for name in names]


# What follows is done in processes of their own.


def make_ears(catalogues: Path, size: Size, threads: int, device: str, folder: Path) -> None:
    """Trains the encoder."""
    from pipeline.closed_world import ears

    set_threads(threads)
    ears.train(folder, catalogues, size.ears, device, partial(print, flush=True), workers=size.speakers)


def make_tongue(catalogues: Path, size: Size, threads: int, device: str, folder: Path) -> None:
    """Trains the LLM."""
    from pipeline.closed_world import tongue

    set_threads(threads)
    tongue.train(folder, catalogues, size.tongue, device, partial(print, flush=True), workers=size.speakers // 2)


def train(recipe: Path, threads: int, device: str, folder: Path) -> None:
    """Trains by a recipe."""
    set_threads(threads)
    if device == "cpu":  # the trainer takes a GPU where there is one
        os.environ["ACCELERATE_USE_CPU"] = "true"
    runs.train(recipe, folder)


def evaluate(model: Path, dataset: Path, folder: Path, **options: Any) -> None:
    """Evaluates a model."""
    set_threads(options["threads"])
    measure.measure(model, dataset, folder, **options)


def set_threads(threads: int) -> None:
    """Of torch, on a CPU that several processes share; 0 leaves them as they are."""
    import torch

    if threads:
        torch.set_num_threads(threads)
