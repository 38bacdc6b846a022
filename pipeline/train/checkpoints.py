"""Checkpoints: what was trained so far, whole or not at all.

A checkpoint is a folder `step-XXXXXXXX` with `weights.safetensors`, the parameters that some stage has trained by name;
`optimizer.safetensors`; and `checkpoint.json`, written last: where the run stands, the recipe, and the digests of the
other two. It is written under another name, synced, then renamed. No tensor in it is in shards, so that any number of
processes may go on from it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.shards import digest_of, explained, sync

log = logging.getLogger("earwitness")

_VERSION = 1
_WEIGHTS, _OPTIMIZER, _MANIFEST = "weights.safetensors", "optimizer.safetensors", "checkpoint.json"
_LAST = 2  # the last one, and the one before should it be damaged

Figure = Literal["wer", "cer", "correct", "loss"]


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names it, and says why and what to do."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How good a model was in a validation."""

    step: int
    """Of the stage."""
    figure: Figure
    value: float
    loss: float

    def better_than(self, other: Mark | None) -> bool:
        """By the figure; where that is the same, by the loss."""
        if other is None:
            return True
        sign = -1.0 if self.figure == "correct" else 1.0
        return (sign * self.value, self.loss) < (sign * other.value, other.loss)

    def reaches(self, bound: float) -> bool:
        """Whether the figure is at least as good as a bound."""
        return self.value >= bound if self.figure == "correct" else self.value <= bound


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    stage: int = 0
    """Its number, from 0."""
    step: int = 0
    """Steps of the stage that are done."""
    overall: int = 0
    """Of all stages."""
    epoch: int = 0
    """Of the stage, from 0."""
    into: int = 0
    """Steps of the epoch that are done."""
    mark: Mark | None = None
    """Of the validation at this step, if there was one."""
    best: Mark | None = None
    """The stage's best so far."""
    worse: int = 0
    """Validations since then."""
    ended: str = ""
    """Why the stage is over; empty while it goes on."""

    def judged(self, mark: Mark) -> Progress:
        """After a validation."""
        if mark.better_than(self.best):
            return replace(self, mark=mark, best=mark, worse=0)
        return replace(self, mark=mark, worse=self.worse + 1)


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole."""

    folder: Path
    progress: Progress

    def weights(self) -> dict[str, Tensor]:
        """What was trained, by name."""
        return dict(load_file(self.folder / _WEIGHTS))

    def moments(self) -> dict[str, Tensor]:
        """What the optimizer keeps."""
        return dict(load_file(self.folder / _OPTIMIZER))


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Where they lie.
        recipe: As it is stored with them.
        shaping: All that the weights follow from, as plain values: a checkpoint of others is refused.
        best: How many of the best are kept of a stage.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any], shaping: Mapping[str, Any], best: int) -> None:
        self.folder, self._recipe, self._best = folder, recipe, best
        self._shaping: dict[str, Any] = json.loads(json.dumps(shaping))
        self.fingerprint = xxhash.xxh3_128_hexdigest(orjson.dumps(self._shaping, option=orjson.OPT_SORT_KEYS))

    def save(self, progress: Progress, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> Checkpoint:
        """Writes one, and removes those that are no longer needed. Of several processes one writes.

        Raises:
            DiskError: The disk is full, or the folder cannot be written to.
        """
        target = self.folder / f"step-{progress.overall:08d}"
        scratch = self.folder / f".{target.name}.tmp"
        with explained(target):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            for name, tensors in ((_WEIGHTS, weights), (_OPTIMIZER, moments)):
                try:
                    save_file(tensors, scratch / name)
                except SafetensorError as error:  # it hides the system's error in its text
                    raise OSError(f"{error}") from error
                sync(scratch / name)
            files = {name: digest_of(scratch / name) for name in (_WEIGHTS, _OPTIMIZER)}
            known = {"version": _VERSION, "fingerprint": self.fingerprint, "files": files}
            rest = {"progress": asdict(progress), "shaping": self._shaping, "recipe": dict(self._recipe)}
            (scratch / _MANIFEST).write_text(json.dumps(known | rest, indent=1))
            sync(scratch / _MANIFEST)
            sync(scratch)
            shutil.rmtree(target, ignore_errors=True)  # a damaged one, which was passed over
            os.replace(scratch, target)
            sync(self.folder)
            self._prune()
        return Checkpoint(target, progress)

    def newest(self, told: Callable[[str], None] = log.warning) -> Checkpoint | None:
        """The last one that is whole, or None.

        Args:
            told: Is told of damaged ones.

        Raises:
            CheckpointError: It is of another recipe; or there are some, and none is whole.
        """
        damaged = []
        for folder in self._folders():
            found, problem = self._read(folder, verify=True)
            if found is not None:
                return found
            damaged.append(folder)
            told(f"the checkpoint {folder} is damaged ({problem}): going on from the one before it")
        if damaged:
            raise CheckpointError(f"no checkpoint in {self.folder} is whole: delete the folder to begin anew")
        return None

    def best(self, stage: int, told: Callable[[str], None] = log.warning) -> Checkpoint:
        """A stage's best; without validations its last.

        Raises:
            CheckpointError: There is none that is whole.
        """
        for one in _ranked([c for c in self if c.progress.stage == stage]):
            found, problem = self._read(one.folder, verify=True)
            if found is not None:
                return found
            told(f"the checkpoint {one.folder} is damaged ({problem}): taking the next best of the stage")
        raise CheckpointError(f"no checkpoint of stage {stage + 1} in {self.folder} is whole: delete it to begin anew")

    def __iter__(self) -> Iterator[Checkpoint]:
        """Those that are whole, the newest first."""
        for folder in self._folders():
            found, _ = self._read(folder, verify=False)
            if found is not None:
                yield found

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-????????"), reverse=True)

    def _read(self, folder: Path, verify: bool) -> tuple[Checkpoint | None, str]:
        """A checkpoint, or what is wrong with it."""
        try:
            known = json.loads((folder / _MANIFEST).read_bytes())
            fingerprint, shaping = known["fingerprint"], known["shaping"]
            progress = _progress(known["progress"])
            for name, digest in known["files"].items() if verify else ():
                if digest_of(folder / name) != digest:
                    return None, f"{name} is not as it was written"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return None, f"{type(error).__name__}: {error}"
        if fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{folder} is of another recipe; these differ: {'; '.join(differences(shaping, self._shaping))}. "
                "Give another --out, or take back the change to go on with that run"
            )
        return Checkpoint(folder, progress), ""

    def _prune(self) -> None:
        """Keeps the last ones, and the best of each stage that one of these belongs to."""
        there = list(self)
        last = there[:_LAST]
        kept = {c.folder for c in last}
        for stage in {c.progress.stage for c in last}:
            ranked = _ranked([c for c in there if c.progress.stage == stage])
            kept |= {c.folder for c in ranked[: self._best]}
        for folder in self._folders():
            if folder not in kept:
                shutil.rmtree(folder)


def _ranked(some: list[Checkpoint]) -> list[Checkpoint]:
    """The best first; those without a validation last, the newest first."""

    def key(one: Checkpoint) -> tuple[float, ...]:
        mark = one.progress.mark
        if mark is None:
            return (1.0, 0.0, 0.0, -one.progress.overall)
        return (0.0, -mark.value if mark.figure == "correct" else mark.value, mark.loss, one.progress.overall)

    return sorted(some, key=key)


def _progress(known: dict[str, Any]) -> Progress:
    marks = {name: Mark(**known[name]) if known[name] else None for name in ("mark", "best")}
    return Progress(**(known | marks))


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs between two trees of plain values, key by key."""
    if isinstance(before, list) and isinstance(now, list):
        before, now = ({str(n): value for n, value in enumerate(side)} for side in (before, now))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(
                before.get(key, "not there"), now.get(key, "not there"), f"{name}.{key}" if name else str(key)
            )
    elif before != now:
        yield f"{name} was {before!r} and is {now!r}"
