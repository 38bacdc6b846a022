"""From a file to stored speech: decoded, mixed down, resampled, measured, encoded as FLAC.

The floor is soundfile and soxr alone: read, mean of the channels, resample, write FLAC. On top we
find clipping, levels, a digest, and the fingerprint by which near copies are found.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr

from bench.measure import in_turn, ratios, report, spread, timed
from pipeline import audio

KINDS = (
    ("WAV", "PCM_16", 16_000, 1),
    ("FLAC", "PCM_16", 16_000, 1),
    ("WAV", "PCM_24", 44_100, 2),
    ("MP3", "MPEG_LAYER_III", 44_100, 1),
    ("OGG", "OPUS", 48_000, 1),
)
CLIPS, SECONDS = 20, 8


def clip(kind: str, subtype: str, rate: int, channels: int, seed: int) -> bytes:
    """A few seconds that have pitch, pauses and noise, as speech has."""
    rng, axis = np.random.default_rng(seed), np.arange(SECONDS * rate) / rate
    voiced = sum(np.sin(2 * np.pi * 120 * n * axis + rng.uniform(0, 6)) / n for n in range(1, 20))
    sound = 0.1 * voiced * np.clip(np.sin(2 * np.pi * 2.5 * axis) + 0.4, 0, 1) + rng.normal(0, 0.003, len(axis))
    stream = io.BytesIO()
    soundfile.write(stream, np.repeat(sound[:, None], channels, 1), rate, format=kind, subtype=subtype)
    return stream.getvalue()


def floor(content: bytes) -> bytes:
    """What cannot be done without."""
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != audio.SAMPLING_RATE:
        mono = soxr.resample(mono, rate, audio.SAMPLING_RATE)
    stream = io.BytesIO()
    soundfile.write(stream, mono, audio.SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def main(out: Path, runs: int = 7) -> None:
    """Every format in turn."""
    table = []
    for kind in KINDS:
        clips = [clip(*kind, seed) for seed in range(CLIPS)]
        found = in_turn(
            runs,
            {
                "floor": lambda: CLIPS * SECONDS / timed(lambda: [floor(c) for c in clips]),  # noqa: B023
                "ours": lambda: CLIPS * SECONDS / timed(lambda: [audio.load(c) for c in clips]),  # noqa: B023
            },
        )
        share = ratios(found["ours"], found["floor"])
        name = f"{kind[0]} {kind[1]} {kind[2] / 1000:g} kHz x{kind[3]}"
        table.append((name, spread(found["floor"]), spread(found["ours"]), spread(share, 2)))
    title = f"Decoding: seconds of speech a second on one core, {runs} runs: median (least-most)"
    report(title, ("format", "soundfile and soxr", "ours", "ratio"), table, out)
