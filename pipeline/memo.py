"""Memo: every expensive call is remembered by what was asked, before its answer is used.

One SQLite file in WAL mode, shared by all processes of a machine. A commit reaches the operating
system before `put` returns, so a killed process loses nothing that it was told; after a power cut
the last moments may be missing, and the file is whole (sqlite.org/wal.html, section 2.3).

A disk may still damage it. An answer whose checksum is wrong is forgotten, and asked for again; a file
that SQLite cannot read any more is set aside, and what is whole of it goes into a new one (`mend`).
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType

from pipeline import salvage
from pipeline.salvage import checksum

log = logging.getLogger("earwitness")

BUSY_SECONDS = 120.0  # how long a writer waits for the others
CHECKPOINT_PAGES = 10_000  # of 4 kB: the journal is folded in, and synced, every 40 MB


_TABLE = "CREATE TABLE IF NOT EXISTS memo (key BLOB PRIMARY KEY, answer BLOB NOT NULL, checksum INTEGER)"
_INSERT = "INSERT OR IGNORE INTO memo VALUES (?, ?, ?)"


class MemoError(OSError):
    """The memory cannot be read or written; the message names the file and the cure."""


class MemoDamaged(MemoError):
    """The file is not what SQLite has written. `mend(path)` saves what it can, once this process has closed it."""

    def __init__(self, message: str, path: Path = Path()) -> None:
        super().__init__(message)
        self.path = path


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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._held = _hold(path)
        except OSError as error:
            if isinstance(error, MemoError):
                raise
            raise MemoError(f"{path}: {error.strerror}; check that the folder can be written to") from error
        try:
            # Statements are committed one by one unless `put_all` groups them.
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            os.close(self._held)
            raise self._explain(error) from error
        try:
            self._wal()
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            # With rowids answers are appended and only the small index is written in random order:
            # a third of the time of WITHOUT ROWID.
            self._db.execute(_TABLE)
            self._take_checksums()
        except sqlite3.DatabaseError as error:
            self.close()
            raise self._explain(error) from error

    def _take_checksums(self) -> None:
        """A file of version 0.1 has none: its answers are believed."""
        if self._columns() < 3:
            self._db.execute("BEGIN IMMEDIATE")
            if self._columns() < 3:
                self._db.execute("ALTER TABLE memo ADD COLUMN checksum INTEGER")
            self._db.execute("COMMIT")

    def _columns(self) -> int:
        return len(self._db.execute("PRAGMA table_info(memo)").fetchall())

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
        elif _is_damage(error):
            return MemoDamaged(f"{self.path}: {text}; run again, and what is whole of it is saved", self.path)
        elif "locked" in text:
            cure = f"another process has held it for {BUSY_SECONDS:g} s"
        else:
            cure = "check that the folder can be written to"
        return MemoError(f"{self.path}: {text}; {cure}")

    def get(self, key: bytes) -> bytes | None:
        """The answer recorded for a key, or None; one that the disk has damaged is forgotten."""
        try:
            row = self._db.execute("SELECT answer, checksum FROM memo WHERE key = ?", (key,)).fetchone()
            if row is None or row[1] is None or row[1] == checksum(key, row[0]):
                return None if row is None else bytes(row[0])
            self._db.execute("DELETE FROM memo WHERE key = ?", (key,))
        except sqlite3.DatabaseError as error:
            raise self._explain(error) from error
        log.warning(
            "%s: an answer is not as it was recorded, the disk has damaged it: it is asked for again", self.path
        )
        return None

    def put_all(self, answers: Iterable[tuple[bytes, bytes]]) -> None:
        """Records answers in one commit. The first answer to a key stays.

        Raises:
            MemoError: Nothing of these was recorded.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_INSERT, ((key, answer, checksum(key, answer)) for key, answer in answers))
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

    def everything(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their answers, but for those that the disk has damaged."""
        try:
            for key, answer, wanted in self._db.execute("SELECT key, answer, checksum FROM memo"):
                if wanted is None or wanted == checksum(key, answer):
                    yield key, answer
        except sqlite3.DatabaseError as error:
            raise self._explain(error) from error

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM memo").fetchone()[0])

    def close(self) -> None:
        """Closes the file; the last process to do so folds the journal in."""
        try:
            self._db.close()
        finally:
            os.close(self._held)

    def __enter__(self) -> Memo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def mend(path: Path) -> None:
    """Sets a damaged file aside and puts what is whole of it into a new one. Whoever opens it meanwhile waits.

    All processes that hold it are waited for: what they still record is saved, too. Nothing is done where
    the file is sound, another process having mended it. A mending that is killed is gone on with.

    Raises:
        MemoError: There is no room for the new file, or the folder cannot be written to.
    """
    mended = _mended(path)
    with _alone(path):
        try:
            if not mended.exists():
                if _is_sound(path):
                    return
                _save(path, mended)
            aside = _set_aside(path)
            os.replace(mended, path)
            with closing(sqlite3.connect(path)) as db:
                saved = db.execute("SELECT count(*) FROM memo").fetchone()[0]
        except (OSError, sqlite3.DatabaseError) as error:
            raise MemoError(f"{path} is damaged, and what is whole of it cannot be saved: {error}") from error
    log.warning(
        "%s was damaged: %d answers in it are whole and were saved, what is lacking is asked for again. "
        "The damaged file is now %s, and nobody needs it",
        path,
        saved,
        aside.name,
    )


def _is_damage(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _mended(path: Path) -> Path:
    return path.with_name(f"{path.name}.mended")


def _is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as db:
            return bool(db.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        if _is_damage(error):
            return False
        raise


def _save(path: Path, mended: Path) -> None:
    """Writes what is whole to a new file, which has its name only when all of it is there."""
    scratch = path.with_name(f"{path.name}.saving")
    for left in (scratch, scratch.with_name(f"{scratch.name}-journal")):  # of a mending that was killed
        left.unlink(missing_ok=True)
    with closing(sqlite3.connect(scratch)) as db, db:
        db.execute(_TABLE)
        db.executemany(_INSERT, ((key, answer, checksum(key, answer)) for key, answer in salvage.answers(path)))
    os.replace(scratch, mended)


def _set_aside(path: Path) -> Path:
    """Gives the file and its journal other names; a journal must never lie beside a file that it does not belong to."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    for ending in ("-wal", ""):
        if (there := path.with_name(path.name + ending)).exists():
            os.replace(there, aside.with_name(aside.name + ending))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    return aside


def _hold(path: Path) -> int:
    """A descriptor that keeps others from mending the file, for as long as it is open."""
    while True:
        with _locked(path, "turn", fcntl.LOCK_SH):  # behind whoever waits to mend it
            held = _lock(path, "lock", fcntl.LOCK_SH)
        if not _mended(path).exists():
            return held
        os.close(held)
        mend(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with _locked(path, "turn", fcntl.LOCK_EX), _locked(path, "lock", fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(path: Path, name: str, kind: int) -> Iterator[None]:
    handle = _lock(path, name, kind)
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: Path, name: str, kind: int) -> int:
    handle = os.open(path.with_name(f"{path.name}.{name}"), os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(handle, kind)
    return handle
