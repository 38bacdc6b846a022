"""Tool calls: whether the right ones are made, none too many, and with which arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.evaluate import wer
from pipeline.evaluate.figures import Figure, of_sums, share
from pipeline.evaluate.items import Item
from pipeline.evaluate.labels import macro_f1
from pipeline.evaluate.outcomes import OUTCOMES, Judge, agreement
from pipeline.tools import matching, validation
from pipeline.tools.matching import Accepted, Call
from pipeline.tools.turns import Turn, schemas
from schemas.conversation import ToolCall

AST = (
    "tool-ast/earwitness-1: share of turns that need calls which make exactly those, by BFCL's AST rules as "
    "pipeline/tools/matching.py has them; turn by turn with the reference's history; Wilson 95 %"
)
CORRECT = (
    "tool-correct/earwitness-1: share of all turns of tool dialogues that make the right calls, or none where none is "
    "right; Wilson 95 %"
)
PRECISION = "tool-precision/earwitness-1: correct calls / calls made; a call that cannot be read is made and wrong"
RECALL = "tool-recall/earwitness-1: correct calls / calls needed"
FALSE_ALARMS = (
    "tool-false-alarms/earwitness-1: share of turns that need no call but make one, readable or not; Wilson 95 %"
)
OUTCOME = (
    "outcome-macro-f1/earwitness-1: macro-F1 of When2Call's outcomes of first turns (tool_call, direct, "
    "request_for_info, cannot_answer); answers without a call are judged by likeness to the dataset's references, else "
    "by rule, see docs/evaluation.md"
)
JUDGE = (
    "outcome-judge/earwitness-1: share of the dataset's own answers without a call that the rule alone judges rightly"
)
ARGUMENTS = (
    "tool-arguments/earwitness-1: of the wanted calls whose function is called, the share of arguments that are right, "
    "unexpected ones below the line, too; calls of one name are paired so that most are right"
)
HALLUCINATED = "tool-hallucinated/earwitness-1: calls of functions that are not offered / readable calls"
INVALID = "tool-invalid/earwitness-1: calls of offered functions whose arguments break the JSON Schema / readable calls"
UNREADABLE = (
    "tool-unreadable/earwitness-1: share of turns with something begun as a call that cannot be read; Wilson 95 %"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of the calls of one answer."""

    needed: int
    made: int
    """An answer that begins a call that cannot be read makes one."""
    correct: int
    """Calls that are among those wanted, each counted once."""
    right: bool
    """All that are wanted and no other; none where none is."""
    readable: bool
    arguments: tuple[int, int]
    """Right ones, and those that should be there or are, of calls whose function is called."""
    hallucinated: int
    """Calls of functions that are not offered."""
    invalid: int
    """Calls whose arguments break their schema."""


def judge(turn: Turn, output: str) -> Verdict:
    """Compares the calls of an answer with those that are wanted."""
    wanted, offered = turn.wanted, schemas(turn.sample)
    found = matching.calls_of(output)
    if isinstance(found, str):
        return Verdict(len(wanted), 1, 0, False, False, (0, 0), 0, 0)
    correct = paired(wanted, found, lambda a, c: matching.mismatch([a], [c], offered) is None)
    right = matching.mismatch(wanted, found, offered) is None
    made_up = [call for call in found if call.name not in offered]
    invalid = [c for c in found if c.name in offered and _breaks(turn, c)]
    return Verdict(
        len(wanted), len(found), correct, right, True, _arguments(wanted, found, offered), len(made_up), len(invalid)
    )


def verdict(item: Item) -> Verdict:
    """The same of an item, found out once."""
    if "calls" not in item.known:
        item.known["calls"] = judge(item.turn, item.output)
    found = item.known["calls"]
    assert isinstance(found, Verdict)
    return found


def _breaks(turn: Turn, call: Call) -> bool:
    return (
        validation.problem(ToolCall("", call.name, orjson.dumps(call.arguments).decode()), turn.sample.tools)
        is not None
    )


