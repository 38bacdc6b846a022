"""Tables: from answers to the figures of each system, on the rows that all could be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.evaluate import joint, labels, scoring, tool_calls
from pipeline.evaluate.asking import JOINT, PLAIN, TOLD
from pipeline.evaluate.figures import Figure, of_sums, share
from pipeline.evaluate.items import Item
from pipeline.evaluate.predictions import Prediction
from pipeline.evaluate.results import Gap, Latency, Run
from pipeline.evaluate.systems import System
from pipeline.tools.turns import Turn

Answers = Mapping[str, Prediction]
"""By turn."""


def bad(answers: Mapping[tuple[str, str], Answers]) -> dict[str, str]:
    """Turns that a system could not be asked, and why: all systems are compared without them."""
    found: dict[str, str] = {}
    for (system, decoding), own in answers.items():
        for turn, prediction in own.items():
            if prediction.problem:
                name = system if decoding == PLAIN else f"{system}, {decoding}"
                found.setdefault(turn, f"{name}: {prediction.problem}")
    return found


def items_of(turns: Sequence[Turn], answers: Answers, heard: Answers | None = None) -> list[Item]:
    """Answered turns. Of joint answers only what follows the transcript is scored.

    Args:
        turns: Those that are compared.
        answers: Of one system.
        heard: What it wrote down when it was asked to.
    """
    found = []
    for turn in turns:
        prediction = answers.get(turn.id)
        if prediction is None or prediction.absent or prediction.problem:
            continue
        output = joint.parse(prediction.output).answer if prediction.decoding == JOINT else prediction.output
        said = prediction.heard
        if not said and heard is not None and (written := heard.get(turn.id)) is not None:
            said = written.heard
        found.append(Item(turn, output, said, prediction.letters, prediction.cut))
    return found


def overlaid(turns: Sequence[Turn], plain: Answers, own: Answers) -> tuple[list[Turn], dict[str, Prediction]]:
    """A way of decoding that does not concern every turn, with the plain answers to the others of the same families.

    So it is compared with plain decoding on the same turns.
    """
    concerned = {scoring.family(turn) for turn in turns if turn.id in own}
    some = [turn for turn in turns if scoring.family(turn) in concerned]
    return some, {turn.id: own.get(turn.id) or plain[turn.id] for turn in some if turn.id in own or turn.id in plain}


def run_of(
    system: System,
    decoding: str,
    items: Sequence[Item],
    answers: Answers,
    known: scoring.Known,
    oracle: Sequence[Item] | None,
    latency: Latency | None,
) -> Run:
    """All figures of a system.

    Args:
        oracle: The oracle's answers, to which the gap is told; None where it was not asked.
    """
    families = scoring.families(items)
    figures = {name: scoring.figures(name, own, known) for name, own in families.items()}
    if decoding == JOINT:
        asked = [answers[item.turn.id] for item in items if answers[item.turn.id].decoding == JOINT]
        failed = [float(joint.parse(prediction.output).heard is None) for prediction in asked]
        figures["joint form"] = [share("failures", failed, joint.FAILURES, better="lower")]
    headlines = {name: _headline(name, own) for name, own in figures.items()}
    tools = families.get(scoring.TOOLS, [])
    return Run(
        system.name,
        decoding,
        system.told if decoding == PLAIN else f"{system.told}; {TOLD[decoding]}",
        figures,
        headlines,
        _gaps(families, figures, headlines, oracle, known) if oracle is not None else {},
        tool_calls.confusion(tools, known.judge) if any(i.turn.sample.outcome for i in tools) else None,
        sum(item.cut for item in items),
        len(items),
        sum(bool(prediction.absent) for prediction in answers.values()),
        latency,
    )


def _headline(family: str, figures: Sequence[Figure]) -> str:
    wanted = scoring.headline(family)
    names = [figure.name for figure in figures]
    near = next((name for name in names if name.startswith(wanted)), names[0] if names else "")
    return wanted if wanted in names else near


def _gaps(
    families: Mapping[str, Sequence[Item]],
    figures: Mapping[str, Sequence[Figure]],
    headlines: Mapping[str, str],
    oracle: Sequence[Item],
    known: scoring.Known,
) -> dict[str, Gap]:
    best = scoring.families(oracle)
    found = {}
    for family, items in families.items():
        there = {item.turn.id for item in items}
        same = [item for item in best.get(family, ()) if item.turn.id in there]
        if len(same) == len(items) and (gap := _gap(family, items, same, figures[family], headlines[family], known)):
            found[family] = gap
    return found


def _gap(
    family: str,
    items: Sequence[Item],
    oracle: Sequence[Item],
    figures: Sequence[Figure],
    name: str,
    known: scoring.Known,
) -> Gap | None:
    mine = next((f for f in figures if f.name == name), None)
    its = next((f for f in scoring.figures(family, oracle, known) if f.name == name), None)
    if mine is None or its is None or mine.value is None or its.value is None:
        return None
    difference = its.value - mine.value if mine.better != "lower" else mine.value - its.value
    one, other = by_row(family, items, known), by_row(family, oracle, known)
    if one is None or other is None:
        return Gap(difference, None, None)
    sums: dict[str, tuple[float, float]] = {}
    for item in items:
        if item.turn.id in one:
            before = sums.get(item.row, (0.0, 0.0))
            sums[item.row] = before[0] + other[item.turn.id] - one[item.turn.id], before[1] + 1
    paired = of_sums("gap", list(sums.values()), "")
    return Gap(difference, paired.low, paired.high)


def by_row(family: str, items: Sequence[Item], known: scoring.Known) -> dict[str, float] | None:
    """The values of which a family's headline is the mean, by turn; None where it is no mean over rows."""
    task = family.partition(" ")[0]
    if task == scoring.TOOLS:
        return {i.turn.id: float(tool_calls.verdict(i).right) for i in items if i.turn.wanted}
    if task in ("transcription", "translation", "slots"):
        return None
    if task in labels.NAMED | labels.FIRST_WORD:
        inventory = labels.Inventory(items, task in labels.FIRST_WORD, known.labels_of(items))
        return {i.turn.id: inventory.right(i) for i in items}
    key = scoring.headline(family)
    key = {"accuracy": "correct", "exact": "correct"}.get(key, key)
    return {i.turn.id: scoring.score(i.turn.sample, i.output).get(key, 0.0) for i in items}
