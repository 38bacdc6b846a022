"""Reply: answer the speaker. The transcript goes to the text LLM as if the user had said it.

Source: AudioChatLLaMA (Fathullah et al., arXiv:2311.06753): the LLM's own reply to the transcript
becomes the target for the audio, so the two prompts differ only by modality. With `describe`, the
text also tells what the corpus says of the voice, as in DeSTA2.5 (Lu et al., arXiv:2507.02768).

A row: <|audio|> (Do you know a good recipe for stew?) -> `A simple one begins with onions ...`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from msgspec.structs import replace
from pydantic import Field

from pipeline.tasks.base import Brief, LLMTask, Question, alone, spoken
from pipeline.text import without_tags
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample


class Reply(LLMTask):
    """A turn of conversation."""

    variables: ClassVar[frozenset[str]] = frozenset({"transcript", "labels"})
    fewest_words: ClassVar[int] = 2

    system: str | None = None
    """Told to the LLM, and to the model that is trained, alike; the prompt file's if omitted, and
    nothing at all if empty."""
    instructed: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of samples in which the audio comes with words like `Answer the speaker.`"""
    describe: list[str] = []
    """Labels that the LLM is told in brackets after the words, e.g. `[emotion, gender]`."""

    def ask(self, draft: Sample, brief: Brief) -> Question:
        user = brief.prompts.render(brief.prompts.content.user, self.values(draft, brief))
        return Question((*self._system(brief), Message("user", user)), None, self.most_tokens)

    def values(self, draft: Sample, brief: Brief) -> dict[str, Any]:
        known = draft.utterances[0].labels
        told = {name: _bracketed(known[name]) for name in self.describe if name in known}
        labels = "; ".join(f"{name}: {text}" for name, text in told.items() if text)
        return {"transcript": spoken(draft), "labels": labels}

    def answer(self, draft: Sample, brief: Brief, reply: str) -> Iterable[Sample]:
        language = draft.utterances[0].language
        instructed = brief.rng.random() < self.instructed
        sample = self.sample(alone(draft), brief, reply, language=language)
        user = sample.messages[0]
        if not instructed:
            user = Message("user", AUDIO_PLACEHOLDER)
            sample = replace(sample, provenance=replace(sample.provenance, instruction=""))
        yield replace(sample, messages=(*self._system(brief), user, sample.messages[1]))

    def _system(self, brief: Brief) -> tuple[Message, ...]:
        text = brief.prompts.content.system.strip() if self.system is None else self.system
        return (Message("system", text),) if text else ()


def _bracketed(label: str) -> str:
    """A label as it stands in brackets, which it cannot end."""
    return without_tags(label).replace("[", "(").replace("]", ")")
