"""From what an LLM sent to what was asked for, or to the reason why not. Never an exception."""

from __future__ import annotations

import re
from typing import TypeVar

import orjson
from pydantic import ValidationError

from pipeline.text import clean, without_control
from schemas.replies import Reply
from schemas.sample import Rejection

Structure = TypeVar("Structure", bound=Reply)

LARGEST = 200_000  # characters of a reply that are looked at
_DEEPEST = 16  # brackets within brackets; our structures need four
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)  # begun in the prompt
_FENCE = re.compile(r"```(?:[\w-]*[ \t]*\n)?(.*?)(?:```|\Z)", re.DOTALL)
_QUOTES = {'"': '"', "“": "”", "«": "»", "'": "'", "‘": "’"}


def plain_text(reply: str) -> str | Rejection:
    """A reply that is to be said: without thoughts, fences and quotation marks around it."""
    if len(reply) > LARGEST:
        return Rejection("reply_too_long", f"{len(reply)} characters")
    text = _without_thoughts(reply).strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    text = _cleaned_text(text)
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    if _is_structure(text):
        return Rejection("reply_not_text", _short(text))
    return text if any(c.isalnum() for c in text) else Rejection("reply_empty", "there is nothing to say in it")


def structure(reply: str, model: type[Structure]) -> Structure | Rejection:
    """A reply that is JSON of a certain structure; text before and after it is passed over."""
    if len(reply) > LARGEST:
        return Rejection("reply_too_long", f"{len(reply)} characters")
    text = _without_thoughts(reply)
    if not text.strip():
        return Rejection("reply_empty", "there is nothing in it")
    value = _whole_object(text)
    if value is None:
        candidate = _object_in(text)
        if candidate is None:
            return Rejection("reply_not_json", _short(text))
        try:
            value = orjson.loads(candidate)
        except orjson.JSONDecodeError as error:
            return Rejection("reply_not_json", f"{error}: {_short(candidate)}")
    try:
        return model.model_validate(_cleaned(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the reply"
        return Rejection("reply_breaks_schema", f"{_short(where)}: {first['msg']}: {_short(text)}")


def _without_thoughts(reply: str) -> str:
    return _THOUGHT.sub("", _THINKING.sub("", reply)) if "<" in reply else reply


def _is_structure(text: str) -> bool:
    """Whether a text is JSON that nobody says: an object, a list or null. A number may well be an answer."""
    if not text.startswith(("{", "[", "null")):
        return False
    try:
        return not isinstance(orjson.loads(text), (str, int, float))
    except orjson.JSONDecodeError:
        return False


def _whole_object(text: str) -> object:
    """The text as an object, if it is nothing else; as nearly all are, so their brackets need not be counted."""
    if text[0] != "{" or text.count("{") + text.count("[") > _DEEPEST:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _object_in(text: str) -> str | None:
    """The first JSON object in a text, found by its brackets; None if none ends."""
    start = text.find("{")
    if start < 0:
        return None
    depth, quoted, escaped = 0, False, False
    for index in range(start, len(text)):
        char = text[index]
        if quoted:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char in "{[":
            depth += 1
            if depth > _DEEPEST:
                return None
        elif char in "}]":
            depth -= 1
            if depth == 0:
                return text[start : index + 1]
    return None


def _cleaned(value: object) -> object:
    """The value with all its texts cleaned."""
    if isinstance(value, str):
        return _cleaned_text(value)
    if isinstance(value, list):
        return [_cleaned(v) for v in value]
    if isinstance(value, dict):
        return {k: _cleaned(v) for k, v in value.items()}
    return value


def _cleaned_text(text: str) -> str:
    """Clean, and without what stands for audio or ends a turn in messages: an LLM must not add to them."""
    text = clean(text)
    return clean(bare) if (bare := without_control(text)) != text else text


def _short(text: str) -> str:
    return clean(text[:120])
