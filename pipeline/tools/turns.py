"""Turn: one response of the assistant that is asked for and scored.

A dialogue is asked turn by turn, each with the reference's history: what went before is as it should have been,
whatever the model said there (teacher forcing). So a wrong first turn costs one turn, not the dialogue, and all
systems answer the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from msgspec.structs import replace

from pipeline.tools import matching
from pipeline.tools.matching import Accepted
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample

TOOL_TASKS = frozenset({"tool_call", "tool_grammar"})


@dataclass(frozen=True)
class Turn:
    """A response within a sample."""

    sample: Sample
    """Cut after the response: its last message is the reference, its utterances are those heard until then."""
    number: int
    """Among the sample's responses, from 0."""
    last: bool
    """Whether the dialogue ends with it."""

    @property
    def id(self) -> str:
        """Unique in a dataset."""
        return f"{self.sample.id}#{self.number}"

    @property
    def reference(self) -> Message:
        """What the model was to say."""
        return self.sample.messages[-1]

    @property
    def concerns_tools(self) -> bool:
        """Whether it is scored as tool calls are."""
        return concerns_tools(self.sample)

    @cached_property
    def wanted(self) -> tuple[Accepted, ...]:
        """The calls that this turn is to make."""
        return wanted(self.sample)

    @property
    def outcome(self) -> str:
        """What is right here: of the first turn the sample's outcome, of later ones a call or an answer."""
        if self.number == 0 and self.sample.outcome:
            return self.sample.outcome
        return "tool_call" if self.reference.tool_calls else "direct"

    @property
    def speaks(self) -> bool:
        """Whether what was said last before it is speech, not the result of a tool."""
        before = next((m for m in reversed(self.sample.messages[:-1]) if m.role != "system"), None)
        return before is not None and before.role == "user" and AUDIO_PLACEHOLDER in before.content


def concerns_tools(sample: Sample) -> bool:
    """Whether its responses are scored as tool calls are."""
    return sample.task in TOOL_TASKS or bool(sample.outcome)


def turns(sample: Sample) -> list[Turn]:
    """The responses of a sample in their order."""
    places = [i for i, message in enumerate(sample.messages) if message.role == "assistant"]
    return [Turn(until(sample, place), n, place == places[-1]) for n, place in enumerate(places)]


def decisive(sample: Sample) -> Sample:
    """The sample cut after the response that matters most: of tool dialogues the first one, else the last.

    For whoever decodes one response a row: the last turn of a dialogue only tells how a call went.
    """
    found = turns(sample)
    if not found:
        return sample
    return (found[0] if found[0].concerns_tools else found[-1]).sample


def until(sample: Sample, place: int) -> Sample:
    """The sample up to a message, with the utterances that are heard until then."""
    messages = sample.messages[: place + 1]
    if len(messages) == len(sample.messages):
        return sample
    heard = sum(message.content.count(AUDIO_PLACEHOLDER) for message in messages)
    mentions = tuple(m for m in sample.mentions if m.utterance < heard)
    return replace(sample, messages=messages, utterances=sample.utterances[:heard], mentions=mentions)


def wanted(sample: Sample) -> tuple[Accepted, ...]:
    """The calls that the last message of a sample is to make.

    `answer` has those of the whole dialogue in their order; where it has others, the reference's own arguments are
    the only right ones.
    """
    calls = sample.messages[-1].tool_calls if sample.messages else ()
    if not calls:
        return ()
    before = sum(len(message.tool_calls) for message in sample.messages[:-1])
    try:
        accepted: Sequence[Accepted] = matching.from_json(sample.answer)
    except ValueError:
        accepted = ()
    part = accepted[before : before + len(calls)]
    if [one.name for one in part] == [call.name for call in calls]:
        return tuple(part)
    return tuple(_exactly(call.name, call.arguments) for call in calls)


def _exactly(name: str, arguments: str) -> Accepted:
    given = orjson.loads(arguments) if arguments else {}
    return Accepted(name, {key: (value,) for key, value in given.items()})


def schemas(sample: Sample) -> dict[str, Any]:
    """The JSON Schemas of the tools that are offered, by name."""
    return {tool.name: orjson.loads(tool.parameters) for tool in sample.tools}
