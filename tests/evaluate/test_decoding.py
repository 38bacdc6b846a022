"""Constrained decoding: with a model of random weights, which would say anything, every answer is a valid one."""

from __future__ import annotations

import json
from dataclasses import replace as changed
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor

from pipeline.evaluate import joint
from pipeline.evaluate.call_schema import schema_of
from pipeline.evaluate.decoding import Constrained, Constraint, Trie
from pipeline.evaluate.grammars import Constraints
from pipeline.model import tiny, tool_format
from pipeline.model.base import SpeechLM
from pipeline.model.tool_format import HERMES, ID, ToolFormat, read
from pipeline.tools import calls, validation
from schemas.conversation import Message, ToolCall, ToolSpec
from schemas.sample import Sample
from tests.evaluate.rows import LAMP, TIMER, request, row

WEATHER = ToolSpec(
    "get_weather",
    "Tells the weather.",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "day": {"type": "string", "format": "date"},
                "at": {"type": "string", "format": "time"},
                "units": {"enum": ["C", "F"]},
                "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "uniqueItems": True},
                "share": {"type": "number"},
            },
            "required": ["city", "day"],
            "$defs": {"day": {"type": "string", "enum": ["mon", "tue"]}},
        }
    ),
)
NOTHING = ToolSpec("stop", "Stops.", '{"type": "object", "properties": {}}')


@pytest.fixture(scope="module")
def constraints(lm: SpeechLM) -> Constraints:
    return Constraints(lm)


class _Begins(LogitsProcessor):
    """Makes every answer begin with some tokens."""

    def __init__(self, ids: list[int]) -> None:
        self._ids, self._begun = ids, -1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._begun = input_ids.shape[1] if self._begun < 0 else self._begun
        made = input_ids.shape[1] - self._begun
        if made >= len(self._ids):
            return scores
        only = torch.full_like(scores, float("-inf"))
        only[:, self._ids[made]] = 0
        return only


def asked(tools: tuple[ToolSpec, ...] = (), text: str = "Well?") -> Sample:
    return Sample("q", (), "test", messages=(Message("user", text), Message("assistant", "x")), tools=tools)


def said(
    lm: SpeechLM, some: list[Constraint | None], samples: list[Sample], most: int, begin: str = "", **options: Any
) -> list[str]:
    batch = lm.collate([lm.encode(s, hear=False, answer=False) for s in samples], left=True)
    first = [_Begins(lm.tokenizer.encode(begin, add_special_tokens=False))] if begin else []
    made = lm.generate(batch, most_tokens=most, logits_processor=[*first, Constrained(some, most)], **options)
    return [lm.text(ids) for ids in made]


def wrong(text: str, tools: tuple[ToolSpec, ...]) -> str | None:
    found = calls.calls_of(text)
    if isinstance(found, str):
        return found
    made = (ToolCall("", call.name, json.dumps(call.arguments)) for call in found)
    return next((why for call in made if (why := validation.problem(call, tools))), None)


def test_the_format_of_calls_is_found_in_the_chat_template(lm: SpeechLM) -> None:
    found = tool_format.probe(lm)
    assert found == changed(HERMES, found=True, readable=True)


FIRST, SECOND = '{"alpha": "x", "beta": 1}', '{"alpha": "x", "beta": 1}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f'<tool_call>\n{{"name": "probe_first", "arguments": {FIRST}}}\n</tool_call>\n'
            f'<tool_call>\n{{"name": "probe_second", "arguments": {SECOND}}}\n</tool_call>',
            ToolFormat(
                '<tool_call>\n{"name": "',
                '", "arguments": ',
                '}\n</tool_call>\n<tool_call>\n{"name": "',
                "}\n</tool_call>",
            ),
        ),
        (
            f'{{"name": "probe_first", "parameters": {FIRST}}}',
            ToolFormat('{"name": "', '", "parameters": ', "", "}", several=False),
        ),
        (
            '[TOOL_CALLS] [{"name":"probe_first","arguments":{"alpha":"x","beta":1}},'
            '{"name":"probe_second","arguments":{"alpha":"x","beta":1}}]',
            ToolFormat('[TOOL_CALLS] [{"name":"', '","arguments":', '},{"name":"', "}]", ",", ":"),
        ),
        (
            f"[TOOL_CALLS]probe_first[CALL_ID]probe0000[ARGS]{FIRST}[TOOL_CALLS]probe_second[CALL_ID]probe0001[ARGS]{SECOND}",
            ToolFormat("[TOOL_CALLS]", f"[CALL_ID]{ID}[ARGS]", "[TOOL_CALLS]", ""),
        ),
        ("[probe_first(alpha='x', beta=1)]", None),
    ],
)
def test_formats_of_other_templates(text: str, expected: ToolFormat | None) -> None:
    count = 2 if "probe_second" in text else 1
    assert read(text, count) == expected
    if expected is not None:
        plain = calls.calls_of(expected.plain(text))
        assert (
            plain == [calls.Call(name, {"alpha": "x", "beta": 1}) for name in ("probe_first", "probe_second")][:count]
        )
        assert expected.plain("No call at all.") == "No call at all."
        assert isinstance(calls.calls_of(expected.plain(text[: text.index("alpha")])), str), "it cannot be read"


