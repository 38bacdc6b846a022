"""Results: what a tool gives back, from the catalogue's templates; equal calls give equal results.

Nothing is evaluated: a template is JSON in which `$argument` stands for an argument of the call and
`$draw` for a value that a seed derived from the call draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

from pipeline import seeds
from pipeline.tools.catalogue import Catalogue, Variant, canonical
from pipeline.tools.grammar import Echo
from pipeline.tools.values import Kind, Setting, Value, draw

_NOTHING = Variant("ok", 1.0, {"done": True})
_LEFT_OUT = object()


@dataclass(frozen=True)
class Result:
    """What came back for a call."""

    variant: str
    """Which of the tool's results it is."""
    content: Any
    """JSON."""
    values: Mapping[str, Value]
    """By their places in it: those that were drawn, with their words."""
    echoes: Mapping[str, str]
    """By their places in it: the arguments of the call that it repeats."""

    @property
    def text(self) -> str:
        """As the `tool` message has it."""
        return json.dumps(self.content, ensure_ascii=False)

    def at(self, path: str) -> Any:
        """The JSON at a place such as `rooms.0.name`."""
        found = self.content
        for key in path.split("."):
            found = found[int(key)] if isinstance(found, list) else found[key]
        return found


def simulate(
    catalogue: Catalogue, tool: str, arguments: Mapping[str, Any], setting: Setting, variant: str | None = None
) -> Result:
    """The result of a call.

    Args:
        catalogue: Has the templates.
        tool: The function's name.
        arguments: Of the call.
        setting: Gives language and day; its generator is not used.
        variant: The name of the result that is wanted; drawn by weight if omitted.
    """
    rng = seeds.rng("result", catalogue.name, tool, canonical(arguments), setting.today)
    variants = catalogue.results.get(tool, [_NOTHING])
    chosen = rng.choices(variants, [v.weight for v in variants])[0]
    if variant is not None:
        chosen = next(v for v in variants if v.name == variant)
    values: dict[str, Value] = {}
    content = _filled(chosen.template, arguments, changed(setting, rng=rng), values, "")
    return Result(chosen.name, content, values, dict(_echoes(chosen.template, "")))


def _echoes(template: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(template, Echo):
        yield path, str(template)
    elif isinstance(template, dict | list):
        for key, value in template.items() if isinstance(template, dict) else enumerate(template):
            yield from _echoes(value, f"{path}.{key}" if path else str(key))


def _filled(template: Any, arguments: Mapping[str, Any], setting: Setting, values: dict[str, Value], path: str) -> Any:
    if isinstance(template, Echo):
        return arguments.get(str(template), _LEFT_OUT)
    if isinstance(template, Kind):
        value = values[path] = draw(template, setting)
        values.update((f"{path}.{name}", part) for name, part in _parts(value))
        return value.argument
    if isinstance(template, dict):
        made = {
            key: _filled(value, arguments, setting, values, f"{path}.{key}" if path else key)
            for key, value in template.items()
        }
        return {key: value for key, value in made.items() if value is not _LEFT_OUT}
    if isinstance(template, list):
        made_list = [
            _filled(value, arguments, setting, values, f"{path}.{i}" if path else str(i))
            for i, value in enumerate(template)
        ]
        return [value for value in made_list if value is not _LEFT_OUT]
    return template


def _parts(value: Value) -> Iterator[tuple[str, Value]]:
    for name, part in value.parts:
        yield name, part
        for inner, deeper in _parts(part):
            yield f"{name}.{inner}", deeper
