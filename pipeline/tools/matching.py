"""Matching: whether calls are those that were wanted.

Source of the rules: the AST checker of the Berkeley Function-Calling Leaderboard (Patil et al., ICML 2025;
github.com/ShishirPatil/gorilla, `bfcl_eval/eval_checker/ast_eval`, Apache-2.0), for Python:
- as many calls as are wanted, in any order;
- the right function; all required arguments and none unexpected; each of a value that is accepted;
- types are strict: `true` is not 1, "5" is not 5, 5.0 is no integer; but an integer is a number;
- texts are compared without case, spaces and `,./-_*^`, and with either kind of quotation mark.

Here it departs from them on purpose: parallel calls are matched so that all find a partner if they can,
where the original takes the first that fits; types are as strict, and numbers as lenient, within lists
and objects, which may be nested, as they are outside; and the name of a variable, which BFCL knows by
another type being declared, is compared like any text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from pipeline.tools.calls import Call, calls_of

__all__ = ["Accepted", "Call", "OneOf", "calls_of", "from_json", "mismatch", "to_json"]

_IGNORED = str.maketrans({**dict.fromkeys(" ,./-_*^"), "'": '"'})
_LEFT_OUT = ""  # how BFCL writes that an argument may be left out
_NUMBER = frozenset({"number", "float"})  # BFCL says float, and any of texts
_TEXT = frozenset({"string", "any"})
_ANY: Mapping[str, Any] = {}


class Accepted(Struct, frozen=True):
    """What a right call is."""

    name: str
    """The function's."""
    arguments: Mapping[str, tuple[Any, ...]]
    """By name, the JSON values of which each is right. Within an object, `OneOf` stands for several."""
    optional: frozenset[str] = frozenset()
    """Arguments that may be left out."""


class OneOf(Struct, frozen=True):
    """Within an accepted object: values of a key of which each is right."""

    values: tuple[Any, ...]
    optional: bool = False
    """Whether the key may be left out."""


