"""Ahead: recordings in a store are fetched a few at a time, before it is their turn.

A store answers after tens of milliseconds, and decoding takes a few: fetched one after another, a worker would wait
for most of its time. Files of the disk are not read ahead, nor the stretches of a long recording, which comes once
for all of them, nor members of zip files, which are read through a common handle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipeline.readers.base import Reader
from schemas.sample import Sample
from schemas.utterance import AudioSource, Utterance

AT_ONCE = 16
"""Recordings of a worker that are under way or wait for their turn."""
MOST = 64 * 2**20
"""Their bytes; a larger recording comes alone."""
_UNKNOWN = 2**20  # bytes that are reckoned for a recording whose size nobody tells

Coming = Mapping[str, "Future[Path | bytes]"]
"""What was asked for, by the utterance's id."""


def fetching(
    samples: Iterable[Sample], readers: Mapping[str, Reader], hears_companions: Callable[[Sample], bool]
) -> Iterator[tuple[Sample, Coming]]:
    """The same samples in their order, with what is on its way to them.

    Args:
        samples: As they are drafted.
        readers: By the name of the corpus.
        hears_companions: Whether a sample needs the sound of its companions.
    """
    waiting: deque[tuple[Sample, Coming, int]] = deque()
    held = 0
    threads: ThreadPoolExecutor | None = None
    try:
        for sample in samples:
            far = _far(sample, readers, hears_companions)
            if far and threads is None:
                threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ahead")
            size = sum(_bytes(utterance.source) for utterance in far)
            while waiting and held + size > MOST:
                held -= waiting[0][2]
                yield waiting.popleft()[:2]
            coming = {u.id: threads.submit(readers[u.corpus].audio, u.source) for u in far if threads and u.source}
            waiting.append((sample, coming, size))
            held += size
            while waiting and (len(waiting) > AT_ONCE or not waiting[0][1]):
                held -= waiting[0][2]
                yield waiting.popleft()[:2]
        while waiting:
            yield waiting.popleft()[:2]
    finally:
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)


def _far(sample: Sample, readers: Mapping[str, Reader], hears_companions: Callable[[Sample], bool]) -> list[Utterance]:
    """The utterances of a sample that are to be fetched."""
    if sample.rejected is not None or sample.utterances[0].problem is not None:
        return []
    heard = sample.utterances if len(sample.utterances) > 1 and hears_companions(sample) else sample.utterances[:1]
    return [u for u in heard if not u.problem and u.source and readers[u.corpus].comes_alone(u.source)]


def _bytes(source: AudioSource | None) -> int:
    if source is None:
        return 0
    if source.size is not None:
        return source.size
    size = source.identity.partition("-")[0]
    return int(size) if size.isdecimal() else _UNKNOWN
