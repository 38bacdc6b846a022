"""What users may bring: each fault is named with file, place and cure, at once and without a stack trace."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import tools
from pipeline.tools.catalogue import load
from pipeline.tools.errors import CatalogueError

INTEGER = {"type": "integer", "minimum": 1, "maximum": 5}


def tool(**properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": "t", "description": "d", "parameters": parameters}}


def of_kind(kind: Any, **more: Any) -> dict[str, Any]:
    return {"tools": [tool(a={})], "values": {"t.a": kind}, **more}


def results(content: Any) -> dict[str, Any]:
    return {"tools": [tool()], "results": {"t": content}}


def nested(levels: int, inner: Any, wrap: Any) -> Any:
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def in_list(inner: Any) -> dict[str, Any]:
    return {"kind": "list", "of": inner}


BAD = {
    "function is a list": ([{"type": "function", "function": [1]}], r"tools\[0\]: function: an object is expected"),
    "anything goes": ([tool(a=True)], r"t\.a: this argument is required"),
    "bounds crossed": ([tool(a={"type": "integer", "minimum": 5, "maximum": 1})], r"t\.a: no value .* least is 5"),
    "endless array": ([tool(a={"type": "array", "items": INTEGER, "minItems": 10**9})], r"t\.a: no value can be drawn"),
    "arrays in arrays": (
        [tool(a=nested(60, INTEGER, lambda s: {"type": "array", "items": s}))],
        r"t\.a: this argument",
    ),
    "pattern met by nothing": (
        [tool(a={"type": "string", "pattern": r"^a\bb$", "examples": ["q"]})],
        "'q' does not match",
    ),
    "one of many breaks the schema": (
        [tool(a={"type": "string", "enum": [str(n) for n in range(300)], "pattern": "^[0-9]{1,2}$"})],
        r"t\.a: the value '100' is not as the schema says",
    ),
    "one field breaks the schema": (
        {
            "tools": [tool(a={"type": "object", "properties": {"b": {"type": "integer"}}})],
            "values": {
                "t.a": {"kind": "object", "fields": {"b": {"kind": "pool", "entries": [*range(99), "x"]}}}
                | {"words": {"en": "{b}"}}
            },
        },
        r"t\.a\.b: the value 'x'",
    ),
    "date beyond the calendar": (of_kind({"kind": "date", "most": 10**9}), r"values\.t\.a\.most: .* 36500"),
    "dates crossed": (
        of_kind({"kind": "date", "least": 9, "most": 1}),
        r"values\.t\.a: least is 9, which is more than",
    ),
    "no time": (of_kind({"kind": "time", "least": "25:00"}), r"values\.t\.a\.least: a time such as 08:30"),
    "endless list": (of_kind({**in_list({"kind": "integer"}), "most": 10**9}), r"values\.t\.a\.most: .* 50"),
    "lists in lists": (of_kind(nested(300, {"kind": "integer"}, in_list)), r"values\.t\.a: this is nested too deep"),
    "differing in no field": (of_kind({**in_list({"kind": "integer"}), "distinct": "q"}), "distinct: .* no field 'q'"),
    "piece in an object": (
        of_kind({"kind": "object", "fields": {"x": {"kind": "integer"}}, "words": {"en": "<p> {x}"}}),
        r"values\.t\.a\.words: there is no piece <p>",
    ),
    "plural of no field": (
        of_kind({"kind": "object", "fields": {"x": {"kind": "integer"}}, "words": {"en": "{x:#z}"}}),
        r"values\.t\.a: en: .* names 'z', which is no field",
    ),
    "pool with an empty language": (of_kind("p", pools={"p": {"en": [], "ru": ["x"]}}), r"pools\.p: the pool is empty"),
    "entry without words": (of_kind("p", pools={"p": [{"value": "x", "en": ""}]}), r"pools\.p\.0\.words: en: no words"),
    "weight that is none": (results([{"weight": "x", "result": 1}]), r"results\.t\[0\]\.weight: a number above 0"),
    "weight of nothing": (results([{"weight": 0, "result": 1}]), r"results\.t\[0\]\.weight: a number above 0"),
    "no results": (results([]), r"results\.t: at least one result"),
    "results of one name": (results([{"result": 1}, {"result": 2}]), r"results\.t\[1\]\.name: two results"),
    "echo of a list": (results({"x": {"$argument": ["q"]}}), r"results\.t\.x: .* no argument \['q'\]; there are: none"),
    "result too deep": (results(nested(900, 1, lambda inner: {"x": inner})), "nested too deep"),
    "request instead of tools": (
        {"tools": [tool()], "tool_choice": "auto"},
        "tool_choice: there is no such key.* tools",
    ),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD)
def test_it_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CatalogueError, match=says) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 600


GOOD = {
    "reference": {"$ref": "#/$defs/room"},
    "reference in one branch": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/room"}]},
    "or null": {"type": ["null", "integer"], "maximum": 9},
    "multiples": {"type": "integer", "minimum": 3, "maximum": 50, "multipleOf": 5},
    "fractional bounds": {"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3},
    "below zero": {"type": "integer", "maximum": -5},
    "list of references": {"type": "array", "items": {"$ref": "#/$defs/room"}, "minItems": 2},
}


@pytest.mark.parametrize("schema", GOOD.values(), ids=GOOD)
def test_what_a_schema_allows_is_drawn(tmp_path: Path, schema: dict[str, Any]) -> None:
    content = tool(a=schema)
    content["function"]["parameters"]["$defs"] = {"room": {"type": "string", "enum": ["hall", "attic"]}}
    path = tmp_path / "mine.json"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps([content]).encode())
    argument = load(path).tools["t"].arguments["a"]
    assert argument.kind is not None
    assert argument.required


def test_the_example_of_the_documentation_says_what_to_add(tmp_path: Path) -> None:
    """platform.openai.com/docs/guides/function-calling: a required text of which nothing else is said."""
    path = tmp_path / "mine.json"
    units = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    weather = tool(location={"type": "string", "description": "e.g. Bogotá, Colombia"}, units=units)["function"]
    content = {"type": "function", "strict": True, **weather}
    path.write_text(json.dumps([content]))
    with pytest.raises(CatalogueError, match=r"t\.location: .* add values\.t\.location"):
        load(path)
    mended = {"tools": [content], "values": {"t.location": "city"}, "pools": {"city": ["Bogotá, Colombia", "Lisbon"]}}
    other = tmp_path / "mended.json"
    other.write_text(json.dumps(mended))
    assert load(other).tools["t"].required == {"location", "units"}


def test_marks_in_a_catalogues_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "[red]mine.json"
    path.write_text(json.dumps({"tools": [tool(a=INTEGER)], "about": {"en": "[/red] things"}}))
    application = typer.Typer()
    application.command()(tools)
    shown = CliRunner().invoke(application, [str(path)])
    assert shown.exit_code == 0, shown.output
    assert "[/red] things" in shown.output
