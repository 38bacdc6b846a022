"""What can be wrong with what is asked for."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Something cannot be evaluated so; the message names it and says what to do."""


class Locked(EvaluationError):
    """Another run writes into the folder, or what lies there cannot be read."""
