"""Calls: what a model wrote, read as the functions that it calls. Nothing of it is ever executed.

The forms that models write in:
- JSON `{"name": "f", "arguments": {"a": 1}}`, or a list of such; `parameters` (Llama) stands for
  `arguments`, and the object may lie within `function` (OpenAI);
- the same within `<tool_call>...</tool_call>` (Hermes, Qwen), or after `<|python_tag|>` (Llama) or
  `[TOOL_CALLS]` (Mistral);
- Python, as the Berkeley Function-Calling Leaderboard asks for it: `[f(a=1), g(b="x")]`.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from schemas.conversation import Message, ToolCall

LARGEST = 200_000  # characters of a text that are looked at
_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)  # begun in the prompt
_FENCED = re.compile(r"```(?:[\w-]*[ \t]*\n)?(.*?)```", re.DOTALL)
_MARK = re.compile(r"\A(?:<\|python_tag\|>|\[TOOL_CALLS\])\s*")
_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "</s>")
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_BETWEEN = re.compile(r"[\s;,]*")
_BEGUN_JSON = re.compile(r'(?:\[\s*)?\{\s*"(?:name|function|type|id)"\s*:')
_PYTHON = re.compile(r"\[?\s*[^\W\d]\w*(?:\.\w+)*\s*\(")
_BEGUN_PYTHON = re.compile(r"\[?\s*[^\W\d]\w*(?:\.\w+)*\((?:\s*\w+\s*=|\s*\))")


class Call(NamedTuple):
    """A function and the arguments that it is called with, as JSON values."""

    name: str
    arguments: dict[str, Any]


class _Unreadable(Exception):
    """What was begun as a call is none; says why."""


def calls_of(said: Message | str) -> list[Call] | str:
    """The calls that a message makes, or the text that a model wrote.

    A text without a call gives an empty list. Around calls that are marked with `<tool_call>` there may
    be other text; all else counts as calls only where nothing but thoughts and fences stands around it.

    Returns:
        The calls in their order, or why what was begun as a call cannot be read.
    """
    try:
        if isinstance(said, str):
            return _in_text(said)
        if said.tool_calls:
            return [_from_struct(call) for call in said.tool_calls]
        return _in_text(said.content)
    except _Unreadable as error:
        return str(error)


def _from_struct(call: ToolCall) -> Call:
    return Call(call.name, _arguments(call.name, call.arguments))


def _in_text(text: str) -> list[Call]:
    if len(text) > LARGEST:
        raise _Unreadable(f"the text has {len(text)} characters, of which at most {LARGEST} are read")
    text = _THOUGHT.sub("", _THOUGHTS.sub("", text)) if "<" in text else text
    if _OPEN in text:
        return list(_tagged(text))
    text = text.strip()
    while text.endswith(_ENDS):
        text = text[: text.rindex("<")].rstrip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1].strip()
    marked = _MARK.match(text)
    text = text[marked.end() :] if marked else text
    calls = _json_calls(text)
    if calls is None:
        calls = _python_calls(text)
    if calls is None and marked:
        raise _Unreadable(f"no call follows {marked[0].strip()}: {_short(text)}")
    return calls or []


def _tagged(text: str) -> Iterator[Call]:
    """Calls between tags. They are read from where they begin: a text among the arguments may hold a tag."""
    at = text.find(_OPEN)
    while at >= 0:
        begin = _BETWEEN.match(text, at + len(_OPEN))
        assert begin is not None
        value, end = _value_at(text, begin.end())
        close = _BETWEEN.match(text, end)
        assert close is not None
        if close.end() < len(text) and not text.startswith((_CLOSE, _OPEN, "<|"), close.end()):
            raise _Unreadable(f"{_CLOSE} is expected after the call, not {_short(text[end:])}")
        found = value if isinstance(value, list) else [value]
        yield from (_from_json(item, tagged=True) for item in found)
        at = text.find(_OPEN, end)


def _json_calls(text: str) -> list[Call] | None:
    """The calls of a text that is JSON; None where it is not, or is about something else."""
    if not text.startswith(("{", "[")):
        return None
    found, at = [], 0
    try:
        while at < len(text):
            value, at = _value_at(text, at)
            found += value if isinstance(value, list) else [value]
            between = _BETWEEN.match(text, at)
            assert between is not None
            at = between.end()
    except _Unreadable:
        if _BEGUN_JSON.match(text):
            raise
        return None
    if not found or not any(_is_call(item) for item in found):
        return None
    return [_from_json(item) for item in found]


def _value_at(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"this is not JSON ({error}): {_short(text[at:])}") from error


def _is_call(value: Any) -> bool:
    inner = _function(value)
    return isinstance(inner.get("name"), str) and ("arguments" in inner or "parameters" in inner)


def _function(value: Any) -> dict[str, Any]:
    """Where name and arguments are to be found; empty where they cannot be."""
    if not isinstance(value, dict):
        return {}
    inner = value.get("function")
    return inner if isinstance(inner, dict) else value


def _from_json(value: Any, tagged: bool = False) -> Call:
    inner = _function(value)
    name = inner.get("name")
    if not isinstance(name, str) or not (_is_call(value) or tagged):
        raise _Unreadable(f"an object with name and arguments is expected, not {_short(repr(value))}")
    return Call(name, _arguments(name, inner.get("arguments", inner.get("parameters"))))


def _arguments(name: str, value: Any) -> dict[str, Any]:
    """Arguments, which may be JSON within a text. Where there are none some models write null."""
    if isinstance(value, str):
        try:
            value = _DECODER.decode(value)
        except (ValueError, RecursionError) as error:
            raise _Unreadable(f"{name}: the arguments are not JSON ({error}): {_short(value)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Unreadable(f"{name}: the arguments are to be an object, not {_short(repr(value))}")
    return value


def _python_calls(text: str) -> list[Call] | None:
    """The calls of a text that is Python; None where it is something else, as prose mostly is."""
    if not _PYTHON.match(text):
        return None
    begun = _BEGUN_PYTHON.match(text) is not None
    if not begun and not text.endswith((")", "]")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes such as "\d" in a model's texts
            statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if begun:
            raise _Unreadable(f"this is not Python ({error}): {_short(text)}") from error
        return None
    nodes: list[ast.AST] = []
    for statement in statements:
        node = statement.value if isinstance(statement, ast.Expr) else statement
        nodes += node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    if not any(isinstance(node, ast.Call) for node in nodes):
        return None
    return [_from_python(node, text) for node in nodes]


def _from_python(node: ast.AST, text: str) -> Call:
    if not isinstance(node, ast.Call):
        raise _Unreadable(f"only calls are expected: {_short(text)}")
    name = _dotted(node.func, text)
    if node.args:
        raise _Unreadable(f"{name}: arguments need their names: {_short(text)}")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise _Unreadable(f"{name}: each argument is to be named, and once: {_short(text)}")
        try:
            arguments[keyword.arg] = _as_json(ast.literal_eval(keyword.value))
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            value = ast.get_source_segment(text, keyword.value) or ""
            raise _Unreadable(f"{name}: {keyword.arg} is no plain value: {_short(value)}") from error
    return Call(name, arguments)


def _dotted(node: ast.expr, text: str) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise _Unreadable(f"a function's name is expected before the bracket: {_short(text)}")
    return ".".join([node.id, *reversed(parts)])


def _as_json(value: Any) -> Any:
    """A literal as JSON has it: tuples are lists."""
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("JSON's keys are texts")
        return {key: _as_json(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    raise ValueError(f"JSON has no {type(value).__name__} such as {value!r}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
