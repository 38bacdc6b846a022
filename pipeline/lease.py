"""Lease: one run a dataset, where runs on different machines share nothing but the store.

A run holds `.build/lock/<number>`, an object that is created on condition that it is not there; the highest
number holds the dataset. The run renews it, and says at its end that it is free. One that has not been renewed
for five minutes, by the store's own clock, is of a run that is gone: the next takes the next number. So is one
that was taken in the same work folder, whose lock on this machine proves that nobody works in it. A run that was
suspended for longer finds a higher number when it wakes, and writes no more.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline import storage

log = logging.getLogger("earwitness")

BEAT = 60.0  # seconds between renewals
STALE = 300.0  # seconds without one, after which a run is taken for dead
_FOLDER = ".build/lock"
_JUST_BEGUN = "another run has just begun in {}: wait for it, or give another --out"

_held: dict[str, _Lease] = {}
"""Of this process, by the dataset's URL."""


class FolderInUse(RuntimeError):
    """Another run is building in this folder."""


@contextmanager
def held(url: str, folder: str) -> Iterator[None]:
    """Holds a dataset in a store while the context lasts.

    Args:
        url: The dataset's.
        folder: A name of the work folder that no other has, on any machine.

    Raises:
        FolderInUse: Another run holds it; the message says who.
        StoreError: The store refuses or cannot be reached.
    """
    lease = _Lease(url, folder)
    lease.take()
    _held[url] = lease
    try:
        yield
        lease.check()
    finally:
        del _held[url]
        lease.leave()


def check(url: str) -> None:
    """Nothing, unless this process held a dataset and has lost it.

    Raises:
        FolderInUse: Another run has taken it.
    """
    if (lease := _held.get(url)) is not None:
        lease.check()


def taken(url: str) -> bool:
    """Whether a run of any machine seems to hold a dataset. Nothing is written, so it goes by this machine's clock."""
    there = storage.listed(f"{url}/{_FOLDER}")
    numbers = [name for name in there if name.isdecimal()]
    if not numbers:
        return False
    name = f"{url}/{_FOLDER}/{max(numbers)}"
    try:
        who = json.loads(storage.read(name))
        return who["process"] is not None and time.time() - storage.modified(name) < STALE
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # replaced meanwhile, or not ours
        return False


class _Lease:
    def __init__(self, url: str, folder: str) -> None:
        self._url, self._folder = url, folder
        self._number = 0
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def take(self) -> None:
        number = self._highest()
        if number:
            self._refuse_fresh(number)
        try:
            storage.write(self._name(number + 1), self._content(os.getpid()), new=True)
        except FileExistsError as error:
            raise FolderInUse(_JUST_BEGUN.format(self._url)) from error
        if self._highest() != number + 1:  # while we looked, others came, went, and came
            raise FolderInUse(_JUST_BEGUN.format(self._url))
        self._number = number + 1
        if number:
            storage.delete(self._name(number))
        self._thread.start()

    def leave(self) -> None:
        """Says that it is free. The object stays: numbers never begin again, or a slow reader could be misled."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._lost:
            with suppress(storage.StoreError):  # it becomes stale by itself
                storage.write(self._name(self._number), self._content(None))

    def check(self) -> None:
        if self._lost:
            raise FolderInUse(
                f"another run has taken {self._url} while this one was suspended or had no connection for "
                f"{STALE / 60:.0f} minutes: nothing more is written here"
            )

    def _renew(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if self._highest() != self._number:
                    self._lost = True
                    return
                storage.write(self._name(self._number), self._content(os.getpid()))
            except (storage.StoreError, OSError) as error:
                log.warning("the lock of %s could not be renewed, and is tried again: %s", self._url, error)

    def _name(self, number: int) -> str:
        return f"{self._url}/{_FOLDER}/{number:08d}"

    def _highest(self) -> int:
        there = storage.listed(f"{self._url}/{_FOLDER}")
        return max((int(name) for name in there if name.isdecimal()), default=0)

    def _content(self, process: int | None) -> bytes:
        """Who holds it; nobody, if there is no process."""
        who = {"user": _user(), "host": socket.gethostname(), "process": process, "folder": self._folder}
        return json.dumps(who if process is not None else {"process": None}).encode()

    def _refuse_fresh(self, number: int) -> None:
        """Nothing, if the lock is free or stale."""
        try:
            who: dict[str, Any] = json.loads(storage.read(self._name(number)))
            if who["process"] is None or who["folder"] == self._folder:
                return
            owner = f"{who['user']} on {who['host']} (process {who['process']})"
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            owner = "somebody"
        age = storage.age(self._name(number))
        if age < STALE:
            raise FolderInUse(
                f"{owner} is building in {self._url}, seen {age:.0f} s ago: wait for that run, or give another --out. "
                f"If it is gone, the dataset is free {STALE - age:.0f} s from now"
            )
        log.warning("%s was building in %s and has not been seen for %.0f s: this run goes on", owner, self._url, age)


def _user() -> str:
    with suppress(OSError, KeyError):  # a container may have no name for its user
        return getpass.getuser()
    return str(os.getuid())
