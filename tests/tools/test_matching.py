"""The rules of the Berkeley Function-Calling Leaderboard: what counts as the right calls, and what does not."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tools.matching import Accepted, Call, OneOf, from_json, mismatch, to_json

WEATHER = {
    "type": "object",
    "properties": {
        "location": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
        "height": {"type": "number"},
        "alerts": {"type": "boolean"},
        "hours": {"type": "array", "items": {"type": "number"}},
        "place": {"type": "object", "properties": {"lat": {"type": "number"}, "floor": {"type": "integer"}}},
    },
    "required": ["location"],
}


def wrong(answer: str, *calls: dict[str, Any], schema: Any = WEATHER) -> str | None:
    """The reason why calls of `weather` are not those of a possible answer in BFCL's own form."""
    made = [Call("weather", call) for call in calls]
    return mismatch(from_json(answer), made, None if schema is None else {"weather": schema})


def one(**values: list[Any]) -> str:
    return json.dumps([{"weather": values}])


OSLO = {"location": ["Oslo", "Oslo, Norway"]}


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        # Any of the accepted values, and texts as they are compared.
        (one(**OSLO), {"location": "Oslo"}),
        (one(**OSLO), {"location": "Oslo, Norway"}),
        (one(**OSLO), {"location": "oslo norway"}),
        (one(**OSLO), {"location": "OSLO-NORWAY."}),
        (one(location=["April 1, 2024"]), {"location": "april 1,2024"}),
        (one(location=["a_b/c*d^e"]), {"location": "ABCDE"}),
        (one(location=["McDonald's"]), {"location": 'McDonald"s'}),
        (one(location=["Санкт-Петербург"]), {"location": "санкт петербург"}),
        # What may be left out, and what is left out by an empty text.
        (one(**OSLO, unit=["celsius", ""]), {"location": "Oslo"}),
        (one(**OSLO, unit=["", "celsius"]), {"location": "Oslo", "unit": "Celsius"}),
        (one(**OSLO, unit=["celsius", ""]), {"location": "Oslo", "unit": ""}),
        (one(**OSLO, unit=[""]), {"location": "Oslo", "unit": ""}),
        (one(**OSLO, unit=["", None]), {"location": "Oslo", "unit": None}),
        (one(**OSLO, unit=["", None]), {"location": "Oslo", "unit": ""}),
        # Numbers: an integer is a number.
        (one(**OSLO, days=[5]), {"location": "Oslo", "days": 5}),
        (one(**OSLO, height=[5.0]), {"location": "Oslo", "height": 5}),
        (one(**OSLO, height=[5]), {"location": "Oslo", "height": 5.0}),
        (one(**OSLO, alerts=[True]), {"location": "Oslo", "alerts": True}),
        # Lists, in one of the accepted orders.
        (one(**OSLO, hours=[[6, 18], [18, 6]]), {"location": "Oslo", "hours": [18, 6]}),
        (one(**OSLO, hours=[[6.0, 18]]), {"location": "Oslo", "hours": [6, 18.0]}),
        (one(**OSLO, hours=[[]]), {"location": "Oslo", "hours": []}),
        # Objects, whose keys have accepted values of their own.
        (one(**OSLO, place=[{"lat": [1.5, 2], "floor": [0, ""]}]), {"location": "Oslo", "place": {"lat": 2.0}}),
        (one(**OSLO, place=[{"lat": [1.5], "floor": [0]}]), {"location": "Oslo", "place": {"floor": 0, "lat": 1.5}}),
        (one(**OSLO, place=[{"lat": [1]}, {"lat": [2]}]), {"location": "Oslo", "place": {"lat": 2}}),
    ],
)
def test_right(answer: str, arguments: dict[str, Any]) -> None:
    assert wrong(answer, arguments) is None


