"""Run: evaluates a model on a dataset; what was answered before is not asked again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pipeline import seeds, weights
from pipeline import model as models
from pipeline.asr.base import ASR
from pipeline.evaluate import joint, labels, latency, multiple_choice, slices, tables
from pipeline.evaluate.asking import CONSTRAINED, DECODINGS, HEARING, JOINT, PLAIN, Asker
from pipeline.evaluate.outcomes import Judge
from pipeline.evaluate.predictions import Prediction, Predictions, key_of
from pipeline.evaluate.results import Latency, Result, Run
from pipeline.evaluate.systems import DEFAULT, Cascade, EvaluationError, Oracle, Pool, System, make
from pipeline.evaluate.turns import Turn, turns
from pipeline.model.base import SpeechLM
from pipeline.plugins import nearest
from pipeline.train.rows import Rows
from schemas.sample import Sample

log = logging.getLogger("earwitness")

Progress = Callable[[str, int, int], None]
"""Told what is asked, how many turns of it are done, and of how many."""
_VERSION = 1
"""Of how questions are put: raised when older answers would not be given again."""
_MOST_LABELS = 200
_SOUND = 12.5  # positions a second, for batching only
_LETTERS = 3.5  # characters a position, likewise


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

    def closed(self) -> Callable[[Turn], Sequence[str]]:
        """The texts of which a turn's answer is one: listed options, else the labels that the rows have."""
        known: dict[tuple[str, str | None], dict[str, None]] = {}
        for sample in self.samples:
            if sample.task in labels.FIRST_WORD | labels.NAMED and sample.answer:
                known.setdefault((sample.task, sample.language), {})[sample.answer] = None

        def closed(turn: Turn) -> Sequence[str]:
            sample = turn.sample
            if sample.task == multiple_choice.TASK:
                return multiple_choice.LETTERS[: len(sample.choices)]
            if sample.task in labels.NAMED and sample.choices:
                return sample.choices
            found = sorted(known.get((sample.task, sample.language), ()))
            return found if len(found) <= _MOST_LABELS else ()

        return closed


def _chosen(rows: Rows, settings: Settings) -> list[int]:
    places = [i for i in range(len(rows)) if not settings.tasks or rows[i].task in settings.tasks]
    if not places:
        there = sorted({rows[i].task for i in range(len(rows))})
        raise EvaluationError(f"no row is of the tasks {', '.join(settings.tasks)}; there are: {', '.join(there)}")
    if settings.limit is None or settings.limit >= len(places):
        return places
    drawn = sorted(places, key=lambda place: seeds.share("evaluate", settings.seed, rows.identity(place).id))
    return sorted(drawn[: settings.limit])


def _mute(sample: Sample) -> Sample:
    """A row without its sound, of which a split can hold more than memory."""
    utterances = tuple(
        replace(u, audio=replace(u.audio, flac=b"", fingerprint=b"")) if u.audio else u for u in sample.utterances
    )
    return replace(sample, utterances=utterances, provenance=type(sample.provenance)())


def evaluate(
    model: Path | str,
    dataset: Path,
    out: Path,
    settings: Settings | None = None,
    *,
    loaded: SpeechLM | None = None,
    progress: Progress = lambda *_: None,
) -> Result:
    """Evaluates a model and writes `predictions.jsonl` and `result.json`.

    Args:
        model: Its folder, or a hub id.
        dataset: The folder of a finished dataset.
        out: Where answers and figures are written; a further call asks only what is missing.
        settings: What is asked, and how.
        loaded: The same model, if it is in memory already.
        progress: Told how far it is.

    Raises:
        EvaluationError: Something is asked for that there is not.
        ModelError: The model cannot be loaded, or cannot chat.
        DataError: The dataset cannot be read.
        Locked: Another run writes into the folder.
    """
    settings = settings or Settings()
    settings.check()
    began = time.monotonic()
    questions = Questions.read(Path(dataset), settings)
    pool = Pool([entry for entry in questions.said if entry[0] >= 0], lambda place: questions.rows[place], settings.seed)
    systems = make(settings.systems, pool, settings.asr)
    for system in systems:
        if isinstance(system, Cascade):
            system.asr.check()
    lm = loaded or models.load(str(model), device=settings.device, dtype=settings.dtype)
    predictions = Predictions(Path(out))
    asker = Asker(lm, questions.closed(), settings.most_tokens)
    with predictions.writing():
        session = _Session(questions, asker, predictions, _shaping(model, lm, questions), progress)
        answers = session.all(systems)
        timings = latency.measured(session.asker, systems, questions, predictions.path.parent, session.key)
    result = _result(str(model), dataset, questions, systems, answers, timings, lm, time.monotonic() - began)
    result.write(Path(out))
    return result


def _shaping(model: Path | str, lm: SpeechLM, questions: Questions) -> dict[str, Any]:
    """What shapes all answers."""
    settings = questions.settings
    return {
        "version": _VERSION,
        "model": weights.content_of(str(model)) or [str(model), str(getattr(lm.model.config, "_commit_hash", ""))],
        "dataset": questions.rows.digest,
        "most_tokens": settings.most_tokens,
        "dtype": settings.dtype,
        "seed": settings.seed,
    }


