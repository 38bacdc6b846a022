"""Labels and slots: accuracy, macro-F1 and UAR of closed answers, and SLURP's SLU-F1 of slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import jiwer
import numpy as np

from pipeline.evaluate.figures import Figure, of_sums, share
from pipeline.evaluate.intervals import Numbers
from pipeline.evaluate.items import Item
from pipeline.text import contains, normalise, words

FIRST_WORD = frozenset({"keyword_spotting", "speech_detection", "speaker_count"})
"""Tasks whose answer is told by the first word of the response: `Yes, it is said.`"""
NAMED = frozenset({"emotion", "gender", "accent", "intent", "label", "sentiment"})
"""Tasks whose answer is the one label that the response names."""
ACCURACY = (
    "label-accuracy/earwitness-1: the output names the right label and no other (of yes-or-no questions and counts: "
    "its first word is the right one); no label is wrong, never guessed; Wilson 95 %"
)
MACRO_F1 = (
    "macro-f1/earwitness-1: mean of the classes' F1, as scikit-learn's f1_score(average='macro'), over the labels that "
    "are right or named in any row; naming none or several is no class of its own"
)
UAR = (
    "uar/earwitness-1: unweighted mean of the classes' recall (balanced accuracy), over labels that are right somewhere"
)
UNNAMED = "label-parse/earwitness-1: share of outputs that name no label, or several"
SLU_F1 = (
    "slu-f1/slurp: Bastianelli et al. 2020 (pswietojanski/slurp, scripts/evaluation), micro: a slot of a right type "
    "counts as a hit, and the WER of its value as that much of a false positive and of a miss; the same with "
    "characters (edits / the longer one's length); F1 of the sums of both. Values are compared in small letters, "
    "without punctuation"
)
SPAN_F1 = "span-f1/slurp: micro-F1 of slots of which type and value are right"
SET_F1 = "keyword-f1/earwitness-1: F1 of the sets of key words, mean over rows"
Slot = tuple[str, str]


class Inventory:
    """The labels of a task in a language, and how its responses name them.

    Args:
        items: All rows of the task and language.
        first_word: Whether answers are told by their first word.
        known: Labels that there are beside those of the rows.
    """

    def __init__(self, items: Iterable[Item], first_word: bool, known: Iterable[str] = ()) -> None:
        self._first_word = first_word
        self.labels: dict[str, None] = {}
        self._first: dict[str, str] = {}
        for label in known:
            self.labels[normalise(label)] = None
            self._first.setdefault(next(iter(words(label)), ""), normalise(label))
        for item in items:
            sample = item.turn.sample
            self.labels |= dict.fromkeys(filter(None, (normalise(t) for t in (sample.answer, *sample.choices))))
            for text in (sample.answer, item.turn.reference.content):
                if found := words(text)[:1]:
                    self._first.setdefault(found[0], normalise(sample.answer))

    def named(self, output: str, choices: Sequence[str] = ()) -> str:
        """The label that an output gives; '' if it is none or several."""
        if self._first_word:
            return self._first.get(next(iter(words(output)), ""), "")
        there = words(output)
        known = [normalise(choice) for choice in choices] or list(self.labels)
        found = {label for label in known if contains(there, label.split())}
        # `very angry` is not also `angry`.
        whole = {a for a in found if not any(a != b and contains(b.split(), a.split()) for b in found)}
        return next(iter(whole)) if len(whole) == 1 else ""

    def right(self, item: Item) -> float:
        """1 if the answer is right, else 0."""
        return float(self.named(item.output, item.turn.sample.choices) == normalise(item.turn.sample.answer))


def figures(items: Sequence[Item], first_word: bool, known: Iterable[str] = ()) -> list[Figure]:
    """Accuracy, macro-F1, UAR and failures of one task in one language."""
    inventory = Inventory(items, first_word, known)
    right = [normalise(item.turn.sample.answer) for item in items]
    named = [inventory.named(item.output, item.turn.sample.choices) for item in items]
    return [
        share("accuracy", [float(n == r) for n, r in zip(named, right, strict=True)], ACCURACY),
        macro_f1(right, named),
        uar(right, named),
        share("unnamed", [float(not n) for n in named], UNNAMED, better="lower"),
    ]


def macro_f1(right: Sequence[str], named: Sequence[str]) -> Figure:
    """Mean F1 of the classes."""
    classes = sorted({*right, *named} - {""})
    sums = [
        [float(n == r == c) for c in classes] + [float(n == c) + float(r == c) for c in classes]
        for r, n in zip(right, named, strict=True)
    ]
    return of_sums("macro_f1", sums, MACRO_F1, statistic=lambda s: _mean_of_ratios(s, 2.0))


def uar(right: Sequence[str], named: Sequence[str]) -> Figure:
    """Mean recall of the classes."""
    classes = sorted(set(right))
    sums = [
        [float(n == r == c) for c in classes] + [float(r == c) for c in classes]
        for r, n in zip(right, named, strict=True)
    ]
    return of_sums("uar", sums, UAR, statistic=lambda s: _mean_of_ratios(s, 1.0))


def _mean_of_ratios(sums: Numbers, times: float) -> Numbers:
    """Mean over classes of hits over all, of sums (R, 2C); classes that a resample has nothing of are left out."""
    hits, every = np.split(sums, 2, axis=1)
    there = every > 0
    ratios = np.where(there, times * hits / np.where(there, every, 1.0), 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(ratios.sum(1) / there.sum(1), np.float64)


def slots_of(text: str) -> list[Slot]:
    """The slots that a text lists as `name: value; name: value`."""
    found = []
    for part in text.split(";"):
        name, colon, value = part.partition(":")
        if colon and normalise(name) and normalise(value):
            found.append((normalise(name), normalise(value)))
    return found


def slots(items: Sequence[Item]) -> list[Figure]:
    """SLU-F1 and the F1 of whole slots."""
    pairs = [(slots_of(item.turn.sample.answer), slots_of(item.output)) for item in items]
    soft = [_added(slu_counts(right, given)) for right, given in pairs]
    whole = [_added(_span_counts(right, given)) for right, given in pairs]
    return [of_sums("slu_f1", soft, SLU_F1), of_sums("span_f1", whole, SPAN_F1)]


def slu_counts(right: Sequence[Slot], given: Sequence[Slot]) -> tuple[float, float, float]:
    """Hits, false positives and misses of a row, by words and by characters together."""
    counts = np.zeros(3)
    for distance in (_by_words, _by_characters):
        left = list(right)
        for name, value in given:
            near = [(distance(r[1], value), i) for i, r in enumerate(left) if r[0] == name]
            if not near:
                counts[1] += 1
                continue
            apart, place = min(near)
            counts += (1, apart, apart)
            left.pop(place)
        counts[2] += len(left)
    return float(counts[0]), float(counts[1]), float(counts[2])


def _by_words(right: str, given: str) -> float:
    return float(jiwer.wer(right, given))


def _by_characters(right: str, given: str) -> float:
    found = jiwer.process_characters(right, given)
    edits = found.substitutions + found.deletions + found.insertions
    return float(edits / max(len(right), len(given)))


def _span_counts(right: Sequence[Slot], given: Sequence[Slot]) -> tuple[float, float, float]:
    hits = (Counter(right) & Counter(given)).total()
    return float(hits), float(len(given) - hits), float(len(right) - hits)


def _added(counts: tuple[float, float, float]) -> tuple[float, float]:
    """Above and below the line of F1 = 2 hits / (2 hits + false positives + misses)."""
    hits, false, missed = counts
    return 2 * hits, 2 * hits + false + missed


def keywords(items: Sequence[Item]) -> list[Figure]:
    """F1 of sets of words that commas part."""
    found = []
    for item in items:
        wanted, got = (
            {normalise(k) for k in text.split(",")} - {""} for text in (item.turn.sample.answer, item.output)
        )
        below = len(wanted) + len(got)
        found.append((2 * len(wanted & got) / below if below else 1.0, 1.0))
    return [of_sums("f1", found, SET_F1)]


def by_language(items: Iterable[Item]) -> Mapping[str, list[Item]]:
    """Rows by the language of their answers: each has its own names for the labels."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.turn.sample.language or "", []).append(item)
    return dict(sorted(found.items()))
