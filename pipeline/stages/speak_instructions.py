"""Speak instructions: what the user asks of a recording becomes speech, too, as it does in a real conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from pipeline import seeds
from pipeline.stage import Stage
from pipeline.tts.base import Voice
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample
from schemas.utterance import Utterance


class SpeakInstructions(Stage):
    """Turns a share of the written instructions into utterances that are still to be spoken.

    The recording comes first in the message, then the spoken instruction. Instructions of several lines, such
    as the options of a closed question, stay written: nobody says a list.

    Args:
        share: Of the samples that have an instruction of one line.
        seed: The recipe's.
        voice_of: Gives a voice for language, split and the sample's id; None where there is none.
    """

    def __init__(self, share: float, seed: int, voice_of: Callable[[str, str, str], Voice | None]) -> None:
        self._share, self._seed, self._voice_of = share, seed, voice_of

    def process(self, sample: Sample) -> Iterable[Sample]:
        yield self._spoken(sample)

    def _spoken(self, sample: Sample) -> Sample:
        asked = [i for i, message in enumerate(sample.messages) if message.role == "user"]
        if len(asked) != 1 or not sample.provenance.instruction or sample.tools:
            return sample
        message = sample.messages[asked[0]]
        lines = [line for line in message.content.split("\n") if line != AUDIO_PLACEHOLDER]
        if len(lines) != 1 or AUDIO_PLACEHOLDER in lines[0]:
            return sample
        if seeds.share(self._seed, sample.id, "spoken instruction") >= self._share:
            return sample
        language = sample.provenance.instruction.split("/")[1]
        voice = self._voice_of(language, sample.split, sample.id)
        if voice is None:
            return sample
        instruction = Utterance(
            id=f"{sample.id}~instruction",
            corpus=sample.utterances[0].corpus,
            transcript=lines[0],
            language=language,
            speaker=f"tts/{voice.name}",
            voice=voice.name,
            labels=voice.labels,
        )
        utterances = (*sample.utterances, instruction)
        content = "\n".join([AUDIO_PLACEHOLDER] * len(utterances))
        messages = list(sample.messages)
        messages[asked[0]] = replace(message, content=content)
        return replace(sample, utterances=utterances, messages=tuple(messages))
