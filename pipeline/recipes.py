"""Recipes: from a YAML file to checked plugins, or to an error that says what to change."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline import plugins, storage
from schemas.recipe import Recipe

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "recipes"


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names file, line, key, value and what was expected."""


class Problems:
    """What is wrong with a recipe: `with problems:` goes on after an error, so that all are told together."""

    def __init__(self) -> None:
        self._found: list[BaseException] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, (RecipeError, plugins.MissingExtra)):
            return False
        self._found.append(error)
        return True

    def tell(self) -> None:
        """Nothing, if nothing is wrong.

        Raises:
            RecipeError, MissingExtra: The one error, or all of them in one.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            raise RecipeError("\n".join(dict.fromkeys(map(str, self._found))))


def shipped(folder: Path = SHIPPED) -> dict[str, Path]:
    """The recipes that come with the project, by name."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(recipe: str, folder: Path = SHIPPED) -> Path:
    """A recipe's file from its path or from the name of one that ships in a folder.

    Raises:
        RecipeError: There is neither.
        StoreError: It is a URL.
    """
    path = storage.on_disk(recipe).expanduser()
    if path.is_file():
        return path
    known = shipped(folder)
    if recipe in known:
        return known[recipe]
    hint = plugins.nearest(recipe, list(known)) or f" Shipped are: {', '.join(known)}"
    raise RecipeError(f"there is no recipe {recipe!r}, neither as a file nor among the shipped ones.{hint}")


class Document:
    """A recipe's file: its content, and where each key stands in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = YAML().load(path.read_text(encoding="utf-8"))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            text = (error.problem or str(error)).strip()
            raise RecipeError(f"{path}{line}: {text}") from error
        except (YAMLError, UnicodeDecodeError, OSError) as error:
            raise RecipeError(f"{path}: {error}") from error
        except RecursionError as error:
            raise RecipeError(f"{path}: it is nested too deep") from error
        if not isinstance(content, CommentedMap):
            raise RecipeError(f"{path}: a recipe is a mapping of keys to values")
        self._content = content

    @cached_property
    def values(self) -> dict[str, Any]:
        """The content as plain values."""
        plain = _plain(self._content)
        assert isinstance(plain, dict)
        return plain

    def where(self, keys: tuple[int | str, ...]) -> str:
        """`file:line` of a key, or of the nearest one above it that the file has."""
        node: Any = self._content
        line = None
        for key in keys:
            if isinstance(node, CommentedMap) and key in node:
                line = node.lc.key(key)[0]
            elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
                line = node.lc.item(key)[0]
            else:
                break
            node = node[key]
        return f"{self.path}" if line is None else f"{self.path}:{line + 1}"

    def complain(self, keys: tuple[int | str, ...], text: str) -> RecipeError:
        """An error at a key."""
        name = ".".join(map(str, keys))
        return RecipeError(f"{self.where(keys)}: {name}: {text}" if name else f"{self.path}: {text}")

    def check(self, model: type[BaseModel], values: Mapping[str, Any], at: tuple[int | str, ...]) -> Any:
        """The values as an instance of a model.

        Raises:
            RecipeError: One that names every wrong key.
        """
        try:
            return model.model_validate(dict(values))
        except ValidationError as error:
            problems = [self.complain((*at, *_location(e)), _say(e, model)) for e in error.errors()]
            raise RecipeError("\n".join(map(str, problems))) from error

    def missing(self, key: str, given: Iterable[str], at: tuple[int | str, ...], expected: str) -> RecipeError:
        """An error about a key that is not there, but perhaps misspelt."""
        slip = difflib.get_close_matches(key, list(given), n=1, cutoff=0.6)
        hint = f" (is `{slip[0]}` a slip?)" if slip else ""
        return self.complain(at, f"`{key}` is missing{hint}{expected}")

    def resolve(self, path: str, at: tuple[int | str, ...], *, exists: bool = True) -> str:
        """A path of the recipe: `~` and `$NAME` replaced, relative ones taken from the recipe's folder.

        A URL is only written in its one form: whether something is there is seen when it is read.

        Raises:
            RecipeError: It is not there, or a variable is not set.
        """
        expanded = os.path.expandvars(os.path.expanduser(path))
        if unset := re.search(r"\$\{?(\w+)", expanded):
            raise self.complain(at, f"the environment variable {unset[1]} of {path!r} is not set")
        if storage.is_url(expanded):
            try:
                return str(storage.place(expanded))
            except storage.StoreError as error:
                raise self.complain(at, str(error)) from error
        full = (self.path.parent / expanded).absolute()
        normal = Path(os.path.normpath(full))
        if exists and not normal.exists():
            raise self.complain(at, f"{normal} does not exist")
        return normal.as_posix()

    def plugin(self, kind: str, name: str, at: tuple[int | str, ...]) -> type[Any]:
        """The class of a plugin that the recipe names."""
        try:
            return plugins.load(kind, name)
        except plugins.UnknownPlugin as error:
            raise self.complain(at, str(error)) from error


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):  # ruamel's scalars remember how they were written
        if isinstance(node, kind):
            return kind(node)
    return node


def _location(error: Any) -> tuple[int | str, ...]:
    ours = ("function-", "literal[", "[key]")  # pydantic's own steps, which are not in the file
    return tuple(key for key in error["loc"] if isinstance(key, int) or not key.startswith(ours))


_KINDS = {
    **dict.fromkeys(("dict_type", "mapping_type", "model_type"), "a mapping (`key: value`)"),
    "list_type": "a list (`[one, another]`)",
}
"""What is said in YAML's words."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def _say(error: Any, model: type[BaseModel]) -> str:
    given = error.get("input")
    if error["type"] == "extra_forbidden":
        known = list(_model_at(model, error["loc"][:-1]).model_fields)
        name = str(error["loc"][-1])
        return f"unknown key.{plugins.nearest(name, known)} Known are: {', '.join(known)}"
    if error["type"] == "missing":
        return "is missing"
    if (kind := _KINDS.get(error["type"])) is not None:
        return f"should be {kind}, not {_SHORT.repr(given)}"
    message = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    # Our own validators say what is wrong themselves, and some must not repeat the value.
    if error["type"] == "value_error":
        return message.removeprefix("value error, ")
    return f"{message}, not {_SHORT.repr(given)}"


def _model_at(model: type[BaseModel], keys: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of what stands at some keys of another."""
    for key in keys:
        field = model.model_fields.get(str(key))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return model


def load(path: Path) -> tuple[Document, Recipe]:
    """Reads a recipe's file and checks its own keys; `pipeline.setup.prepare` checks the plugins'.

    Raises:
        RecipeError: The file is no recipe.
    """
    document = Document(path)
    return document, document.check(Recipe, document.values, ())
