"""Validation: tools and calls against JSON Schema, Draft 2020-12. Nothing is ever fetched.

Source: json-schema.org/draft/2020-12, and platform.openai.com/docs/guides/function-calling for the form of a
tool. Of the formats date, time, date-time, email, hostname, ipv4, ipv6 and uuid are checked, each by what
stands below, so that a verdict does not depend on which packages happen to be installed. `time` and
`date-time` are those of RFC 3339, whose seconds and offset may be left out here: people say neither.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from graphlib import CycleError, TopologicalSorter
from typing import Any

import orjson
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing.exceptions import NoSuchResource, Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY, SchemaResource

from pipeline.plugins import nearest
from schemas.conversation import ToolCall, ToolSpec

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
"""What OpenAI allows as the name of a function."""
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(
    r"(?:[01]\d|2[0-3]):[0-5]\d(?:(?::[0-5]\d|(?<=:59):60)(?:\.\d+)?)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?", re.ASCII
)
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = re.compile(rf'(?=.{{1,64}}\Z)(?:{_ATOM}(?:\.{_ATOM})*|"(?:[^"\\]|\\.)*")')
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
"""Keywords whose schemas are about the same value."""
_TOOL_KEYS = ("type", "function")
_ALONE_KEYS = ("name", "description", "parameters", "strict", "type")
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_TOO_DEEP = "it is nested too deep"


def problem(call: ToolCall, tools: Sequence[ToolSpec]) -> str | None:
    """What is wrong with a call, or None.

    Returns:
        `unknown_tool: ...`, `arguments_not_json: ...`, `arguments_invalid: ...` with tool, argument and
        value, or `tool_invalid: ...` where the tool's own schema is none.
    """
    for tool in tools:
        if tool.name == call.name:
            break
    else:
        return f"unknown_tool: {_short(call.name)}; there are: {', '.join(t.name for t in tools) or 'none'}"
    try:
        arguments = orjson.loads(call.arguments)
    except orjson.JSONDecodeError as error:
        return f"arguments_not_json: {call.name}: {error}: {_short(call.arguments)}"
    validator = _compiled(tool.parameters)
    if isinstance(validator, str):
        return f"tool_invalid: {call.name}: parameters{validator}"
    if not isinstance(arguments, dict):
        return f"arguments_invalid: {call.name}: an object is expected, not {_short(call.arguments)}"
    wrong = _first_error(validator, arguments)
    return f"arguments_invalid: {call.name}{wrong}" if wrong else None


def value_problem(value: Any, schema: Mapping[str, Any] | bool) -> str | None:
    """What is wrong with one value, by a schema that stands alone; None if nothing is."""
    validator = _compiled(orjson.dumps(schema).decode())
    wrong = validator if isinstance(validator, str) else _first_error(validator, value)
    return wrong.removeprefix(": ") if wrong else None


def schema_problem(tool: Any) -> str | None:
    """What is wrong with a tool in the OpenAI format, or None.

    The function may also stand alone, without `{"type": "function", "function": ...}` around it.
    """
    if not isinstance(tool, Mapping):
        return f"a tool is to be an object, not {_short(tool)}"
    if tool.get("type", "function") != "function":
        return f"type: 'function' is expected, not {_short(tool['type'])}"
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        return f"function: an object is expected, not {_short(function)}"
    alone = function is tool
    for content, allowed in ((tool, _ALONE_KEYS if alone else _TOOL_KEYS), (function, _ALONE_KEYS)):
        unknown = next((str(key) for key in content if key not in allowed), None)
        if unknown is not None:
            return f"{unknown}: there is no such key.{nearest(unknown, list(allowed))} There are: {', '.join(allowed)}"
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return f"name: 1 to 64 letters of a-z, A-Z, digits, _ and - are expected, not {_short(name)}"
    if not isinstance(function.get("description", ""), str):
        return f"description: a text is expected, not {_short(function['description'])}"
    return _parameters_problem(function["parameters"]) if "parameters" in function else None


def _parameters_problem(parameters: Any) -> str | None:
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        return f'parameters: a JSON Schema with "type": "object" is expected, not {_short(parameters)}'
    try:
        text = orjson.dumps(parameters).decode()
    except (orjson.JSONEncodeError, RecursionError) as error:
        return f"parameters: this cannot be written as JSON: {error}"
    validator = _compiled(text)
    if isinstance(validator, str):
        return f"parameters{validator}"
    for path, schema in _objects(validator.schema, "parameters"):
        missing = [name for name in schema.get("required", ()) if name not in schema["properties"]]
        if missing:
            names = ", ".join(schema["properties"]) or "none"
            return f"{path}.required: there is no property {missing[0]!r}; there are: {names}"
    return None


def _objects(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas of objects, with their places. Branches of `anyOf` and the like may lean on what is around them."""
    if not isinstance(schema, Mapping):
        return
    properties = schema.get("properties")
    if schema.get("type") == "object" and ("properties" in schema or path == "parameters"):
        yield path, {"properties": {}, **schema}
    for name, inner in (properties or {}).items():
        yield from _objects(inner, f"{path}.{name}")
    yield from _objects(schema.get("items"), f"{path}[]")


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Draft202012Validator | str:
    """The validator of a schema, or where it is wrong, and how: `.properties.a: why`."""
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f": a JSON Schema is expected; this is not JSON: {error}: {_short(text)}"
    try:
        Draft202012Validator.check_schema(schema, format_checker=_SCHEMA_FORMATS)
        resource = DRAFT202012.create_resource(schema)
        return _reference_problem(resource) or Draft202012Validator(
            schema, registry=EMPTY_REGISTRY, format_checker=_FORMATS
        )
    except SchemaError as error:
        return f"{_place(error)}: {_message(error)}"
    except RecursionError:
        return f": {_TOO_DEEP}"