@pytest.mark.parametrize(
    ("answer", "arguments", "names"),
    [
        (one(**OSLO), {"location": "Bergen"}, ["location", "Bergen", "Oslo"]),
        (one(**OSLO), {}, ["required", "location", "missing"]),
        (one(**OSLO), {"location": "Oslo", "unit": "celsius"}, ["unexpected", "unit", "celsius"]),
        (one(**OSLO, mood=["good"]), {"location": "Oslo", "mood": "good"}, ["unexpected", "mood"]),
        (one(**OSLO, unit=["celsius"]), {"location": "Oslo"}, ["unit", "missing"]),
        (one(location=["Oslo", ""]), {}, ["required", "location"]),
        (one(**OSLO, unit=["celsius", ""]), {"location": "Oslo", "unit": "kelvin"}, ["unit", "kelvin"]),
        (one(**OSLO), {"location": ""}, ["location", "''"]),
        # Types are strict.
        (one(**OSLO, days=[5]), {"location": "Oslo", "days": "5"}, ["days", "'5'"]),
        (one(**OSLO, days=[5]), {"location": "Oslo", "days": 5.0}, ["days", "5.0"]),
        (one(**OSLO, days=[1]), {"location": "Oslo", "days": True}, ["days", "True"]),
        (one(**OSLO, alerts=[True]), {"location": "Oslo", "alerts": 1}, ["alerts", "1"]),
        (one(**OSLO, alerts=[True]), {"location": "Oslo", "alerts": "true"}, ["alerts", "'true'"]),
        (one(**OSLO, alerts=[True]), {"location": "Oslo", "alerts": False}, ["alerts", "False"]),
        (one(**OSLO, unit=["5"]), {"location": "Oslo", "unit": 5}, ["unit", "5"]),
        (one(**OSLO, days=[5, ""]), {"location": "Oslo", "days": ""}, ["days", "''"]),
        (one(**OSLO, days=[None, ""]), {"location": "Oslo", "days": ""}, ["days", "''"]),
        (one(**OSLO, days=[0]), {"location": "Oslo", "days": None}, ["days", "None"]),
        (one(**OSLO, hours=[[6]]), {"location": "Oslo", "hours": 6}, ["hours", "6"]),
        (one(**OSLO, hours=[[6]]), {"location": "Oslo", "hours": "[6]"}, ["hours"]),
        # Within lists and objects, too.
        (one(**OSLO, hours=[[6, 18]]), {"location": "Oslo", "hours": [18, 6]}, ["hours", "[18, 6]"]),
        (one(**OSLO, hours=[[6, 18]]), {"location": "Oslo", "hours": [6]}, ["hours"]),
        (one(**OSLO, hours=[[1]]), {"location": "Oslo", "hours": [True]}, ["hours"]),
        (one(**OSLO, place=[{"lat": [1]}]), {"location": "Oslo", "place": {}}, ["place"]),
        (one(**OSLO, place=[{"lat": [1]}]), {"location": "Oslo", "place": {"lat": 1, "x": 1}}, ["place"]),
        (one(**OSLO, place=[{"lat": [1]}]), {"location": "Oslo", "place": {"lat": 2}}, ["place"]),
        (one(**OSLO, place=[{"floor": [1]}]), {"location": "Oslo", "place": {"floor": 1.0}}, ["place"]),
        (one(**OSLO, place=[{"lat": [1]}]), {"location": "Oslo", "place": [1]}, ["place"]),
    ],
)
def test_wrong(answer: str, arguments: dict[str, Any], names: list[str]) -> None:
    reason = wrong(answer, arguments)
    assert reason is not None
    assert [name for name in ["weather", *names] if name not in reason] == []


def test_without_a_schema_types_follow_from_what_is_accepted() -> None:
    assert wrong(one(height=[5.0]), {"height": 5}, schema=None) is None
    assert wrong(one(height=[5]), {"height": 5.0}, schema=None) is not None
    assert wrong(one(**OSLO, unit=["celsius", ""]), {"location": "Oslo"}, schema=None) is None
    assert mismatch(from_json(one(**OSLO)), [Call("weather", {"location": "Oslo"})], {}) is None


@pytest.mark.parametrize(
    "schema", [{"type": ["number", "null"]}, {"anyOf": [{"type": "null"}, {"type": "number"}]}, {"type": "float"}]
)
def test_a_number_may_be_declared_in_several_ways(schema: dict[str, Any]) -> None:
    assert wrong(one(n=[5]), {"n": 5.0}, schema={"properties": {"n": schema}}) is None


def test_lists_of_objects_keep_their_order() -> None:
    answer = (
        '[{"order": {"items": [[{"dish": ["soup"], "count": [1, ""]}, {"dish": ["tea", "black tea"], "count": [2]}]]}}]'
    )
    soup, tea = {"dish": "Soup"}, {"dish": "Black tea", "count": 2}
    assert mismatch(from_json(answer), [Call("order", {"items": [soup, tea]})]) is None
    for items in ([tea, soup], [soup], [soup, tea, tea], [soup, {"dish": "tea"}], [soup, {**tea, "count": "2"}]):
        assert mismatch(from_json(answer), [Call("order", {"items": items})]) is not None


