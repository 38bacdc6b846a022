"""Watch: what a run tells is shown on a progress bar and written down, once each, however often it is killed.

In the run's folder: `metrics.jsonl` has a line for each step, validation, stage and note; `samples.jsonl` one for
each row that a validation decoded; `tensorboard/` the same figures for TensorBoard.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from pipeline.shards import explained, write_atomically
from pipeline.train.events import Decoded, StageBegun, Stepped, Validated

METRICS, SAMPLES, TENSORBOARD = "metrics.jsonl", "samples.jsonl", "tensorboard"
_SMOOTH = 0.95  # of the shown loss: the last 20 steps or so
_EVERY = 30.0  # seconds between two lines where nobody sees a bar

Line = dict[str, Any]
Event = StageBegun | Stepped | Validated | Decoded


class Record:
    """Watches a run: use it as a context.

    Args:
        out: The run's folder.
        console: Where the bar is shown.
    """

    def __init__(self, out: Path, console: Console) -> None:
        self._out, self._console = out, console
        self._metrics: BufferedWriter | None = None
        self._samples: BufferedWriter | None = None
        self._board: Any = None
        self._validated: set[tuple[str, int]] = set()
        self._bar = Progress(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, figures="")
        self._loss: float | None = None
        self._best = ""
        self._said = time.monotonic()
        self._early: list[str] = []

    def __enter__(self) -> Record:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        for stream in (self._metrics, self._samples, self._board):
            if stream is not None:
                stream.close()

    def stage(self, event: StageBegun) -> None:
        """A stage begins or goes on: with the first of a run, what was told of later steps is taken back."""
        if self._metrics is None:
            self._open(event.overall)
            for text in self._early:
                self._note(text)
        self._write(self._metrics, "stage", event)
        named = f"{event.stage} {event.number + 1}/{event.stages}"
        self._bar.update(self._task, description=named, total=event.steps_overall, completed=event.overall)
        self._loss, self._best, self._said = None, "", time.monotonic()
        weights = ", ".join(f"{part} {count:,}" for part, count in event.trains.items())
        begun = f"goes on after step {event.step}" if event.step else "begins"
        told = f"[bold]{event.stage}[/bold] {begun}, of {event.steps} steps; trains {weights} weights"
        self._console.print(told, soft_wrap=True)

    def step(self, event: Stepped) -> None:
        """Writes a step down, and moves the bar."""
        self._write(self._metrics, "step", event)
        board = self._board
        for name, value in {"loss": event.loss, **event.losses, "gradient_norm": event.gradient_norm}.items():
            board.add_scalar(f"train/{name}", value, event.overall)
        for part, rate in event.learning_rates.items():
            board.add_scalar(f"learning_rate/{part}", rate, event.overall)
        for name in ("audio_rate", "token_rate", "padding", "waited"):
            board.add_scalar(f"speed/{name}", getattr(event, name), event.overall)
        board.add_scalar("speed/memory_gb", event.memory / 1e9, event.overall)
        self._loss = event.loss if self._loss is None else _SMOOTH * self._loss + (1 - _SMOOTH) * event.loss
        figures = f"loss {self._loss:.3f}{self._best}  {event.audio_rate:.0f} s/s"
        self._bar.update(self._task, completed=event.overall, figures=figures)
        if not self._console.is_terminal and time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            self._console.print(f"{event.stage} {event.step}: {figures}", soft_wrap=True)

    def sample(self, event: Decoded) -> None:
        """Writes a decoded row down."""
        if (event.stage, event.overall) in self._validated:
            return
        self._write(self._samples, "sample", event)
        text = f"{event.id}\n\nreference: {event.reference}\n\nresponse: {event.response}"
        self._board.add_text(f"samples/{event.task}", text, event.overall)

    def validation(self, event: Validated) -> None:
        """Writes a validation down, and says its figures."""
        if (event.stage, event.overall) in self._validated:
            return
        self._validated.add((event.stage, event.overall))
        self._write(self._metrics, "validation", event)
        for name, value in (event.losses | event.figures).items():
            self._board.add_scalar(f"validation/{name}", value, event.overall)
        self._board.flush()
        named = event.losses | event.figures
        if named.get("cross_entropy") == named.get("loss"):  # as long as it alone is minimised
            named = {name: value for name, value in named.items() if name != "cross_entropy"}
        figures = ", ".join(f"{name} {value:.3f}" for name, value in named.items())
        best = ", the best so far" if event.better else ""
        self._best = f"  {event.figure} {event.value:.3f}"
        self._console.print(f"{event.stage} {event.step}: validation: {figures}{best}", highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Says and writes down a sentence."""
        self._console.print(Text(text, "yellow"), soft_wrap=True)
        if self._metrics is None:
            self._early.append(text)  # before the first stage: nothing is open yet
        else:
            self._note(text)

    def _note(self, text: str) -> None:
        assert self._metrics is not None
        with explained(self._out):
            self._metrics.write(orjson.dumps({"kind": "note", "time": time.time(), "text": text}) + b"\n")
            self._metrics.flush()

    def _open(self, overall: int) -> None:
        """Opens the files, without what was told of steps that are done again."""
        metrics = self._out / METRICS
        cut(metrics, lambda line: line.get("overall", 0) <= overall)
        done = {(line["stage"], line["overall"]) for line in lines(metrics) if line["kind"] == "validation"}
        self._validated = done
        # A validation after the last of the steps may have been broken off, and is made again.
        cut(self._out / SAMPLES, lambda line: (line["stage"], line["overall"]) in done)
        with explained(self._out):
            self._metrics = open(metrics, "ab")  # noqa: SIM115 - closed with this object
            self._samples = open(self._out / SAMPLES, "ab")  # noqa: SIM115
        self._board = SummaryWriter(str(self._out / TENSORBOARD), purge_step=overall + 1 if overall else None)

    def _write(
        self, stream: BufferedWriter | None, kind: str, event: StageBegun | Stepped | Validated | Decoded
    ) -> None:
        assert stream is not None, "a stage begins before its steps"
        with explained(self._out):
            stream.write(orjson.dumps({"kind": kind, "time": time.time(), **asdict(event)}) + b"\n")
            stream.flush()  # so that a kill loses nothing


