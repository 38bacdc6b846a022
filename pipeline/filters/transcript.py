"""Transcripts that say nothing: empty ones, and words that stand where one should be."""

from __future__ import annotations

from typing import ClassVar

from pipeline.stage import Filter
from pipeline.text import is_placeholder, without_tags
from schemas.sample import Rejection, Sample


class Transcript(Filter):
    """Speech must have a transcript. Recordings without speech need none."""

    before_tasks: ClassVar[bool] = True

    needed: bool = True
    """`false` keeps speech without a transcript, for tasks that ask about the sound alone."""

    def reason(self, sample: Sample) -> Rejection | None:
        utterance = sample.utterances[0]
        if not utterance.is_speech:
            return None
        text = without_tags(utterance.transcript)
        if not text:
            return Rejection("transcript_empty", utterance.transcript) if self.needed else None
        if is_placeholder(text):
            return Rejection("transcript_placeholder", utterance.transcript)
        return None