class _Session:
    """One run over all systems."""

    def __init__(
        self,
        questions: Questions,
        asker: Asker,
        predictions: Predictions,
        shaping: dict[str, Any],
        progress: Progress,
    ) -> None:
        self._questions, self.asker, self._predictions = questions, asker, predictions
        self._shaping, self._progress = shaping, progress

    def all(self, systems: Sequence[System]) -> dict[tuple[str, str], dict[str, Prediction]]:
        """The answers by system and decoding."""
        answers: dict[tuple[str, str], dict[str, Prediction]] = {}
        for system in systems:
            further = [d for d in self._questions.settings.decodings if d != PLAIN]
            decodings = [PLAIN, *further, HEARING] if system.name == "end_to_end" else [PLAIN]
            for decoding in decodings:
                found = self._answered(system, decoding)
                if found or decoding == PLAIN:
                    answers[system.name, decoding] = found
        return answers

    def key(self, system: System, decoding: str) -> str:
        """Of the lines of a system and a way of decoding."""
        own: dict[str, Any] = {}
        if system.name == "shuffled":  # whose speech is heard depends on which rows there are
            own["said"] = key_of(said=self._questions.said)
        if decoding == JOINT:
            own["protocol"] = joint.PROTOCOL
        if decoding == CONSTRAINED:
            closed = self._questions.closed()
            own["labels"] = key_of(labels=sorted({tuple(closed(turn)) for turn in self._questions.turns}))
        return key_of(**self._shaping, **system.identity, decoding=decoding, **own)

    def _answered(self, system: System, decoding: str) -> dict[str, Prediction]:
        key = self.key(system, decoding)
        every = [turn for turn in self._questions.turns if self.asker.applies(turn, decoding)]
        found = {turn.id: p for turn in every if (p := self._predictions.get(key, turn.id)) is not None}
        missing = [turn for turn in every if turn.id not in found]
        what = system.name if decoding == PLAIN else f"{system.name}, {decoding}"
        self._progress(what, len(found), len(every))
        for batch in _batches(missing, self._questions.settings.at_once):
            asked = [self._questions.with_sound(turn) for turn in batch]
            made = [
                Prediction(key, turn.id, system.name, decoding, **answer._asdict())
                for turn, answer in zip(batch, self.asker.ask(system, decoding, asked), strict=True)
            ]
            self._predictions.add(made)
            found |= {p.turn: p for p in made}
            self._progress(what, len(found), len(every))
        return found


def _batches(some: Sequence[Turn], at_once: int) -> Iterator[list[Turn]]:
    """Turns of about one length together, the longest first: what does not fit is known at once."""
    ordered = sorted(some, key=lambda turn: (-_length(turn), turn.id))
    for begin in range(0, len(ordered), at_once):
        yield ordered[begin : begin + at_once]


def _length(turn: Turn) -> float:
    sample = turn.sample
    letters = sum(len(m.content) for m in sample.messages[:-1]) + sum(len(t.parameters) for t in sample.tools)
    return sum(u.audio.seconds for u in sample.utterances if u.audio) * _SOUND + letters / _LETTERS


def _result(
    model: str,
    dataset: Path,
    questions: Questions,
    systems: Sequence[System],
    answers: dict[tuple[str, str], dict[str, Prediction]],
    timings: dict[str, Latency],
    lm: SpeechLM,
    seconds: float,
) -> Result:
    wrong = tables.bad(answers)
    same = [turn for turn in questions.turns if turn.id not in wrong]
    judge = Judge(same)
    oracle = answers.get((Oracle.name, PLAIN))
    best = tables.items_of(same, oracle) if oracle else None
    runs: list[Run] = []
    sliced: list[slices.Slice] = []
    by_name = {system.name: system for system in systems}
    for (name, decoding), own in answers.items():
        if decoding == HEARING:
            continue
        asked, together = (same, own) if decoding == PLAIN else tables.overlaid(same, answers[name, PLAIN], own)
        items = tables.items_of(asked, together, answers.get((name, HEARING)))
        wanted = best if name != Oracle.name else None
        timed = timings.get(name) if decoding == PLAIN else None
        runs.append(tables.run_of(by_name[name], decoding, items, together, judge, wanted, timed))
        if decoding == PLAIN:
            sliced += slices.slices(items, name, decoding)
    settings = questions.settings
    told = {
        "most_tokens": settings.most_tokens,
        "limit": settings.limit,
        "tasks": list(settings.tasks),
        "seed": settings.seed,
        "device": settings.device,
        "dtype": settings.dtype,
        "asr": settings.asr.shaping if settings.asr else None,
        "questions": str(settings.questions) if settings.questions else None,
    }
    return Result(
        Path(model).name if Path(model).exists() else model,
        _llm(lm),
        Path(dataset).name,
        settings.split,
        len(questions.places),
        len(same),
        told,
        runs,
        sliced,
        sorted(wrong.items()),
        slices.counts(questions.samples),
        seconds,
    )


def _llm(lm: SpeechLM) -> str:
    """What the LLM within a model is, as far as its configuration says."""
    config = getattr(lm.model.config, "text_config", None) or lm.model.config
    sizes = {name: getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "vocab_size")}
    shape = ", ".join(f"{value:,} {name.replace('num_', '').replace('_', ' ')}" for name, value in sizes.items() if value)
    return f"{config.model_type} ({shape})" if shape else str(config.model_type)
