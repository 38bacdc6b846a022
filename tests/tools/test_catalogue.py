"""Catalogues and grammars: what cannot work is refused before any work, by file, tool and field."""

from __future__ import annotations

import copy
import datetime as dt
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.tools.catalogue import Catalogue, files
from pipeline.tools.errors import CatalogueError
from pipeline.tools.patterns import PatternError, Patterns, Slot, parse, render, sentence
from pipeline.tools.results import simulate
from pipeline.tools.values import KIND, Setting, from_schema, plural

TABLE = {
    "type": "function",
    "function": {
        "name": "book_table",
        "description": "Books a table.",
        "parameters": {
            "type": "object",
            "properties": {
                "people": {"type": "integer", "minimum": 1, "maximum": 12},
                "dish": {"type": "string"},
                "quiet": {"type": "boolean"},
            },
            "required": ["people"],
            "additionalProperties": False,
        },
    },
}
CATALOGUE: dict[str, Any] = {
    "tools": [TABLE],
    "pools": {"dish": [{"value": "soup", "en": {"": "soup", "many": "soups"}}, {"value": "pie", "en": "pie"}]},
    "values": {"book_table.dish": "dish"},
    "results": {
        "book_table": [
            {"name": "ok", "weight": 2, "result": {"people": {"$argument": "people"}, "served": {"$draw": "dish"}}},
            {"name": "full", "result": {"error": "full"}},
        ]
    },
}
GRAMMAR: dict[str, Any] = {
    "pieces": {"please": ["", " please"]},
    "tools": {
        "book_table": {
            "ask": ["(book|get) a table for {people}[ with {dish}]<please>"],
            "short": ["book a table<please>"],
            "need": {"people": {"question": ["For how many?"], "answer": ["for {people}"]}},
            "answer": {"ok": ["Table for {people}, and {result.served}."], "full": ["Sorry, all is full."]},
            "mention": [{"say": "we were {people} yesterday", "reply": "I see."}],
        }
    },
    "chat": [{"say": "what is soup?", "reply": "A liquid dish."}],
}


def written(folder: Path, catalogue: Any = CATALOGUE, grammar: Any = GRAMMAR) -> Path:
    path = folder / "food.json"
    path.write_text(catalogue if isinstance(catalogue, str) else json.dumps(catalogue), encoding="utf-8")
    if grammar is not None:
        with open(folder / "food.en.yaml", "w", encoding="utf-8") as stream:
            if isinstance(grammar, str):
                stream.write(grammar)
            else:
                YAML().dump(grammar, stream)
    return path


