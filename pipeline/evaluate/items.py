"""Item: a turn with what a system has answered."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluate.turns import Turn


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

    @property
    def row(self) -> str:
        """The sample's id: turns of one dialogue are not independent, so intervals draw rows."""
        return self.turn.sample.id
