"""Multiple choice: the right letter, as the likeliest one and as the one that is written.

An answer without a letter is a failure, and its rate is told; no letter is guessed in its place. Text without sound
(`text_only`) and silence (`silent`) show how much of it needs hearing at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash
from msgspec.structs import replace

from pipeline import seeds
from pipeline.evaluate.errors import EvaluationError
from pipeline.evaluate.figures import Figure, of_sums, share
from pipeline.evaluate.items import Item
from schemas.conversation import Message
from schemas.sample import Sample

TASK = "multiple_choice"
LETTERS = "ABCDEFGHIJ"
GENERATION = (
    "mc-generation/earwitness-1: the answer is a letter alone, or one that a mark of punctuation follows, and it is "
    "the right one; no letter is wrong, never guessed; options in an order drawn from the row's id; Wilson 95 %"
)
LIKELIHOOD = (
    "mc-likelihood/earwitness-1: of the letters' log-likelihoods as the first tokens of the answer the right one's is "
    "the greatest, ties are wrong; options in an order drawn from the row's id; Wilson 95 %"
)
PARSE = "mc-parse/earwitness-1: share of answers without a letter by the rule of mc-generation/earwitness-1"
CHANCE = "mc-chance/earwitness-1: mean of 1 / number of options"
BIAS = "mc-bias/earwitness-1: largest difference between how often a letter is written and how often it is right"
_LETTERED = re.compile(r"\W*([A-J])(?:\W*$|[^\w\s'’])")


def parse(output: str, options: int) -> str:
    """The letter that an output gives, or ''. `A man ...` gives none."""
    found = _LETTERED.match(output.strip())
    return found[1] if found and found[1] in LETTERS[:options] else ""


def reshuffled(sample: Sample, seed: int = 0) -> Sample:
    """A question with its options in another order, drawn from the row's id: how the file orders them tells nothing.

    As it is where the options are not listed in it as `A. text`, one a line.
    """
    options = list(sample.choices)
    before = listing(options)
    places = [i for i, m in enumerate(sample.messages) if m.role == "user" and m.content.count(before) == 1]
    if sample.task != TASK or sample.answer not in LETTERS[: len(options)] or len(places) != 1:
        return sample
    order = list(range(len(options)))
    seeds.rng("options", seed, sample.id).shuffle(order)
    shuffled = [options[i] for i in order]
    letter = LETTERS[order.index(LETTERS.index(sample.answer))]
    messages = list(sample.messages)
    messages[places[0]] = replace(
        messages[places[0]], content=messages[places[0]].content.replace(before, listing(shuffled))
    )
    if messages[-1].content == sample.answer:
        messages[-1] = replace(messages[-1], content=letter)
    return replace(sample, messages=tuple(messages), choices=tuple(shuffled), answer=letter)


def listing(options: Sequence[str]) -> str:
    """Options as questions list them."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def figures(items: Sequence[Item]) -> list[Figure]:
    """Accuracy by both ways of scoring, failures, the bias towards letters, and what guessing would give."""
    written = [parse(item.output, len(item.turn.sample.choices)) for item in items]
    right = [item.turn.sample.answer for item in items]
    found = [share("accuracy", [float(w == r) for w, r in zip(written, right, strict=True)], GENERATION)]
    scored = [item for item in items if item.letters]
    if scored:
        found.append(
            share("accuracy_by_likelihood", [float(likeliest(i) == i.turn.sample.answer) for i in scored], LIKELIHOOD)
        )
    found.append(share("parse_failures", [float(not w) for w in written], PARSE, better="lower"))
    found.append(_bias(written, right))
    chance = of_sums(
        "chance", [(1 / len(i.turn.sample.choices), 1.0) for i in items if i.turn.sample.choices], CHANCE, better=""
    )
    return [*found, Figure("chance", chance.value, None, None, chance.count, CHANCE, "")]


def likeliest(item: Item) -> str:
    """The letter of the greatest likelihood; '' where two have it."""
    assert item.letters is not None
    best = max(item.letters)
    places = [i for i, value in enumerate(item.letters) if value == best]
    return LETTERS[places[0]] if len(places) == 1 else ""


def _bias(written: Sequence[str], right: Sequence[str]) -> Figure:
    gaps = [abs(written.count(letter) - right.count(letter)) / len(right) for letter in LETTERS] if right else []
    return Figure("letter_bias", max(gaps, default=None), None, None, len(right), BIAS, "lower")


def questions(path: Path) -> list[Sample]:
    """Questions without sound, in the layout of MMLU: what is left of the LLM's knowledge after training.

    A line: `{"question": "Which gas do plants take in?", "choices": ["O2", "CO2", "N2", "H2"], "answer": 1}`; the
    answer is a place from 0, or a letter.

    Raises:
        EvaluationError: A line is something else; names file and line.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            # By its content, so that an answer is not taken for one to another question.
            digest = xxhash.xxh3_64_hexdigest(line.strip().encode())
            found.append(_question(line, f"{path}:{number}", f"{path.stem}/{number}-{digest}"))
    if not found:
        raise EvaluationError(f"{path} has no questions: one JSON object a line is expected")
    return found


def _question(line: str, where: str, name: str) -> Sample:
    expected = f'{{"question": text, "choices": [2 to {len(LETTERS)} texts], "answer": place from 0 or letter}}'
    try:
        value: Any = json.loads(line)
        choices = [str(choice) for choice in value["choices"]]
        answer = value["answer"]
        place = LETTERS.index(answer) if isinstance(answer, str) else int(answer)
        question = str(value["question"])
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{where}: {expected} is expected ({type(error).__name__}: {error})") from error
    if not 2 <= len(choices) <= len(LETTERS) or not 0 <= place < len(choices):
        raise EvaluationError(f"{where}: {len(choices)} choices and the answer {answer!r}; {expected} is expected")
    text = f"{question}\n{listing(choices)}\nAnswer with the letter only."
    messages = (Message("user", text), Message("assistant", LETTERS[place]))
    return Sample(name, (), "test", TASK, "en", messages, choices=tuple(choices), answer=LETTERS[place])
