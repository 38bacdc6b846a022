"""Sample: one training example, from the first draft to the row of a shard."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from schemas.conversation import Message, ToolSpec
from schemas.utterance import Utterance


class Rejection(NamedTuple):
    """Why a sample is set aside."""

    reason: str
    """snake_case; the statistics count it."""
    detail: str = ""
    """For a person: names the value, the bound, the file."""


class Provenance(Struct, frozen=True, gc=False):
    """Where the text of a sample comes from."""

    instruction: str = ""
    """Id of the instruction paraphrase, `task/language/digest`; empty where the audio stands alone."""
    prompt: str = ""
    """Digest of the template that the LLM's prompt was rendered from."""
    engine: str = ""
    """The LLM engine; empty for computed samples."""
    model: str = ""
    seed: int = 0
    """The seed of the reply that was used."""
    attempts: int = 0
    prompt_tokens: int = 0
    """Of all attempts together. Of several samples from one reply the first carries them."""
    completion_tokens: int = 0
    reply: str = ""
    """The LLM's last reply as it came."""


class Scores(Struct, frozen=True, gc=False):
    """Measurements that filters decide on; None where nothing was measured."""

    characters_per_second: float | None = None
    wer: float | None = None
    cer: float | None = None


class Mention(Struct, frozen=True, gc=False):
    """Words of an utterance that carry an argument of a tool call."""

    utterance: int
    """Its place among the sample's utterances."""
    argument: str
    """`tool.argument`; of nested ones `tool.argument.field`."""
    words: str
    """As the transcript writes them."""


class Sample(Struct, frozen=True, gc=False):
    """One training example.

    It begins as a draft: one utterance, no task, no messages. Stages fill it in. It is never
    dropped: whatever is wrong with it is written in `rejected`, and later stages let it pass.
    """

    id: str
    """The utterance's id; a task appends `:task:number`."""
    utterances: tuple[Utterance, ...]
    split: str
    task: str = ""
    language: str | None = None
    """Of the response."""
    messages: tuple[Message, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    choices: tuple[str, ...] = ()
    """The options of a closed question."""
    answer: str = ""
    """The canonical answer, for scoring: a letter, a label, a number; of tool calls the accepted
    values as JSON; else the response."""
    outcome: str = ""
    """Where tools are concerned: tool_call, direct, request_for_info or cannot_answer (When2Call)."""
    situation: str = ""
    """The kind of request that a tool query is: `one_call`, `parallel`, `mention`, ..."""
    mentions: tuple[Mention, ...] = ()
    """Where the arguments of tool calls are said."""
    evidence: str = ""
    """The words of the transcript that the response rests on, where the LLM had to name them."""
    scores: Scores = Scores()
    provenance: Provenance = Provenance()
    rejected: str | None = None
    detail: str = ""
    position: int = 0
    """The row's place in its unit, from which the order of rows in files follows."""

    def reject(self, reason: str, detail: str = "") -> Sample:
        """This sample, set aside with a snake_case reason."""
        return replace(self, rejected=reason, detail=detail)

    @property
    def response(self) -> str:
        """What the model is to say: the content of the last assistant message."""
        if self.messages and self.messages[-1].role == "assistant":  # as nearly always
            return self.messages[-1].content
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    @property
    def transcript(self) -> str:
        """What is said, in all utterances together."""
        return " ".join(u.transcript for u in self.utterances if u.transcript)
