"""What a person can mend about publishing."""

from __future__ import annotations


class PublishError(RuntimeError):
    """A dataset cannot be published; the message says what stands against it and what to do."""


class DamagedShard(ValueError):
    """A shard is not what its manifest says; the message names the file and the cure."""
