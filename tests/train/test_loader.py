from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from msgspec.structs import replace

from pipeline.model import compose
from pipeline.model.base import Batch, RowError, SpeechLM
from pipeline.train.batches import Plan, plan
from pipeline.train.index import Index
from pipeline.train.loader import Loader, Pass, Step, read
from pipeline.train.readers import ReaderError, Readers
from pipeline.train.rows import Rows
from schemas.training import BatchSpec, ModelSpec

SPEC = BatchSpec(tokens=400, seconds=20.0, per_step=4)


@pytest.fixture(scope="module")
def speech_lm(bases: Path) -> SpeechLM:
    adapter = {"kind": "stack"}
    return compose(ModelSpec(encoders=[str(bases / "whisper")], adapter=adapter, llm=str(bases / "qwen2")))


@pytest.fixture(scope="module")
def rows(dataset: Path) -> Rows:
    return Rows([dataset])


@pytest.fixture(scope="module")
def index(rows: Rows, speech_lm: SpeechLM, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.of(rows, speech_lm, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def epoch(index: Index) -> Plan:
    return plan(index, SPEC, seed=1, stage="a", epoch=0)


def tensors(batch: Batch | None) -> dict[str, torch.Tensor]:
    assert batch is not None
    names = ("ids", "mask", "positions", "targets", "ends")
    return {name: getattr(batch, name) for name in names} | batch.sounds


def same(one: Pass, other: Pass) -> bool:
    a, b = tensors(one.batch), tensors(other.batch)
    return one.number == other.number and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def passes(steps: Iterator[Step] | Loader) -> list[Pass]:
    return [one for step in steps for one in step.passes]


@pytest.fixture
def readers() -> Callable[[], int]:
    """Counts the processes that the test has; others may have left some in this one."""
    others = set(psutil.Process().children())
    return lambda: len(set(psutil.Process().children()) - others)


def test_workers_give_what_is_read_here_in_the_same_order(
    rows: Rows, epoch: Plan, speech_lm: SpeechLM, readers: Callable[[], int]
):
    here = list(Loader(rows, epoch, speech_lm, workers=0))
    assert len(epoch) >= 2
    assert [step.number for step in here] == list(range(len(epoch)))
    assert sorted(row for one in passes(iter(here)) for row in one.rows.tolist()) == list(range(len(rows)))
    for step in here:
        assert step.facts == epoch.facts(step.number)
        assert sum(int(one.batch.targets.sum()) for one in step.passes if one.batch) == step.facts.targets
        assert sum(one.batch.ids.numel() for one in step.passes if one.batch) == step.facts.padded_positions
        assert (
            sum(one.batch.sounds["waveforms"].numel() for one in step.passes if one.batch) == step.facts.padded_samples
        )
    for workers in (1, 3):
        there = list(Loader(rows, epoch, speech_lm, workers=workers))
        assert all(same(a, b) for a, b in zip(passes(iter(here)), passes(iter(there)), strict=True))
    assert not readers()  # they end with the epoch


def test_going_on_is_beginning_later_on_any_number_of_processes(rows: Rows, epoch: Plan, speech_lm: SpeechLM):
    whole = {one.number: one for one in passes(Loader(rows, epoch, speech_lm, workers=0))}
    for world in (1, 2, 4):
        loaders = [Loader(rows, epoch, speech_lm, rank=r, world=world, start_step=1, workers=2) for r in range(world)]
        assert {len(loader) for loader in loaders} == {len(epoch) - 1}
        rest = [one for loader in loaders for one in passes(loader)]
        assert sorted(one.number for one in rest) == list(range(SPEC.per_step, len(whole)))
        assert all(same(one, whole[one.number]) for one in rest)
    assert list(Loader(rows, epoch, speech_lm, start_step=len(epoch))) == []
    with pytest.raises(ValueError, match="3 processes cannot share"):
        Loader(rows, epoch, speech_lm, rank=0, world=3)


def test_a_reader_that_is_left_early_is_ended(rows: Rows, epoch: Plan, speech_lm: SpeechLM, readers: Callable[[], int]):
    steps = iter(Loader(rows, epoch, speech_lm, workers=2))
    next(steps)
    assert readers() == 2
    del steps
    assert not readers()


def test_packed_passes_hold_the_same_rows_without_padding(rows: Rows, index: Index, speech_lm: SpeechLM):
    epoch = plan(index, SPEC.model_copy(update={"packing": True}), seed=1, stage="a", epoch=0)
    for one in passes(Loader(rows, epoch, speech_lm, workers=0)):
        assert one.batch is not None
        assert one.batch.mask.all()
        assert one.batch.ids.shape == (1, index.positions[one.rows].sum())
        assert one.batch.examples == len(one.rows)


def test_the_teacher_reads_the_same_rows(rows: Rows, epoch: Plan, speech_lm: SpeechLM):
    for one in passes(Loader(rows, epoch, speech_lm, workers=1, teacher=True)):
        assert one.batch is not None
        assert one.teacher is not None
        assert not one.teacher.sounds
        assert torch.equal(one.teacher.targets.sum(1), one.batch.targets.sum(1))
        assert torch.equal(one.teacher.ids[one.teacher.targets], one.batch.ids[one.batch.targets])


def test_an_empty_pass_has_no_batch(rows: Rows, index: Index, speech_lm: SpeechLM):
    epoch = plan(index, SPEC, seed=1, stage="a", epoch=0, rows=np.arange(3))
    (step,) = Loader(rows, epoch, speech_lm, workers=1)
    assert [len(one.rows) for one in step.passes] == [1, 1, 1, 0]
    assert step.passes[3].batch is None


class Spoilt(Rows):
    """Rows of which one is not as it should be; datasets themselves are compared with their digests."""

    row, how = 5, ""

    def brief(self, row: int):
        sample = super().brief(row)
        if row != self.row:
            return sample
        (utterance,) = sample.utterances
        assert utterance.audio is not None
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        changes = {
            "damaged": {"flac": utterance.audio.flac[:2000]},
            "longer": {"seconds": utterance.audio.seconds + 1},
            "no sound": {"flac": b"text"},
        }[self.how]
        return replace(sample, utterances=(replace(utterance, audio=replace(utterance.audio, **changes)),))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["damaged", "no sound", "longer"])
def test_errors_name_the_row(dataset: Path, epoch: Plan, speech_lm: SpeechLM, how: str, workers: int):
    rows = Spoilt([dataset])
    rows.how = how
    with pytest.raises(RowError) as caught:
        passes(Loader(rows, epoch, speech_lm, workers=workers))
    assert rows.identity(5).id in str(caught.value)
    assert str(dataset) in str(caught.value)
    assert "build" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_killed_reader_is_told(dataset: Path, epoch: Plan, speech_lm: SpeechLM):
    rows = Spoilt([dataset])
    rows.how = "killed"
    with pytest.raises(MemoryError, match=r"was killed .*`batches.workers`"):
        passes(Loader(rows, epoch, speech_lm, workers=2))


def _made(number: int) -> dict[str, object]:
    if number == 7:
        raise TypeError("a defect")
    if number == 9:
        raise MemoryError
    tensors = [torch.full((number, 3), number), torch.rand(2, 5).T > 0.5, torch.tensor(1.5, dtype=torch.bfloat16)]
    return {"number": number, "tensors": tensors}


def test_readers_hand_over_whatever_was_made():
    torch.manual_seed(3)
    found = list(Readers(_made, [3, 0, 4, 1], count=2, ahead=1))
    assert [one["number"] for one in found] == [3, 0, 4, 1]
    assert [one["tensors"][0].shape for one in found] == [(3, 3), (0, 3), (4, 3), (1, 3)]
    for one in found:
        full, mask, scalar = one["tensors"]
        assert (full == one["number"]).all()
        assert mask.dtype == torch.bool
        assert mask.shape == (5, 2)
        assert scalar.item() == 1.5
        full += 1  # it is ours
    held = list(Readers(_made, [1] * 200, count=1, ahead=4))  # of more than a reader has files
    assert all((one["tensors"][0] == 1).all() for one in held)
    with pytest.raises(ReaderError, match="TypeError: a defect"):
        list(Readers(_made, [1, 7, 2], count=1, ahead=2))
    with pytest.raises(MemoryError, match="with code 1: was there too little memory"):
        list(Readers(_made, [1, 9, 2], count=1, ahead=2))


def test_files_are_written_again_when_nobody_holds_them():
    before, kept = _shared_files(), []
    for place, one in enumerate(Readers(_large, range(300), count=2, ahead=3)):
        full = one[0]
        assert full.shape == (1000 + 10 * place,)
        assert (full == place).all()
        if place % 50 == 0:
            kept.append((place, full[5:10]))
    assert all((full == place).all() for place, full in kept)
    assert 0 < _shared_files() - before <= len(kept) + 1  # and the last one


def _shared_files() -> int:
    """That this process has open; other tests may have left some."""
    gc.collect()
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith("/memfd:pass") for link in links if os.path.lexists(link))


