"""Joint decoding: the transcript and then the answer, in one generation (SpeechVerse, arXiv:2405.08295, section 4.4).

The question is asked with a request to write down first what is said. An answer without the second mark is a failure
of the form: all of it counts as the answer, and the rate is told.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from msgspec.structs import replace

from pipeline.text import base
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample

PROTOCOL = (
    "joint/earwitness-1: the last question with audio goes on with a request for `Transcript:` and `Answer:` in its "
    "language; what follows the first `Answer:` is scored, what stands before it is what was heard"
)
FAILURES = "joint-form/earwitness-1: share of joint answers without the two marks"
_ASKS = {
    "en": 'First write down what is said after "Transcript:". Then give your answer, a tool call too, after "Answer:".',
    "ru": "Сначала запиши после «Transcript:», что сказано. Затем дай ответ, также и вызов функции, после «Answer:».",
    "pt": 'Primeiro escreve depois de "Transcript:" o que é dito. Depois dá a resposta, ou a chamada, após "Answer:".',
}
_FORM = re.compile(r"\s*Transcript:(?P<heard>.*?)\bAnswer:(?P<answer>.*)", re.DOTALL | re.IGNORECASE)


class Parsed(NamedTuple):
    """A joint answer in its parts."""

    heard: str | None
    """None where the form is not kept."""
    answer: str


def asked(sample: Sample) -> Sample | None:
    """The sample with the request at its last question with audio; None where the last turn is no such question.

    The last message is the response that is looked for.
    """
    before = [i for i, m in enumerate(sample.messages[:-1]) if m.role != "system"]
    if not before or AUDIO_PLACEHOLDER not in sample.messages[before[-1]].content:
        return None
    place = before[-1]
    text = _ASKS.get(base(sample.language), _ASKS["en"])
    message = sample.messages[place]
    changed = replace(message, content=f"{message.content}\n{text}")
    return replace(sample, messages=(*sample.messages[:place], changed, *sample.messages[place + 1 :]))


def parse(output: str) -> Parsed:
    """The transcript and the answer of an output."""
    found = _FORM.match(output)
    return Parsed(None, output) if found is None else Parsed(found["heard"].strip(), found["answer"].strip())
