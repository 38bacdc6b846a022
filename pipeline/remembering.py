"""Remembering: which file a process records replies in, where several machines build at the same time.

A memo's journal needs memory that its processes share (sqlite.org/wal.html, section 1), so on a cluster
each machine writes a file of its own, `memo-<machine>.sqlite`. The next run folds them into the common
file, `memo.sqlite`, which nobody writes while a cluster builds, so that all its machines may read it.
What one machine has bought in a run, the others of that run do not know; those of the next do.
"""

from __future__ import annotations

import logging
import platform
import sqlite3
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from pipeline.memo import Memo, MemoDamaged, MemoError, mend
from pipeline.salvage import checksum

log = logging.getLogger("earwitness")

COMMON = "memo.sqlite"
_AT_ONCE = 1000  # answers that are folded in by one commit


class _Shared(Memo):
    """A machine's own memo, with a common one that is only read."""

    def __init__(self, path: Path, common: Path) -> None:
        super().__init__(path)
        # Immutable: neither lock nor journal is looked for, which machines could not share.
        self._common = _frozen(common) if common.exists() else None

    def get(self, key: bytes) -> bytes | None:
        known = super().get(key)
        if known is not None or self._common is None:
            return known
        try:
            row = self._common.execute("SELECT answer, checksum FROM memo WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            log.warning("what earlier runs remember cannot be read, and is asked for again: %s", error)
            self._common = None
            return None
        return bytes(row[0]) if row is not None and row[1] in (None, checksum(key, row[0])) else None

    def close(self) -> None:
        if self._common is not None:
            self._common.close()
        super().close()


def _frozen(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?immutable=1", uri=True)


def open_memo(folder: Path, shared: bool) -> Memo:
    """The memo in a folder.

    Args:
        folder: Where it lies.
        shared: Whether other machines may work there now: then what is new goes into a file of this machine's.
    """
    return _Shared(folder / f"memo-{machine()}.sqlite", folder / COMMON) if shared else Memo(folder / COMMON)


def gather(folder: Path, shared: bool) -> None:
    """Folds what machines have recorded each for itself into the common file. Call it while nobody works there.

    Args:
        folder: Where the files lie.
        shared: Whether other machines are to read the common file: then its journal is folded in, too.

    Raises:
        MemoError: A file cannot be read or written. None is removed before all of it is recorded.
    """
    others = sorted(folder.glob("memo-*.sqlite"))
    if not others and not (shared and (folder / COMMON).exists()):
        return
    with _opened(folder / COMMON) as memo:  # closing it ends its journal
        for path in others:
            _fold(path, memo)
            for left in (path, *(path.with_name(path.name + ending) for ending in (".lock", ".turn"))):
                left.unlink(missing_ok=True)


def _fold(path: Path, into: Memo) -> None:
    for _ in range(2):
        try:
            with _opened(path) as memo:
                answers = memo.everything()
                while some := list(islice(answers, _AT_ONCE)):
                    into.put_all(some)
            return
        except MemoDamaged as damage:
            if damage.path != path:
                raise
            mend(path)
    raise MemoError(f"{path} stays damaged, whatever is mended: is the disk sound?")


def _opened(path: Path) -> Memo:
    """A memo, mended if it is damaged."""
    try:
        return Memo(path)
    except MemoDamaged as damage:
        mend(damage.path)
        return Memo(path)


def machine() -> str:
    """The name of this machine, or rather of its kernel's life: what processes that share memory have in common."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    life = boot.read_text()[:8] if boot.exists() else "0"
    return f"{platform.node() or 'unnamed'}-{life}"