def changed(content: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    made = copy.deepcopy(content)
    change(made)
    return made


def of_table(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["tools"][0]["function"]
    return found


def test_a_sound_catalogue_loads(tmp_path: Path) -> None:
    made = Catalogue(written(tmp_path))
    assert list(made.tools) == ["book_table"]
    assert made.tools["book_table"].required == {"people"}
    assert made.grammars["en"].size == 2 * 2 * 2 + 2
    assert files(tmp_path) == [tmp_path / "food.json"]


def test_a_plain_list_of_tools_is_a_catalogue(tmp_path: Path) -> None:
    plain = changed(TABLE, lambda t: t["function"]["parameters"]["properties"].pop("dish"))
    made = Catalogue(written(tmp_path, [plain, {**plain["function"], "name": "other"}], None))
    assert list(made.tools) == ["book_table", "other"]
    values = made.arguments_of("book_table", Setting("de", dt.date(2026, 1, 1), random.Random(0)), optional=1)
    assert set(values) == {"people", "quiet"}


BROKEN: list[tuple[str, Any, str]] = [
    ("not JSON", "[{", r"food\.json:1: this is not JSON"),
    ("no object", "3", r"food\.json: a list of tools, or an object"),
    ("no tools", {"tools": []}, r"food\.json: tools: list should have at least 1"),
    ("unknown key", {**CATALOGUE, "tolls": []}, r"food\.json: tolls"),
    (
        "no schema",
        changed(CATALOGUE, lambda c: of_table(c)["parameters"].update(type="objekt")),
        r"book_table: parameters",
    ),
    ("bad name", changed(CATALOGUE, lambda c: of_table(c).update(name="book table")), r"food\.json: book table: name"),
    (
        "twice",
        changed(CATALOGUE, lambda c: c["tools"].append(TABLE)),
        r"food\.json: book_table: two tools have this name",
    ),
    (
        "unfillable",
        changed(CATALOGUE, lambda c: of_table(c)["parameters"]["properties"].update(people={"type": "string"})),
        r"food\.json: book_table\.people: this argument is required, and nothing says what to fill it with",
    ),
    ("no such pool", changed(CATALOGUE, lambda c: c["values"].update({"book_table.dish": "fish"})), r"no pool 'fish'"),
    (
        "no argument",
        changed(CATALOGUE, lambda c: c["values"].update({"book_table.fish": "dish"})),
        r"values\.book_table\.fish",
    ),
    (
        "wrong type",
        changed(CATALOGUE, lambda c: c["pools"].update(dish=[5])),
        r"book_table\.dish: the value 5 is not as the schema says",
    ),
    ("empty pool", changed(CATALOGUE, lambda c: c["pools"].update(dish=[])), r"pools\.dish: the pool is empty"),
    (
        "odd kind",
        changed(CATALOGUE, lambda c: c["values"].update({"book_table.people": {"kind": "color"}})),
        r"values\.book_table\.people",
    ),
    ("no tool", changed(CATALOGUE, lambda c: c["results"].update(cook={})), r"results\.cook: there is no such tool"),
    (
        "echo of nothing",
        changed(CATALOGUE, lambda c: c["results"].update(book_table={"a": {"$argument": "b"}})),
        r"results\.book_table\.a: the tool book_table has no argument 'b'",
    ),
    (
        "directive",
        changed(CATALOGUE, lambda c: c["results"].update(book_table={"a": {"$eval": "1+1"}})),
        r"\$eval is no directive",
    ),
    (
        "remote reference",
        changed(CATALOGUE, lambda c: of_table(c)["parameters"]["properties"].update(dish={"$ref": "http://x/y"})),
        r"book_table",
    ),
]


@pytest.mark.parametrize(("content", "says"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_catalogue_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(CatalogueError, match=says):
        Catalogue(written(tmp_path, content, None))


def tool(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["tools"]["book_table"]
    return found


WRONG: list[tuple[str, Any, str]] = [
    ("not YAML", "a: [", r"food\.en\.yaml"),
    ("no tool", changed(GRAMMAR, lambda g: g["tools"].update(cook=g["tools"]["book_table"])), r"tools\.cook: the catalogue has no such tool"),
    ("left out", changed(GRAMMAR, lambda g: g.update(tools={})), r"tools\.book_table: this tool of the catalogue is missing"),
    ("unknown slot", changed(GRAMMAR, lambda g: tool(g)["ask"].append("for {people} {fish}")), r"book_table\.ask: there is no slot \{fish\}; there are: dish, people, quiet"),
    ("unknown piece", changed(GRAMMAR, lambda g: tool(g)["ask"].append("for {people}<now>")), r"there is no piece <now>"),
    ("unknown form", changed(GRAMMAR, lambda g: tool(g)["ask"].append("for {people} {dish:few}")), r"form 'few'"),
    ("required left out", changed(GRAMMAR, lambda g: tool(g)["ask"].append("a table[ for {people}]")), r"does not always say people"),
    ("short of nothing", changed(GRAMMAR, lambda g: tool(g)["short"].append("for {people}")), r"must lack exactly one required"),
    ("nobody asks", changed(GRAMMAR, lambda g: tool(g).update(need={})), r"add need\.people"),
    ("silent answer", changed(GRAMMAR, lambda g: tool(g)["need"]["people"].update(answer=["some"])), r"does not say \{people\}"),
    ("no such result", changed(GRAMMAR, lambda g: tool(g).update(answer=["Done."])), r"full is missing"),
    ("no such field", changed(GRAMMAR, lambda g: tool(g)["answer"].update(ok=["{result.price}"])), r"no slot \{result\.price\}"),
    ("bracket", changed(GRAMMAR, lambda g: tool(g)["ask"].append("(for {people}")), r"is not closed"),
    ("glued", changed(GRAMMAR, lambda g: tool(g)["ask"].append("for {people}[now]")), r"would stick together"),
    ("circle", changed(GRAMMAR, lambda g: g["pieces"].update(please=["<please>"])), r"is within itself"),
    ("unknown key", changed(GRAMMAR, lambda g: tool(g).update(asks=[])), r"asks"),
    ("reply of chance", changed(GRAMMAR, lambda g: tool(g).update(mention=[{"say": "hm[ {people}]", "reply": "{people}"}])), r"no slot \{people\}"),
    ("chain", changed(GRAMMAR, lambda g: g.update(chains=[{"tools": ["book_table", "cook"], "links": {"a": "b"}, "ask": ["x"], "answer": ["y"]}])), r"no tool 'cook'"),
    (
        "link",
        changed(GRAMMAR, lambda g: g.update(chains=[{"tools": ["book_table"] * 2, "links": {"dish": "meal"}, "ask": ["x"], "answer": ["y"]}])),
        r"book_table gives no 'meal'; it gives: people, served",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_grammar_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(CatalogueError, match=says):
        Catalogue(written(tmp_path, CATALOGUE, content))


def test_equal_calls_give_equal_results_and_only_from_templates(tmp_path: Path) -> None:
    made = Catalogue(written(tmp_path))
    at = Setting("en", dt.date(2026, 1, 1), random.Random(5))
    one, other = (simulate(made, "book_table", {"people": 4}, at) for _ in range(2))
    assert (one.variant, one.content) == (other.variant, other.content)
    seen = {simulate(made, "book_table", {"people": n}, at).text for n in range(1, 60)}
    assert '{"error": "full"}' in seen
    assert len(seen) > 20


def test_phrasings() -> None:
    patterns = Patterns([("(a|b[c]) {x:of} <p>.", 1.0)], {"p": Patterns([("please", 1.0), ("", 1.0)], {})})
    said = {render(patterns.choose(random.Random(n)), lambda s: f"{s.name}-{s.form}") for n in range(200)}
    assert said == {f"{first} x-of{last}." for first in ("a", "b", "bc") for last in (" please", "")}
    assert patterns.size == len(said) == 6
    assert list(patterns.slots()) == [Slot("x", "of")]
    assert [(text, set(names)) for text, names in patterns.always()] == [("(a|b[c]) {x:of} <p>.", {"x"})]
    assert sentence("book it") == "Book it."
    assert sentence("really?") == "Really?"


@pytest.mark.parametrize("text", ["(a", "a)", "[a", "a]", "{}", "{a b}", "{a", "<>", "(a]"])
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(PatternError):
        parse(text)


def test_plurals() -> None:
    wanted = {1: "one", 2: "few", 5: "many", 11: "many", 12: "many", 21: "one", 22: "few", 111: "many", 0: "many"}
    assert {n: plural(n, "ru") for n in wanted} == wanted
    assert [plural(n, "en") for n in (0, 1, 2)] == ["other", "one", "other"]


KINDS: list[tuple[dict[str, Any], str, set[Any] | None, str]] = [
    ({"kind": "integer", "least": 3, "most": 9, "step": 3}, "en", {3, 6, 9}, r"\d"),
    ({"kind": "number", "least": 36, "most": 40}, "ru", None, r"\d\d(,\d)?"),
    ({"kind": "quantity", "unit": "minutes", "values": [21]}, "ru", {21}, "21 минуту"),
    ({"kind": "quantity", "unit": "mg", "values": [2.5]}, "pt", {2.5}, "2,5 mg"),
    ({"kind": "money", "least": 40, "most": 40}, "en", {40}, r"\$40"),
    ({"kind": "money", "least": 40, "most": 40}, "ru", {4000}, "4000 ₽"),
    ({"kind": "time", "least": "15:30", "most": "15:30"}, "en", {"15:30"}, "3:30 pm"),
    ({"kind": "time", "least": "15:30", "most": "15:30"}, "pt", {"15:30"}, "15h30"),
    ({"kind": "code", "shape": "'BX'-99-a"}, "en", None, r"BX-\d\d-[a-z]"),
    ({"kind": "list", "of": {"kind": "pool", "entries": ["a", "b", "c"]}, "least": 3}, "en", None, r"\w, \w and \w"),
    (
        {
            "kind": "object",
            "fields": {"n": {"kind": "integer", "least": 2, "most": 2}, "dish": {"kind": "pool", "entries": [{"value": "pie", "en": {"one": "pie", "other": "pies"}}]}},
            "words": {"en": "{n} {dish:#n}"},
        },
        "en",
        None,
        "2 pies",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "language", "values", "words"), KINDS)
def test_kinds_of_values(content: dict[str, Any], language: str, values: set[Any] | None, words: str) -> None:
    import re

    kind = KIND.validate_python(content)
    for number in range(30):
        value = kind.draw(Setting(language, dt.date(2026, 11, 21), random.Random(number)))
        assert values is None or value.argument in values
        assert value.accepted[0] == value.argument or isinstance(value.argument, dict)
        assert re.fullmatch(words, value.say()), value.say()


def test_days_are_those_that_are_meant() -> None:
    today = dt.date(2026, 11, 21)  # a Saturday
    kind = KIND.validate_python({"kind": "date", "least": 1, "most": 40})
    for language in ("en", "ru", "pt"):
        meant: dict[str, set[str]] = {}
        for number in range(400):
            value = kind.draw(Setting(language, today, random.Random(number)))
            meant.setdefault(value.say(), set()).add(value.argument)
        assert all(len(days) == 1 for days in meant.values()), "one way to say it means one day"
    assert meant["amanhã"] == {"2026-11-22"}


def test_what_a_schema_alone_can_fill() -> None:
    fillable = [
        {"enum": ["a"]}, {"const": 1}, {"type": "boolean"}, {"type": "integer", "maximum": 9}, {"examples": ["x"]},
        {"type": "string", "format": "date"}, {"type": "array", "items": {"enum": ["a", "b"]}}, {"type": "number", "maximum": 1},
    ]  # fmt: skip
    assert all(from_schema(schema) is not None for schema in fillable)
    assert all(
        from_schema(schema) is None for schema in ({"type": "string"}, {"type": "integer"}, {"type": "object"}, {})
    )
