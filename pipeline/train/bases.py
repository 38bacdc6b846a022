"""Bases: the built-in ones, of random weights, which a recipe names in place of models of the Hub.

Nothing is downloaded, and nothing is known by them: a recipe shows with them that it runs, and the overfit gate
that it learns.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline import inspect, mirror, shards
from pipeline.model import tiny
from schemas.training import TrainingRecipe

BUILTIN = "builtin:"
ENCODERS = tuple(f"{BUILTIN}tiny-{kind.replace('_', '-')}" for kind in tiny.ENCODERS)
LLMS = (f"{BUILTIN}tiny-llm",)
FOLDER = "bases"  # of the run's folder

_WIDTH = 128
_VOCABULARY = 1024
_TEXTS = 20_000  # rows that the tokenizer is trained on, at most


def identity(name: str) -> str:
    """What tells a built-in base from one of the same name that an older version of this program made."""
    return f"{name} {_WIDTH}x{_VOCABULARY}"


def place(recipe: TrainingRecipe, out: Path) -> TrainingRecipe:
    """The recipe with folders in place of built-in names; what is lacking there is made.

    Args:
        recipe: With paths of datasets that are there.
        out: The run's folder.
    """
    spec = recipe.model
    names = [name for name in (*spec.encoders, spec.llm) if name.startswith(BUILTIN)]
    if not names:
        return recipe
    paths = {name: (out / FOLDER / name.removeprefix(BUILTIN)).absolute().as_posix() for name in names}
    for name, folder in paths.items():
        make(name, Path(folder), _texts(recipe))
    named = {"encoders": [paths.get(n, n) for n in spec.encoders], "llm": paths.get(spec.llm, spec.llm)}
    return recipe.model_copy(update={"model": spec.model_copy(update=named)})


def make(
    name: str,
    folder: Path,
    texts: Iterable[str],
    *,
    width: int = _WIDTH,
    vocabulary: int = _VOCABULARY,
    seed: int = 0,
) -> None:
    """Makes a built-in base in a folder, whole or not at all; nothing where it is there.

    Args:
        name: One of `ENCODERS` or `LLMS`.
        folder: Of the base.
        texts: An LLM's tokenizer is trained on them.
        width: Of the hidden states.
        vocabulary: Tokens at most.
        seed: Of the weights.
    """
    if folder.is_dir():
        return
    from pipeline.model.quiet import quiet  # imports transformers, and names of bases are asked for without it

    begun = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(begun, ignore_errors=True)
    with quiet():
        if name in LLMS:
            tiny.llm(begun, texts, vocabulary=vocabulary, hidden=width, seed=seed)
        else:
            kind = name.removeprefix(f"{BUILTIN}tiny-").replace("-", "_")
            tiny.encoder(begun, kind, hidden=width, seed=seed)
    begun.rename(folder)


def _texts(recipe: TrainingRecipe) -> Iterator[str]:
    """What is said and written in the train rows."""
    folders = [mirror.folder(spec.path) for spec in recipe.data]
    files = ((f, file) for f in folders for file in inspect.load(f).splits["train"].shards)
    rows = (sample for folder, file in files for sample in shards.read(shards.local(folder, file)))
    for sample in itertools.islice(rows, _TEXTS):
        yield from (utterance.transcript for utterance in sample.utterances)
        for message in sample.messages:
            yield message.content
            yield from (call.arguments for call in message.tool_calls)
