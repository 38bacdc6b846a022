"""Codecs that libsndfile brings, there and back in memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile

from pipeline.audio import Samples
from pipeline.effects.base import fitted

_LEAST_KBPS, _MOST_KBPS = 6.0, 256.0  # of libsndfile's Opus, for one channel: its compression levels 1 and 0


def g711(samples: Samples, law: str, sampling_rate: int) -> Samples:
    """ITU-T G.711: logarithmic, 8 bits a sample. `law` is mulaw or alaw."""
    return _there_and_back(samples, sampling_rate, format="WAV", subtype={"mulaw": "ULAW", "alaw": "ALAW"}[law])


def opus(samples: Samples, kbps: float, sampling_rate: int) -> Samples:
    """Opus (RFC 6716) in Ogg at a bit rate."""
    level = (_MOST_KBPS - kbps) / (_MOST_KBPS - _LEAST_KBPS)
    return _there_and_back(samples, sampling_rate, format="OGG", subtype="OPUS", compression_level=level)


def _there_and_back(samples: Samples, sampling_rate: int, **form: Any) -> Samples:
    stream = io.BytesIO()
    soundfile.write(stream, samples, sampling_rate, **form)
    stream.seek(0)
    heard, _ = soundfile.read(stream, dtype="float32")
    return fitted(np.asarray(heard, np.float32), len(samples))
