"""Chat messages and tools, with the field names of the OpenAI API."""

from __future__ import annotations

from msgspec import Struct

AUDIO_PLACEHOLDER = "<|audio|>"


class ToolCall(Struct, frozen=True, gc=False):
    """A call that the assistant makes."""

    id: str
    name: str
    arguments: str
    """A JSON object as text."""


class Message(Struct, frozen=True, gc=False):
    """One turn. A user's turn holds one `<|audio|>` for each utterance it refers to."""

    role: str
    """system, user, assistant or tool."""
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ToolSpec(Struct, frozen=True, gc=False):
    """A function that the assistant may call."""

    name: str
    description: str
    parameters: str
    """A JSON Schema as text."""
