"""Weights: what tells a model's files from others that are called the same."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import xxhash


@lru_cache(maxsize=16)
def content_of(model: str) -> str:
    """Digest of a model's folder or file: other weights under the same name are another model.

    Returns:
        '' for what is not on this disk: names on the Hub.
    """
    place = Path(model)
    if not model or not place.exists():
        return ""
    files = (
        sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith(".")) if place.is_dir() else [place]
    )
    state = xxhash.xxh3_128()
    for path in files:
        state.update(path.relative_to(place).as_posix().encode())
        with open(path, "rb", buffering=0) as stream:
            while block := stream.read(2**20):
                state.update(block)
    return state.hexdigest()
