"""Tool format: how a model's own chat template writes calls, found by letting it write some."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from pipeline.model.base import ModelError, RowError, SpeechLM
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


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """What stands around the JSON objects of calls."""

    begin: str
    between: str
    """'' where the template writes one call only."""
    end: str
    arguments: str
    """The key of the arguments: `arguments`, or `parameters`."""
    item_separator: str
    key_separator: str
    several: bool
    """Whether a turn may make several calls."""
    found: bool
    """Whether the template was understood; else the calls are written as Hermes and Qwen do."""


HERMES = ToolFormat("<tool_call>", "</tool_call>\n<tool_call>", "</tool_call>", "arguments", ", ", ": ", True, False)


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
        calls = tuple(ToolCall(f"probe0000{n}", name, json.dumps(_VALUE)) for n, name in enumerate(_NAMES[:count]))
        try:
            text = _written(lm, calls)
        except (ModelError, RowError):
            continue  # templates that know one call only refuse two; those that know none are told of below
        found = _read(text, count)
        if found is not None:
            return found
    log.warning("the chat template writes calls in no form that is known: constrained decoding uses <tool_call>")
    return HERMES


def _written(lm: SpeechLM, calls: tuple[ToolCall, ...]) -> str:
    messages = (Message("user", "probe"), Message("assistant", "", calls))
    encoded = lm.encode(Sample("probe", (), "test", messages=messages, tools=_TOOLS), hear=False)
    ids = [int(i) for i in encoded.ids[encoded.targets & ~encoded.ends]]
    return str(lm.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _read(text: str, count: int) -> ToolFormat | None:
    """The format of a text that makes the probe's calls; None where they are not JSON of name and arguments."""
    spans = []
    at = 0
    for name in _NAMES[:count]:
        span = _object_of(text, name, at)
        if span is None:
            return None
        spans.append(span)
        at = span[1]
    first, last = spans[0], spans[-1]
    value = json.loads(text[first[0] : first[1]])
    key = next((k for k in ("arguments", "parameters") if value.get(k) == _VALUE), None)
    if key is None or list(value) != ["name", key]:
        return None
    raw = text[first[0] : first[1]]
    between = text[first[1] : last[0]] if count == 2 else ""
    return ToolFormat(
        text[: first[0]],
        between,
        text[last[1] :].rstrip(),
        key,
        ", " if '"x", "beta"' in raw else ",",
        ": " if '"alpha": ' in raw else ":",
        count == 2,
        True,
    )


def _object_of(text: str, name: str, at: int) -> tuple[int, int] | None:
    """Where the JSON object begins and ends that calls a function."""
    begin = text.find("{", at)
    while begin >= 0:
        try:
            value, end = _DECODER.raw_decode(text, begin)
        except ValueError:
            value, end = None, begin + 1
        if isinstance(value, dict) and value.get("name") == name:
            return begin, end
        begin = text.find("{", begin + 1)
    return None


def schema_of(tool: ToolSpec, form: ToolFormat) -> dict[str, Any]:
    """The JSON Schema of a whole call of a tool, with no end left open that need not be.

    References to definitions go on working: these move to the top.
    """
    parameters = _bounded(json.loads(tool.parameters))
    definitions = {key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters}
    return {
        "x-guidance": {
            "whitespace_flexible": False,
            "item_separator": form.item_separator,
            "key_separator": form.key_separator,
        },
        "type": "object",
        "properties": {"name": {"const": tool.name}, form.arguments: parameters},
        "required": ["name", form.arguments],
        "additionalProperties": False,
        **definitions,
    }


_DAY = (
    r"(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))|20(?:[02468][048]|[13579][26])-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?"
_PATTERNS = {"date": f"^{_DAY}$", "time": f"^{_CLOCK}$", "date-time": f"^{_DAY}T{_CLOCK}$"}
"""Formats as `pipeline.tools.validation` has them: seconds and offset may be left out."""
_LONGEST = 200  # characters of a text that its schema does not bound
_MOST = 16  # items of a list
_LARGEST = 10**12
_NESTED = ("items", "contains", "additionalProperties")
_BRANCHES = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")


def _bounded(schema: Any) -> Any:
    """A schema in which every value ends, and objects have no keys but those that they name."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for key in _NAMED:
        if isinstance(made.get(key), dict):
            made[key] = {name: _bounded(inner) for name, inner in made[key].items()}
    for key in _NESTED:
        if key in made:
            made[key] = _bounded(made[key])
    for key in _BRANCHES:
        if isinstance(made.get(key), list):
            made[key] = [_bounded(inner) for inner in made[key]]
    kinds = made.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    free = not made.keys() & {"enum", "const", "$ref"}
    if "string" in kinds and free:
        _bound_text(made)
    if "array" in kinds and free:
        made.setdefault("maxItems", max(_MOST, int(made.get("minItems", 0))))
    if "integer" in kinds and free and not made.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}:
        made |= {"minimum": -_LARGEST, "maximum": _LARGEST}
    if "object" in kinds and "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def _bound_text(made: dict[str, Any]) -> None:
    if made.get("format") in _PATTERNS and "pattern" not in made:
        made["pattern"] = _PATTERNS[made.pop("format")]
    elif not made.keys() & {"pattern", "format"}:
        made.setdefault("maxLength", max(_LONGEST, int(made.get("minLength", 0))))
