"""Translation: BLEU and chrF, by sacrebleu, a target language at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.evaluate.figures import Figure
from pipeline.evaluate.items import Item
from pipeline.plugins import require
from pipeline.text import base

_TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char", "ko": "char", "lo": "char", "km": "char", "my": "char"}
"""By language; `13a` for the others. Japanese and Korean by characters: their own tokenizers need other packages."""
_RESAMPLES = 1000


def figures(items: Sequence[Item]) -> list[Figure]:
    """Both figures of each target language: `bleu_de`, `chrf_de`, from 0 to 100."""
    found = []
    for language in sorted({base(item.turn.sample.language) for item in items}):
        own = [item for item in items if base(item.turn.sample.language) == language]
        outputs = [item.output for item in own]
        references = [item.turn.reference.content for item in own]
        found += [score(kind, outputs, references, language) for kind in ("bleu", "chrf")]
    return found


def score(kind: str, outputs: Sequence[str], references: Sequence[str], language: str) -> Figure:
    """BLEU or chrF of a corpus with its interval by sacrebleu's bootstrap; the signature is in the protocol."""
    metrics: Any = require("sacrebleu.metrics", extra="train", what="scoring translations")
    metric = metrics.BLEU(tokenize=_TOKENIZERS.get(language, "13a")) if kind == "bleu" else metrics.CHRF()
    several = len(outputs) > 1
    found = metric.corpus_score(list(outputs), [list(references)], n_bootstrap=_RESAMPLES if several else 1)
    protocol = f"{kind}/sacrebleu: {metric.get_signature()}; 95 % by its bootstrap of {_RESAMPLES}"
    low, high = (found._mean - found._ci, found._mean + found._ci) if several else (None, None)
    return Figure(f"{kind}_{language or 'unknown'}", float(found.score), low, high, len(outputs), protocol)