def mismatch(
    accepted: Sequence[Accepted], calls: Sequence[Call], parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> str | None:
    """Why calls are not those that were wanted; None if they are.

    Args:
        accepted: What was wanted.
        calls: What was called, in any order.
        parameters: By function, the JSON Schema of its arguments. Without it, what is required, and of which
            type, follows from what is accepted.
    """
    known = parameters or {}
    if len(accepted) != len(calls):
        wanted, made = (", ".join(c.name for c in some) or "none" for some in (accepted, calls))
        return f"wrong number of calls: {len(accepted)} wanted ({wanted}), {len(calls)} made ({made})"
    reasons = [_difference(a, c, known.get(a.name)) for a, c in zip(accepted, calls, strict=True)]
    if not any(reasons):  # as nearly always: in the same order
        return None
    if len(accepted) == 1:
        return reasons[0]
    fits = [[_difference(a, c, known.get(a.name)) is None for c in calls] for a in accepted]
    lonely, left = _unmatched(fits)
    if lonely is None:
        return None
    wanted_call = accepted[lonely]
    nearest = min(left, key=lambda index: (calls[index].name != wanted_call.name, index != lonely))
    return f"call {lonely + 1}: {_difference(wanted_call, calls[nearest], known.get(wanted_call.name))}"


def _unmatched(fits: Sequence[Sequence[bool]]) -> tuple[int | None, list[int]]:
    """A row for which no column is left, and the columns that are; None if all rows find one each.

    A maximum matching of a bipartite graph by augmenting paths (Kuhn's algorithm).
    """
    row_of: dict[int, int] = {}

    def find(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in row_of or find(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    lonely = [row for row in range(len(fits)) if not find(row, set())]
    return (lonely[0] if lonely else None), [c for c in range(len(fits)) if c not in row_of]


def _difference(accepted: Accepted, call: Call, schema: Mapping[str, Any] | None) -> str | None:
    """What is wrong with a call, or None."""
    name, arguments = accepted.name, call.arguments
    if call.name != name and call.name != name.replace(".", "_"):  # OpenAI's names have no dots, BFCL's have
        return f"{name} is wanted, not {call.name}"
    schema = _ANY if schema is None else schema
    for argument in schema.get("required", ()):
        if argument not in arguments:
            return f"{name}: the required argument {argument!r} is missing"
    properties = schema.get("properties")
    for argument, value in arguments.items():
        if argument not in accepted.arguments or (properties is not None and argument not in properties):
            return f"{name}: the argument {argument!r} is unexpected: {_short(value)}"
        values = accepted.arguments[argument]
        if not _among(value, values, argument in accepted.optional, _within(properties, argument)):
            wanted = " or ".join(_short(v) for v in values[:5]) or "nothing"
            return f"{name}: {argument!r} is {_short(value)}, where {wanted} is right"
    for argument in accepted.arguments:
        if argument not in arguments and argument not in accepted.optional:
            return f"{name}: the argument {argument!r} is missing"
    return None


def _among(value: Any, accepted: Iterable[Any], optional: bool, schema: Mapping[str, Any]) -> bool:
    """Whether a value is one of the accepted ones."""
    if any(_same(value, other, schema) for other in accepted):
        return True
    if not optional or not isinstance(value, str) or _bare(value):
        return False
    # As in BFCL, an empty text is as good as leaving a text out.
    return all(isinstance(v, str) for v in accepted) or _declares(schema, _TEXT)


def _same(value: Any, accepted: Any, schema: Mapping[str, Any]) -> bool:
    kind = type(value)
    if kind is str:
        return type(accepted) is str and (value == accepted or _bare(value) == _bare(accepted))
    if kind is int:
        return type(accepted) in (int, float) and bool(value == accepted)
    if kind is float:
        right = type(accepted) is float or (type(accepted) is int and _declares(schema, _NUMBER))
        return right and bool(value == accepted)
    if kind is list:
        items = schema.get("items")
        inner = items if isinstance(items, Mapping) else _ANY
        return (
            isinstance(accepted, list | tuple)
            and len(value) == len(accepted)
            and all(_same(one, other, inner) for one, other in zip(value, accepted, strict=True))
        )
    if kind is dict:
        return isinstance(accepted, Mapping) and _same_object(value, accepted, schema.get("properties"))
    return kind is type(accepted) and bool(value == accepted)  # true, false and null


def _same_object(value: Mapping[str, Any], accepted: Mapping[str, Any], properties: Any) -> bool:
    for key, inner in value.items():
        if key not in accepted:
            return False
        wanted = _one_of(accepted[key])
        if not _among(inner, wanted.values, wanted.optional, _within(properties, key)):
            return False
    return all(key in value or _one_of(other).optional for key, other in accepted.items())


def _one_of(accepted: Any) -> OneOf:
    return accepted if isinstance(accepted, OneOf) else OneOf((accepted,))


def _within(properties: Any, name: str) -> Mapping[str, Any]:
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else _ANY


def _declares(schema: Mapping[str, Any], wanted: frozenset[str]) -> bool:
    """Whether a schema allows one of some types, by itself or in a branch."""
    kinds = schema.get("type", ())
    if not wanted.isdisjoint((kinds,) if isinstance(kinds, str) else kinds):
        return True
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return any(_declares(branch, wanted) for branch in branches if isinstance(branch, Mapping))


def _bare(text: str) -> str:
    """A text as it is compared."""
    return text.translate(_IGNORED).lower()


def to_json(accepted: Iterable[Accepted]) -> str:
    """Accepted calls in the form of BFCL's possible answers: `[{"f": {"a": [1, 2, ""]}}]`.

    The "" says that an argument may be left out. Of objects each key has such a list, too.

    Raises:
        ValueError: An empty text is accepted of an argument that is required, which the form cannot say.
    """
    found = []
    for one in accepted:
        written = {
            name: _written(OneOf(tuple(values), name in one.optional), f"{one.name}.{name}")
            for name, values in one.arguments.items()
        }
        found.append({one.name: written})
    return json.dumps(found, ensure_ascii=False)


def _written(accepted: OneOf, where: str) -> list[Any]:
    values = [v for v in accepted.values if v != _LEFT_OUT]
    if len(values) != len(accepted.values) and not accepted.optional:
        raise ValueError(f'{where}: a required argument cannot be "", which says that it may be left out')
    return [*(_written_value(v, where) for v in values), *([_LEFT_OUT] if accepted.optional else [])]


def _written_value(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _written(_one_of(inner), f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_written_value(inner, where) for inner in value]
    return value


def from_json(text: str) -> list[Accepted]:
    """The accepted calls that `to_json` wrote, or a possible answer of BFCL.

    Raises:
        ValueError: The text is something else; says what is expected.
    """
    expected = '[{"function": {"argument": [value, another, ""]}}]'
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError(f"accepted calls are to be written as {expected}; this is not JSON: {error}") from error
    accepted = []
    for entry in entries if isinstance(entries, list) else [text]:
        items = list(entry.items()) if isinstance(entry, dict) else []
        if len(items) != 1 or not isinstance(items[0][1], dict):
            raise ValueError(f"an accepted call is to be written as {expected[1:-1]}, not {_short(entry)}")
        name, arguments = items[0]
        if not all(isinstance(values, list) for values in arguments.values()):
            raise ValueError(f"{name}: of each argument a list of values is expected, not {_short(arguments)}")
        read = {argument: _read(values) for argument, values in arguments.items()}
        optional = frozenset(argument for argument, one in read.items() if one.optional)
        accepted.append(Accepted(name, {argument: one.values for argument, one in read.items()}, optional))
    return accepted


def _read(values: Sequence[Any]) -> OneOf:
    return OneOf(tuple(_read_value(v) for v in values if v != _LEFT_OUT), _LEFT_OUT in values)


def _read_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _read_key(inner) for key, inner in value.items()}
    return [_read_value(inner) for inner in value] if isinstance(value, list) else value


def _read_key(inner: Any) -> Any:
    """What is accepted of an object's key: alone where it is one value; BFCL has some without a list, too."""
    if not isinstance(inner, list):
        return _read_value(inner)
    read = _read(inner)
    return read if read.optional or len(read.values) != 1 else read.values[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
