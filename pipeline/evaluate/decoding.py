"""Constrained decoding: at each step only tokens with which the answer can still become a valid one.

Closed answers (labels, option letters) by a trie of their tokens; tool calls by a grammar, see `grammars.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import LogitsProcessor

from pipeline.model.base import SpeechLM

Flags = npt.NDArray[np.bool_]


class State(ABC):
    """Where one answer stands."""

    @abstractmethod
    def allowed(self, left: int) -> Collection[int] | Flags:
        """The tokens that may come next, as ids or as a mask over the vocabulary.

        Args:
            left: How many tokens the answer may still have.
        """

    @abstractmethod
    def take(self, token: int) -> None:
        """Goes on by a token."""


class Constraint(ABC):
    """What answers are valid."""

    @abstractmethod
    def start(self) -> State:
        """The state before the first token."""


class Trie(Constraint):
    """One of some token sequences, each with the tokens that end its turn."""

    def __init__(self, sequences: Sequence[Sequence[int]], stops: Collection[int]) -> None:
        self._stops = stops
        self.root: dict[int, Any] = {}
        for sequence in sequences:
            node = self.root
            for token in sequence:
                node = node.setdefault(token, {})

    def start(self) -> State:
        """At its root."""
        return _InTrie(self.root, self._stops)


class _InTrie(State):
    def __init__(self, node: dict[int, Any], stops: Collection[int]) -> None:
        self._node, self._stops = node, stops

    def allowed(self, left: int) -> Collection[int]:
        return self._node.keys() or self._stops

    def take(self, token: int) -> None:
        self._node = self._node.get(token, {})


def stops_of(lm: SpeechLM) -> frozenset[int]:
    """The tokens at which generation ends."""
    chat = getattr(lm, "chat", None)  # which knows better than the model's own configuration
    if chat is not None:
        return frozenset(chat.stops)
    found = lm.model.generation_config.eos_token_id
    found = [found] if isinstance(found, int) else list(found or ())
    return frozenset(found or [lm.tokenizer.eos_token_id])


class Constrained(LogitsProcessor):
    """Forbids, row by row, the tokens with which an answer would no longer become valid.

    Args:
        constraints: Of each row of the batch; None leaves it free.
        most_tokens: Of an answer: with few left, it is brought to its end.
    """

    def __init__(self, constraints: Sequence[Constraint | None], most_tokens: int) -> None:
        self._states = [constraint.start() if constraint is not None else None for constraint in constraints]
        self._most, self._begun = most_tokens, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with -inf at what is forbidden; input_ids (B, L) hold prompt and answers."""
        if self._begun < 0:
            self._begun = input_ids.shape[1]
        made = input_ids.shape[1] - self._begun
        last = input_ids[:, -1].tolist() if made else []
        forbidden = np.zeros(scores.shape, np.bool_)
        for row, state in enumerate(self._states):
            if state is None:
                continue
            if made:
                state.take(last[row])
            allowed = state.allowed(self._most - made)
            forbidden[row] = True
            if isinstance(allowed, np.ndarray):
                width = min(len(allowed), scores.shape[1])
                forbidden[row, :width] = ~allowed[:width]
            else:
                forbidden[row, list(allowed)] = False
        return scores.masked_fill(torch.from_numpy(forbidden).to(scores.device), float("-inf"))
