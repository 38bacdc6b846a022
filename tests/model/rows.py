"""Samples as shards hold them, for the tests of models."""

from __future__ import annotations

import json

from schemas.conversation import AUDIO_PLACEHOLDER, Message, ToolCall, ToolSpec
from schemas.sample import Sample
from tests.examples import sound, utterance

TIMER = ToolSpec(
    "set_timer",
    "Starts a timer.",
    json.dumps({"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]}),
)


def heard(*seconds: float, question: str = "What is said?", answer: str = "Hello there.", name: str = "c/1") -> Sample:
    """A row of one question about some utterances, which may be none."""
    said = tuple(
        utterance(f"HELLO NUMBER {n} <noise>", id=f"{name}-{n}", audio=sound(s, 200 + 30 * n))
        for n, s in enumerate(seconds)
    )
    asked = Message("user", "\n".join([AUDIO_PLACEHOLDER] * len(seconds) + [question]))
    return Sample(id=name, utterances=said, split="train", messages=(asked, Message("assistant", answer)))


def called(seconds: float = 1.5) -> Sample:
    """A row that calls a tool, hears its result, and answers."""
    call = ToolCall("call-1", "set_timer", '{"minutes": 5, "label": "té"}')
    return Sample(
        id="c/tool",
        utterances=(utterance("set a timer for five minutes", audio=sound(seconds)),),
        split="train",
        tools=(TIMER,),
        messages=(
            Message("system", "You help."),
            Message("user", AUDIO_PLACEHOLDER),
            Message("assistant", "", (call,)),
            Message("tool", '{"ok": true}', tool_call_id="call-1"),
            Message("assistant", "Your timer runs."),
        ),
    )
