"""Predictions: what systems have answered, kept line by line, so that a run that was ended goes on.

A line is a JSON object; its `key` is a digest of all that shapes the answer but the row: model, dataset, system,
decoding, settings. Lines of other keys are left alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import orjson
import xxhash

from pipeline.evaluate.errors import Locked
from pipeline.shards import explained

log = logging.getLogger("earwitness")

NAME = "predictions.jsonl"


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line."""

    key: str
    turn: str
    """`Turn.id`."""
    system: str
    decoding: str
    output: str = ""
    """As it was generated."""
    heard: tuple[str, ...] = ()
    letters: tuple[float, ...] | None = None
    tokens: int = 0
    """That were generated."""
    cut: bool = False
    """Whether it had as many as are allowed."""
    problem: str = ""
    """Why the row cannot be asked: it is left out for all systems."""
    absent: str = ""
    """Why this system is not asked this."""


def key_of(**shaping: Any) -> str:
    """The digest of what shapes answers."""
    return xxhash.xxh3_128_hexdigest(orjson.dumps(shaping, option=orjson.OPT_SORT_KEYS))


class Predictions:
    """The file of an evaluation's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._known: dict[tuple[str, str], Prediction] = {}
        self._recall()

    def _recall(self, mend: bool = False) -> None:
        if self.path.exists():
            for prediction in self._read(mend):
                self._known[prediction.key, prediction.turn] = prediction

    def _read(self, mend: bool) -> Iterator[Prediction]:
        """The lines; with `mend` one at the end that is not whole is removed."""
        content = self.path.read_bytes()
        *lines, rest = content.split(b"\n")
        if rest and mend:  # a run was killed within this line
            log.info("%s: the last line is not whole, and is asked again", self.path)
            with open(self.path, "r+b") as file:
                file.truncate(len(content) - len(rest))
        for number, line in enumerate(lines, 1):
            try:
                yield msgspec.json.decode(line, type=Prediction)
            except msgspec.MsgspecError as error:
                raise Locked(
                    f"{self.path}:{number} is no prediction ({error}): remove the line, or the file to ask all again"
                ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Held while a run adds lines.

        Raises:
            Locked: Another run does.
        """
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Locked(f"another run evaluates into {self.path.parent}: wait, or give another --out") from error
            self._recall(mend=True)  # only who holds the file may, and another may have added to it
            yield
        finally:
            os.close(handle)

    def get(self, key: str, turn: str) -> Prediction | None:
        """What was answered, if it was."""
        return self._known.get((key, turn))

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Adds lines; they are with the system when this returns."""
        some = list(predictions)
        with explained(self.path), open(self.path, "ab") as file:
            file.write(b"".join(msgspec.json.encode(p) + b"\n" for p in some))
        for prediction in some:
            self._known[prediction.key, prediction.turn] = prediction
