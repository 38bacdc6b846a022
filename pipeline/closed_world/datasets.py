"""Datasets: the recipes by which the shipped flow makes the closed world's rows, one for training and one a condition.

A test differs from training in what its name says; and no test has a sentence, or a call with all its arguments, that
training has.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.closed_world import voices
from pipeline.closed_world.texts import (
    MIX,
    MOST_TOOLS,
    PROMPTS,
    SEED,
    SEEN,
    TEMPLATES,
    TEST,
    VALUES,
    World,
    babble,
    generator,
)

TRAIN = "training"
CONDITIONS = {
    "unseen_voices": "unseen voices",
    "klatt": "an unseen synthesiser (Klatt)",
    "unseen_templates": "unseen templates",
    "unseen_values": "unseen argument values",
}
"""Of the tests, by the names of their datasets."""
_DRAWS = 4  # for each text that is wanted: some come twice
_CATALOGUE_OF = {"unseen_templates": TEMPLATES, "unseen_values": VALUES}


@dataclass(frozen=True)
class DataSize:
    """How many rows the datasets have."""

    queries: int = 5000
    """Conversations of training."""
    sentences: int = 5000
    """Rows of transcription of training."""
    test_queries: int = 100
    """Of each test."""
    test_sentences: int = 60


def write_recipes(folder: Path, world: World, size: DataSize) -> dict[str, Path]:
    """Writes the recipes, and the sentences and prompts that they name.

    Args:
        folder: Where the catalogues lie in `catalogues`.
        world: Draws the sentences.
        size: Of the datasets.

    Returns:
        Recipes by the names of their datasets.
    """
    shutil.copytree(PROMPTS, folder / "prompts", dirs_exist_ok=True)
    (folder / "text").mkdir(parents=True, exist_ok=True)
    return {name: _write(folder, name, recipe) for name, recipe in _recipes(folder, world, size)}


def _write(folder: Path, name: str, recipe: Mapping[str, Any]) -> Path:
    path, text = folder / f"{name}.yaml", StringIO()
    YAML(typ="safe", pure=True).dump(dict(recipe), text)
    path.write_text(text.getvalue(), "utf-8")
    return path


def _recipes(folder: Path, world: World, size: DataSize) -> Iterator[tuple[str, dict[str, Any]]]:
    _lines(folder, TRAIN, _sentences(world, size.sentences))
    yield TRAIN, _recipe(TRAIN, SEEN, "train", size.queries, voices.listed_voices())
    for name in CONDITIONS:
        which = _CATALOGUE_OF.get(name, SEEN)
        said = world.requests(name, _DRAWS * size.test_sentences, which, test=True)
        _lines(folder, name, _distinct(said, size.test_sentences))
        spoken = voices.klatt_voices() if name == "klatt" else voices.unseen_voices()
        yield name, _recipe(name, which, "test", size.test_queries, spoken)


def _sentences(world: World, count: int) -> list[str]:
    """Requests, and some words in no order, so that transcription is more than knowing the grammar."""
    rng = generator("sentences")
    loose = _distinct((babble(rng) for _ in range(count)), count // 6)
    return _distinct(world.requests("sentences", _DRAWS * count), count - len(loose)) + loose


def _distinct(texts: Iterable[str], count: int) -> list[str]:
    return list(islice(dict.fromkeys(texts), count))


def _lines(folder: Path, name: str, texts: Iterable[str]) -> None:
    (folder / "text" / f"{name}.en.txt").write_text("\n".join(texts) + "\n", "utf-8")


def _recipe(name: str, which: str, split: str, queries: int, speakers: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"The closed world: {CONDITIONS.get(name, name)}. Never to be mixed with other figures.",
        "seed": SEED,
        "corpora": [
            {"reader": "sentences", "name": "sentences", "path": f"text/{name}.en.txt", "split": split},
            {
                "reader": "tool_queries",
                "name": f"tools-{name}",
                "path": f"catalogues/{which}",
                "queries": queries,
                "languages": ["en"],
                "split": split,
            },
        ],
        "tts": {"engine": "espeak", "only_voices": speakers, "rate": list(voices.RATE), "pitch": list(voices.PITCH)},
        "prompts": "prompts",
        "tasks": {"transcription": {}, "tool_grammar": {"mix": dict(MIX), "most_tools": MOST_TOOLS}},
        # Words in no order are no language, and the same few requests are asked again and again on purpose.
        "filters": {"duplicates": False, "language": False},
        "split": {"test": TEST},
        "shards": {"utterances": 512},
    }
