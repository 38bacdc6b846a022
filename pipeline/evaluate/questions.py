"""Questions: the turns of a dataset that are asked, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pipeline import seeds
from pipeline.asr.base import ASR
from pipeline.evaluate import labels, multiple_choice
from pipeline.evaluate.asking import DECODINGS, PLAIN
from pipeline.evaluate.errors import EvaluationError
from pipeline.evaluate.systems import DEFAULT
from pipeline.plugins import nearest
from pipeline.tools.turns import Turn, turns
from pipeline.train.rows import Rows
from schemas.sample import Sample

_MOST_LABELS = 200


@dataclass(frozen=True)
class Settings:
    """What is asked, and how."""

    split: str = "test"
    systems: tuple[str, ...] = DEFAULT
    decodings: tuple[str, ...] = (PLAIN,)
    """Of `end_to_end`; the other systems decode plainly."""
    asr: ASR | None = None
    """Of the cascade."""
    limit: int | None = None
    """Rows, drawn by chance; all if omitted."""
    tasks: tuple[str, ...] = ()
    """Only these."""
    questions: Path | None = None
    """Further multiple-choice questions in text, in MMLU's layout."""
    most_tokens: int = 256
    at_once: int = 16
    """Questions in a batch."""
    timed: int = 8
    """Turns on which latency is measured, one at a time; 0 measures none."""
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    """Draws rows, the order of options, and whose speech is heard in place of another's."""

    def check(self) -> None:
        """Whether there are such decodings.

        Raises:
            EvaluationError: There are not.
        """
        for name in self.decodings:
            if name not in DECODINGS:
                hint = nearest(name, list(DECODINGS))
                raise EvaluationError(f"there is no decoding {name!r}.{hint} There are: {', '.join(DECODINGS)}")


@dataclass
class Questions:
    """The turns of some rows, without sound, and the way back to it."""

    rows: Rows
    places: list[int]
    """Of the rows that are asked, in the dataset."""
    settings: Settings
    turns: list[Turn] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)
    """In the dataset, by turn."""
    said: list[tuple[int, int, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @staticmethod
    def read(dataset: Path, settings: Settings) -> Questions:
        """Those of a dataset's split.

        Raises:
            DataError, EvaluationError: There are none.
        """
        rows = Rows([dataset], settings.split)
        made = Questions(rows, [], settings)
        chosen = _chosen(rows, settings)
        for place in chosen:
            sample = _mute(multiple_choice.reshuffled(rows[place], settings.seed))
            made._add(sample, place)
        for sample in multiple_choice.questions(settings.questions) if settings.questions else ():
            made._add(multiple_choice.reshuffled(sample, settings.seed), -1)
        if not made.turns:
            raise EvaluationError(f"{dataset}: no row of the split {settings.split!r} has a response to be asked for")
        return made

    def _add(self, sample: Sample, place: int) -> None:
        self.places.append(place)
        self.samples.append(sample)
        self.said += [(place, n, u.transcript) for n, u in enumerate(sample.utterances)]
        for turn in turns(sample):
            self.turns.append(turn)
            self.place[turn.id] = place

    def with_sound(self, turn: Turn) -> Turn:
        """A turn as it is asked."""
        place = self.place[turn.id]
        if place < 0:
            return turn
        heard = self.rows[place].utterances[: len(turn.sample.utterances)]
        return Turn(replace(turn.sample, utterances=heard), turn.number, turn.last)

    @cached_property
    def labels(self) -> dict[tuple[str, str | None], set[str]]:
        """By task and language, all that the split's rows have."""
        known: dict[tuple[str, str | None], set[str]] = {}
        for task, language, answer in _told(self.rows, "task", "language", "answer"):
            if task in labels.FIRST_WORD | labels.NAMED and answer:
                known.setdefault((task, language), set()).add(answer)
        return known

    def closed(self) -> Callable[[Turn], Sequence[str]]:
        """The texts of which a turn's answer is one: listed options, else the labels that the split's rows have."""

        def closed(turn: Turn) -> Sequence[str]:
            sample = turn.sample
            if sample.task == multiple_choice.TASK:
                return multiple_choice.LETTERS[: len(sample.choices)]
            if sample.task in labels.NAMED and sample.choices:
                return sample.choices
            found = sorted(self.labels.get((sample.task, sample.language), ()))
            return found if 1 < len(found) <= _MOST_LABELS else ()

        return closed


def _told(rows: Rows, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Some columns of all rows; their sound is not touched."""
    for number in range(len(rows.shards)):
        for batch in rows.batches(number):
            yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)


def _chosen(rows: Rows, settings: Settings) -> list[int]:
    told = list(_told(rows, "task", "id"))
    places = [i for i, (task, _) in enumerate(told) if not settings.tasks or task in settings.tasks]
    if not places:
        there = sorted({task for task, _ in told})
        raise EvaluationError(f"no row is of the tasks {', '.join(settings.tasks)}; there are: {', '.join(there)}")
    if settings.limit is None or settings.limit >= len(places):
        return places
    drawn = sorted(places, key=lambda place: seeds.share("evaluate", settings.seed, told[place][1]))
    return sorted(drawn[: settings.limit])


def _mute(sample: Sample) -> Sample:
    """A row without its sound, of which a split can hold more than memory."""
    utterances = tuple(
        replace(u, audio=replace(u.audio, flac=b"", fingerprint=b"")) if u.audio else u for u in sample.utterances
    )
    return replace(sample, utterances=utterances, provenance=type(sample.provenance)())
