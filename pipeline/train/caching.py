"""Caching: whether it saves time to keep what a frozen encoder says, by trying the encoder and the disk."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import shards
from pipeline.model.base import SpeechLM
from pipeline.train.encoded import Form, Sounds, decoded, listened, listens
from pipeline.train.index import user_cache
from pipeline.train.rows import Rows
from schemas.arrow import SAMPLING_RATE

_TRIAL = 120.0  # seconds of sound that the encoder is tried with
_TRIAL_BYTES = 64 * 2**20  # that are written to try the disk
_WORTH = 0.8  # of the time without a cache that it may cost at most
_SPARE = 0.9  # of the free disk that it may take at most


@dataclass(frozen=True)
class Decision:
    """Whether to keep what the encoder says, and why."""

    keep: bool
    reason: str


def decide(
    rows: Rows, sounds: Sounds, speech_lm: SpeechLM, *, heard_seconds: float, world: int = 1, cache: Path | None = None
) -> Decision:
    """Estimates whether a cache saves time: the encoder and the disk are tried.

    Args:
        rows: What the sounds are in.
        sounds: Distinct ones that are trained on.
        speech_lm: On its device, its encoder frozen to the end.
        heard_seconds: Of sound, in all epochs to come; over all processes together.
        world: How many processes share the encoder's work; they share one disk.
        cache: As in `keep`.
    """
    if not listens(speech_lm):
        return Decision(False, "this model's class does not tell its encoder's output apart")
    if not len(sounds):
        return Decision(False, "there is no sound")
    folder = cache or user_cache() / "encoded"
    folder.mkdir(parents=True, exist_ok=True)
    encoder, frame_bytes = _try_encoder(rows, sounds, speech_lm)
    needed = frame_bytes * sounds.seconds
    free = shutil.disk_usage(folder).free * _SPARE
    told = f"{needed / 1e9:.3g} GB for {sounds.seconds / 3600:.3g} h of distinct sound"
    if needed > free:
        return Decision(False, f"the frames would take {told}, and {free / 1e9:.3g} GB are to be had in {folder}")
    disk = _try_disk(folder)
    without = heard_seconds * encoder / world
    # Written once and read as often as heard; a disk that reads faster than it writes makes it only better.
    with_it = sounds.seconds * encoder / world + (needed + frame_bytes * heard_seconds) / disk
    return Decision(
        with_it < _WORTH * without,
        f"the encoder would take {without:.3g} s in all epochs, {with_it:.3g} s with its frames on disk "
        f"({1 / encoder:.3g} times real time; {disk / 1e6:.3g} MB/s; {told})",
    )


def _try_encoder(rows: Rows, sounds: Sounds, speech_lm: SpeechLM) -> tuple[float, float]:
    """Seconds that the encoder takes for one of sound, and bytes of its frames."""
    middle = np.argsort(np.abs(sounds.samples - np.median(sounds.samples)), kind="stable")
    upto = np.searchsorted(np.cumsum(sounds.samples[middle]), _TRIAL * SAMPLING_RATE)
    places = middle[: max(1, int(upto))]
    heard_of = decoded(rows, sounds, places)
    taken, frames = [], 0
    for _ in range(2):  # the first warms up
        begin = time.perf_counter()
        heard = listened(speech_lm, heard_of)
        frames = int(heard["frame_lengths"].sum())  # waits for the device
        taken.append(time.perf_counter() - begin)
    seconds = float(sounds.samples[places].sum()) / SAMPLING_RATE
    return min(taken) / seconds, frames * 2 * Form.of(heard).width / seconds


def _try_disk(folder: Path) -> float:
    """Bytes a second that can be written."""
    place = folder / f".{os.getpid()}.tmp"
    block = np.random.default_rng(0).bytes(_TRIAL_BYTES)
    try:
        begin = time.perf_counter()
        with shards.explained(folder), open(place, "wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return _TRIAL_BYTES / (time.perf_counter() - begin)
    finally:
        place.unlink(missing_ok=True)
