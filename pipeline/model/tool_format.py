"""Tool format: how a model's own chat template writes calls, found by letting it write some."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.model.base import ModelError, RowError, SpeechLM
from pipeline.tools.calls import Call, calls_of
from schemas.conversation import Message, ToolCall, ToolSpec
from schemas.sample import Sample

log = logging.getLogger("earwitness")

_NAMES = ("probe_first", "probe_second")
_VALUE = {"alpha": "x", "beta": 1}
_TOOLS = tuple(
    ToolSpec(
        name,
        "A probe.",
        '{"type": "object", "properties": {"alpha": {"type": "string"}, "beta": {"type": "integer"}}}',
    )
    for name in _NAMES
)
_DECODER = json.JSONDecoder()
ID = "\x00"
"""Stands for the id of a call, in the templates that write one."""
ID_PATTERN = "[A-Za-z0-9]{9}"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """What stands around the names and arguments of calls: `begin name middle arguments between name ... end`."""

    begin: str
    middle: str
    between: str
    """'' where a turn makes one call only."""
    end: str
    item_separator: str = ", "
    key_separator: str = ": "
    several: bool = True
    """Whether a turn may make several calls."""
    found: bool = True
    """Whether the template was understood; else the calls are written as Hermes and Qwen do."""
    readable: bool = True
    """Whether `pipeline.tools.calls` reads it as it is."""

    def said(self, lm: SpeechLM, ids: Sequence[int]) -> str:
        """Generated ids as text, whose calls are written so that `pipeline.tools.calls` reads them."""
        text = lm.text(ids)
        if self.readable:
            return text
        raw = str(lm.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)).strip()
        plain = self.plain(raw)
        return text if plain == raw else plain

    def plain(self, text: str) -> str:
        """Calls in the form of Hermes; what begins a call and is none is left so that it cannot be read as one.

        Args:
            text: With its special tokens. Without calls it stays as it is.
        """
        opening, at = _pattern(self.begin), 0
        made: list[str] = []
        while (found := opening.match(text, at)) is not None:
            call = re.compile(rf"([\w.-]+){_pattern(self.middle).pattern}").match(text, found.end())
            try:
                arguments, at = _DECODER.raw_decode(text, call.end() if call else len(text))
            except ValueError:
                return f"<tool_call>{text}"
            assert call is not None
            made.append(f'<tool_call>{{"name": "{call[1]}", "arguments": {json.dumps(arguments)}}}</tool_call>')
            opening = _pattern(self.between) if self.several else _NEVER
        return "\n".join(made) or text


_NEVER = re.compile(r"(?!)")
HERMES = ToolFormat(
    '<tool_call>{"name": "',
    '", "arguments": ',
    '}</tool_call>\n<tool_call>{"name": "',
    "}</tool_call>",
    found=False,
)


def _pattern(text: str) -> re.Pattern[str]:
    """What a part of a format matches: spaces may be others, and each call has its own id."""
    words = (re.escape(word).replace(re.escape(ID), ID_PATTERN) for word in re.split(r"\s+", text))
    return re.compile(r"\s*".join(words))


def response_ids(lm: SpeechLM, message: Message, tools: tuple[ToolSpec, ...] = ()) -> list[int]:
    """The tokens of a response as the model learns it, with those that end the turn.

    Raises:
        ModelError: The template cannot write it.
    """
    asked = (Message("user", "probe"), *([message] if message.role == "assistant" else []))
    encoded = lm.encode(Sample("probe", (), "test", messages=asked, tools=tools), hear=False)
    return [int(i) for i in encoded.ids[encoded.targets]]


def probe(lm: SpeechLM) -> ToolFormat:
    """The format of a model's calls."""
    for count in (2, 1):
        calls = tuple(ToolCall(_id(n), name, json.dumps(_VALUE)) for n, name in enumerate(_NAMES[:count]))
        try:
            ids = _written(lm, calls)
        except (ModelError, RowError):
            continue  # templates that know one call only refuse two; those that know none are told of below
        raw = str(lm.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        found = read(raw, count)
        if found is not None:
            known = calls_of(lm.text(ids))
            right = [Call(name, dict(_VALUE)) for name in _NAMES[:count]]
            return replace(found, readable=known == right)
    log.warning("the chat template writes calls in no form that is known: constrained decoding uses <tool_call>")
    return HERMES


def _id(number: int) -> str:
    return f"probe000{number}"


def _written(lm: SpeechLM, calls: tuple[ToolCall, ...]) -> list[int]:
    messages = (Message("user", "probe"), Message("assistant", "", calls))
    encoded = lm.encode(Sample("probe", (), "test", messages=messages, tools=_TOOLS), hear=False)
    return [int(i) for i in encoded.ids[encoded.targets & ~encoded.ends]]


def read(text: str, count: int) -> ToolFormat | None:
    """The format of a text that makes the probe's calls; None where it is no name and, after it, a JSON object."""
    for number in range(count):
        text = text.replace(_id(number), ID)
    places = []
    at = 0
    for name in _NAMES[:count]:
        begin = text.find(name, at)
        span = _arguments(text, begin + len(name)) if begin >= 0 else None
        if span is None:
            return None
        places.append((begin, begin + len(name), *span))
        at = span[1]
    first, last = places[0], places[-1]
    if text[first[1] : first[2]] != text[last[1] : last[2]] or not text[: first[0]]:
        return None
    raw = text[first[2] : first[3]]
    return ToolFormat(
        text[: first[0]],
        text[first[1] : first[2]],
        text[first[3] : last[0]] if count > 1 else "",
        text[last[3] :].rstrip(),
        ", " if '"x", ' in raw else ",",
        ": " if '"alpha": ' in raw else ":",
        several=count > 1,
    )


def _arguments(text: str, at: int) -> tuple[int, int] | None:
    """Where the probe's arguments begin and end."""
    begin = text.find("{", at)
    while begin >= 0:
        try:
            value, end = _DECODER.raw_decode(text, begin)
        except ValueError:
            value, end = None, begin + 1
        if value == _VALUE:
            return begin, end
        begin = text.find("{", begin + 1)
    return None
