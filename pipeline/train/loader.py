"""Loader: the passes of a plan as batches, read, decoded and collated ahead by some processes.

The processes are forked: the rows' maps, the index and the model's tokenizer are shared with them, and nothing is sent
but numbers of passes. What they make comes back through shared memory, in the order of the plan. To go on in the middle
of an epoch is to begin at another step: nothing is replayed.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.audio import AudioError
from pipeline.model.base import Batch, Encoded, ModelError, RowError, SpeechLM
from pipeline.train.batches import Facts, Plan
from pipeline.train.encoded import Heard
from pipeline.train.index import Ints
from pipeline.train.rows import DataError, Rows

_WATCH = 0.5  # seconds between two looks at whether the run is still there


@dataclass(frozen=True)
class Pass:
    """One forward pass of one process."""

    number: int
    """In its plan."""
    rows: Ints
    """Their numbers."""
    batch: Batch | None
    """None in an empty pass, of the last step of an epoch whose rows are too few to share."""
    teacher: Batch | None = None
    """The same rows with transcripts in the places of the audio; None if it was not asked for."""

    def pin_memory(self, device: str | None = None) -> Pass:
        """The same in memory that a GPU can fetch from by itself."""
        return replace(self, batch=_pinned(self.batch), teacher=_pinned(self.teacher))


@dataclass(frozen=True)
class Step:
    """What one process does in a step of the optimizer."""

    number: int
    """In its epoch, from 0."""
    passes: list[Pass]
    """As many as any other process has."""
    facts: Facts
    """Of the step, over all processes together."""


def read(
    rows: Rows,
    plan: Plan,
    number: int,
    speech_lm: SpeechLM,
    *,
    teacher: bool = False,
    encoded: Heard | None = None,
) -> Pass:
    """One pass of a plan, made now and here; what the arguments are, `Loader` says.

    Raises:
        RowError: A row cannot be read; the message names it.
        ModelError: The model cannot read any.
    """
    taken = plan.rows_of(number)
    if not len(taken):
        return Pass(number, taken, None)
    samples = []
    heard: list[Encoded] = []
    told: list[Encoded] = []
    for row in taken.tolist():
        try:
            samples.append(rows.brief(row))
            heard.append(speech_lm.encode(samples[-1], sounds=encoded is None))
            if teacher:
                told.append(speech_lm.encode(samples[-1], hear=False, sounds=False))
        except (RowError, DataError, AudioError, soundfile.SoundFileError) as error:
            raise RowError(_named(rows, row, str(error))) from error
        except ModelError:
            raise
        except Exception as error:
            error.add_note(f"while reading {_named(rows, row, '')}")
            raise
        if len(heard[-1].ids) != plan.index.positions[row]:
            raise RowError(
                _named(
                    rows, row, f"it takes {len(heard[-1].ids)} positions, {plan.index.positions[row]} were planned. "
                )
                + "Its audio is not as long as its shard says: build the dataset again"
            )
    batch = speech_lm.collate(heard, pack=plan.packed)
    if encoded is not None:
        batch = replace(batch, sounds=encoded.sounds(samples))
    return Pass(number, taken, batch, speech_lm.collate(told, pack=plan.packed) if teacher else None)


class Loader:
    """Iterates over the steps of an epoch that are left, for one process of a run.

    Args:
        rows: What the plan's index is of.
        plan: The epoch.
        speech_lm: Encodes and collates; its weights are not used.
        rank: Of this process.
        world: How many processes the run has.
        start_step: The first step, from 0.
        workers: Processes that read ahead; 0 reads here, when asked.
        teacher: Whether the same rows are wanted as the teacher reads them.
        encoded: Gives what the encoder says in place of the audio, if it is kept.

    Raises:
        ValueError: The processes do not share a step's passes evenly.
    """

    def __init__(
        self,
        rows: Rows,
        plan: Plan,
        speech_lm: SpeechLM,
        *,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        workers: int = 2,
        teacher: bool = False,
        encoded: Heard | None = None,
    ) -> None:
        self._plan, self._start = plan, start_step
        self._own = len(plan.passes(0, rank, world))
        numbers = [n for step in range(start_step, len(plan)) for n in plan.passes(step, rank, world)]
        self._numbers = numbers
        self._workers = min(workers, len(numbers))
        self._reading = _Reading(partial(read, rows, plan, speech_lm=speech_lm, teacher=teacher, encoded=encoded))

    def __len__(self) -> int:
        """Steps that are left."""
        return len(self._plan) - self._start

    def __iter__(self) -> Iterator[Step]:
        """Steps in their order.

        Raises:
            RowError: A row cannot be read; the message names it.
            ModelError: The model cannot read any.
            MemoryError: A reading process was killed.
        """
        passes = self._passes()
        for step in range(self._start, len(self._plan)):
            yield Step(step, [next(passes) for _ in range(self._own)], self._plan.facts(step))

    def _passes(self) -> Iterator[Pass]:
        if not self._workers:
            for number in self._numbers:
                yield _sound(self._reading[number])
            return
        # Tokenizers with threads of their own say so, and stop, in a forked process.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        ahead = DataLoader(
            self._reading,
            batch_size=None,
            sampler=self._numbers,
            num_workers=self._workers,
            collate_fn=_as_it_is,
            multiprocessing_context="fork",
            # A step's passes are taken at once: those of the next have to be under way by then.
            prefetch_factor=max(2, -(-self._own // self._workers) + 1),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_begin,
        )
        try:
            for made in ahead:
                yield _sound(made)
        except RuntimeError as error:
            if "exited unexpectedly" in str(error) or "is killed by" in str(error):
                raise MemoryError(
                    f"a process that reads rows was killed ({error}): was there too little memory? "
                    "Fewer `batches.workers` and less of `batches.seconds` need less"
                ) from error
            raise


@dataclass(frozen=True)
class _Failed:
    """An error that a person is to read, on its way through a pipe."""

    kind: type[ValueError]
    message: str


class _Reading(Dataset["Pass | _Failed"]):
    def __init__(self, made: Callable[[int], Pass]) -> None:
        self._made = made

    def __getitem__(self, number: int) -> Pass | _Failed:
        try:
            return self._made(number)
        except (RowError, ModelError) as error:
            return _Failed(type(error), str(error))


def _sound(made: Pass | _Failed) -> Pass:
    if isinstance(made, _Failed):
        raise made.kind(made.message)
    return made


def _as_it_is(made: Any) -> Any:
    return made


def _named(rows: Rows, row: int, message: str) -> str:
    name = str(rows.identity(row))
    return message if message.startswith(name) else f"{name}: {message}"


def _begin(_number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the run decides what Ctrl-C means
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(run: int) -> None:
    """A reader without its run would hold memory until somebody notices."""
    while os.getppid() == run:
        time.sleep(_WATCH)
    os._exit(1)


def _pinned(batch: Batch | None) -> Batch | None:
    if batch is None:
        return None
    tensors = {
        f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)
    }
    pinned = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return replace(batch, sounds={name: tensor.pin_memory() for name, tensor in batch.sounds.items()}, **pinned)
