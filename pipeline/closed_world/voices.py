"""Voices: which of eSpeak's speak in training, and which are kept for the tests.

The engine lists 13 formant variants of four English accents; the library has many more of both, and the
encoder hears them all: many voices matter more than many hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from pipeline import seeds
from pipeline.audio import Samples
from pipeline.tts import _espeak
from pipeline.tts.base import Line
from pipeline.tts.espeak import Espeak
from schemas.sample import Rejection

UNSEEN = ("f1", "f4", "m2", "m7")
"""Variants that speak in tests alone, in every accent."""
LISTED = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp")
"""The accents that the engine knows as English."""
ACCENTS = LISTED
RATE, PITCH = (0.85, 1.2), (0.8, 1.25)
"""Between which factors of a voice's own pace and height the training speech varies."""
_ODD = frozenset({"whisper", "whisperf", "fast", "kaukovalta", "demonic", "croak"})


@lru_cache(maxsize=1)
def training_voices() -> tuple[str, ...]:
    """Every formant voice that is not kept for a test: accents and variants."""
    folder = Path(str(_espeak.loader().get_data_path())) / "voices" / "!v"
    texts = {path.name.lower(): path.read_text("utf-8", "replace") for path in folder.iterdir() if path.is_file()}
    # A file that names Klatt's synthesiser would make the unseen one a seen one, whatever it is called.
    heard = [name for name, text in texts.items() if "klatt" not in text.lower() and name not in {*UNSEEN, *_ODD}]
    return tuple(f"{accent}+{name}" for accent in ACCENTS for name in sorted(heard))


def unseen_voices() -> list[str]:
    """Formant voices for the test."""
    return [f"{accent}+{name}" for accent in LISTED for name in UNSEEN]


def klatt_voices() -> list[str]:
    """Voices of the other synthesiser. `klatt6` is left out: it sounds like no other, and is slow."""
    return [f"{accent}+klatt{number}" for accent in LISTED for number in ("", 2, 3, 4, 5)]


def listed_voices() -> list[str]:
    """Those of the training voices that the engine lists, for the recipe of the dataset."""
    names = (voice.name for voice in Espeak().all_voices("en") if not voice.held_out)
    return [name for name in names if name.partition("+")[2] not in UNSEEN]


def speak(texts: Sequence[str], seed: object, voices: Sequence[str]) -> list[Samples | None]:
    """Speech for each text, 16 kHz mono, by a voice at a pace and height of its own; None where it fails.

    Args:
        texts: In words.
        seed: Draws voice, pace and height.
        voices: Of eSpeak.
    """
    rng = seeds.rng("closed-world", "speak", seed)
    lines = [
        Line(text, rng.choice(voices), "en", round(rng.uniform(*RATE), 2), round(rng.uniform(*PITCH), 2))
        for text in texts
    ]
    return [None if isinstance(one, Rejection) else one for one in Espeak().speak(lines)]
