"""Evaluation: figures, each by a named protocol, of systems on the same rows."""
