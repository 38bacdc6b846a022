"""Dialogue: what is joined, corrected or hesitated over still says one thing only, and says it well."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.prompting import Prompts
from pipeline.tools.catalogue import Catalogue
from pipeline.tools.dialogue import Dialogue, Scene, Speaker
from pipeline.tools.patterns import sentence

STOPS = ["Alvor", "Beira", "Corvo", "Delães"]
TOOLS: list[dict[str, Any]] = [
    {
        "name": "buy_ticket",
        "parameters": {
            "type": "object",
            "properties": {"start": {"type": "string", "enum": STOPS}, "end": {"type": "string", "enum": STOPS}},
            "required": ["start", "end"],
        },
    },
    {
        "name": "open_ports",
        "parameters": {
            "type": "object",
            "properties": {"ports": {"type": "array", "items": {"enum": [1, 2, 3, 4, 5]}, "uniqueItems": True}},
            "required": ["ports"],
        },
    },
]
VALUES = {"buy_ticket.start": "stop", "buy_ticket.end": "stop"}
GRAMMAR = {
    "tools": {
        "buy_ticket": {
            "ask": ["hello, get me from {start} to {end}", "ticket: {start} to {end}, please"],
            "short": ["a ticket from {start}"],
            "need": {"end": {"question": ["Where to?"], "answer": ["to {end}", "from {start} to {end}"]}},
            "answer": ["From {start} to {end}, done."],
        },
        "open_ports": {"ask": ["{ports} should be open", "open {ports}"], "answer": ["They are open."]},
    },
}


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    (tmp_path / "shop.json").write_text(json.dumps({"tools": TOOLS, "values": VALUES, "pools": {"stop": STOPS}}))
    (tmp_path / "shop.en.yaml").write_text(json.dumps(GRAMMAR))  # JSON is YAML
    return Catalogue(tmp_path / "shop.json")


def dialogues(catalogue: Catalogue, situation: str, count: int = 200) -> Iterator[Dialogue]:
    prompts = Prompts().get("tool_grammar", "en")
    for number in range(count):
        scene = Scene(catalogue, "en", random.Random(number), lambda *_: True, "en")
        yield Speaker(scene, prompts.response).write(situation)


def called(dialogue: Dialogue) -> list[dict[str, Any]]:
    return [json.loads(call.arguments) for message in dialogue.messages for call in message.tool_calls]


def test_of_a_list_nothing_is_corrected_that_could_be_one_of_its_values_or_all(catalogue: Catalogue) -> None:
    made = [call for d in dialogues(catalogue, "correction") for call in called(d)]
    lists = [call["ports"] for call in made if "ports" in call]
    assert lists
    assert {len(ports) for ports in lists} == {1}


def test_what_was_said_before_is_not_said_otherwise_when_asked(catalogue: Catalogue) -> None:
    twice = 0
    for dialogue in dialogues(catalogue, "missing_argument"):
        (call,) = called(dialogue)
        assert call["start"] in dialogue.said[0]
        assert call["end"] in dialogue.said[1]
        assert call["start"] != call["end"]
        if "from" in dialogue.said[1].lower():
            twice += 1
            assert call["start"] in dialogue.said[1]
    assert twice


def test_marks_do_not_meet(catalogue: Catalogue) -> None:
    said = [
        text for kind in ("hesitation", "parallel", "correction") for d in dialogues(catalogue, kind) for text in d.said
    ]
    assert any(": " in text for text in said)
    for text in said:
        assert not any(pair in text for pair in (":,", ",,", ",.", ".,", "?,")), text


def test_the_second_of_two_requests_greets_nobody_and_polite_words_are_closed(catalogue: Catalogue) -> None:
    said = [d.said[0] for d in dialogues(catalogue, "parallel")]
    assert not any("hello" in text[1:] for text in said)
    joined = [text for text in said if "please and" in text]
    assert joined == []
    assert any("please, and" in text for text in said)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("hi, could you check it", "Hi, could you check it?"),
        ("um, can you start", "Um, can you start?"),
        ("слушай, не мог бы ты помочь", "Слушай, не мог бы ты помочь?"),
        ("start it, if you can", "Start it, if you can."),
        ("«ужин»", "«Ужин»."),
        ("rtr-fra-02 is down", "rtr-fra-02 is down."),
    ],
)
def test_a_sentence_is_written_as_one(text: str, written: str) -> None:
    assert sentence(text) == written
