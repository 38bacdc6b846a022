"""Run: evaluates a model on a dataset; what was answered before is not asked again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import model as models
from pipeline import weights
from pipeline.evaluate import joint, latency, slices, tables
from pipeline.evaluate.asking import HEARING, JOINT, PLAIN, Asker
from pipeline.evaluate.outcomes import Judge
from pipeline.evaluate.predictions import Prediction, Predictions, key_of
from pipeline.evaluate.questions import Questions, Settings
from pipeline.evaluate.results import Latency, Result, Run
from pipeline.evaluate.scoring import Known
from pipeline.evaluate.systems import Cascade, Oracle, Pool, System, make
from pipeline.model.base import SpeechLM
from pipeline.tools.turns import Turn

log = logging.getLogger("earwitness")

Progress = Callable[[str, int, int], None]
"""Told what is asked, how many turns of it are done, and of how many."""
_VERSION = 1
"""Of how questions are put: raised when older answers would not be given again."""
_SOUND = 12.5  # positions a second, for batching only
_LETTERS = 3.5  # characters a position, likewise


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
    pool = Pool(
        [entry for entry in questions.said if entry[0] >= 0], lambda place: questions.rows[place], settings.seed
    )
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
    known = Known(Judge(same), questions.labels)
    oracle = answers.get((Oracle.name, PLAIN))
    best = tables.items_of(same, oracle) if oracle else None
    runs: list[Run] = []
    sliced: list[slices.Slice] = []
    by_name = {system.name: system for system in systems}
    for (name, decoding), own in answers.items():
        if decoding == HEARING:
            continue
        asked, together = (same, own) if decoding == PLAIN else tables.overlaid(same, answers[name, PLAIN], own)
        # Joint answers say themselves what was heard.
        heard = None if decoding == JOINT else answers.get((name, HEARING))
        items = tables.items_of(asked, together, heard)
        wanted = best if name != Oracle.name else None
        timed = timings.get(name) if decoding == PLAIN else None
        runs.append(tables.run_of(by_name[name], decoding, items, together, known, wanted, timed))
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
    shape = ", ".join(
        f"{value:,} {name.replace('num_', '').replace('_', ' ')}" for name, value in sizes.items() if value
    )
    return f"{config.model_type} ({shape})" if shape else str(config.model_type)