def _large(number: int) -> list[torch.Tensor]:
    return [torch.full((1000 + 10 * number,), number)]


def test_any_pass_can_be_read_by_its_number(rows: Rows, epoch: Plan, speech_lm: SpeechLM):
    assert same(read(rows, epoch, 2, speech_lm), passes(Loader(rows, epoch, speech_lm, workers=0))[2])


def _wait_in_an_epoch(rows: Rows, epoch: Plan, speech_lm: SpeechLM) -> None:
    steps = iter(Loader(rows, epoch, speech_lm, workers=2))
    next(steps)
    time.sleep(60)


def test_readers_end_with_a_run_that_is_killed(rows: Rows, epoch: Plan, speech_lm: SpeechLM):
    run = multiprocessing.get_context("fork").Process(target=_wait_in_an_epoch, args=(rows, epoch, speech_lm))
    run.start()
    assert run.pid is not None
    readers: list[psutil.Process] = []
    deadline = time.monotonic() + 20
    while len(readers) < 2 and time.monotonic() < deadline:
        readers = psutil.Process(run.pid).children()
        time.sleep(0.02)
    assert len(readers) == 2
    run.kill()
    run.join()
    assert not psutil.wait_procs(readers, timeout=5)[1]


def test_a_dataset_that_is_moved_reads_the_same(
    dataset: Path, rows: Rows, epoch: Plan, speech_lm: SpeechLM, tmp_path: Path
):
    moved = Rows([shutil.copytree(dataset, tmp_path / "moved")])
    assert all(
        same(a, b)
        for a, b in zip(
            passes(Loader(rows, epoch, speech_lm, workers=0)),
            passes(Loader(moved, epoch, speech_lm, workers=0)),
            strict=True,
        )
    )
