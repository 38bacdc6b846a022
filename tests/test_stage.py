"""Stages: no sample is ever lost, for any chain of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline import plugins
from pipeline.stage import Filter, Stage, Stopwatch, chain
from schemas.sample import Rejection, Sample
from schemas.utterance import Audio, Utterance


class Multiply(Stage):
    """Makes several samples of each."""

    def __init__(self, times: int) -> None:
        self._times = times

    def process(self, sample: Sample) -> Iterable[Sample]:
        return [replace(sample, id=f"{sample.id}/{n}") for n in range(self._times)]


class Window(Stage):
    """Holds some samples back, as a stage with requests in flight does."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        held: list[Sample] = []
        for sample in samples:
            held.append(sample)
            if len(held) > self._size:
                yield held.pop(0)
        yield from held


class Modulo(Filter):
    """Rejects by the hash of the id."""

    before_tasks: ClassVar[bool] = True
    by: int

    def reason(self, sample: Sample) -> Rejection | None:
        return Rejection(f"modulo_{self.by}") if sum(sample.id.encode()) % self.by == 0 else None


stages = st.one_of(
    st.builds(Multiply, st.integers(1, 3)),
    st.builds(Window, st.integers(0, 20)),
    st.builds(Modulo, by=st.integers(2, 7)),
    st.sampled_from([n for n in plugins.names("filters") if n != "duplicates"]).map(
        lambda name: plugins.load("filters", name)()
    ),
)


def sample(number: int, text: str) -> Sample:
    audio = Audio(b"x", 2.0, 16000, 1, "WAV/PCM_16", -3.0, -20.0, 0.0, str(number), b"")
    heard = audio if number % 5 else None
    return Sample(f"c/{number}", (Utterance(f"c/{number}", "c", text, "en", audio=heard),), "train")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=25), st.lists(stages, max_size=6))
def test_no_sample_is_lost(transcripts: list[str], steps: list[Stage]) -> None:
    rows = [sample(number, text) for number, text in enumerate(transcripts)]
    out = list(chain(rows, [(str(i), step) for i, step in enumerate(steps)]))
    ancestors = Counter(row.id.split("/")[1] for row in out)
    assert set(ancestors) == {str(n) for n in range(len(rows))}, "each comes out at least once"
    kept = [row for row in out if row.rejected is None]
    rejected = [row for row in out if row.rejected is not None]
    assert len(out) == len(kept) + len(rejected)
    if not any(isinstance(step, Multiply) for step in steps):
        assert len(out) == len(rows)
        assert [row.id for row in out] == [row.id for row in rows], "in their order"
    assert all(reason and reason == reason.lower() and " " not in reason for reason in (r.rejected for r in rejected))


@given(st.lists(stages, max_size=5))
@settings(max_examples=50, deadline=None)
def test_rejected_samples_pass_untouched(steps: list[Stage]) -> None:
    rows = [sample(n, "one two three").reject("already", "before") for n in range(5)]
    out = list(chain(rows, [(str(i), step) for i, step in enumerate(steps) if not isinstance(step, Multiply)]))
    assert [(r.id, r.rejected, r.detail) for r in out] == [(r.id, "already", "before") for r in rows]


def test_the_stopwatch_knows_who_took_the_time() -> None:
    import time

    class Slow(Stage):
        def process(self, sample: Sample) -> Iterable[Sample]:
            time.sleep(0.005)
            return [sample]

    watch = Stopwatch()
    list(chain([sample(n, "a") for n in range(10)], [("quick", Window(2)), ("slow", Slow())], watch))
    assert watch.seconds["slow"] > 5 * watch.seconds["quick"]
    assert list(watch.seconds) == ["read", "quick", "slow"]