def test_schemas_have_an_end_and_keep_their_meaning() -> None:
    schema = schema_of(WEATHER, HERMES)
    arguments = {key: value for key, value in schema.items() if key != "x-guidance"}
    assert arguments["properties"]["city"]["maxLength"] > 100
    assert arguments["additionalProperties"] is False
    for day, clock in (("2028-02-29", "10:30"), ("1999-12-31", "23:59:59")):
        good = {"city": "Rome", "day": day, "at": clock, "days": ["mon"]}
        assert validation.value_problem(good, arguments) is None
    assert validation.value_problem({"city": "Rome", "day": "2027-02-29"}, arguments)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("abc xyz!ж", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=6, unique=True),
    st.integers(0, 9),
)
def test_labels_are_always_among_those_that_there_are(
    lm: SpeechLM, constraints: Constraints, texts: list[str], seed: int
) -> None:
    labels = list(dict.fromkeys(text.strip() for text in texts))
    torch.manual_seed(seed)
    found = said(
        lm,
        [constraints.one_of(labels)] * 3,
        [asked(text=f"{seed}{n}") for n in range(3)],
        64,
        do_sample=True,
        temperature=5.0,
    )
    assert set(found) <= set(labels)


def test_a_label_that_begins_another_can_be_said() -> None:
    trie = Trie([[1, 2, 9], [1, 2, 3, 9]], {9})
    state = trie.start()
    for token in (1, 2):
        assert set(state.allowed(9)) == {token}
        state.take(token)
    assert set(state.allowed(9)) == {3, 9}
    state.take(9)
    assert set(state.allowed(9)) == {9}


@pytest.mark.parametrize("begin", ["", "<tool_call>"])
@pytest.mark.parametrize(("temperature", "most"), [(0.0, 120), (1.0, 90), (4.0, 150)])
def test_calls_always_fit_their_schemas(
    lm: SpeechLM, constraints: Constraints, begin: str, temperature: float, most: int
) -> None:
    offers = [(TIMER,), (LAMP, WEATHER), (WEATHER,), (NOTHING, TIMER), (TIMER, LAMP, WEATHER, NOTHING)]
    sampled = {"do_sample": True, "temperature": temperature} if temperature else {}
    torch.manual_seed(int(temperature * 10) + most)
    some = [constraints.tools(tools) for tools in offers]
    found = said(lm, some, [asked(tools) for tools in offers], most, begin, **sampled)
    assert [wrong(text, tools) for text, tools in zip(found, offers, strict=True)] == [None] * len(offers), found
    assert all(text.startswith("<tool_call>") for text in found) == bool(begin)


def test_without_tools_nothing_is_called(lm: SpeechLM, constraints: Constraints) -> None:
    grammar = constraints.tools(())
    for text, accepted in (
        ("Paris (France) is far.", True),
        ('{"name": "f"', False),
        ("stop(now=1)", False),
        ("f()", False),
    ):
        matcher = grammar.matcher()
        taken = matcher.try_consume_tokens(lm.tokenizer.encode(text, add_special_tokens=False))
        whole = taken == len(lm.tokenizer.encode(text, add_special_tokens=False)) and matcher.is_accepting()
        assert whole is accepted, text


def test_rows_of_a_batch_are_constrained_each_for_itself(lm: SpeechLM, constraints: Constraints) -> None:
    samples = [asked(text="One?"), asked((LAMP,), "Two, please?"), asked(text="And what is three?")]
    some: list[Constraint | None] = [constraints.one_of(["yes", "no"]), constraints.tools((LAMP,)), None]
    together = said(lm, some, samples, 24)
    assert together == [said(lm, [c], [s], 24)[0] for c, s in zip(some, samples, strict=True)]
    free = lm.generate(lm.collate([lm.encode(samples[2], hear=False, answer=False)], left=True), most_tokens=24)
    assert together[2] == lm.text(free[0])


def test_what_is_forbidden_is_forbidden_and_all_else_stays() -> None:
    scores = torch.zeros(2, 6)
    processed = Constrained([Trie([[1, 4]], {5}), None], 8)(torch.zeros(2, 3, dtype=torch.long), scores)
    assert np.isfinite(processed[0].numpy()).tolist() == [False, True, False, False, False, False]
    assert torch.equal(processed[1], scores[1])


def test_a_special_token_that_marks_calls_is_no_text(tmp_path: Any) -> None:
    from pipeline.evaluate.grammars import Tokens

    tokenizer = tiny.tokenizer(["a b c"] * 9)
    tokenizer.add_tokens(["[CALL]"], special_tokens=True)
    stub = type("Stub", (), {"tokenizer": tokenizer})()
    tokens = Tokens(stub, {2})
    number = tokenizer.convert_tokens_to_ids("[CALL]")
    assert tokens.literal('x[CALL]"') == f'"x" <[{number}]> "\\""'
    matcher = tokens.matcher(f"start: {tokens.literal('[CALL]go')}")
    assert np.flatnonzero(tokens.mask(matcher)).tolist() == [number]


# Joint


def test_joint_answers_are_parsed() -> None:
    assert joint.parse("Transcript: set a timer\nAnswer: <tool_call>{}</tool_call>") == (
        "set a timer",
        "<tool_call>{}</tool_call>",
    )
    assert joint.parse("transcript: he said Answering is hard. Answer: B") == ("he said Answering is hard.", "B")
    assert joint.parse("B") == (None, "B")


def test_joint_is_asked_at_the_last_question_with_audio() -> None:
    sample = row("repeat", "x")
    changed_sample = joint.asked(sample)
    assert changed_sample is not None
    assert changed_sample.messages[0].content.startswith(sample.messages[0].content)
    assert "Transcript:" in changed_sample.messages[0].content
    assert joint.asked(request({"start_timer": {"minutes": 5}})) is None, "the last turn tells of a result"
