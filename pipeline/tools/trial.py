"""Trial: what would be asked of a catalogue, to be looked at before a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import seeds
from pipeline.prompting import Prompts
from pipeline.text import normalise
from pipeline.tools.catalogue import Catalogue
from pipeline.tools.dialogue import OUTCOMES, Dialogue, Scene, Speaker


@dataclass(frozen=True)
class Shown:
    """One dialogue, or where there is no grammar the call that an LLM would be given."""

    language: str
    situation: str
    said: tuple[str, ...]
    calls: tuple[str, ...]
    answer: str
    tools: tuple[str, ...]
    """Names of those that are offered."""


def dialogues(catalogue: Catalogue, language: str, seed: int) -> Iterator[Shown]:
    """One of each situation that a grammar has; without a grammar, one call of each tool."""
    grammar = catalogue.grammars.get(language)
    if grammar is None:
        for name in catalogue.tools:
            scene = Scene(catalogue, language, seeds.rng(seed, "trial", name), lambda *_: True, language)
            request = scene.request(name)
            arguments = ", ".join(f"{k}={v!r}" for k, v in request.arguments.items())
            yield Shown(language, "one_call", (), (f"{name}({arguments})",), "", (name,))
        return
    prompts = Prompts().get("tool_grammar", language)
    for situation in OUTCOMES:
        scene = Scene(catalogue, language, seeds.rng(seed, "trial", situation), lambda *_: True, language)
        speaker = Speaker(scene, prompts.response)
        if speaker.can(situation):
            yield _shown(language, speaker.write(situation))


def phrasings(catalogue: Catalogue, language: str, tool: str, most: int, seed: int) -> list[str]:
    """Different requests for one tool."""
    grammar = catalogue.grammars[language]
    scene = Scene(catalogue, language, seeds.rng(seed, "trial", tool), lambda *_: True, language)
    speaker = Speaker(scene, lambda *_, **__: "")
    found: dict[str, str] = {}
    for _ in range(20 * most):
        text = speaker.ask(tool)
        found.setdefault(normalise(text), text)
        if len(found) == min(most, grammar.tools[tool].ask.size):
            break
    return list(found.values())


def _shown(language: str, dialogue: Dialogue) -> Shown:
    calls = tuple(f"{c.name}({c.arguments})" for m in dialogue.messages for c in m.tool_calls)
    names = tuple(tool.name for tool in dialogue.offered)
    return Shown(language, dialogue.situation, tuple(dialogue.said), calls, dialogue.messages[-1].content, names)
