"""Catalogue: tools in the OpenAI format, where their values come from, and what they give back.

Source of the format: platform.openai.com/docs/guides/function-calling. A file is a list of tools, or an
object with `tools` and any of `pools`, `values`, `results`, `about` and `translations`; beside
`clinic.json` lie its grammars, `clinic.en.yaml` and so on. All of it is data: nothing in it is executed,
and no path in it is opened.
"""

from __future__ import annotations

import codecs
import datetime as dt
import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import orjson
from msgspec.structs import replace
from pydantic import Field, ValidationError

from pipeline.plugins import nearest
from pipeline.tools import grammar, matching, validation
from pipeline.tools.errors import CatalogueError
from pipeline.tools.values import KIND, Kind, Listing, Object, Pool, Setting, Value, draw, from_schema
from schemas.conversation import ToolCall, ToolSpec
from schemas.recipe import Options

SHIPPED = Path(__file__).resolve().parent.parent.parent / "data" / "tools"
_DEEPEST = 12  # kinds of value within kinds, or the JSON of their entries
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_TRIALS = 12  # values that are drawn of each argument to see whether its schema allows them
_KINDS = frozenset("pool integer number quantity money date time code list object".split())
_SAMPLE_DAY = dt.date(2026, 3, 14)


class _File(Options):
    """What a catalogue's file may hold."""

    licence: str | None = None
    about: dict[str, str] = {}
    """By language, what its tools are for."""
    tools: Annotated[list[dict[str, Any]], Field(min_length=1)]
    pools: dict[str, Any] = {}
    """Lists of values, by name."""
    values: dict[str, Any] = {}
    """By `tool.argument`: a pool's name, or a kind of value."""
    results: dict[str, Any] = {}
    """By tool: the result as JSON, or a list of several with name and weight."""
    translations: dict[str, dict[str, str]] = {}
    """By language and `tool` or `tool.argument`: the description."""


class Argument:
    """One argument of a tool."""

    def __init__(self, name: str, schema: Mapping[str, Any], required: bool, kind: Kind | None) -> None:
        self.name, self.schema, self.required, self.kind = name, schema, required, kind


class Tool:
    """A function, and what is known of its arguments."""

    def __init__(self, function: Mapping[str, Any], arguments: dict[str, Argument]) -> None:
        self.name = str(function["name"])
        self.arguments = arguments
        self.spec = ToolSpec(
            self.name,
            str(function.get("description", "")),
            orjson.dumps(function.get("parameters") or {"type": "object", "properties": {}}).decode(),
        )

    @property
    def required(self) -> frozenset[str]:
        """Names of the arguments that every call needs."""
        return frozenset(a.name for a in self.arguments.values() if a.required)


