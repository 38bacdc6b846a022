"""Tool calls that could not have been made, or were not answered, are set aside with the right reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.filters.tool_call import ToolCall as ToolCalls
from pipeline.tasks.transcription import Transcription
from schemas.conversation import Message, ToolCall, ToolSpec
from schemas.sample import Sample
from tests.examples import draft, make, untouched, verdict

LIGHT = ToolSpec(
    "set_light",
    "Switches a light.",
    json.dumps(
        {
            "type": "object",
            "properties": {"room": {"enum": ["hall", "kitchen"]}, "level": {"type": "integer"}},
            "required": ["room"],
            "additionalProperties": False,
        }
    ),
)
USER = Message("user", "<|audio|>")
SAID = Message("assistant", "The light is on.")


def call(number: int = 1, arguments: Any = None, name: str = "set_light") -> ToolCall:
    given = {"room": "hall"} if arguments is None else arguments
    return ToolCall(f"call_{number}", name, given if isinstance(given, str) else json.dumps(given))


def calls(*made: ToolCall) -> Message:
    return Message("assistant", "", made)


def result(number: int = 1) -> Message:
    return Message("tool", '{"ok": true}', (), f"call_{number}")


def sample(*messages: Message, outcome: str = "tool_call", tools: tuple[ToolSpec, ...] = (LIGHT,)) -> Sample:
    return replace(draft("Switch the light on."), messages=(USER, *messages), tools=tools, outcome=outcome)


@pytest.mark.parametrize(
    "right",
    [
        sample(calls(call()), result(), SAID),
        sample(calls(call())),
        sample(calls(call(1), call(2))),
        sample(calls(call(1), call(2)), result(2), result(1), SAID),
        sample(calls(call(1)), result(1), calls(call(2, {"room": "kitchen", "level": 3})), result(2), SAID),
        sample(calls(call(1)), result(1), calls(call(2))),
        sample(Message("assistant", "In which room?"), USER, calls(call()), result(), SAID, outcome="request_for_info"),
        sample(SAID, outcome="direct"),
        sample(SAID, outcome="direct", tools=()),
        sample(SAID, outcome="cannot_answer"),
        sample(calls(call()), result(), SAID, outcome=""),
        sample(SAID, outcome="", tools=()),
        draft("Switch the light on."),
    ],
)
def test_what_is_right(right: Sample) -> None:
    assert untouched(ToolCalls(), [right])


@pytest.mark.parametrize(
    ("reason", "wrong"),
    [
        ("unknown_tool", sample(calls(call(name="set_ligth")), result(), SAID)),
        ("unknown_tool", sample(calls(call()), result(), SAID, tools=())),
        ("unknown_tool", sample(calls(call()), result(), SAID, tools=(), outcome="")),
        ("arguments_invalid", sample(calls(call(1, {"room": "attic"})), result(), SAID)),
        ("arguments_invalid", sample(calls(call(1, {})), result(), SAID)),
        ("arguments_invalid", sample(calls(call(1, {"room": "hall", "level": "3"})), result(), SAID)),
        ("arguments_invalid", sample(calls(call(1), call(2, {"room": "hall", "x": 1})), result(1), result(2), SAID)),
        ("arguments_invalid", sample(calls(call(1)), result(1), calls(call(2, "{"))),),
        ("tool_invalid", sample(calls(call()), result(), tools=(replace(LIGHT, parameters='{"type": "x"}'),))),
        ("tool_result_missing", sample(calls(call()), SAID)),
        ("tool_result_missing", sample(calls(call()), USER, result(), SAID)),
        ("tool_result_missing", sample(calls(call(1), call(2)), result(1), SAID)),
        ("tool_result_missing", sample(calls(call(1), call(2)), result(1))),
        ("tool_result_missing", sample(calls(call(1)), calls(call(2)))),
        ("tool_result_missing", sample(calls(call(1), call(1)), result(1), SAID)),
        ("tool_result_missing", sample(calls(call(1)), result(1), calls(call(1)), result(1), SAID)),
        ("tool_result_unexpected", sample(calls(call()), result(1), result(1), SAID)),
        ("tool_result_unexpected", sample(calls(call()), result(2), SAID)),
        ("tool_result_unexpected", sample(calls(call()), Message("tool", "{}"), SAID)),
        ("tool_result_unexpected", sample(result(), SAID, outcome="direct")),
        ("outcome_wrong", sample(SAID)),
        ("outcome_wrong", sample(SAID, outcome="request_for_info")),
        ("outcome_wrong", sample(calls(call()), result(), SAID, outcome="direct")),
        ("outcome_wrong", sample(calls(call()), result(), SAID, outcome="cannot_answer")),
        ("outcome_wrong", sample(SAID, outcome="chat")),
    ],
)  # fmt: skip
def test_what_is_wrong(reason: str, wrong: Sample) -> None:
    assert verdict(ToolCalls(), wrong) == reason


def test_the_detail_names_tool_argument_and_value() -> None:
    (judged,) = ToolCalls()([sample(calls(call(1, {"room": "attic"})), result(), SAID)])
    assert judged.detail == "set_light.room: 'attic' is not one of ['hall', 'kitchen']"
    (judged,) = ToolCalls()([sample(calls(call(1), call(2)), result(1), SAID)])
    assert judged.detail == "nothing answers call_2"


def test_other_tasks_and_rejected_samples_pass() -> None:
    rejected = sample(SAID).reject("not_recoverable")
    assert untouched(ToolCalls(), [make(Transcription(), draft("It is late.")), rejected])