def test_objects_within_objects() -> None:
    deep = {"to": {"city": OneOf(("Oslo", "Kristiania")), "geo": {"lat": 1.0, "alt": OneOf((2,), optional=True)}}}
    wanted = [Accepted("go", {"where": (deep,)})]
    for where in (deep, {"to": {"city": "kristiania", "geo": {"lat": 1}}}):
        plain = {"to": {"city": "Oslo", "geo": {"lat": 1.0, "alt": 2}}} if where is deep else where
        assert mismatch(wanted, [Call("go", {"where": plain})]) is None
    assert from_json(to_json(wanted)) == wanted
    for where in ({"to": {"city": "Oslo"}}, {"to": {"city": "Oslo", "geo": {"lat": 1, "alt": 3}}}):
        assert mismatch(wanted, [Call("go", {"where": where})]) is not None


# Functions and several calls.


def test_the_right_function() -> None:
    reason = mismatch([Accepted("set_alarm", {})], [Call("set_timer", {})])
    assert reason == "set_alarm is wanted, not set_timer"
    assert mismatch([Accepted("spotify.play", {})], [Call("spotify_play", {})]) is None  # OpenAI's names have no dots
    assert mismatch([Accepted("spotify_play", {})], [Call("spotify.play", {})]) is not None


def test_the_number_of_calls() -> None:
    wanted = [Accepted("f", {}), Accepted("g", {})]
    assert mismatch([], []) is None
    assert mismatch(wanted, [Call("f", {})]) == "wrong number of calls: 2 wanted (f, g), 1 made (f)"
    assert mismatch([], [Call("f", {})]) == "wrong number of calls: 0 wanted (none), 1 made (f)"
    assert mismatch(wanted, [Call("f", {}), Call("g", {}), Call("g", {})]) is not None
    assert mismatch(wanted, [Call("f", {}), Call("f", {})]) == "call 2: g is wanted, not f"


def test_parallel_calls_come_in_any_order() -> None:
    answer = '[{"weather": {"location": ["Oslo"]}}, {"weather": {"location": ["Rome"]}}, {"time": {}}]'
    calls = [Call("weather", {"location": "Oslo"}), Call("weather", {"location": "Rome"}), Call("time", {})]
    for order in permutations(calls):
        assert mismatch(from_json(answer), order) is None
    twice = [calls[0], calls[0], calls[2]]
    assert mismatch(from_json(answer), twice) == "call 2: weather: 'location' is 'Oslo', where 'Rome' is right"


def test_the_first_that_fits_is_not_always_the_one() -> None:
    """The first answer takes either call, the second only one of them: greedy matching would fail."""
    answer = '[{"play": {"artist": ["ABBA", "Queen"]}}, {"play": {"artist": ["ABBA"]}}]'
    for artists in (("ABBA", "Queen"), ("Queen", "ABBA"), ("ABBA", "ABBA")):
        assert mismatch(from_json(answer), [Call("play", {"artist": a}) for a in artists]) is None
    assert mismatch(from_json(answer), [Call("play", {"artist": "Queen"})] * 2) is not None


@given(st.lists(st.sets(st.integers(0, 4), min_size=1), min_size=1, max_size=5), st.data())
def test_calls_match_if_any_order_of_them_does(sets: list[set[int]], data: st.DataObject) -> None:
    wanted = [Accepted("f", {"n": tuple(sorted(numbers))}) for numbers in sets]
    made = data.draw(st.lists(st.integers(0, 4), min_size=len(sets), max_size=len(sets)))
    some_order = any(all(n in s for n, s in zip(order, sets, strict=True)) for order in permutations(made))
    assert (mismatch(wanted, [Call("f", {"n": n}) for n in made]) is None) == some_order


# Whatever is accepted matches, and no single change of it does.

TEXTS = st.text("abXYюЖ4 -_.'", min_size=1, max_size=6)
PLAIN = st.one_of(TEXTS, st.integers(-50, 50), st.booleans(), st.none(), st.floats(0.1, 0.9))
KEYS = st.text("pqrst", min_size=1, max_size=2)
VALUES = st.recursive(PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=6)
ARGUMENTS = st.dictionaries(KEYS, st.tuples(st.lists(VALUES, min_size=1, max_size=3), st.booleans()), max_size=4)


