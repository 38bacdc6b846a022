"""Stage: a stream of samples to a stream of samples. Nothing is ever dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from msgspec.structs import replace

from pipeline import logs
from schemas.recipe import Options
from schemas.sample import Rejection, Sample


class Stage:
    """One step of a unit.

    For each sample it yields one or more: the same, a fuller one, several made from it, or one
    that is rejected. A rejected sample passes through every later stage untouched.
    """

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if sample.rejected is not None:
                yield sample
            else:
                yield from self.process(sample)

    def process(self, sample: Sample) -> Iterable[Sample]:
        """What becomes of one sample. At least one comes back."""
        raise NotImplementedError


class Filter(Options, Stage):
    """A stage that answers one question: should this sample be set aside, and why?"""

    is_plugin: ClassVar[bool] = True
    order: ClassVar[int] = 0
    """Filters with lower numbers judge first; of equal numbers, by name."""
    before_tasks: ClassVar[bool] = False
    """Whether it judges speech and transcript, before anything is paid for."""
    after_voice: ClassVar[bool] = False
    """Whether it judges what is heard in the end, after all has been spoken, changed and transcribed."""

    def process(self, sample: Sample) -> tuple[Sample]:
        return (self.judge(sample),)

    def judge(self, sample: Sample) -> Sample:
        """The sample, set aside if there is a reason to."""
        verdict = self.reason(sample)
        return sample if verdict is None else sample.reject(*verdict)

    def reason(self, sample: Sample) -> Rejection | None:
        """Why the sample is set aside, or None."""
        raise NotImplementedError


class Checks(Stage):
    """Several filters as one stage; the first that objects decides. A stage each would take twice the time.

    Args:
        filters: In the order in which they judge.
        when: Which samples are judged; all if omitted.
    """

    def __init__(self, filters: Iterable[Filter], when: Callable[[Sample], bool] | None = None) -> None:
        self._filters, self._when = list(filters), when

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            for check in self._filters if self._when is None or self._when(sample) else ():
                if sample.rejected is not None:
                    break
                sample = check.judge(sample)
            yield sample


class Stopwatch:
    """Seconds that each stage took for itself, without those before it."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def watch(self, name: str, samples: Iterable[Sample], then: str = "write") -> Iterator[Sample]:
        """The same stream; counts the time that it takes to come, and knows what is at work for the logs.

        Args:
            name: Of the stage that it comes from.
            samples: The stream.
            then: The stage that it goes to.
        """
        stream, total, place = iter(samples), 0.0, logs.here()
        while True:
            place.stage = name
            begin = time.perf_counter()
            sample = next(stream, None)
            total += time.perf_counter() - begin
            self._until[name] = total
            if sample is None:
                return
            place.stage, place.sample = then, sample.id
            yield sample

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, in their order."""
        before, own = 0.0, {}
        for name, until in dict(self._until).items():  # another thread may look
            own[name] = max(0.0, until - before)
            before = until
        return own


def chain(
    samples: Iterable[Sample], stages: Sequence[tuple[str, Stage]], stopwatch: Stopwatch | None = None
) -> Iterator[Sample]:
    """The stream through all stages, in their order."""
    watch = (stopwatch or Stopwatch()).watch
    names = ["read", *(name for name, _ in stages), "write"]
    stream = watch("read", samples, names[1])
    for (name, stage), then in zip(stages, names[2:], strict=True):
        stream = watch(name, stage(stream), then)
    return stream


def with_scores(sample: Sample, **scores: float | None) -> Sample:
    """The sample with measurements added."""
    return replace(sample, scores=replace(sample.scores, **scores))
