"""Calls are held against their tools' schemas, and tools against what a tool must be. Nothing is fetched."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from pipeline.tools.validation import problem, schema_problem, value_problem
from schemas.conversation import ToolCall, ToolSpec

DOSE = {
    "type": "object",
    "properties": {"value": {"type": "number", "exclusiveMinimum": 0}, "unit": {"enum": ["mg", "ml"]}},
    "required": ["value", "unit"],
    "additionalProperties": False,
}
GIVE = {
    "type": "object",
    "properties": {
        "patient": {"type": "string"},
        "drug": {"type": "string", "enum": ["amoxicillin", "ibuprofen"]},
        "dose": DOSE,
        "date": {"type": "string", "format": "date"},
        "times": {"type": "array", "items": {"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$"}, "maxItems": 3},
        "repeats": {"type": "integer", "minimum": 1},
        "urgent": {"type": "boolean"},
    },
    "required": ["patient", "drug", "dose"],
    "additionalProperties": False,
}
RIGHT = {"patient": "Ann", "drug": "ibuprofen", "dose": {"value": 2.5, "unit": "ml"}}


def spec(parameters: Any, name: str = "give") -> ToolSpec:
    return ToolSpec(name, "", json.dumps(parameters))


TOOLS = [spec({"type": "object"}, "stop"), spec(GIVE)]


def give(arguments: Any, name: str = "give") -> str | None:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return problem(ToolCall("call_1", name, text), TOOLS)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"date": "2024-02-29"},
        {"times": ["08:00", "20:00"], "repeats": 1, "urgent": False},
        {"dose": {"value": 2, "unit": "mg"}},
    ],
)
def test_calls_as_the_schema_says(more: dict[str, Any]) -> None:
    assert give(RIGHT | more) is None


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"drug": "aspirin"}, ["give.drug", "aspirin", "amoxicillin"]),
        ({"patient": 5}, ["give.patient", "5", "string"]),
        ({"dose": {"value": 0, "unit": "mg"}}, ["give.dose.value", "0"]),
        ({"dose": {"value": "2", "unit": "mg"}}, ["give.dose.value", "'2'", "number"]),
        ({"dose": {"value": 2}}, ["give.dose", "unit", "required"]),
        ({"dose": {"value": 2, "unit": "mg", "per": "day"}}, ["give.dose", "per"]),
        ({"date": "2026-02-29"}, ["give.date", "2026-02-29", "date"]),
        ({"date": "29.01.2026"}, ["give.date", "29.01.2026"]),
        ({"times": ["08:00", "8"]}, ["give.times[1]", "8"]),
        ({"times": ["08:00"] * 4}, ["give.times", "08:00"]),
        ({"repeats": 1.5}, ["give.repeats", "1.5", "integer"]),
        ({"repeats": True}, ["give.repeats", "True", "integer"]),
        ({"urgent": 1}, ["give.urgent", "1", "boolean"]),
        ({"urgent": None}, ["give.urgent", "None"]),
        ({"mood": "good"}, ["give", "mood"]),
    ],
)
def test_calls_that_break_it(more: dict[str, Any], names: list[str]) -> None:
    found = give(RIGHT | more)
    assert found is not None
    assert found.startswith("arguments_invalid: ")
    assert [name for name in names if name not in found] == []


def test_what_is_missing_is_named() -> None:
    assert (
        give({"drug": "ibuprofen", "dose": RIGHT["dose"]})
        == "arguments_invalid: give: 'patient' is a required property"
    )


def test_tools_that_are_not_there() -> None:
    assert give(RIGHT, "giv") == "unknown_tool: 'giv'; there are: stop, give"
    assert problem(ToolCall("1", "give", "{}"), []) == "unknown_tool: 'give'; there are: none"


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", '{"a": NaN}', '{"a": 1} ', '{"a": "\ud800"}', "[" * 5000])
def test_arguments_that_are_not_json(text: str) -> None:
    found = give(text)
    assert found is not None
    assert found.startswith("arguments_not_json: give: " if text != '{"a": 1} ' else "arguments_invalid: give")
    assert len(found) < 300


@pytest.mark.parametrize("text", ["[]", "null", '"a"', "5"])
def test_arguments_that_are_no_object(text: str) -> None:
    assert give(text) == f"arguments_invalid: give: an object is expected, not {text!r}"


def test_long_values_are_cut_short() -> None:
    assert len(str(give(RIGHT | {"drug": "x" * 10_000}))) < 300


def test_a_tool_whose_schema_is_none() -> None:
    for parameters in ("{", '{"type": "objekt"}', '{"$ref": "http://localhost/x"}'):
        found = problem(ToolCall("1", "f", "{}"), [ToolSpec("f", "", parameters)])
        assert str(found).startswith("tool_invalid: f: parameters")


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", ["2026-03-14", "2024-02-29"], ["2026-3-14", "14.03.2026", "2026-02-30", "20260314", "٢٠٢٦-٠٣-١٤"]),
        (
            "time",
            ["14:30", "14:30:59", "14:30:00Z", "00:00:00.5+02:00", "23:59:60Z"],
            ["24:00", "2:30", "14:60", "14:30:60", "2 pm", "14:30 ", "14:30+2"],
        ),
        (
            "date-time",
            ["2026-03-14T14:30", "2026-03-14T14:30:00Z", "2026-03-14t14:30:00.25-03:00"],
            ["2026-03-14", "2026-03-14 14:30", "2026-02-30T14:30:00Z", "2026-03-14T25:00:00Z"],
        ),
        ("email", ["ann.lee+x@mail.example.org", '"a b"@x.org'], ["ann", "@x.org", "ann@", "a b@x.org", "a@-x.org"]),
        ("hostname", ["db-02", "db-02.lab.example.org"], ["", "-db", "db-", "a..b", "db_02", "a" * 64, "a.", "дб"]),
        ("ipv4", ["10.0.0.1"], ["10.0.0", "10.0.0.256", "10.0.0.01", "::1"]),
        ("ipv6", ["::1", "fe80::1:2"], ["10.0.0.1", "fe80::1%eth0", "::g"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "x"]),
    ],
)
def test_formats(name: str, right: list[str], wrong: list[str]) -> None:
    schema = {"format": name}
    assert [text for text in right if value_problem(text, schema)] == []
    assert [text for text in wrong if not value_problem(text, schema)] == []
    assert value_problem(5, schema) is None  # formats are about texts


def test_values_alone() -> None:
    assert value_problem(5, {"type": "integer"}) is None
    assert value_problem("5", {"type": "integer"}) == "'5' is not of type 'integer'"
    assert value_problem({"a": [1, "x"]}, {"properties": {"a": {"items": {"type": "integer"}}}}) == (
        ".a[1]: 'x' is not of type 'integer'"
    )
    assert str(value_problem(5, {"type": "int"})).startswith(".type: 'int' is no type; there are: array, ")
    assert str(value_problem(5, {"$ref": "#/$defs/a"})).startswith("$ref: '#/$defs/a' is not within this schema")


# Tools.


def tool(parameters: Any = None, **function: Any) -> dict[str, Any]:
    described = {"name": "f", "description": "Does it.", "parameters": parameters or {"type": "object"}}
    return {"type": "function", "function": described | function}


def of(**properties: Any) -> dict[str, Any]:
    return tool({"type": "object", "properties": properties})


TREE = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "value": {"type": "integer"}}}


@pytest.mark.parametrize(
    "right",
    [
        tool(),
        tool(GIVE, strict=True),
        {"type": "function", "function": {"name": "f"}},
        {"name": "f", "description": "Alone.", "parameters": GIVE},
        {"type": "function", "name": "f", "parameters": GIVE},
        of(a={"$ref": "#/properties/b"}, b={"type": "string"}),
        tool({"type": "object", "properties": {"root": {"$ref": "#/$defs/tree"}}, "$defs": {"tree": TREE}}),
        tool({"$id": "https://example.org/f", "type": "object", "properties": {"a": {"$ref": "f#/$defs/b"}}, "$defs": {"b": {}}}),
        of(a={"oneOf": [{"required": ["x"]}, {"properties": {"y": {}}, "required": ["y", "z"]}]}),
        of(a=True, b={"pattern": "^[A-Z]{2}-\\d+$", "format": "of my own"}),
    ],
)  # fmt: skip
def test_tools(right: dict[str, Any]) -> None:
    assert schema_problem(right) is None


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ("f", ["object", "'f'"]),
        ({"type": "tool", "function": {}}, ["type", "tool"]),
        ({"type": "function", "function": "f"}, ["function", "object"]),
        ({}, ["name", "None"]),
        (tool(name="two words"), ["name", "two words"]),
        (tool(name="f.g"), ["name", "f.g"]),
        (tool(name="функция"), ["name"]),
        (tool(name="f" * 65), ["name", "64"]),
        (tool(name="f\n"), ["name"]),
        (tool(name=5), ["name", "5"]),
        (tool(description=None), ["description", "None"]),
        (tool(paramters={}), ["paramters", "Did you mean 'parameters'"]),
        ({**tool(), "strict": True}, ["strict"]),
        (tool([1]), ["parameters", "object"]),
        (tool({"type": "array"}), ["parameters", "object"]),
        (tool({"properties": {}}), ["parameters", '"type": "object"']),
        (of(a={"type": "float"}), ["parameters.properties.a.type", "float", "number"]),
        (of(a={"enum": "x"}), ["parameters.properties.a.enum", "x"]),
        (of(a={"pattern": "("}), ["parameters.properties.a.pattern", "("]),
        (of(a={"minimum": "1"}), ["parameters.properties.a.minimum", "1"]),
        (of(a=3), ["parameters.properties.a", "3"]),
        (tool({"type": "object", "required": ["a"]}), ["required", "'a'"]),
        (tool({"type": "object", "properties": {"a": {}}, "required": ["a", "b"]}), ["required", "'b'", "there are: a"]),
        (of(a={"type": "array", "items": {**DOSE, "required": ["unt"]}}), ["parameters.a[].required", "unt", "unit"]),
        (of(a={"$ref": "#/$defs/b"}), ["$ref", "#/$defs/b"]),
        (of(a={"$ref": "#b"}), ["$ref", "#b"]),
        (of(a={"items": {"anyOf": [{"$ref": "file:///etc/passwd"}]}}), ["$ref", "file:///etc/passwd", "nothing is fetched"]),
        (of(a={"$ref": "https://json-schema.org/draft/2020-12/schema"}), ["$ref", "nothing is fetched"]),
        (of(a={"$ref": "#/properties/a"}), ["$ref", "itself"]),
        (of(a={"allOf": [{"$ref": "#/properties/b"}]}, b={"not": {"$ref": "#/properties/a"}}), ["$ref", "itself"]),
    ],
)  # fmt: skip
def test_what_is_no_tool(wrong: Any, names: list[str]) -> None:
    found = schema_problem(wrong)
    assert found is not None
    assert [name for name in names if name not in found] == []
    assert len(found) < 400


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: Any, **__: Any) -> Any:
        raise AssertionError("something is being fetched")

    monkeypatch.setattr(urllib.request, "urlopen", fetched)
    schema = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/never.json"}}}
    assert "nothing is fetched" in str(schema_problem(tool(schema)))
    assert "nothing is fetched" in str(problem(ToolCall("1", "give", '{"a": 1}'), [spec(schema)]))


def test_depths_without_an_end() -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(400):
        deep = {"type": "object", "properties": {"a": deep}}
    assert schema_problem(tool(deep)) is not None
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}}, "$defs": {"tree": TREE}}
    assert schema_problem(tool(tree)) is None
    left = '{"left": ' * 400 + "{}" + "}" * 400
    assert problem(ToolCall("1", "give", left), [spec(tree)]) == "arguments_invalid: give: it is nested too deep"