def _reference_problem(root: SchemaResource) -> str | None:
    """A `$ref` that leads nowhere or elsewhere, or in a circle without an end."""
    same_value: dict[int, set[int]] = {}  # by schema, those that are about the same value
    left = [(root, EMPTY_REGISTRY.resolver_with_root(root))]
    while left:
        resource, resolver = left.pop()
        schema = resource.contents
        if not isinstance(schema, Mapping) or id(schema) in same_value:
            continue
        same = {id(inner) for key in _IN_PLACE if key in schema for inner in _those(schema[key])}
        same_value[id(schema)] = same
        for key in ("$ref", "$dynamicRef"):
            if key not in schema:
                continue
            try:
                found = resolver.lookup(schema[key])
            except (Unresolvable, NoSuchResource):
                return f": {key}: {_short(schema[key])} is not within this schema, and nothing is fetched"
            same.add(id(found.contents))
            left.append((DRAFT202012.create_resource(found.contents), found.resolver))
        inside = map(DRAFT202012.create_resource, DRAFT202012.subresources_of(schema))
        left += [(inner, resolver.in_subresource(inner)) for inner in inside]
    try:
        TopologicalSorter(same_value).prepare()
    except CycleError:
        return ": $ref: a schema leads back to itself without going into the value"
    return None


def _those(content: Any) -> Sequence[Any]:
    """The schemas under a keyword: one, or those of a list or an object."""
    if isinstance(content, list):
        return content
    return [content, *content.values()] if isinstance(content, Mapping) else ()


def _first_error(validator: Draft202012Validator, value: Any) -> str | None:
    """Where a value breaks the schema, and how: `.argument: why`."""
    try:
        if next(validator.iter_errors(value), None) is None:
            return None
        error = best_match(validator.iter_errors(value))
    except RecursionError:
        return f": {_TOO_DEEP}"
    assert error is not None
    return f"{_place(error)}: {_message(error)}"


def _place(error: ValidationError | SchemaError) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path)


def _message(error: ValidationError | SchemaError) -> str:
    if isinstance(error, SchemaError) and error.path and error.path[-1] == "type":
        return f"{_short(error.instance)} is no type; there are: {', '.join(_TYPES)}"
    return _cut(error.message, 240)


def _short(value: Any) -> str:
    return _cut(repr(value), 80)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _is_date(text: str) -> bool:
    return bool(_DATE.fullmatch(text) and dt.date.fromisoformat(text))


def _is_date_time(text: str) -> bool:
    return text[10:11] in ("T", "t") and _is_date(text[:10]) and _TIME.fullmatch(text[11:]) is not None


def _is_email(text: str) -> bool:
    local, _, host = text.rpartition("@")
    return _LOCAL.fullmatch(local) is not None and _HOST.fullmatch(host) is not None


def _is_regex(text: str) -> bool:
    return re.compile(text) is not None


def _of_texts(holds: Callable[[str], object], value: object) -> bool:
    """Formats are about texts; other values are none of theirs."""
    return not isinstance(value, str) or bool(holds(value))


def _checker(formats: Mapping[str, Callable[[str], object]]) -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, holds in formats.items():
        checker.checks(name, raises=(ValueError, re.error))(partial(_of_texts, holds))
    return checker


_FORMATS = _checker(
    {
        "date": _is_date,
        "time": _TIME.fullmatch,
        "date-time": _is_date_time,
        "email": _is_email,
        "hostname": _HOST.fullmatch,
        "ipv4": ipaddress.IPv4Address,
        "ipv6": lambda text: "%" not in text and ipaddress.IPv6Address(text),
        "uuid": _UUID.fullmatch,
    }
)
_SCHEMA_FORMATS = _checker({"regex": _is_regex})
