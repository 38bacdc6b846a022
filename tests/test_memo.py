"""The memo: answers stay, whoever asks and whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memo import Memo, MemoDamaged, MemoError, digest, mend
from pipeline.remembering import gather, open_memo
from tests.killing import die_at


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


def _answers() -> dict[bytes, bytes]:
    """Short ones and, here and there, long ones, which lie on many pages."""
    rng = random.Random(3)
    return {digest(b"%d" % n): rng.randbytes(9000 if n % 40 == 0 else 150 + n % 90) for n in range(1500)}


def _filled(path: Path) -> dict[bytes, bytes]:
    known = _answers()
    with Memo(path) as memo:
        for first in range(0, 1500, 100):
            memo.put_all(list(known.items())[first : first + 100])
    return known


def _read(path: Path, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
    """What a run reads of a memo, and records anew."""
    while True:
        try:
            with Memo(path) as memo:
                found = {key: memo.get(key) for key in keys}
                memo.put(b"new", b"answer")
                return found
        except MemoDamaged as damage:
            mend(damage.path)


def _pages(path: Path, kind: int) -> list[int]:
    content = path.read_bytes()
    return [at for at in range(0, len(content), 4096) if at and content[at] == kind]


def _overwrite(path: Path, at: int, content: bytes) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        stream.write(content)


@pytest.mark.parametrize(
    ("damage", "most_lost"),
    [
        ("all", 1500),
        ("header", 10),
        ("first page", 10),
        ("root", 0),
        ("rows", 30),
        ("index", 0),
        ("tail", 400),
        ("zeros", 200),
    ],
)
def test_a_damaged_file_is_set_aside_and_what_is_whole_of_it_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, most_lost: int
) -> None:
    path = tmp_path / "memo.sqlite"
    known = _filled(path)
    size = path.stat().st_size
    if damage == "all":
        path.write_bytes(b"this is no database, but long enough to look like a file" * 100)
    elif damage == "header":
        _overwrite(path, 0, bytes(100))
    elif damage == "first page":
        _overwrite(path, 0, os.urandom(4096))
    elif damage == "root":
        for at in _pages(path, 5):  # what leads to the rows
            _overwrite(path, at, os.urandom(512))
    elif damage == "rows":
        _overwrite(path, _pages(path, 13)[20], os.urandom(4096))
    elif damage == "index":
        for at in _pages(path, 10)[:5]:
            _overwrite(path, at, os.urandom(64))
    elif damage == "tail":
        os.truncate(path, size * 3 // 4)
    else:
        _overwrite(path, size // 2, bytes(40_000))
    found = _read(path, known)
    assert all(answer in (None, known[key]) for key, answer in found.items()), "nothing wrong is ever answered"
    assert sum(answer is None for answer in found.values()) <= most_lost
    assert (tmp_path / "memo.sqlite.damaged-1").exists()
    (told,) = [r.getMessage() for r in caplog.records if "was damaged" in r.getMessage()]
    assert f"{path} was damaged: " in told
    assert "memo.sqlite.damaged-1" in told
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert _read(path, known) == found


def test_an_answer_that_rots_is_asked_for_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite sees nothing: the file is whole, and one letter is another."""
    path, answer = tmp_path / "memo.sqlite", b"the train leaves from platform fourteen"
    with Memo(path) as memo:
        memo.put_all([(b"key", answer), (b"other", b"fine")])
    _overwrite(path, path.read_bytes().index(b"fourteen"), b"fifteen ")
    with Memo(path) as memo:
        assert memo.get(b"key") is None
        assert "memo.sqlite: an answer is not as it was recorded" in caplog.text
        memo.put(b"key", answer)
        assert memo.get(b"key") == answer
        assert memo.get(b"other") == b"fine"


def test_answers_that_are_still_in_the_journal_are_saved(tmp_path: Path) -> None:
    path, told = tmp_path / "memo.sqlite", tmp_path / "told"
    process = multiprocessing.get_context("spawn").Process(target=_write_until_killed, args=(path, told))
    process.start()
    while not told.exists() or told.stat().st_size < 2000:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert (tmp_path / "memo.sqlite-wal").stat().st_size > 100_000
    path.write_bytes(os.urandom(8192))
    numbers = told.read_text().split()
    found = _read(path, [f"{number}-{n}".encode() for number in numbers for n in range(3)])
    assert None not in found.values()


