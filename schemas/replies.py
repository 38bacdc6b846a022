"""What an LLM is asked to reply with. The JSON schema sent along is generated from these."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _says_something(text: str) -> str:
    if not any(c.isalnum() for c in text):
        raise ValueError("there is not one word in it")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_says_something)]


class Reply(BaseModel):
    """Base of structured replies: exactly these fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    @cache
    def response_format(cls, kind: str) -> dict[str, Any]:
        """The `response_format` of a request, as OpenAI's strict mode and vLLM take it."""
        if kind == "json_object":
            return {"type": "json_object"}
        schema = cls.model_json_schema()
        named = {"name": cls.__name__, "schema": _inlined(schema, schema.get("$defs", {})), "strict": True}
        return {"type": "json_schema", "json_schema": named}


_UNTOLD = ("$defs", "title", "description", "default", "minLength")


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references, titles and bounds that strict servers refuse."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    # What stands below `properties` are names, not keywords.
    return {
        key: {name: _inlined(v, definitions) for name, v in value.items()}
        if key == "properties"
        else _inlined(value, definitions)
        for key, value in node.items()
        if key not in _UNTOLD
    }


class QuestionAnswer(Reply):
    """A question that the speech answers."""

    question: Text
    evidence: Text
    """The words of the transcript that contain the answer, copied exactly."""
    answer: Text


class QuestionAnswers(Reply):
    """Several questions about one transcript."""

    pairs: Annotated[list[QuestionAnswer], Field(min_length=1, max_length=8)]


class MultipleChoice(Reply):
    """A question with one right and three wrong options, not yet shuffled."""

    question: Text
    evidence: Text
    correct: Text
    wrong: Annotated[list[Text], Field(min_length=3, max_length=3)]


class Keywords(Reply):
    """The words that matter most, as they are said."""

    keywords: Annotated[list[Text], Field(min_length=1, max_length=8)]


class Sentiment(Reply):
    """The attitude that the words express."""

    sentiment: Literal["positive", "neutral", "negative"]


class ToolQuery(Reply):
    """What somebody says to an assistant that has tools, and what is answered."""

    utterance: Text
    question: str
    """What the assistant asks back, where something is lacking; else empty."""
    second_utterance: str
    """What the user answers to that; else empty."""
    answer: Text
    """What the assistant says in the end."""


def _as_text(arguments: Any) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments


class RecoveredCall(Reply):
    """A call as it was understood."""

    name: str
    arguments: Annotated[str, BeforeValidator(_as_text)]
    """A JSON object as text."""


class RecoveredCalls(Reply):
    """All calls that a dialogue asks for; none where nothing is to be called."""

    calls: Annotated[list[RecoveredCall], Field(max_length=8)]
