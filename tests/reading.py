"""What the tests of readers share: tiny sounds, corpora as plain text, and what was read of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from pipeline import plugins
from pipeline.readers.base import CorpusError
from schemas.utterance import Utterance

RATE = 16_000
AUDIO = frozenset(
    ".wav .wave .flac .mp3 .ogg .oga .opus .aiff .aif .sph .au .snd .caf .m4a .aac .wma .webm .raw .pcm .s16".split()
)


def tone(seconds: float = 0.1, rate: int = RATE, hz: float = 440.0, channels: int = 1) -> np.ndarray:
    """A sine with a little noise; each channel an octave above the one before. Shape T, C."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(round(hz)).normal(0, 0.01, (len(time), channels))
    return np.stack([0.4 * np.sin(2 * np.pi * hz * 2**c * time) for c in range(channels)], axis=1) + noise


def sound(
    path: Path, seconds: float = 0.1, rate: int = RATE, hz: float = 440.0, channels: int = 1, **form: Any
) -> Path:
    """Writes a tone; its name says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"format": {".opus": "OGG", ".sph": "NIST"}.get(path.suffix.lower())} | form
    form["subtype"] = form.get("subtype") or ("OPUS" if path.suffix.lower() == ".opus" else None)
    soundfile.write(path, tone(seconds, rate, hz, channels), rate, **{k: v for k, v in form.items() if v})
    return path


def sounds(folder: Path, *names: str) -> None:
    """Writes a tone for each name."""
    for name in names:
        sound(folder / name)


def text(path: Path, *rows: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    """Writes lines of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(row + end for row in rows).encode(encoding))
    return path


def read(reader: str, path: Path, **options: Any) -> list[Utterance]:
    """All utterances of a corpus called `c`; they must be the same however often they are read."""
    made = plugins.load("readers", reader)
    first = made(name="c", path=str(path), **options)
    found = list(first.utterances())
    assert list(first.utterances()) == found, "read again, a corpus is another"
    assert list(made(name="c", path=str(path), **options).utterances()) == found
    return found


def wrong(reader: str, path: Path, **options: Any) -> str:
    """What a corpus that cannot be read complains of."""
    with pytest.raises(CorpusError) as error:
        list(plugins.load("readers", reader)(name="c", path=str(path), **options).utterances())
    return str(error.value)


def said(utterances: Iterable[Utterance]) -> dict[str, str]:
    """Transcripts of the sound ones by key; an id that comes twice fails the test."""
    found = [(u.id.removeprefix("c/"), u.transcript) for u in utterances if u.problem is None]
    assert len(dict(found)) == len(found), found
    return dict(found)


def reasons(utterances: Iterable[Utterance]) -> dict[str, str]:
    """Reasons of the others by key."""
    return {u.id.removeprefix("c/"): u.problem.split(":")[0] for u in utterances if u.problem is not None}


def the(utterances: Iterable[Utterance], key: str) -> Utterance:
    """The only utterance of a key."""
    found = [u for u in utterances if u.id == f"c/{key}"]
    assert len(found) == 1, [u.id for u in utterances]
    return found[0]


def files_read(utterances: Iterable[Utterance]) -> list[str]:
    """The files that are read, in order."""
    return [str(u.source) for u in utterances if u.source is not None and u.problem is None]


def forgotten(folder: Path, utterances: Iterable[Utterance], notes: str = "") -> set[str]:
    """Audio files of a folder that neither are read nor are named by a problem or a warning."""
    told = notes + "\n".join(u.problem or "" for u in utterances)
    named = {(folder / u.source.path).resolve() for u in utterances if u.source is not None}
    there = (p for p in folder.rglob("*") if p.suffix.lower() in AUDIO and not p.name.startswith("."))
    return {p.relative_to(folder).as_posix() for p in there if p.resolve() not in named and p.name not in told}


class Entry(NamedTuple):
    """A line of INDEX.tsv: what a person found in a recording."""

    path: str
    seconds: float | None
    sampling_rate: int | None
    channels: int | None
    transcript: str
    language: str
    format: str
    note: str


def index(speech: Path) -> dict[str, Entry]:
    """INDEX.tsv by path."""
    with open(speech / "INDEX.tsv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    entries = (
        Entry(r[0], float(r[1]) if r[1] else None, int(r[2]) if r[2] else None, int(r[3]) if r[3] else None, *r[4:8])
        for r in rows
    )
    return {entry.path: entry for entry in entries}
