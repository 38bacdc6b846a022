"""Stages: no sample is ever lost, for any chain of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline import plugins
from pipeline.stage import Filter, Stage, Stopwatch, chain
from pipeline.stages.instruct import Instruct
from pipeline.tasks.base import Briefing
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance
from tests.examples import PROMPTS, sentences, sound


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


filters = st.sampled_from([n for n in plugins.names("filters") if n != "duplicates"]).map(
    lambda name: plugins.load("filters", name)()
)
stages = st.one_of(
    st.builds(Multiply, st.integers(1, 3)),
    st.builds(Window, st.integers(0, 20)),
    st.builds(Modulo, by=st.integers(2, 7)),
    filters,
)
TASKS = [plugins.load("tasks", name)() for name in ("transcription", "repeat", "spell", "keyword_spotting")]
instructs = st.builds(Instruct, st.just(TASKS), st.just(Briefing(PROMPTS, 1, [])), st.just(1), st.none())
transcripts = st.one_of(st.text(max_size=20), st.sampled_from(sentences("en")))


def sample(number: int, text: str) -> Sample:
    heard = sound(2.0, 200.0 + number) if number % 5 else None
    return Sample(f"c/{number}", (Utterance(f"c/{number}", "c", text, "en", audio=heard),), "train")


def expected(step: Stage, row: Sample) -> list[str]:
    """The ids of what a stage must make of a sample: none is lost, and none comes from nowhere."""
    if row.rejected is None and isinstance(step, Multiply):
        return [f"{row.id}/{n}" for n in range(step._times)]
    if row.rejected is None and isinstance(step, Instruct):
        first = row.utterances[0]
        return [f"{first.id}:{task.key}:0" for task in TASKS if task.fits(first)] or [row.id]
    return [row.id]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(transcripts, max_size=12),
    st.lists(stages, max_size=4),
    st.lists(instructs, max_size=1),
    st.lists(stages, max_size=3),
)
def test_no_sample_is_lost(texts: list[str], before: list[Stage], instruct: list[Stage], after: list[Stage]) -> None:
    rows = [sample(number, text) for number, text in enumerate(texts)]
    steps = [*before, *instruct, *after]
    out = rows
    for step in steps:
        wanted = [name for row in out for name in expected(step, row)]
        aside = [row for row in out if row.rejected is not None]
        out = list(step(iter(out)))
        assert [row.id for row in out] == wanted, "each, as often as it is multiplied, in their order"
        passed = iter(out)
        assert all(any(row == other for other in passed) for row in aside), "what was set aside is as it was"
    assert list(chain(rows, [(str(i), step) for i, step in enumerate(steps)])) == out
    assert {row.utterances[0].id for row in out} == {row.id for row in rows}
    reasons = [row.rejected for row in out if row.rejected is not None]
    assert all(reason and reason == reason.lower() and " " not in reason for reason in reasons)


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
