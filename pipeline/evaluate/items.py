"""Item: a turn with what a system has answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.tools.turns import Turn


@dataclass(frozen=True, slots=True)
class Item:
    """An answered turn."""

    turn: Turn
    output: str
    """What is scored: of joint decoding the answer, without the transcript."""
    heard: tuple[str, ...] = ()
    """What the system says was said in the last utterances of `turn.sample`; empty where it does not say."""
    letters: tuple[float, ...] | None = None
    """Log-likelihoods of the letters of a multiple-choice question."""
    cut: bool = False
    """Whether the answer was still going on when it had as many tokens as are allowed."""
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What was found out about it, so that it is not done for every figure anew."""

    @property
    def row(self) -> str:
        """The sample's id: turns of one dialogue are not independent, so intervals draw rows."""
        return self.turn.sample.id
