"""Synthesize: utterances that exist only as text are spoken."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from pipeline import audio
from pipeline.stage import Stage
from pipeline.tts.base import TTS
from schemas.sample import Sample


class Synthesize(Stage):
    """Speaks each draft whose utterance has no source, with the voice that the plan has given it."""

    def __init__(self, tts: TTS) -> None:
        self._tts = tts

    def process(self, sample: Sample) -> Iterable[Sample]:
        first, *others = sample.utterances
        if first.audio is not None or first.source is not None:
            yield sample
            return
        if first.voice is None:
            yield sample.reject("no_voice", f"{self._tts.engine} has no voice for {first.language}")
            return
        (samples,) = self._tts.speak([(first.transcript, first.voice)])
        if not len(samples):
            yield sample.reject("not_spoken", f"{self._tts.engine} said nothing for {first.transcript!r}")
            return
        spoken = replace(first, audio=audio.store(samples, kind=self._tts.engine))
        yield replace(sample, utterances=(spoken, *others))
