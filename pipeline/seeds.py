"""Seeds derived from what is being made, so that no result depends on order or workers."""

from __future__ import annotations

import hashlib
import random


def derive(*parts: object) -> int:
    """A seed in [0, 2**63) from e.g. (recipe seed, item id, stage, attempt)."""
    key = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def rng(*parts: object) -> random.Random:
    """A generator of its own for one item and purpose."""
    return random.Random(derive(*parts))


def share(*parts: object) -> float:
    """A uniform number in [0, 1) from the same parts."""
    return derive(*parts) / 2**63