def paired(wanted: Sequence[Accepted], made: Sequence[Call], fits: Callable[[Accepted, Call], bool]) -> int:
    """How many calls find a wanted one each, at most: a maximum matching, by augmenting paths."""
    owner: dict[int, int] = {}

    def find(row: int, tried: set[int]) -> bool:
        for column, call in enumerate(made):
            if column not in tried and fits(wanted[row], call):
                tried.add(column)
                if column not in owner or find(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    return sum(find(row, set()) for row in range(len(wanted)))


def _arguments(wanted: Sequence[Accepted], made: Sequence[Call], offered: dict[str, Any]) -> tuple[int, int]:
    """Right arguments, and all, of wanted calls whose function is called."""
    right = every = 0
    left = list(made)
    for accepted in wanted:
        scored = [(_arguments_of(accepted, c, offered), i) for i, c in enumerate(left) if c.name == accepted.name]
        if scored:
            (hits, total), place = max(scored, key=lambda entry: (entry[0][0], -entry[0][1], -entry[1]))
            right, every = right + hits, every + total
            left.pop(place)
    return right, every


def _arguments_of(accepted: Accepted, call: Call, offered: dict[str, Any]) -> tuple[int, int]:
    right = 0
    names = {name for name in accepted.arguments if name in call.arguments or name not in accepted.optional}
    for name in names & call.arguments.keys():
        # One argument alone, as if the function had no other.
        alone = Accepted(accepted.name, {name: accepted.arguments[name]}, accepted.optional & {name})
        schema = offered.get(accepted.name)
        kinds = None if schema is None else {accepted.name: {"properties": schema.get("properties", {})}}
        right += matching.mismatch([alone], [Call(call.name, {name: call.arguments[name]})], kinds) is None
    return right, len(names | call.arguments.keys())


def figures(items: Sequence[Item], references: Judge | None = None) -> list[Figure]:
    """All figures of tool dialogues.

    Args:
        items: Answered turns.
        references: Judges answers without a call; one that knows the items' own references if omitted.
    """
    verdicts = [(item, verdict(item)) for item in items]
    needing = [v for _, v in verdicts if v.needed]
    none = [v for _, v in verdicts if not v.needed]
    found = [
        share("ast_accuracy", [float(v.right) for v in needing], AST),
        share("correct", [float(v.right) for _, v in verdicts], CORRECT),
        _of_calls("precision", verdicts, lambda v: (v.correct, v.made), PRECISION),
        _of_calls("recall", verdicts, lambda v: (v.correct, v.needed), RECALL),
        share("false_alarms", [float(v.made > 0) for v in none], FALSE_ALARMS, better="lower"),
        *_outcomes([item for item in items if item.turn.number == 0 and item.turn.sample.outcome], references),
        _of_calls("argument_accuracy", verdicts, lambda v: v.arguments, ARGUMENTS),
        _of_calls(
            "hallucinated", verdicts, lambda v: (v.hallucinated, v.made if v.readable else 0), HALLUCINATED, "lower"
        ),
        _of_calls("invalid", verdicts, lambda v: (v.invalid, v.made if v.readable else 0), INVALID, "lower"),
        share("unreadable", [float(not v.readable) for _, v in verdicts], UNREADABLE, better="lower"),
    ]
    return [*found, *wer.query(items)]


def _of_calls(
    name: str,
    verdicts: Iterable[tuple[Item, Verdict]],
    counts: Callable[[Verdict], tuple[int, int]],
    protocol: str,
    better: str = "higher",
) -> Figure:
    rows: dict[str, tuple[int, int]] = {}
    for item, found in verdicts:
        above, below = counts(found)
        before = rows.get(item.row, (0, 0))
        rows[item.row] = before[0] + above, before[1] + below
    return of_sums(name, list(rows.values()), protocol, better=better, count=sum(below for _, below in rows.values()))


def _outcomes(items: Sequence[Item], references: Judge | None) -> list[Figure]:
    if not items:
        return []
    pairs = outcomes(items, references)
    macro = macro_f1([right for right, _ in pairs], [given for _, given in pairs])
    hits, count = agreement(item.turn for item in items)
    found = [Figure("outcome_macro_f1", macro.value, macro.low, macro.high, macro.count, OUTCOME)]
    return [*found, Figure("outcome_judge", hits / count, None, None, count, JUDGE, "")] if count else found


def outcomes(items: Sequence[Item], references: Judge | None = None) -> list[tuple[str, str]]:
    """Of each first turn the outcome that is right, and the one that was given."""
    decide = references or Judge(item.turn for item in items)
    return [(item.turn.outcome, decide(item.output, item.turn.sample.language)) for item in items]


def confusion(items: Sequence[Item], references: Judge | None = None) -> list[list[int]]:
    """How often each outcome (row) was taken for each (column), in the order of `OUTCOMES`."""
    first = [item for item in items if item.turn.number == 0 and item.turn.sample.outcome in OUTCOMES]
    counts = [[0] * len(OUTCOMES) for _ in OUTCOMES]
    for right, given in outcomes(first, references):
        counts[OUTCOMES.index(right)][OUTCOMES.index(given)] += 1
    return counts
