"""What users may write beside a catalogue: each fault is named with file, place and cure, before any work."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import seeds
from pipeline.prompting import Prompts
from pipeline.tools.catalogue import load
from pipeline.tools.dialogue import Scene, Speaker
from pipeline.tools.errors import CatalogueError


def tool(name: str, required: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": [required]}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


CATALOGUE: dict[str, Any] = {
    "tools": [
        tool(
            "a", "x", x={"enum": ["p_1", "q_1"]}, n={"type": "integer", "maximum": 9, "minimum": 1}, o={"enum": ["u"]}
        ),
        tool("b", "y", y={"enum": ["p_1", "q_1"]}),
    ],
    "pools": {"x": [{"value": "p_1", "en": "pea"}, {"value": "q_1", "en": "queue"}]},
    "values": {"a.x": "x"},
    "results": {"a": {"x": {"$argument": "x"}, "o": {"$argument": "o"}, "z": "p_1", "bad": "r_1"}},
}
GRAMMAR: dict[str, Any] = {
    "pieces": {"pl": ["", " please"]},
    "tools": {
        "a": {
            "ask": ["do {x}[ with {o}][ {n} times]<pl>"],
            "short": ["do it"],
            "need": {"x": {"question": ["What?"], "answer": ["{x}"]}},
            "answer": ["Done {result.x}."],
            "mention": [{"say": ["he did {x}"], "reply": ["Well."]}],
        },
        "b": {"ask": ["be {y}"], "answer": ["Yes."]},
    },
    "chains": [
        {"tools": ["a", "b"], "links": {"y": "x"}, "ask": ["do {a.x} and be it"], "answer": ["It is {a.result.x}."]}
    ],
    "chat": [{"say": ["hi"], "reply": ["Hi."]}],
    "unfit": [{"say": ["fly"], "reply": ["No."]}],
}


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last, value = path

    def change(grammar: dict[str, Any]) -> None:
        for key in keys:
            grammar = grammar[key]
        grammar[last] = value

    return change


BOMB = {f"p{i}": [f"<p{i + 1}>" * 6] for i in range(11)} | {"p11": ["x"], "pl": ["<p0>"]}
BAD = {
    "nothing to say": (put("chat", 0, "say", []), r"chat\.0\.say: "),
    "nothing to reply": (put("chat", 0, "reply", []), r"chat\.0\.reply: "),
    "no question": (put("tools", "a", "need", "x", "question", []), r"tools\.a\.need\.x\.question: "),
    "empty piece": (put("pieces", "pl", []), r"pieces\.pl: "),
    "empty words": (put("chat", 0, "say", [""]), r"chat\[0\]\.say: one of these phrasings says nothing"),
    "endless weight": (put("pieces", "pl", [{"say": "x", "weight": 1e300}]), r"pieces\.pl\.0"),
    "answer that not every call has": (
        put("tools", "a", "answer", ["Done with {o}."]),
        r"tools\.a\.answer: there is no slot \{o\} that is always known; there are: .*x",
    ),
    "result that not every call has": (
        put("tools", "a", "answer", ["Done {result.o}."]),
        r"tools\.a\.answer: there is no slot \{result\.o\} that is always known",
    ),
    "chain's answer that not every call has": (
        put("chains", 0, "answer", ["With {a.o}."]),
        r"chains\[0\]\.answer: there is no slot \{a\.o\} that is always known",
    ),
    "link that may be empty": (put("chains", 0, "links", {"y": "o"}), r"chains\[0\]\.links\.y: a gives no 'o'"),
    "link that breaks the schema": (
        put("chains", 0, "links", {"y": "bad"}),
        r"chains\[0\]\.links\.y: a may give 'r_1', which is not as its schema says",
    ),
    "plural of what is not said": (
        put("tools", "a", "ask", ["do {x:#n}[ {n} times]"]),
        r"tools\.a\.ask: \{x:#n\} stands in a phrasing that does not say \{n\}",
    ),
    "plural of no number": (put("tools", "a", "ask", ["do {x:#o} {o}"]), r"tools\.a\.ask: .* a slot that is no number"),
    "circle": (put("pieces", {"pl": ["<q>"], "q": ["<pl>"]}), "is within itself"),
    "bomb": (put("pieces", BOMB), r"pieces\.p0: a phrasing would have 362797056 parts; 500 are allowed"),
    "brackets": (put("tools", "a", "ask", ["(" * 3000 + "do {x}" + ")" * 3000]), r"brackets are nested too deep"),
    "stray brace": (put("tools", "a", "ask", ["do {x}}"]), r"tools\.a\.ask: .* closes nothing"),
}


def written(folder: Path, grammar: Any, language: str = "en") -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(CATALOGUE))
    text = grammar if isinstance(grammar, str) else json.dumps(grammar)  # JSON is YAML
    (folder / f"mine.{language}.yaml").write_text(text)
    return path


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD)
def test_it_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    grammar = copy.deepcopy(GRAMMAR)
    change(grammar)
    path = written(tmp_path, grammar)
    with pytest.raises(CatalogueError, match=says) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path.with_suffix('.en.yaml')}: ")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "says"), [("", "an object with `tools`"), ("- a", "an object with `tools`"), ("a: [", "this is not YAML")]
)
def test_what_is_no_grammar_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CatalogueError, match=says):
        load(written(tmp_path, text))


def test_a_name_that_says_no_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"mine\.notes\.yaml: its name says no language: mine\.LANGUAGE\.yaml"):
        load(written(tmp_path, GRAMMAR, "notes"))


def test_a_result_that_repeats_an_argument_is_said_as_it_was(tmp_path: Path) -> None:
    catalogue = load(written(tmp_path, GRAMMAR))
    prompts = Prompts().get("tool_grammar", "en")
    for situation in ("one_call", "dependent", "missing_argument"):
        for number in range(20):
            scene = Scene(catalogue, "en", seeds.rng(number), lambda *_: True, "en")
            dialogue = Speaker(scene, prompts.response).write(situation)
            assert "_1" not in dialogue.messages[-1].content
            assert "_1" in "".join(c.arguments for m in dialogue.messages for c in m.tool_calls)
