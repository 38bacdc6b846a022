from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from accelerate import PartialState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.model.base import RowError
from pipeline.train.batches import Plan, plan
from pipeline.train.bucketing import sorting
from pipeline.train.course import Course
from pipeline.train.held_out import HeldOut, hold_out
from pipeline.train.index import Index
from schemas.training import BatchSpec, DataSpec, ModelSpec, StageSpec, TrainingRecipe

RATE = 16_000
NOBODY = np.zeros(0, np.uint64), np.zeros(0, np.int32)


def index_of(seconds, text, task=None, dataset=None, sounds=None, speakers=None) -> Index:
    """An index of rows that take 12.5 positions for a second of audio, and some for text."""
    count = len(seconds)
    samples = (np.asarray(seconds) * RATE).astype(np.int64)
    sounds = np.ones(count, np.int32) if sounds is None else np.asarray(sounds, np.int32)
    zeros = np.zeros(count, np.int16)
    who = NOBODY if speakers is None else tuple(map(np.array, zip(*speakers, strict=True)))
    return Index(
        positions=(sounds * -(-samples // 1280) + np.asarray(text)).astype(np.int32),
        targets=np.asarray(text, np.int32),
        sounds=sounds,
        samples=samples * sounds,
        longest=samples * (sounds > 0),
        task=zeros if task is None else np.asarray(task, np.int16),
        dataset=zeros if dataset is None else np.asarray(dataset, np.int16),
        speakers=who[0].astype(np.uint64),
        speakers_of=who[1].astype(np.int32),
        recordings=np.arange(count, dtype=np.uint64),
        recordings_of=np.arange(count, dtype=np.int32),
        tasks=("answer", "transcription", "unused"),
    )


def speech(rows: int, kind: str) -> Index:
    """Lengths as they are found: 3-8 s of read sentences; LibriSpeech; questions of all lengths and their answers."""
    rng = np.random.default_rng(3)
    if kind == "sentences":
        seconds = rng.uniform(3, 8, rows)
        said = seconds * 3.5 * rng.normal(1, 0.15, rows).clip(0.5, 2)
    elif kind == "books":
        seconds = np.where(rng.random(rows) < 0.65, rng.normal(14, 1.5, rows), rng.uniform(2, 13, rows)).clip(1.3, 34)
        said = seconds * 4.2 * rng.normal(1, 0.15, rows).clip(0.5, 2)
    else:
        seconds = rng.lognormal(1.5, 0.5, rows).clip(1, 30)
        said = rng.lognormal(3.5, 0.6, rows).clip(3, 400)
    return index_of(seconds, said + rng.integers(15, 35, rows))


def every(planned: Plan, world: int, start: int = 0) -> list[int]:
    """The rows that the processes together get from a step on, process by process."""
    return [
        int(row)
        for rank in range(world)
        for step in range(start, len(planned))
        for number in planned.passes(step, rank, world)
        for row in planned.rows_of(number)
    ]


rows = st.lists(
    st.tuples(st.floats(0.1, 40), st.integers(1, 300), st.integers(0, 3)),
    min_size=1,
    max_size=80,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=rows,
    tokens=st.integers(20, 3000),
    seconds=st.floats(1, 200),
    per_step=st.sampled_from([1, 2, 4, 6, 12]),
    packing=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_once_within_the_budgets_on_any_processes(rows, tokens, seconds, per_step, packing, epoch):
    index = index_of(*zip(*((s, t) for s, t, _ in rows), strict=True), sounds=[n for _, _, n in rows])
    spec = BatchSpec(tokens=tokens, seconds=seconds, per_step=per_step, packing=packing)
    planned = plan(index, spec, seed=1, stage="all", epoch=epoch)
    for world in (world for world in range(1, per_step + 1) if per_step % world == 0):
        assert sorted(every(planned, world)) == list(range(len(rows)))
        assert (
            len({len(planned.passes(step, rank, world)) for step in range(len(planned)) for rank in range(world)}) == 1
        )
        for start in {len(planned) // 2, len(planned)}:  # what is left, on another number of processes
            done = [row for step in range(start) for n in planned.passes(step) for row in planned.rows_of(n).tolist()]
            assert sorted(done + every(planned, world, start)) == list(range(len(rows)))
    shapes = planned.shapes
    for number in range(len(planned.starts) - 1):
        taken = planned.rows_of(number)
        if not len(taken):
            assert number >= len(planned.starts) - 1 - per_step  # of the last step, and only if none can be halved
            assert shapes["rows"].max() == 1
            continue
        positions, longest = index.positions[taken], index.longest[taken].max()
        padded = positions.sum() if packing else len(taken) * positions.max()
        assert padded == shapes["padded_positions"][number]
        assert index.sounds[taken].sum() * longest == shapes["padded_samples"][number]
        assert len(taken) == 1 or padded <= tokens
        assert len(taken) == 1 or index.sounds[taken].sum() * longest <= seconds * RATE
    whole, steps = planned.facts(), [planned.facts(step) for step in range(len(planned))]
    assert whole.rows == len(rows) == sum(facts.rows for facts in steps)
    assert whole.targets == index.targets.sum() == sum(facts.targets for facts in steps)


@given(st.lists(st.integers(0, 2**50), max_size=50))
def test_sorting_is_stable(values):
    assert sorting(np.array(values, np.int64)).tolist() == sorted(range(len(values)), key=lambda n: values[n])


def test_the_order_follows_from_seed_stage_and_epoch_alone():
    index = speech(500, "questions")
    spec = BatchSpec(tokens=1024, per_step=2)
    planned = plan(index, spec, seed=1, stage="a", epoch=0)
    assert planned.digest == plan(index, spec, seed=1, stage="a", epoch=0).digest
    others = [(2, "a", 0), (1, "b", 0), (1, "a", 1)]
    digests = {plan(index, spec, seed=s, stage=t, epoch=e).digest for s, t, e in others}
    assert len(digests | {planned.digest}) == 4
    # On every machine: a run that goes on elsewhere must find the same plan. Who changes it raises `batches.VERSION`.
    few = index_of(np.arange(1, 41) / 4, np.arange(40) % 7 + 1)
    assert (
        plan(few, BatchSpec(tokens=512, per_step=2), seed=1, stage="a", epoch=0).digest
        == "c9d7ff4ff8f149cd043f08184e3069b0"
    )
    assert (
        plan(few, BatchSpec(tokens=512, packing=True), seed=1, stage="a", epoch=0).digest
        == "5dfd1d7d5c263447d592854319c0791b"
    )


def test_epochs_end_where_their_rows_do():
    """Each has some batches more or less than the first."""
    stage = StageSpec(name="a", trains=["adapter"], epochs=3.5)
    recipe = TrainingRecipe(
        name="r",
        data=[DataSpec(path="d")],
        model=ModelSpec(encoders=["e"], adapter={"kind": "stack"}, llm="l"),
        stages=[stage],
        batches=BatchSpec(tokens=1024, per_step=2),
    )
    index, nothing = speech(1000, "questions"), np.zeros(1000, bool)
    held: Any = HeldOut(nothing, nothing, "speaker")
    unused: Any = None
    course = Course(recipe, unused, unused, index, held, PartialState())
    each = [len(course.plan(stage, epoch)) for epoch in range(4)]
    assert len(set(each[:3])) > 1, "a case that shows nothing"
    assert course.length(stage) == sum(each[:3]) + round(each[3] / 2)


def test_neighbours_differ_from_epoch_to_epoch():
    index, spec = speech(4000, "questions"), BatchSpec(tokens=2048)
    together = []
    for epoch in range(2):
        planned = plan(index, spec, seed=1, stage="a", epoch=epoch)
        passes = [planned.rows_of(n).tolist() for n in range(len(planned.starts) - 1)]
        together.append({(a, b) for taken in passes for a in taken for b in taken if a < b})
    assert len(together[0] & together[1]) < 0.5 * len(together[0])


@pytest.mark.parametrize(
    ("kind", "most", "most_audio"), [("sentences", 1, 1.5), ("books", 1, 1.5), ("questions", 3.5, 3.5)]
)
def test_padding(kind: str, most: float, most_audio: float):
    """In per cent, of 60,000 rows. Questions and answers have no length in common; packed, only sound is padded."""
    index = speech(60_000, kind)
    facts = plan(index, BatchSpec(), seed=1, stage="a", epoch=0).facts()
    assert facts.padding * 100 < most
    assert facts.audio_padding * 100 < most_audio
    packed = plan(index, BatchSpec(packing=True), seed=1, stage="a", epoch=0).facts()
    assert packed.padding == 0
    assert packed.audio_padding * 100 < 0.5
    full = packed.positions / (8192 * len(plan(index, BatchSpec(packing=True), seed=1, stage="a", epoch=0)))
    assert full > 0.97


def test_a_million_rows_are_planned_at_once():
    index = speech(1_000_000, "sentences")
    begin = time.process_time()
    planned = plan(index, BatchSpec(per_step=8), seed=1, stage="a", epoch=3)
    planned.facts(len(planned) // 2)
    assert time.process_time() - begin < 2.5  # 0.4 s where nothing else runs


def test_processes_must_share_a_step_evenly():
    planned = plan(speech(50, "books"), BatchSpec(tokens=512, per_step=4), seed=1, stage="a", epoch=0)
    with pytest.raises(
        ValueError, match=r"3 processes cannot share the 4 passes .* `batches.per_step` to a multiple of 3"
    ):
        planned.passes(0, 0, 3)


def test_datasets_are_seen_as_often_as_they_weigh():
    index = index_of(np.full(300, 2.0), np.full(300, 5), dataset=[0] * 100 + [1] * 100 + [2] * 100)
    seen = [
        Counter(plan(index, BatchSpec(), seed=1, stage="a", epoch=e, weights=[2.0, 0.5, 0.3]).rows.tolist())
        for e in range(10)
    ]
    assert all(counts[row] == 2 for counts in seen for row in range(100))
    for half in (seen[:2], seen[4:6], seen[8:]):
        assert all(sum(counts[row] for counts in half) == 1 for row in range(100, 200))  # all, before any again
    assert all(abs(sum(counts[row] for row in range(200, 300)) - 30) <= 1 for counts in seen)
    assert all(sum(counts[row] for counts in seen) == 3 for row in range(200, 300))


def test_tasks_have_their_shares():
    index = index_of(np.full(1000, 2.0), np.full(1000, 5), task=[0] * 900 + [1] * 100, dataset=[0, 1] * 500)
    shares = {"transcription": 3.0, "answer": 1.0}
    drawn = plan(index, BatchSpec(), seed=1, stage="a", epoch=0, tasks=shares).rows
    assert len(drawn) == 1000
    assert (index.task[drawn] == 1).sum() == 750
    counts = Counter(drawn.tolist())
    assert {counts[row] for row in range(900, 1000)} == {7, 8}  # repeated evenly
    assert max(counts[row] for row in range(900)) == 1
    only = plan(index, BatchSpec(), seed=1, stage="a", epoch=0, tasks={"transcription": 1.0}).rows
    assert sorted(only) == list(range(900, 1000))
    some = plan(index, BatchSpec(), seed=1, stage="a", epoch=0, rows=np.arange(880, 920), tasks={"answer": 1.0}).rows
    assert sorted(some) == list(range(880, 900))
    for name in ("transcripton", "unused"):
        with pytest.raises(
            RowError, match=rf"stage 'a': there are no rows of task '{name}'.*There are: answer, transcription"
        ):
            plan(index, BatchSpec(), seed=1, stage="a", epoch=0, tasks={name: 1.0})


def test_rows_above_the_recipes_bound_are_refused():
    index = index_of([2.0, 2.0, 9.0], [5, 5, 5])
    with pytest.raises(RowError, match=r"takes 118 positions, `batches.longest` allows 100"):
        plan(index, BatchSpec(longest=100), seed=1, stage="a", epoch=0)
    alone = plan(index, BatchSpec(tokens=50), seed=1, stage="a", epoch=0)  # above the budget is no error
    assert sorted(np.diff(alone.starts)) == [1, 1, 1]


def test_the_largest_passes_are_known():
    planned = plan(speech(2000, "questions"), BatchSpec(tokens=2048), seed=1, stage="a", epoch=0)
    found = planned.extremes()
    longest = int(planned.index.positions.argmax())
    assert (
        longest in planned.rows_of(found["longest"]) or planned.shapes["longest"].max() == planned.index.positions.max()
    )
    assert len(planned.rows_of(found["rows"])) == np.diff(planned.starts).max()


def test_speakers_who_are_held_out_are_never_trained_on():
    speakers = [(100 + row % 50, row) for row in range(500)]
    index = index_of(np.full(500, 2.0), np.full(500, 5), speakers=[*speakers, (100, 1), (103, 2)])
    held = hold_out(index, 0.2, 7)
    who = np.arange(500) % 50
    out = {int(s) for s in who[held.mask]} - {1, 2}  # these share a row each with another
    assert held.by == "speaker"
    assert 2 <= len(out) <= 20
    own = {0} if held.mask[0] else set()
    assert all(held.mask[row] == (who[row] in out | own) or row in (1, 2) for row in range(500))
    assert sorted([*held.training, *np.flatnonzero(held.mask)]) == list(range(500))
    # A row is shared if one of two is held out; it is then drawn for validation only for want of others.
    for row, one, other in ((1, 0, 1), (2, 3, 2)):
        one_out, other_out = bool(held.mask[one + 50]), bool(held.mask[other + 50])
        assert held.mask[row] == (one_out or other_out)
        assert held.shared[row] == (one_out != other_out)
    drawn = held.drawn(30, 7)
    assert len(drawn) == 30
    assert held.mask[drawn].all()
    assert not held.shared[drawn].any()
    assert (drawn == held.drawn(30, 7)).all()
    assert hold_out(index, 0.0, 7).training.tolist() == list(range(500))


def test_somebody_is_held_out_of_few_speakers_and_recordings_of_one():
    few = index_of(np.full(9, 2.0), np.full(9, 5), speakers=[(int(row > 2), row) for row in range(9)])
    held = hold_out(few, 0.001, 1)
    assert held.mask.tolist() == [True] * 3 + [False] * 6  # who has the fewest rows
    one = index_of(np.full(9, 2.0), np.full(9, 5), speakers=[(5, row) for row in range(9)])
    held = hold_out(one, 0.001, 1)
    assert (held.by, held.mask.sum()) == ("recording", 1)
    alone = index_of([2.0], [5], speakers=[(5, 0)])
    with pytest.raises(RowError, match=r"`validation.share` 0.1 leaves no row"):
        hold_out(alone, 0.1, 1)
