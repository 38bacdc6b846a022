"""Loader: the passes of a plan as batches, read, decoded and collated ahead by some processes.

The processes are forked: the rows' maps, the index and the model's tokenizer are shared with them, and nothing is sent
but numbers of passes. What they make comes back through shared memory, in the order of the plan. To go on in the middle
of an epoch is to begin at another step: nothing is replayed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial

import soundfile
import torch

from pipeline.audio import AudioError
from pipeline.model.base import Batch, Encoded, ModelError, RowError, SpeechLM
from pipeline.train.batches import Facts, Plan
from pipeline.train.encoded import Heard
from pipeline.train.index import Ints
from pipeline.train.readers import Readers
from pipeline.train.rows import DataError, Rows


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

    def pin_memory(self) -> Pass:
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
        make = partial(read, rows, plan, speech_lm=speech_lm, teacher=teacher, encoded=encoded)
        self._reading = partial(_attempt, make=make)

    def __len__(self) -> int:
        """Steps that are left."""
        return len(self._plan) - self._start

    def __iter__(self) -> Iterator[Step]:
        """Steps in their order.

        Raises:
            RowError: A row cannot be read; the message names it.
            ModelError: The model cannot read any.
            MemoryError: A reading process was killed.
            ReaderError: Reading failed in a way that is a defect of ours.
        """
        passes = self._passes()
        for step in range(self._start, len(self._plan)):
            yield Step(step, [next(passes) for _ in range(self._own)], self._plan.facts(step))

    def _passes(self) -> Iterator[Pass]:
        if not self._workers:
            for number in self._numbers:
                yield _sound(self._reading(number))
            return
        # Tokenizers with threads of their own say so, and stop, in a forked process.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # A step's passes are taken at once: those of the next have to be under way by then.
        ahead = max(2, -(-self._own // self._workers) + 1)
        readers = Readers(self._reading, self._numbers, self._workers, ahead)
        made = (_sound(one) for one in readers)
        try:
            yield from _pinning(made) if torch.cuda.is_available() else made
        finally:
            readers.close()


def _pinning(passes: Iterator[Pass]) -> Iterator[Pass]:
    """The same in memory that a GPU fetches from, one ahead: pinning is a copy."""
    pinned = (one.pin_memory() for one in passes)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, pinned, None)
        while (one := waiting.result()) is not None:
            waiting = thread.submit(next, pinned, None)
            yield one


@dataclass(frozen=True)
class _Failed:
    """An error that a person is to read, on its way through a pipe."""

    kind: type[ValueError]
    message: str


def _attempt(number: int, make: Callable[[int], Pass]) -> Pass | _Failed:
    try:
        return make(number)
    except (RowError, ModelError) as error:
        return _Failed(type(error), str(error))


def _sound(made: Pass | _Failed) -> Pass:
    if isinstance(made, _Failed):
        raise made.kind(made.message)
    return made


def _named(rows: Rows, row: int, message: str) -> str:
    name = str(rows.identity(row))
    return message if message.startswith(name) else f"{name}: {message}"


def _pinned(batch: Batch | None) -> Batch | None:
    if batch is None:
        return None
    tensors = {
        f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)
    }
    pinned = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return replace(batch, sounds={name: tensor.pin_memory() for name, tensor in batch.sounds.items()}, **pinned)