class Catalogue:
    """A catalogue's file with the grammars beside it, checked.

    Raises:
        CatalogueError: Names file, tool and field, and what is expected there.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self._file = _read(path)
        self.pools = {name: self._kind(content, f"pools.{name}") for name, content in self._file.pools.items()}
        self.tools = {tool.name: tool for tool in self._tools()}
        self._check_names()
        self.results = {name: self._variants(name, content) for name, content in self._file.results.items()}
        self.grammars = dict(self._grammars())

    @property
    def licence(self) -> str | None:
        """Of its texts."""
        return self._file.licence

    @cached_property
    def digest(self) -> str:
        """Changes with anything in its files."""
        state = hashlib.blake2b(digest_size=12)
        for path in [self.path, *self._grammar_files().values()]:
            state.update(path.read_bytes())
        return state.hexdigest()

    def about(self, language: str) -> str:
        """What the tools are for, in a language if it is said in it."""
        known = self._file.about
        return known.get(language) or known.get("en") or self.name.replace("_", " ")

    def specs(self, language: str) -> dict[str, ToolSpec]:
        """The tools as a model is shown them, described in a language where there are translations."""
        return self._specs(language)

    @lru_cache(maxsize=8)  # noqa: B019 - catalogues live as long as the process
    def _specs(self, language: str) -> dict[str, ToolSpec]:
        told = self._file.translations.get(language, {})
        return {name: _translated(tool, told) for name, tool in self.tools.items()}

    def arguments_of(self, name: str, setting: Setting, optional: float = 0.4) -> dict[str, Value]:
        """Values for a call: all that are required, and some that are not."""
        drawn = {}
        for argument in self.tools[name].arguments.values():
            chosen = argument.required or setting.rng.random() < optional
            if chosen and argument.kind is not None:
                drawn[argument.name] = draw(argument.kind, setting)
        return drawn

    def fail(self, where: str, text: str) -> CatalogueError:
        """An error at a place of the file."""
        return CatalogueError(f"{self.path}: {where}: {text}")

    def _tools(self) -> Iterator[Tool]:
        seen: set[str] = set()
        for index, entry in enumerate(self._file.tools):
            function = entry.get("function", entry)
            name = str(function.get("name", f"tools[{index}]") if isinstance(function, dict) else f"tools[{index}]")
            problem = validation.schema_problem(entry)
            if problem is not None:
                raise self.fail(name, problem)
            if name in seen:
                raise self.fail(name, "two tools have this name: each name may stand once")
            seen.add(name)
            yield Tool(function, dict(self._arguments(name, function)))

    def _arguments(self, tool: str, function: Mapping[str, Any]) -> Iterator[tuple[str, Argument]]:
        parameters = function.get("parameters") or {}
        required = set(parameters.get("required", ()))
        shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
        for name, content in parameters.get("properties", {}).items():
            where = f"{tool}.{name}"
            schema = {**(content if isinstance(content, dict) else {} if content else {"not": {}}), **shared}
            given = self._file.values.get(where)
            kind = (
                self._from_schema(schema, parameters, where) if given is None else self._kind(given, f"values.{where}")
            )
            if kind is None and name in required:
                raise self.fail(
                    where,
                    "this argument is required, and nothing says what to fill it with: give its schema an enum, "
                    f"examples or bounds, or add values.{where} with a pool or a kind of value",
                )
            if kind is not None:
                self._check_values(where, schema, kind)
            yield name, Argument(name, schema, name in required, kind)

    def _from_schema(self, schema: Mapping[str, Any], parameters: Mapping[str, Any], where: str) -> Kind | None:
        try:
            return from_schema(schema, parameters)
        except ValueError as error:
            why = _told(error.errors()[0]) if isinstance(error, ValidationError) else str(error)
            raise self.fail(where, f"no value can be drawn from the bounds of its schema: {why}") from error

    def _check_values(self, where: str, schema: Mapping[str, Any], kind: Kind) -> None:
        for place, inner, pool in _pools(where, schema, kind):
            for listed in pool.listed():
                problem = validation.value_problem(listed, inner)
                if problem is not None:
                    raise self.fail(place, f"the value {_short(listed)} is not as the schema says: {problem}")
        languages = kind.languages() or {"en"}
        for language, number in itertools.product(sorted(languages), range(_TRIALS)):
            setting = Setting(language, _SAMPLE_DAY, random.Random(number))
            try:
                value = kind.draw(setting)
            except (ArithmeticError, LookupError, ValueError) as error:
                raise self.fail(where, f"no value can be drawn in {language!r}: {error}") from error
            for accepted in value.accepted:
                problem = validation.value_problem(_first(accepted), schema)
                if problem is not None:
                    raise self.fail(where, f"the value {_short(accepted)} is not as the schema says: {problem}")

    def _kind(self, content: Any, where: str) -> Kind:
        if isinstance(content, str):
            if content not in self._file.pools:
                known = ", ".join(sorted(self._file.pools)) or "none"
                raise self.fail(where, f"there is no pool {content!r}; there are: {known}")
            return self.pools[content] if hasattr(self, "pools") else self._kind(self._file.pools[content], where)
        if where.startswith("pools.") and not (isinstance(content, dict) and "kind" in content):
            content = {"kind": "pool", "entries": content}
        if _is_deeper(content, 4 * _DEEPEST) or _is_deeper(content := self._with_pools(content, where), _DEEPEST):
            raise self.fail(where, f"this is nested too deep: {_DEEPEST} levels are allowed")
        try:
            made: Kind = KIND.validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join([where, *_keys(first["loc"], where)])
            raise self.fail(place, f"{_told(first)}, not {_short(first['input'])}") from error
        return made

    def _with_pools(self, content: Any, where: str) -> Any:
        """The same with pools in place of their names, in lists and objects."""
        if not isinstance(content, dict):
            return content
        known = self._file.pools

        def pool(named: Any) -> Any:
            if not isinstance(named, str):
                return self._with_pools(named, where)
            if named not in known:
                raise self.fail(where, f"there is no pool {named!r}; there are: {', '.join(sorted(known)) or 'none'}")
            entries = known[named]
            return entries if isinstance(entries, dict) and "kind" in entries else {"kind": "pool", "entries": entries}

        if content.get("kind") == "list" and "of" in content:
            return {**content, "of": pool(content["of"])}
        if content.get("kind") == "object" and isinstance(content.get("fields"), dict):
            return {**content, "fields": {name: pool(value) for name, value in content["fields"].items()}}
        return content

    def _check_names(self) -> None:
        there = {tool.name for tool in self.tools.values()}
        slots = {f"{tool.name}.{name}" for tool in self.tools.values() for name in tool.arguments}
        for where in self._file.values:
            if where not in slots:
                known = ", ".join(sorted(slots)) or "none"
                raise self.fail(f"values.{where}", f"there is no such argument; there are: {known}")
        for name in self._file.results:
            if name not in there:
                raise self.fail(f"results.{name}", f"there is no such tool; there are: {', '.join(sorted(there))}")
        for language, texts in self._file.translations.items():
            for where in texts:
                if where not in there | slots:
                    raise self.fail(f"translations.{language}.{where}", "there is no such tool or argument")

    def _variants(self, tool: str, content: Any) -> list[Variant]:
        entries = content if isinstance(content, list) else [{"result": content}]
        if not entries:
            raise self.fail(f"results.{tool}", "at least one result is expected")
        made: dict[str, Variant] = {}
        for index, entry in enumerate(entries):
            where = f"results.{tool}[{index}]" if isinstance(content, list) else f"results.{tool}"
            if not isinstance(entry, dict) or "result" not in entry or set(entry) - {"name", "weight", "result"}:
                raise self.fail(where, "an object with name, weight and result is expected")
            name, weight = str(entry.get("name", "ok")), entry.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
                raise self.fail(f"{where}.weight", f"a number above 0 is expected, not {_short(weight)}")
            if name in made:
                raise self.fail(f"{where}.name", f"two results are called {name!r}: each name may stand once")
            made[name] = Variant(name, float(weight), self._template(entry["result"], where, self.tools[tool]))
        return list(made.values())

    def _template(self, content: Any, where: str, tool: Tool) -> Any:
        """A result with its directives read: `{$argument: name}` and `{$draw: pool or kind}`."""
        if isinstance(content, list):
            return [self._template(item, f"{where}[{i}]", tool) for i, item in enumerate(content)]
        if not isinstance(content, dict):
            return content
        directives = [key for key in content if key.startswith("$")]
        if not directives:
            return {key: self._template(value, f"{where}.{key}", tool) for key, value in content.items()}
        if len(content) != 1 or directives[0] not in ("$argument", "$draw"):
            raise self.fail(where, f"{directives[0]} is no directive: $argument or $draw is expected, alone")
        if "$argument" in content:
            if not isinstance(content["$argument"], str) or content["$argument"] not in tool.arguments:
                known = ", ".join(tool.arguments) or "none"
                wrong = _short(content["$argument"])
                raise self.fail(where, f"the tool {tool.name} has no argument {wrong}; there are: {known}")
            return grammar.Echo(content["$argument"])
        return self._kind(content["$draw"], where)

    def _grammar_files(self) -> dict[str, Path]:
        found = sorted(self.path.parent.glob(f"{self.path.stem}.*.yaml"))
        return {path.name.removeprefix(f"{self.path.stem}.").removesuffix(".yaml"): path for path in found}

    def _grammars(self) -> Iterator[tuple[str, grammar.Grammar]]:
        for language, path in self._grammar_files().items():
            if not _LANGUAGE.fullmatch(language):
                told = f"{self.name}.LANGUAGE.yaml, as {self.name}.en.yaml for English, is expected beside a catalogue"
                raise CatalogueError(f"{path}: its name says no language: {told}")
            yield language, grammar.load(path, language, self.tools, self.results)


class Variant:
    """One of the results that a tool may give."""

    def __init__(self, name: str, weight: float, template: Any) -> None:
        self.name, self.weight, self.template = name, weight, template


def _translated(tool: Tool, told: Mapping[str, str]) -> ToolSpec:
    if not told:
        return tool.spec
    parameters = orjson.loads(tool.spec.parameters)
    for name, schema in parameters.get("properties", {}).items():
        if f"{tool.name}.{name}" in told and isinstance(schema, dict):
            schema["description"] = told[f"{tool.name}.{name}"]
    return replace(
        tool.spec,
        description=told.get(tool.name, tool.spec.description),
        parameters=orjson.dumps(parameters).decode(),
    )


def _first(accepted: Any) -> Any:
    """An accepted value as JSON: of what is right in several ways the first."""
    if isinstance(accepted, matching.OneOf):
        return _first(accepted.values[0])
    if isinstance(accepted, dict):
        return {name: _first(value) for name, value in accepted.items()}
    return [_first(value) for value in accepted] if isinstance(accepted, list) else accepted


def _pools(where: str, schema: Any, kind: Kind) -> Iterator[tuple[str, Mapping[str, Any], Pool]]:
    """The pools that a kind of value draws from, each with the place and the schema of its values."""
    if not isinstance(schema, dict):
        return
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    if isinstance(kind, Pool):
        yield where, schema, kind
    elif isinstance(kind, Listing) and isinstance(schema.get("items"), dict):
        yield from _pools(f"{where}[]", schema["items"] | shared, kind.of)
    elif isinstance(kind, Object) and isinstance(schema.get("properties"), dict):
        for name, field in kind.fields.items():
            inner = schema["properties"].get(name)
            yield from _pools(f"{where}.{name}", inner | shared if isinstance(inner, dict) else None, field)


def _is_deeper(content: Any, most: int) -> bool:
    """Whether there are more than so many lists and objects within each other."""
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return bool(inner) and (most == 0 or any(_is_deeper(value, most - 1) for value in inner))


def _keys(path: Sequence[int | str], where: str) -> Iterator[str]:
    """Of pydantic's path to a value the keys that the file has: not the names of kinds and types."""
    for before, key in zip(("", *path), path, strict=False):
        own = before == "fields" or (key not in _KINDS and "[" not in str(key))
        if own and not (key == "entries" and where.startswith("pools.")):
            yield str(key)


