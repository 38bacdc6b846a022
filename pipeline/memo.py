"""Memo: every expensive call is remembered by what was asked, before its answer is used.

One SQLite file in WAL mode, shared by all processes of a machine. A commit reaches the operating
system before `put` returns, so a killed process loses nothing that it was told; after a power cut
the last moments may be missing, and the file is whole (sqlite.org/wal.html, section 2.3).
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

BUSY_SECONDS = 120.0  # how long a writer waits for the others
CHECKPOINT_PAGES = 10_000  # of 4 kB: the journal is folded in, and synced, every 40 MB


class MemoError(OSError):
    """The memory cannot be read or written; the message names the file and the cure."""


def digest(*parts: bytes) -> bytes:
    """The key of a call: 16 bytes of BLAKE2b over its parts, each with its length."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


class Memo:
    """Answers by key. Not shared between threads; any number of processes may hold one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Statements are committed one by one unless `put_all` groups them.
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._wal()
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            # With rowids answers are appended and only the small index is written in random order:
            # a third of the time of WITHOUT ROWID.
            self._db.execute("CREATE TABLE IF NOT EXISTS memo (key BLOB PRIMARY KEY, answer BLOB NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise self._explain(error) from error

    def _wal(self) -> None:
        # Switching to WAL ignores the timeout when another process is switching too.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _explain(self, error: sqlite3.Error) -> MemoError:
        text = str(error)
        if "disk is full" in text:
            cure = "free some space; everything recorded so far is kept"
        elif "malformed" in text or "not a database" in text:
            cure = "the file is damaged: move it away, and what it held is asked for again"
        elif "locked" in text:
            cure = f"another process has held it for {BUSY_SECONDS:g} s"
        else:
            cure = "check that the folder can be written to"
        return MemoError(f"{self.path}: {text}; {cure}")

    def get(self, key: bytes) -> bytes | None:
        """The answer recorded for a key, or None."""
        try:
            row = self._db.execute("SELECT answer FROM memo WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise self._explain(error) from error
        return None if row is None else bytes(row[0])

    def put_all(self, answers: Iterable[tuple[bytes, bytes]]) -> None:
        """Records answers in one commit. The first answer to a key stays.

        Raises:
            MemoError: Nothing of these was recorded.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR IGNORE INTO memo VALUES (?, ?)", answers)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.rollback()
                raise
        except sqlite3.DatabaseError as error:
            raise self._explain(error) from error

    def put(self, key: bytes, answer: bytes) -> None:
        """Records one answer.

        Raises:
            MemoError: It was not recorded.
        """
        self.put_all([(key, answer)])

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM memo").fetchone()[0])

    def close(self) -> None:
        """Closes the file; the last process to do so folds the journal in."""
        self._db.close()

    def __enter__(self) -> Memo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
