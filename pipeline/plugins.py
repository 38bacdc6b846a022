"""Plugins: the file name is the registry.

`load("readers", "kaldi")` gives the one public class that `pipeline/readers/kaldi.py` defines.
Adding a plugin is adding a file.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

_TRIES = 5  # of an import that another thread disturbs


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class UnknownPlugin(ValueError):
    """No plugin of that name; the message lists those that there are."""


def require(module: str, *, extra: str, what: str) -> Any:
    """Imports a module of an optional dependency.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{what} needs the package {module.split('.')[0]!r}, which is not installed ({error}): "
            f"pip install 'earwitness[{extra}]'"
        ) from error


def nearest(name: str, names: list[str]) -> str:
    """` Did you mean 'x'?`, or nothing when no name is near."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def names(kind: str) -> list[str]:
    """All plugins of a kind, sorted."""
    package = importlib.import_module(f"pipeline.{kind}")
    found = (m.name for m in pkgutil.iter_modules(package.__path__))
    return sorted(n for n in found if n not in ("base", "command") and not n.startswith("_"))


def load(kind: str, name: str) -> type[Any]:
    """The class of a plugin.

    Args:
        kind: A folder of `pipeline/`: readers, tasks, llm, tts, filters, ...
        name: A file in it, without `.py`.

    Raises:
        UnknownPlugin: There is no such file.
        MissingExtra: Its module needs a package that is not installed.
    """
    known = names(kind)
    if name not in known:
        raise UnknownPlugin(f"{kind} has no {name!r}.{nearest(name, known)} There are: {', '.join(known)}")
    return _public_class(_imported(f"pipeline.{kind}.{name}"))


def _imported(name: str) -> ModuleType:
    """A module. pydantic parses it for what its options say of themselves, and Prefect's threads parse, too.

    CPython 3.11 counts the depth of all that is being parsed as one, and of two threads one can fail at any time:
    github.com/python/cpython/issues/106905. What failed is not kept, and is imported anew.
    """
    for _ in range(_TRIES - 1):
        try:
            return importlib.import_module(name)
        except SystemError as error:
            if "recursion depth mismatch" not in str(error):
                raise
    return importlib.import_module(name)


def _public_class(module: ModuleType) -> type[Any]:
    own = [
        value
        for label, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not label.startswith("_")
    ]
    marked = [c for c in own if getattr(c, "is_plugin", False)]
    assert len(marked) == 1, f"{module.__name__} must define exactly one plugin, not {marked}"
    return marked[0]
