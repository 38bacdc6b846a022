"""Outcomes: which of When2Call's four an answer is (Ross et al., arXiv:2504.18851).

When2Call compares likelihoods of four given answers, or asks an LLM. Here answers are free and no LLM judges, so a
rule does, and the report says how often the rule is right about the dataset's own answers:

1. An answer that calls, or begins a call that cannot be read, is `tool_call`.
2. One that is nearly (similarity 0.85) a reference of the same language is what that reference is.
3. Else one whose last sentence is a question is `request_for_info`; one that says that something cannot be done, in a
   phrase known in the language, is `cannot_answer`; all others are `direct`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from rapidfuzz import fuzz, process

from pipeline.text import base, normalise
from pipeline.tools.calls import calls_of
from pipeline.tools.turns import Turn

OUTCOMES = ("tool_call", "direct", "request_for_info", "cannot_answer")
_NEAR = 85.0  # of rapidfuzz's 0 to 100
_FLAGS = re.IGNORECASE | re.VERBOSE
_CANNOT = {
    "en": re.compile(
        r"""
        \b(?: i\ (?:am\ (?:not\ able|unable)|cannot|can['’]t|can\ not|have\ no\ way|do\ not\ have|don['’]t\ have)
            | i['’]m\ (?:not\ able|unable) | (?:not|isn['’]t)\ (?:something|anything)\ (?:that\ )?i\ can
            | (?:none|no\ one)\ of\ (?:my|the|these)\ (?:tools|functions)
            | no\ (?:fitting\ |suitable\ )?(?:tool|function) | beyond\ what\ i
            | (?:outside|out\ of)\ (?:of\ )?(?:my|what\ i) | not\ (?:possible|available)\ (?:here|for\ me)
        )\b""",
        _FLAGS,
    ),
    "ru": re.compile(
        r"""
        \b(?: не\ (?:могу|смогу|умею|получится|выйдет|удастся|помогу|справлюсь) | недоступн\w+
            | нет\ (?:такого|такой|подходящ\w+|нужн\w+|инструмент\w*|возможности|доступа|способа)
            | ни\ один\ из\ (?:моих|этих|доступных)?\ ?инструмент\w+ | не\ по\ моей\ части | вне\ моих\ возможностей
        )\b""",
        _FLAGS,
    ),
    "pt": re.compile(
        r"""
        \b(?: não\ (?:posso|consigo|sou\ capaz|me\ é\ possível|dá)
            | não\ tenho\ (?:como|acesso|maneira|forma|nenhum\w*|ferramenta\w*)
            | nenhum\w*\ (?:d[aeo]s?\ )?(?:minhas\ )?(?:ferramenta|função|funções)\w* | fora\ do\ meu\ alcance
            | além\ do\ que | não\ é\ possível
        )\b""",
        _FLAGS,
    ),
}
"""In other languages no phrase is known: `cannot_answer` is found there by likeness to a reference only."""
_SENTENCE = re.compile(r"(?<=[.!…。])\s+")


class Judge:
    """Judges answers, by the references of a dataset and by rule.

    Args:
        references: Turns whose outcomes are known.
    """

    def __init__(self, references: Iterable[Turn] = ()) -> None:
        self._known: dict[str, dict[str, str]] = defaultdict(dict)
        for turn in references:
            if turn.number == 0 and turn.sample.outcome and not turn.reference.tool_calls:
                self._known[base(turn.sample.language)].setdefault(normalise(turn.reference.content), turn.outcome)

    def __call__(self, output: str, language: str | None) -> str:
        """The outcome of an answer."""
        if calls_of(output):  # calls, or why they cannot be read
            return "tool_call"
        known = self._known.get(base(language), {})
        near = process.extractOne(normalise(output), known.keys(), scorer=fuzz.ratio, score_cutoff=_NEAR)
        return known[near[0]] if near else by_rule(output, language)


def by_rule(output: str, language: str | None) -> str:
    """The outcome of an answer that makes no call, by its words."""
    last = _SENTENCE.split(output.strip())[-1]
    if "?" in last or "？" in last or "؟" in last:
        return "request_for_info"
    cannot = _CANNOT.get(base(language))
    return "cannot_answer" if cannot is not None and cannot.search(output) else "direct"


def agreement(references: Iterable[Turn]) -> tuple[int, int]:
    """How many of a dataset's own answers without a call the rule alone is right about, and of how many."""
    known = [t for t in references if t.number == 0 and t.sample.outcome and not t.reference.tool_calls]
    return sum(by_rule(t.reference.content, t.sample.language) == t.outcome for t in known), len(known)
