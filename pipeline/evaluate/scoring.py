"""Scoring: which figures belong to a task, and how good a single answer is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pipeline import plugins
from pipeline.evaluate import labels, multiple_choice, spoken_qa, tool_calls, translation, wer
from pipeline.evaluate.figures import Figure, mean
from pipeline.evaluate.items import Item
from pipeline.evaluate.outcomes import Judge
from pipeline.text import normalise
from pipeline.tools.turns import Turn
from schemas.sample import Sample

TOOLS = "tools"
_ANSWERS = frozenset({"question_answer", "word_question", "number_question", "spell", "repeat"})
_FREE = frozenset({"reply", "continuation", "summary"})
_ONE_TASK = {
    "transcription": wer.figures,
    "multiple_choice": multiple_choice.figures,
    "slots": labels.slots,
    "keywords": labels.keywords,
    "translation": translation.figures,
}
_HEADLINES = {
    TOOLS: "ast_accuracy",
    "transcription": "wer",
    "multiple_choice": "accuracy",
    "slots": "slu_f1",
    "keywords": "f1",
    **dict.fromkeys(_ANSWERS, "exact"),
    **dict.fromkeys(_FREE, "f1"),
    **dict.fromkeys(labels.FIRST_WORD | labels.NAMED, "accuracy"),
}
SCORED = "task-score/{task}: the mean of `{name}` as the task's own plugin scores it (pipeline/tasks/{task}.py)"


def family(turn: Turn) -> str:
    """What a turn is counted with: its task, or `tools`."""
    if turn.concerns_tools:
        return TOOLS
    return turn.sample.task or "unknown"


def headline(group: str) -> str:
    """The figure by which systems are compared on a family."""
    task = group.partition(" ")[0]
    return _HEADLINES.get(task, "chrf" if task == "translation" else "correct")


def families(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Items by what they are counted with, most frequent first."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(family(item.turn), []).append(item)
    ordered = sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    apart: dict[str, list[Item]] = {}
    for name, own in ordered:
        languages = labels.by_language(own) if name in labels.NAMED | labels.FIRST_WORD else {}
        if len(languages) > 1:
            apart |= {f"{name} ({language or 'unknown'})": some for language, some in languages.items()}
        else:
            apart[name] = own
    return apart


@dataclass(frozen=True)
class Known:
    """What of a dataset its single rows do not tell."""

    judge: Judge | None = None
    """Of outcomes, by all references."""
    labels: Mapping[tuple[str, str | None], Collection[str]] = field(default_factory=dict)
    """By task and language, those that its rows have."""

    def labels_of(self, items: Sequence[Item]) -> Collection[str]:
        """The labels of a family."""
        sample = items[0].turn.sample
        return self.labels.get((sample.task, sample.language), ())


def figures(group: str, items: Sequence[Item], known: Known | None = None) -> list[Figure]:
    """All figures of a family."""
    known = known or Known()
    task = group.partition(" ")[0]
    if task == TOOLS:
        return tool_calls.figures(items, known.judge)
    if task in labels.NAMED | labels.FIRST_WORD:
        return labels.figures(items, task in labels.FIRST_WORD, known.labels_of(items))
    if task in _ANSWERS:
        return spoken_qa.figures(items)
    if task in _FREE:
        return spoken_qa.free(items)
    own: Callable[[Sequence[Item]], list[Figure]] | None = _ONE_TASK.get(task)
    return own(items) if own is not None else _by_plugin(task, items)


def _by_plugin(task: str, items: Sequence[Item]) -> list[Figure]:
    """The means of what a task of somebody else's scores."""
    rows = [plugin_score(item.turn.sample, item.output) for item in items]
    names = dict.fromkeys(name for row in rows for name in row)
    return [
        mean(name, [row[name] for row in rows if name in row], SCORED.format(task=task, name=name)) for name in names
    ]


def plugin_score(sample: Sample, output: str) -> dict[str, float]:
    """What the sample's task itself says of an output; whether it is the reference where there is no such task."""
    task = _task(sample.task)
    if task is None:
        return {"correct": float(normalise(output) == normalise(sample.answer or sample.response))}
    found: dict[str, float] = task.score(sample, output)
    return found


@lru_cache(maxsize=64)
def _task(name: str) -> Any:
    """A task that only scores: its options, which shape what is made, are not known here."""
    try:
        return plugins.load("tasks", name).model_construct()
    except plugins.UnknownPlugin:
        return None


def score(sample: Sample, output: str) -> dict[str, float]:
    """How good an output is for the last response of a sample; for validation during training.

    A dialogue is scored by its last message: cut it first with `turns.decisive`, or by `turns.turns`.

    Returns:
        Figures of [0, 1], higher is better, among them always `correct`; but of transcriptions `wer` and `cer`, where
        lower is better and more than 1 is possible, and `correct` says that there is no error.
    """
    turn = Turn(sample, 0, True)
    if not sample.messages or sample.messages[-1].role != "assistant":
        raise ValueError(f"{sample.id}: its last message is no response, so nothing says what would be right")
    if turn.concerns_tools:
        verdict = tool_calls.judge(turn, output)
        return {"correct": float(verdict.right), "readable": float(verdict.readable)}
    if sample.task == "transcription":
        errors = wer.of_output(sample, output)
        rates = {"wer": errors.wer, "cer": errors.cer}
        found = {name: float(rate) for name, rate in rates.items() if rate is not None}
        return found | {"correct": float(not errors.character_edits)}
    if sample.task in _ANSWERS | _FREE:
        answer = sample.response if sample.task in _FREE else sample.answer or sample.response
        exact = float(spoken_qa.exact(answer, output, sample.language))
        return {"correct": exact, "f1": spoken_qa.f1(answer, output, sample.language)}
    if sample.task == multiple_choice.TASK:
        letter = multiple_choice.parse(output, len(sample.choices))
        return {"correct": float(letter == sample.answer), "parsed": float(bool(letter))}
    if sample.task == "slots":
        hits, false, missed = labels.slu_counts(labels.slots_of(sample.answer), labels.slots_of(output))
        below = 2 * hits + false + missed
        return {"correct": float(not false + missed), "f1": 2 * hits / below if below else 1.0}
    found = plugin_score(sample, output)
    return {"correct": float(found.get("f1") == 1.0)} | found


def goodness(item: Item) -> float:
    """One number of [0, 1] for a row: F1 where answers may be partly right, else whether it is right."""
    if item.turn.concerns_tools:
        return float(tool_calls.verdict(item).right)
    found = score(item.turn.sample, item.output)
    return found.get("f1", found["correct"])
