"""transformers tells much while it loads and saves; what matters of it is said by our own errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

_log: Any = logging  # its functions have no types


@contextmanager
def quiet() -> Iterator[None]:
    """Within, transformers shows no progress bars, and warns of nothing."""
    verbosity, bars = _log.get_verbosity(), _log.is_progress_bar_enabled()
    _log.set_verbosity_error()
    _log.disable_progress_bar()
    try:
        yield
    finally:
        _log.set_verbosity(verbosity)
        if bars:
            _log.enable_progress_bar()
