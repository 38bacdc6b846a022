"""Scripted: hears what a table says is in the audio. For tests, and to try a recipe out.

The table is a file of JSON lines that name a sound by the digest of its samples, as rows store it:

    {"digest": "6f1ed002ab5595859014ebf0951522d9", "text": "set a timer for ten minutes"}

So it is as honest as whoever wrote the table: it never sees a transcript, it does not know audio that was
changed, and it hears nothing in silence. A dataset that was built without `asr` gives a table of what its
voices were told to say:

    python -m pipeline.asr.scripted out/voice_tools > heard.jsonl
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated

import orjson
import xxhash
from pydantic import Field

from pipeline import seeds, shards
from pipeline.asr.base import ASR, FAILED, ASRError, Clip, Heard, ignore
from schemas.sample import Rejection

_SILENT_DBFS = -65.0


class Scripted(ASR):
    """Listens by looking up."""

    model: str = "scripted"
    file: str | None = None
    """The table."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of words that are heard as another, twice, or not at all."""
    faults: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of clips on which the engine fails."""

    @cached_property
    def identity(self) -> bytes:
        content = orjson.dumps(self.table, option=orjson.OPT_SORT_KEYS) if self.file else b""
        table = xxhash.xxh3_128_hexdigest(content)
        return super().identity + f" {table} {self.error_rate:g} {self.faults:g}".encode()

    @property
    def table(self) -> Mapping[str, str]:
        """What is said, by the digest of the sound."""
        if self.file is None:
            raise ASRError("the scripted ASR engine needs a table of what is in the audio: set `file` under `asr`")
        return _table(self.file)

    def check(self) -> None:
        assert self.table is not None  # reading it is the check

    def transcribe(self, clips: Sequence[Clip], workers: int = 1, heard: Heard = ignore) -> list[str | Rejection]:
        return [self._hear(clip) for clip in clips]

    def _hear(self, clip: Clip) -> str | Rejection:
        digest = clip.audio.digest
        if seeds.share(digest, "fault") < self.faults:
            return Rejection(FAILED, "the scripted engine fails here on purpose")
        if clip.audio.speech_dbfs < _SILENT_DBFS:
            return ""
        text = self.table.get(digest)
        if text is None:
            return Rejection(FAILED, f"{self.file} says nothing of the sound {digest}")
        return text if not self.error_rate else _misheard(text, self.error_rate, seeds.rng(digest, "mishear"))


def _misheard(text: str, rate: float, rng: random.Random) -> str:
    heard: list[str] = []
    for word in text.split():
        if rng.random() >= rate:
            heard.append(word)
            continue
        kind = rng.choice(("another", "twice", "lost"))
        if kind == "another":
            heard.append(word[::-1] if word != word[::-1] else f"{word}x")
        elif kind == "twice":
            heard += [word, word]
    return " ".join(heard)


@lru_cache(maxsize=4)
def _table(path: str) -> Mapping[str, str]:
    try:
        rows = [orjson.loads(line) for line in Path(path).read_bytes().splitlines() if line.strip()]
        return {str(row["digest"]): str(row["text"]) for row in rows}
    except OSError as error:
        raise ASRError(f"{path}, the table of the scripted ASR engine, cannot be read: {error.strerror}") from error
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ASRError(
            f'{path} is no table for the scripted ASR engine: lines like {{"digest": ..., "text": ...}} are expected'
        ) from error


def _told(folder: Path) -> dict[str, str]:
    """What voices were told to say in a dataset, by the digest of the sound."""
    files = sorted(path for part in (*shards.SPLITS, "rejected") for path in (folder / part).glob("*.arrow"))
    return {
        utterance.audio.digest: utterance.spoken or utterance.transcript
        for file in files
        for sample in shards.read(file)
        for utterance in sample.utterances
        if utterance.audio is not None
    }


def main() -> None:
    """Writes the table of a dataset."""
    parser = argparse.ArgumentParser(description="Writes what was to be said in a dataset as a table for this engine.")
    parser.add_argument("dataset", type=Path, help="the folder of a dataset that was built without asr")
    for digest, text in sorted(_told(parser.parse_args().dataset).items()):
        sys.stdout.buffer.write(orjson.dumps({"digest": digest, "text": text}) + b"\n")


if __name__ == "__main__":
    main()
