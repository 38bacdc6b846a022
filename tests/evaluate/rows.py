"""Rows and answers, written by hand, for the tests of metrics."""

from __future__ import annotations

import json
from typing import Any

from pipeline.evaluate.items import Item
from pipeline.tools import matching
from pipeline.tools.matching import Accepted
from pipeline.tools.turns import Turn
from schemas.conversation import AUDIO_PLACEHOLDER, Message, ToolCall, ToolSpec
from schemas.sample import Sample
from tests.examples import utterance

TIMER = ToolSpec(
    "start_timer",
    "Starts a timer.",
    '{"type":"object","properties":{"minutes":{"type":"integer"},"label":{"type":"string"}},"required":["minutes"]}',
)
LAMP = ToolSpec(
    "switch_lamp",
    "Switches a lamp.",
    '{"type":"object","properties":{"room":{"type":"string","enum":["kitchen","hall"]},"on":{"type":"boolean"}},'
    '"required":["room","on"]}',
)


def row(task: str, answer: str, *, name: str = "c/1", said: str = "", language: str = "en", **fields: Any) -> Sample:
    """A question about one utterance."""
    response = fields.pop("response", answer)
    messages = (Message("user", f"{AUDIO_PLACEHOLDER}\nWell?"), Message("assistant", response))
    heard = utterance(said or answer, language, id=name)
    return Sample(name, (heard,), "test", task, language, messages, answer=answer, **fields)


def item(sample: Sample, output: str, number: int = 0, **fields: Any) -> Item:
    """An answer to it."""
    return Item(Turn(sample, number, True), output, **fields)


def answers(task: str, pairs: list[tuple[str, str]], **fields: Any) -> list[Item]:
    """Answers to several rows: what is right, and what was given."""
    return [item(row(task, right, name=f"c/{n}", **fields), given) for n, (right, given) in enumerate(pairs)]


def request(
    *wanted: dict[str, Any],
    outcome: str = "tool_call",
    reply: str = "Done.",
    name: str = "t/1",
    tools: tuple[ToolSpec, ...] = (TIMER, LAMP),
) -> Sample:
    """A dialogue of one spoken request; `wanted` are calls as `{"start_timer": {"minutes": 5}}`."""
    calls = [(function, arguments) for one in wanted for function, arguments in one.items()]
    made = tuple(ToolCall(f"call{n}", f, json.dumps(a)) for n, (f, a) in enumerate(calls))
    results = tuple(Message("tool", '{"ok": true}', (), call.id) for call in made)
    turns = (Message("assistant", "", made), *results) if made else ()
    accepted = [Accepted(f, {k: (v,) for k, v in a.items()}) for f, a in calls]
    return Sample(
        name,
        (utterance("please do it", id=name),),
        "test",
        "tool_grammar",
        "en",
        (Message("system", "You help."), Message("user", AUDIO_PLACEHOLDER), *turns, Message("assistant", reply)),
        tools,
        answer=matching.to_json(accepted),
        outcome=outcome,
        situation="one_call" if wanted else "mention",
    )


def call(function: str, **arguments: Any) -> str:
    """A call as models write it."""
    return f'<tool_call>{{"name": "{function}", "arguments": {json.dumps(arguments)}}}</tool_call>'
