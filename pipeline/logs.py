"""Logs: lines for people, or one JSON object a line for programs, in every process of a run.

Each line says what was at work: the run, the unit, the sample and the stage. `EARWITNESS_LOG=json` chooses the form,
in the run's process, its workers, and deployments; workers on other machines follow their run. No key or token is
written, whatever a message or a stack holds.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

log = logging.getLogger("earwitness")

VARIABLE, LEVEL = "EARWITNESS_LOG", "EARWITNESS_LOG_LEVEL"
FORMATS = ("text", "json")
LONGEST = 4096  # bytes of a line: what one write to a pipe keeps in one piece among several writers
_LIMITS = (2000, 600, 150, 40)  # letters of a text of a line that is too long, tried one after another
_HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|AUTH_STRING|_PAT|_KEY|^KEY)$")
_LEAST_SECRET = 4  # letters: shorter values are no secrets, and would tear words apart
_LEAST_GUESSED = 8  # the same of variables that are only called like secrets
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"]+:[^\s/@'\"]+(?=@)")  # user:password
_CONSOLES = ("rich.", "prefect.")  # whose handlers write to the terminal, and are replaced
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_secrets: set[str] = set()


class LogError(ValueError):
    """The logs cannot be written as they are asked for."""


@dataclass(slots=True)
class Place:
    """What is at work."""

    run: str = ""
    unit: str = ""
    sample: str = ""
    stage: str = ""


_place: ContextVar[Place | None] = ContextVar("place", default=None)
_run = ""  # of this process, where it is no worker


def here() -> Place:
    """What is at work in this context; what is set on it is told in its lines."""
    return _place.get() or Place(_run)


def at(sample: str, stage: str) -> None:
    """From here on, in this context (an asyncio task has its own), a sample is at work."""
    place = here()
    _place.set(Place(place.run, place.unit, sample, stage))


@contextmanager
def working(run: str, unit: str) -> Iterator[Place]:
    """A unit is at work for as long as the context lasts."""
    token = _place.set(Place(run, unit))
    try:
        yield here()
    finally:
        _place.reset(token)


def keep_secret(value: str) -> None:
    """From here on no line of this process shows the value."""
    if len(value) >= _LEAST_SECRET:
        _secrets.add(value)


def hidden(text: str) -> str:
    """A text without secrets."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, _HIDDEN)
    return _IN_ADDRESS.sub(_HIDDEN, text) if "://" in text else text


class Hiding(logging.Filter):
    """Takes secrets out of records, before any handler, ours or not, sees them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        text = record.getMessage()
        if (clean := hidden(text)) != text:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            stack = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
            if (clean := hidden(stack)) != stack:
                record.exc_text, record.exc_info = clean, None
        for name, value in vars(record).items():
            if name not in _KNOWN and isinstance(value, str):
                setattr(record, name, hidden(value))
        return True


_hiding = Hiding()


class JSONLines(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        place = here()
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "run": place.run,
            "unit": place.unit,
            "sample": place.sample,
            "stage": place.stage,
            "process": record.process,
        }
        told = {name: value for name, value in told.items() if value != ""}
        told |= {name: value for name, value in vars(record).items() if name not in _KNOWN and value is not None}
        if record.exc_info or record.exc_text:
            told["error"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        return _line(told).decode()


def _line(told: Mapping[str, Any]) -> bytes:
    """The object, shortened until several processes can write it to one pipe without mixing."""
    line = orjson.dumps(told, default=_told, option=orjson.OPT_NON_STR_KEYS)
    for limit in _LIMITS:
        if len(line) < LONGEST:
            return line
        short = {n: v if isinstance(v, (int, float)) else _shortened(str(v), limit) for n, v in told.items()}
        line = orjson.dumps(short | {"shortened": True}, default=_told)
    return line


def _shortened(text: str, limit: int) -> str:
    """Beginning and end: a stack says most at its end."""
    return text if len(text) <= limit else f"{text[: limit // 4]} ... {text[-(limit * 3 // 4) :]}"


def _told(value: object) -> str:
    return hidden(str(value))


class Lines(logging.Handler):
    """Writes each line to standard error at once, so that lines of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        try:
            rest = self.format(record).encode("utf-8", "replace") + b"\n"
            while rest:
                rest = rest[os.write(2, rest) :]
        except OSError:
            self.handleError(record)  # nobody reads it any more


class Named(logging.Formatter):
    """Lines for people, which name the sample or the unit at work."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        place = here()
        at_work = f" (sample {place.sample})" if place.sample else f" (unit {place.unit})" if place.unit else ""
        return super().format(record) + at_work


def wanted() -> str:
    """The form that the environment asks for.

    Raises:
        LogError: There is no such form.
    """
    form = os.environ.get(VARIABLE) or FORMATS[0]
    if form not in FORMATS:
        raise LogError(f"{VARIABLE}={form}: there are {' and '.join(FORMATS)}")
    return form


def is_json() -> bool:
    """Whether programs read the lines."""
    return wanted() == "json"


def configure(console: logging.Handler | None = None, run: str = "") -> None:
    """Sets up what this process writes; may be called again.

    Args:
        console: Writes for people, where they are at a terminal.
        run: The run that the process belongs to.

    Raises:
        LogError: The environment asks for what there is not.
    """
    global _run
    _run = run or _run
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name.upper()) and len(value) >= _LEAST_GUESSED:
            keep_secret(value)
    if _hiding not in log.filters:
        log.addFilter(_hiding)
    if run:
        log.setLevel(_level(logging.INFO))
    root = logging.getLogger()
    if is_json() or console is not None:
        for handler in list(root.handlers):
            if isinstance(handler, Lines) or type(handler).__module__.startswith(_CONSOLES):
                root.removeHandler(handler)
    if is_json():
        console = Lines()
        console.setFormatter(JSONLines())
        log.setLevel(_level(logging.INFO))
        logging.captureWarnings(True)
        sys.excepthook = _crashed
    elif console is not None:
        console.setFormatter(Named("%(message)s"))
        log.setLevel(_level(logging.INFO))
    elif not root.handlers:  # a worker: what it tells goes among the lines of its run
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(Named("%(message)s"))
        log.setLevel(_level(logging.WARNING))
    if console is not None:
        console.addFilter(_hiding)
        root.addHandler(console)


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def follow(form: str) -> None:
    """Writes in the form of the run that this process works for; a cluster's workers have another environment."""
    if form != wanted():
        os.environ[VARIABLE] = form
        configure()
    elif _hiding not in log.filters:
        configure()


def _level(default: int) -> int:
    name = os.environ.get(LEVEL, "").upper()
    if not name:
        return default
    levels = logging.getLevelNamesMapping()
    if name not in levels:
        raise LogError(f"{LEVEL}={name}: there are {', '.join(levels)}")
    return levels[name]
