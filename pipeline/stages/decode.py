"""Decode: recordings become 16 kHz FLAC with measurements, or rows that say why not.

Of a recording that its header says is too long nothing is decoded: an hour would take gigabytes, only to
be set aside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec.structs import replace

from pipeline import audio
from pipeline.readers.base import Reader
from pipeline.stage import Stage
from pipeline.stages._ahead import Coming, fetching
from pipeline.storage import StoreError
from schemas.sample import Sample
from schemas.utterance import Utterance


class Decode(Stage):
    """Reads each draft's own utterance, and its companions where a task will listen to them.

    Args:
        readers: By the name of the corpus.
        hears_companions: Whether a draft's tasks need the companions' audio.
        longest: Seconds; what is clearly longer is set aside, as the filter `duration` would, before it is decoded.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        hears_companions: Callable[[Sample], bool],
        longest: float = math.inf,
    ) -> None:
        self._readers, self._hears_companions, self._longest = readers, hears_companions, longest
        self._coming: Coming = {}

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample, coming in fetching(samples, self._readers, self._hears_companions):
            self._coming = coming
            yield from super().__call__((sample,))

    def process(self, sample: Sample) -> Iterable[Sample]:
        first, *others = sample.utterances
        if first.problem is not None:
            reason, _, detail = first.problem.partition(": ")
            yield sample.reject(reason, detail)
            return
        if first.source is None:  # to be spoken
            yield sample
            return
        try:
            first = self._heard(first)
        except audio.TooLong as error:
            yield sample.reject("too_long", str(error))
            return
        except StoreError:  # says nothing of the recording: the unit is to be tried again
            raise
        except (audio.AudioError, OSError) as error:
            told = self._readers[first.corpus].portable(str(error))
            yield sample.reject("audio_unreadable", f"{first.source}: {told}")
            return
        if others and self._hears_companions(sample):
            others = [self._heard_if_possible(u) for u in others]
        yield replace(sample, utterances=(first, *others))

    def _heard(self, utterance: Utterance) -> Utterance:
        source, reader = utterance.source, self._readers[utterance.corpus]
        assert source is not None
        coming = self._coming.get(utterance.id)
        loaded = audio.load(
            reader.audio(source) if coming is None else coming.result(),
            start=source.start,
            duration=source.duration,
            channel=source.channel,
            raw=reader.raw_format(source),
            longest=self._longest,
        )
        return replace(utterance, audio=loaded)

    def _heard_if_possible(self, utterance: Utterance) -> Utterance:
        # What is wrong with a companion is said in the row of its own.
        if utterance.problem is not None or utterance.source is None:
            return utterance
        try:
            return self._heard(utterance)
        except StoreError:
            raise
        except (audio.AudioError, OSError):
            return utterance
