"""Calls are read from all the forms that models write them in; what is none of them is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tools.calls import LARGEST, Call, calls_of
from schemas.conversation import Message, ToolCall

LIGHT = Call("set_light", {"room": "hall", "level": 5})
TIMER = Call("start_timer", {"minutes": 3})
ONE = '{"name": "set_light", "arguments": {"room": "hall", "level": 5}}'
TWO = '{"name": "start_timer", "arguments": {"minutes": 3}}'
LLAMA = '{"name": "set_light", "parameters": {"room": "hall", "level": 5}}'
PYTHON = 'set_light(room="hall", level=5)'


@pytest.mark.parametrize(
    "text",
    [
        ONE,
        f"[{ONE}]",
        LLAMA,
        f"<|python_tag|>{LLAMA}<|eom_id|>",
        '{"type": "function", "name": "set_light", "parameters": {"room": "hall", "level": 5}}',
        f"[TOOL_CALLS][{ONE}]</s>",
        f"<tool_call>\n{ONE}\n</tool_call>",
        f"<tool_call>{ONE}",
        f"<tool_call>[{ONE}]</tool_call><|im_end|>",
        f"I will do that.\n<tool_call>\n{ONE}\n</tool_call>\nDone.",
        f"<think>Perhaps {TWO}? <tool_call>{TWO}</tool_call></think>\n<tool_call>{ONE}</tool_call>",
        f"the hall, so</think>\n\n{ONE}",
        f"```json\n{ONE}\n```",
        f"```\n[{PYTHON}]\n```",
        '{"id": "c1", "type": "function", "function": {"name": "set_light", '
        '"arguments": "{\\"room\\": \\"hall\\", \\"level\\": 5}"}}',
        PYTHON,
        f"[{PYTHON}]",
        f" [{PYTHON}]\n",
        "set_light(room='hall', level=+5)",
    ],
)
def test_one_call(text: str) -> None:
    assert calls_of(text) == [LIGHT]
    assert calls_of(Message("assistant", text)) == [LIGHT]


@pytest.mark.parametrize(
    "text",
    [
        f"[{ONE}, {TWO}]",
        f"{ONE}\n{TWO}",
        f"<|python_tag|>{LLAMA}; {TWO}",
        f"<tool_call>{ONE}</tool_call>\n<tool_call>{TWO}</tool_call>",
        f"<tool_call>{ONE}<tool_call>{TWO}",
        f"[{PYTHON}, start_timer(minutes=3)]",
        f"{PYTHON}, start_timer(minutes=3)",
        f"{PYTHON}\nstart_timer(minutes=3)",
    ],
)
def test_several_calls_keep_their_order(text: str) -> None:
    assert calls_of(text) == [LIGHT, TIMER]


def test_messages_with_calls() -> None:
    calls = (ToolCall("1", "set_light", '{"room": "hall", "level": 5}'), ToolCall("2", "start_timer", '{"minutes": 3}'))
    assert calls_of(Message("assistant", "One moment.", calls)) == [LIGHT, TIMER]
    for arguments in ("{", "[1]", '{"a": NaN}', '"a"'):
        assert "set_light" in str(calls_of(Message("assistant", "", (ToolCall("1", "set_light", arguments),))))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("f()", {}),
        ('<tool_call>{"name": "f"}</tool_call>', {}),
        ('{"name": "f", "arguments": null}', {}),
        ('{"name": "f", "arguments": ""}', None),
        ("f(a=-1.5, b=True, c=None, d=[1, (2, 3)], e={'x': {'y': 1}})",
         {"a": -1.5, "b": True, "c": None, "d": [1, [2, 3]], "e": {"x": {"y": 1}}}),
        (r'f(a="\d", b="a" "b")', {"a": r"\d", "b": "ab"}),
        ('<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>', {"a": "</tool_call>"}),
        ('{"name": "f", "arguments": {"a": "Ж", "b": 123456789012345678901}}', {"a": "Ж", "b": 123456789012345678901}),
    ],
)  # fmt: skip
def test_arguments(text: str, arguments: dict[str, Any] | None) -> None:
    found = calls_of(text)
    assert isinstance(found, str) if arguments is None else found == [Call("f", arguments)]


def test_dotted_names() -> None:
    assert calls_of("[spotify.player.play(artist='ABBA')]") == [Call("spotify.player.play", {"artist": "ABBA"})]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure, it is ten past four.",
        "[laughs] Sure (why not)!",
        "call me (maybe)",
        "No tool fits; I cannot set the light.",
        "[1, 2, 3]",
        "[]",
        "{}",
        '{"answer": 5}',
        '"set_light"',
        "42",
        "(5 + 3)",
        "Привет!",
        f"<think>{ONE}</think>It is ten.",
        f"<think>{ONE}",
        f"You could write {ONE}.",
        f"Well{' ' * 100_000}.",
        "<think>" * 10_000,
        f"Like this: {PYTHON}",
        "{{{{",
        "[" * 5000,
        '{"a": ' * 5000,
    ],
)
def test_no_call(text: str) -> None:
    assert calls_of(text) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "set_light", "arguments": {"room": "ha',
        f"[{ONE}, ",
        f"[{ONE}, 3]",
        f"{ONE} There you are.",
        '{"name": "set_light", "arguments": ["hall"]}',
        '{"name": "set_light", "arguments": {"level": NaN}}',
        '{"name": "set_light", "arguments": ' + '{"a":' * 9000,
        "<tool_call>set_light</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        f"<tool_call>{ONE} and so on</tool_call>",
        "<tool_call>",
        "<|python_tag|>print",
        "[TOOL_CALLS]",
        "[set_light(room='hall'",
        "set_light(room='hall'",
        "[set_light('hall')]",
        "[set_light(room=hall)]",
        "[set_light(room=kitchen table)]",
        "[set_light(room='hall'), 3]",
        "[set_light(room='hall', room='attic')]",
        "[set_light(**{'room': 'hall'})]",
        "[set_light(level=1e999)]",
        "[set_light(level=2j)]",
        "[set_light(room={'hall'})]",
        "[set_light(room={1: 'hall'})]",
        "[set_light(room=b'hall')]",
        "[set_light(room=f'{1}')]",
        "[set_light(room=__import__('os').getcwd())]",
        "[set_light(room='hall'), (lambda: 1)(a=1)]",
        "f(a=" + "-" * 50_000 + "1)",
        "f(a=" + "[" * 5000 + ")",
        "f" + ".f" * 50_000 + "(a=1)",
        "x" * (LARGEST + 1),
    ],
)
def test_what_cannot_be_read_says_why(text: str) -> None:
    found = calls_of(text)
    assert isinstance(found, str)
    assert 10 < len(found) < 500


PIECES = ["<tool_call>", "</tool_call>", "<think>", "</think>", '{"name": "f"', ', "arguments": ', "{", "}", "[", "]", "f(",
          "a=", ")", "1", '"', "'", ",", ";", "\n", "```", "```json\n", "\\", "null", "[TOOL_CALLS]", "<|python_tag|>", "\x00"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=16).map("".join))
def test_no_text_breaks_the_reader(text: str) -> None:
    found = calls_of(text)
    assert isinstance(found, str) or all(isinstance(c, Call) and isinstance(c.arguments, dict) for c in found)