def test_a_file_of_before_there_were_checksums(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "memo.sqlite") as db:
        db.execute("CREATE TABLE memo (key BLOB PRIMARY KEY, answer BLOB NOT NULL)")
        db.execute("INSERT INTO memo VALUES (?, ?)", (b"key", b"answer"))
    db.close()
    with Memo(tmp_path / "memo.sqlite") as memo:
        memo.put(b"new", b"other")
        assert (memo.get(b"key"), memo.get(b"new")) == (b"answer", b"other")


def _mend_and_die(path: Path, step: int) -> None:
    die_at(step)
    mend(path)
    os._exit(7)


def test_a_mending_that_is_killed_is_gone_on_with(tmp_path: Path) -> None:
    """Before each step of it, with answers of which some are in the journal alone."""
    whole = tmp_path / "whole"
    whole.mkdir()
    known = _filled(whole / "memo.sqlite")
    _overwrite(whole / "memo.sqlite", 0, bytes(100))
    for step in range(1, 30):
        out = tmp_path / f"killed{step}"
        shutil.copytree(whole, out)
        child = os.fork()
        if not child:
            _mend_and_die(out / "memo.sqlite", step)
        _, status = os.waitpid(child, 0)
        assert sum(answer is None for answer in _read(out / "memo.sqlite", known).values()) <= 10
        left = {p.name for p in out.iterdir()} - {"memo.sqlite.lock", "memo.sqlite.turn"}
        assert left == {"memo.sqlite", "memo.sqlite.damaged-1"}
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7:
            assert step > 3
            return
    raise AssertionError("it never came to its end")


def _go_on(path: Path, worker: int) -> None:
    """A worker that asks and records, in units, whatever happens to the file."""
    for unit in range(12):
        keys = [f"{worker}-{unit}-{n}".encode() for n in range(40)]
        _read(path, _answers())
        while True:
            try:
                with Memo(path) as memo:
                    memo.put_all((key, b"from " + key) for key in keys)
                break
            except MemoDamaged as damage:
                mend(damage.path)


def test_several_processes_find_the_damage_at_once(tmp_path: Path) -> None:
    path = tmp_path / "memo.sqlite"
    known = _filled(path)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_go_on, args=(path, worker)) for worker in range(3)]
    for process in processes:
        process.start()
    time.sleep(1.0)
    for at in _pages(path, 5):
        _overwrite(path, at, os.urandom(512))
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    mine = [f"{worker}-{unit}-{n}".encode() for worker in range(3) for unit in range(12) for n in range(40)]
    found = _read(path, [*known, *mine])
    assert all(found[key] == b"from " + key for key in mine), "what was recorded in the middle of it is there"
    assert all(found[key] == answer for key, answer in known.items())
    assert [p.name for p in tmp_path.glob("*.damaged-?")] == ["memo.sqlite.damaged-1"]


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


def test_machines_of_a_cluster_record_each_for_itself_and_the_next_run_gathers_it(tmp_path: Path) -> None:
    with open_memo(tmp_path, shared=False) as memo:
        memo.put(b"early", b"known to all")
    gather(tmp_path, shared=True)
    before = (tmp_path / "memo.sqlite").read_bytes()
    with open_memo(tmp_path, shared=True) as memo:
        assert memo.get(b"early") == b"known to all"
        assert memo.get(b"late") is None
        memo.put(b"late", b"new")
        assert memo.get(b"late") == b"new"
    assert (tmp_path / "memo.sqlite").read_bytes() == before, "nobody writes what all read"
    with Memo(tmp_path / "memo-elsewhere-1.sqlite") as memo:  # of another machine
        memo.put_all([(b"late", b"asked twice"), (b"there", b"of the other")])
    gather(tmp_path, shared=False)
    with open_memo(tmp_path, shared=False) as memo:
        assert len(memo) == 3
        assert memo.get(b"there") == b"of the other"
    assert [path.name for path in tmp_path.glob("memo-*")] == []


def test_a_damaged_file_of_a_machine_is_gathered_as_far_as_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "memo-elsewhere-1.sqlite"
    with Memo(path) as memo:
        memo.put_all([(b"%d" % number, b"%d" % number * 500) for number in range(200)])
    with open(path, "r+b") as file:
        file.seek(40_000)
        file.write(os.urandom(5000))
    gather(tmp_path, shared=True)
    with Memo(tmp_path / "memo.sqlite") as memo:
        assert 100 < len(memo) < 200
        assert all(memo.get(b"%d" % number) in (None, b"%d" % number * 500) for number in range(200))