def _told(error: Any) -> str:
    """What pydantic has against a value, in plain words."""
    if error["type"] == "extra_forbidden":
        return "there is no such key here"
    return str(error["msg"]).removeprefix("Value error, ").replace("Input should", "this should")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read(path: Path) -> _File:
    try:
        content = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise CatalogueError(f"{path}: {error.strerror or error}; a file of tools is expected") from error
    except orjson.JSONDecodeError as error:
        raise CatalogueError(
            f"{path}:{error.lineno}: this is not JSON: {error.msg}; a file of tools is expected"
        ) from error
    if isinstance(content, list):
        content = {"tools": content}
    if not isinstance(content, dict):
        raise CatalogueError(f"{path}: a list of tools, or an object with `tools`, is expected")
    try:
        return _File.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(str(key) for key in first["loc"])
        known = ", ".join(_File.model_fields)
        more = f"{nearest(keys, list(_File.model_fields))} There are: {known}" if "." not in keys else ""
        told = f"{_told(first)}." if first["type"] == "extra_forbidden" else str(first["msg"]).lower()
        raise CatalogueError(f"{path}: {keys}: {told}{more if told.endswith('.') else ''}") from error


def canonical(arguments: Mapping[str, Any]) -> str:
    """Arguments as one text, equal for equal ones."""
    return json.dumps(arguments, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def call(number: int, name: str, arguments: Mapping[str, Any]) -> ToolCall:
    """A call with its arguments in the tool's own order."""
    return ToolCall(f"call_{number}", name, json.dumps(arguments, ensure_ascii=False))


@lru_cache(maxsize=64)
def load(path: Path) -> Catalogue:
    """A catalogue, read once.

    Raises:
        CatalogueError: It cannot be used.
    """
    try:
        return Catalogue(path)
    except RecursionError as error:
        raise CatalogueError(f"{path}: this, or a grammar beside it, is nested too deep to be read") from error


def files(path: Path) -> list[Path]:
    """The catalogues at a path: itself, or the JSON files of a folder."""
    return sorted(path.glob("*.json")) if path.is_dir() else [path]
