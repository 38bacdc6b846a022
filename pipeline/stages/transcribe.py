"""Transcribe: an ASR engine listens to what was spoken, and what it hears is measured against what should be said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson
from msgspec.structs import replace

from pipeline import logs
from pipeline.asr.base import ASR, Clip
from pipeline.memo import Memo, digest
from pipeline.stage import Stage, with_scores
from pipeline.text import without_tags
from pipeline.wer import compare, rates, said
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance

_WAITING = 8  # samples that wait for others, as a multiple of the utterances in a call

Key = bytes


class Transcribe(Stage):
    """Gives utterances their hypothesis, and samples WER and CER.

    Samples wait until there are enough utterances for a call, and leave in the order in which they came.
    An utterance of several samples is listened to once.

    Args:
        asr: The engine.
        memo: Remembers what was heard.
        workers: How many processes share the engine's concurrency.
    """

    def __init__(self, asr: ASR, memo: Memo, workers: int = 1) -> None:
        self._asr, self._memo, self._workers = asr, memo, workers
        self.asked = 0
        """Utterances that were listened to."""
        self.remembered = 0
        """Utterances whose hypothesis was known."""

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        waiting: list[Sample] = []
        heard: dict[Key, str | Rejection] = {}
        unheard: dict[Key, Clip] = {}
        for sample in samples:
            waiting.append(sample)
            for utterance in self._of(sample):
                self._look_up(utterance, heard, unheard)
            if len(unheard) >= self._asr.at_once or len(waiting) >= _WAITING * self._asr.at_once:
                yield from self._finish(waiting, heard, unheard)
                waiting, heard, unheard = [], {}, {}
        yield from self._finish(waiting, heard, unheard)

    def process(self, sample: Sample) -> Iterable[Sample]:
        return self([sample])

    def _of(self, sample: Sample) -> list[Utterance]:
        """The utterances of a sample that are to be listened to."""
        return [] if sample.rejected is not None else [u for u in sample.utterances if self.listens_to(u)]

    def listens_to(self, utterance: Utterance) -> bool:
        """Whether there is something to hear, and something to compare it with."""
        if utterance.audio is None or not utterance.is_speech or not without_tags(utterance.transcript):
            return False
        made = utterance.voice is not None or utterance.delivery is not None or bool(utterance.effects)
        return (made or self._asr.only == "all") and self._asr.knows(utterance.language)

    def _key(self, utterance: Utterance) -> Key:
        assert utterance.audio is not None
        language = (utterance.language or "").encode()
        return digest(b"asr", self._asr.identity, utterance.audio.digest.encode(), language)

    def _look_up(self, utterance: Utterance, heard: dict[Key, str | Rejection], unheard: dict[Key, Clip]) -> None:
        key = self._key(utterance)
        if key in heard or key in unheard:
            return
        known = self._memo.get(key)
        if known is not None:
            self.remembered += 1
            heard[key] = str(orjson.loads(known))
        else:
            assert utterance.audio is not None
            unheard[key] = Clip(utterance.audio, utterance.language)

    def _finish(
        self, waiting: list[Sample], heard: dict[Key, str | Rejection], unheard: dict[Key, Clip]
    ) -> Iterator[Sample]:
        clips = list(unheard.items())
        for begin in range(0, len(clips), self._asr.at_once):
            some = clips[begin : begin + self._asr.at_once]
            answers = self._listen(some)
            # What failed may succeed another time: it is not remembered.
            self._memo.put_all((key, orjson.dumps(a)) for key, a in answers.items() if isinstance(a, str))
            heard |= answers
        for sample in waiting:
            yield self._told(sample, heard)

    def _listen(self, some: list[tuple[Key, Clip]]) -> dict[Key, str | Rejection]:
        def record(number: int, text: str) -> None:
            self._memo.put(some[number][0], orjson.dumps(text))

        logs.here().sample = ""  # utterances of several are listened to together
        found = self._asr.transcribe([clip for _, clip in some], self._workers, record)
        self.asked += len(some)
        return {key: answer for (key, _), answer in zip(some, found, strict=True)}

    def _told(self, sample: Sample, heard: dict[Key, str | Rejection]) -> Sample:
        """The sample with what was heard."""
        chosen = self._of(sample)
        if not chosen:
            return sample
        hypotheses = {id(u): heard[self._key(u)] for u in chosen}
        utterances = []
        for utterance in sample.utterances:
            hypothesis = hypotheses.get(id(utterance))
            utterances.append(replace(utterance, hypothesis=hypothesis) if isinstance(hypothesis, str) else utterance)
        sample = replace(sample, utterances=tuple(utterances))
        failure = next((h for h in hypotheses.values() if isinstance(h, Rejection)), None)
        if failure is not None:
            return sample.reject(*failure)
        return measured(sample)


def measured(sample: Sample) -> Sample:
    """The sample with the WER and CER of all its utterances that were listened to."""
    errors = [compare(said(u), u.hypothesis, u.language) for u in sample.utterances if u.hypothesis is not None]
    wer, cer = rates(errors)
    return with_scores(sample, wer=wer, cer=cer)