def lines(path: Path) -> list[Line]:
    """The lines of a file; the last one may have been broken off by a kill, and is left out."""
    if not path.exists():
        return []
    found = []
    for text in path.read_bytes().splitlines():
        with suppress(json.JSONDecodeError):
            found.append(orjson.loads(text))
    return found


class Share:
    """How much of a run's steps is done, by what it has written down; each look reads only what is new."""

    def __init__(self, out: Path) -> None:
        self._path = out / METRICS
        self._read = 0
        self._overall = self._steps = 0

    def __call__(self) -> float | None:
        """Between 0 and 1; None before a stage has begun."""
        with suppress(FileNotFoundError), open(self._path, "rb") as stream:
            if self._path.stat().st_size < self._read:  # it was cut, since steps are done again
                self._read = 0
            stream.seek(self._read)
            for text in stream:
                if not text.endswith(b"\n"):
                    break  # it is being written
                self._read += len(text)
                with suppress(json.JSONDecodeError):
                    line = orjson.loads(text)
                    self._overall = line.get("overall", self._overall)
                    self._steps = line.get("steps_overall", self._steps)
        return self._overall / self._steps if self._steps else None


def cut(path: Path, keep: Callable[[Line], bool]) -> None:
    """Keeps some of a file's lines; what a kill has broken off goes, too."""
    if path.exists():
        kept = [line for line in lines(path) if keep(line)]
        write_atomically(path, b"".join(orjson.dumps(line) + b"\n" for line in kept))
