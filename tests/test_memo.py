"""The memo: answers stay, whoever asks and whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memo import Memo, MemoError, digest


def test_an_answer_is_there_for_the_next_process(tmp_path: Path) -> None:
    with Memo(tmp_path / "memo.sqlite") as memo:
        memo.put(b"key", b"answer")
    with Memo(tmp_path / "memo.sqlite") as memo:
        assert memo.get(b"key") == b"answer"
        assert memo.get(b"other") is None
        assert len(memo) == 1


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with Memo(tmp_path / "memo.sqlite") as memo:
        memo.put(b"key", b"first")
        memo.put_all([(b"key", b"second"), (b"new", b"third")])
        assert memo.get(b"key") == b"first"
        assert memo.get(b"new") == b"third"


def _write(path: Path, worker: int, count: int) -> None:
    with Memo(path) as memo:
        for number in range(count):
            memo.put(f"{worker}-{number}".encode(), bytes(500))


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "memo.sqlite"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(path, worker, 200)) for worker in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with Memo(path) as memo:
        assert len(memo) == 800


def _write_until_killed(path: Path, told: Path) -> None:
    with Memo(path) as memo, open(told, "ab", buffering=0) as stream:
        for number in range(10**6):
            memo.put_all([(f"{number}-{n}".encode(), os.urandom(300)) for n in range(3)])
            stream.write(b"%d\n" % number)


def test_what_was_recorded_outlives_a_kill(tmp_path: Path) -> None:
    path, told = tmp_path / "memo.sqlite", tmp_path / "told"
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        process = context.Process(target=_write_until_killed, args=(path, told))
        process.start()
        while not told.exists() or told.stat().st_size < 2000:
            time.sleep(0.01)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with Memo(path) as memo:
            for number in told.read_text().split():
                assert all(memo.get(f"{number}-{n}".encode()) is not None for n in range(3))
        told.unlink()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "memo.sqlite"
    path.write_bytes(b"this is no database, but long enough to look like a file" * 100)
    with pytest.raises(MemoError, match=r"memo\.sqlite.*move it away"):
        Memo(path)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with Memo(tmp_path / "memo.sqlite") as memo:
        memo.put(b"kept", b"answer")
        memo._db.execute("PRAGMA max_page_count = 8")
        with pytest.raises(MemoError, match=r"full.*everything recorded so far is kept"):
            memo.put_all((b"%d" % number, bytes(4000)) for number in range(100))
        assert memo.get(b"kept") == b"answer"
    with sqlite3.connect(tmp_path / "memo.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_keys_differ_where_their_parts_differ(a: list[bytes], b: list[bytes]) -> None:
    assert (digest(*a) == digest(*b)) == (a == b)