@st.composite
def accepted_and_made(draw: st.DrawFn) -> tuple[list[Accepted], list[Call]]:
    """Accepted calls, each of its own function, and calls made from them, in the same order."""
    accepted, calls = [], []
    for number in range(draw(st.integers(1, 3))):
        arguments = draw(ARGUMENTS)
        optional = frozenset(name for name, (_, may) in arguments.items() if may)
        accepted.append(Accepted(f"f{number}", {n: tuple(v) for n, (v, _) in arguments.items()}, optional))
        chosen = {n: draw(st.sampled_from(v)) for n, (v, _) in arguments.items()}
        calls.append(Call(f"f{number}", {n: v for n, v in chosen.items() if n not in optional or draw(st.booleans())}))
    return accepted, calls


def spoilt(value: Any) -> list[Any]:
    """What is near a value and none of those that the strategies draw."""
    if isinstance(value, bool) or value is None:
        return [int(value or 0) + 100, str(value) + "¤"]
    if isinstance(value, str):
        return [value + "¤", [value, "¤"], {"¤": value}]
    if isinstance(value, int | float):
        return [value + 1000, f"{value}¤", [value, "¤"]]
    if isinstance(value, list):
        longer = [[*value, "¤"], {"¤": value}]
        return longer + [[*value[:i], other, *value[i + 1 :]] for i, v in enumerate(value) for other in spoilt(v)]
    more = [{**value, "¤": 1}, [value, "¤"]]
    return more + [{**value, key: other} for key, v in value.items() for other in spoilt(v)]


@given(accepted_and_made(), st.data())
def test_calls_made_from_what_is_accepted_match(drawn: tuple[list[Accepted], list[Call]], data: st.DataObject) -> None:
    accepted, calls = drawn
    assert mismatch(accepted, data.draw(st.permutations(calls))) is None
    read = from_json(to_json(accepted))
    assert read == accepted
    assert mismatch(read, calls) is None


@given(accepted_and_made(), st.data())
def test_no_single_change_matches(drawn: tuple[list[Accepted], list[Call]], data: st.DataObject) -> None:
    accepted, calls = drawn
    at = data.draw(st.integers(0, len(calls) - 1))
    name, arguments = calls[at]
    changed = [Call(f"{name}_", arguments), Call(name, {**arguments, "¤": 1})]
    changed += [Call(name, {**arguments, a: wrong}) for a, value in arguments.items() for wrong in spoilt(value)]
    needed = [a for a in arguments if a not in accepted[at].optional]
    changed += [Call(name, {k: v for k, v in arguments.items() if k != a}) for a in needed]
    for call in changed:
        made = [*calls[:at], call, *calls[at + 1 :]]
        assert mismatch(accepted, made) is not None
        assert mismatch(accepted, made[::-1]) is not None
    for made in ([*calls[:at], *calls[at + 1 :]], [*calls, calls[at]]):
        assert "number of calls" in str(mismatch(accepted, made))


@given(TEXTS.filter(str.strip), st.data())
def test_texts_are_compared_without_case_and_marks(text: str, data: st.DataObject) -> None:
    marks = st.sampled_from(["", " ", ",", ".", "/", "-", "_", "*", "^"])
    written = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) + data.draw(marks) for c in text)
    assert mismatch([Accepted("f", {"a": (text,)})], [Call("f", {"a": written})]) is None


# The form in which they are stored.


def test_the_form_is_that_of_possible_answers() -> None:
    wanted = [Accepted("f", {"a": (1, "x"), "b": ({"c": 2},)}, frozenset({"a"})), Accepted("g", {})]
    assert json.loads(to_json(wanted)) == [{"f": {"a": [1, "x", ""], "b": [{"c": [2]}]}}, {"g": {}}]
    assert to_json([]) == "[]"
    assert from_json("[]") == []


def test_an_empty_text_cannot_be_told_from_one_left_out() -> None:
    with pytest.raises(ValueError, match=r"f\.a: a required argument"):
        to_json([Accepted("f", {"a": ("",)})])
    left_out = from_json(to_json([Accepted("f", {"a": ("",)}, frozenset({"a"}))]))
    assert mismatch(left_out, [Call("f", {"a": ""})]) is None
    assert mismatch(left_out, [Call("f", {})]) is None


@pytest.mark.parametrize(
    "text", ["", "{", "3", '{"f": {}}', "[3]", "[{}]", '[{"f": {}, "g": {}}]', '[{"f": 3}]', '[{"f": {"a": 3}}]']
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|to be written as"):
        from_json(text)
