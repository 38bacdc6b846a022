"""Inspect: what is in a dataset, row by row, without decoding what is not looked at."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import soundfile
from pydantic import ValidationError

from pipeline import mirror, shards
from pipeline.audio import samples_of
from schemas.arrow import SAMPLING_RATE
from schemas.manifest import DatasetManifest, ShardFile
from schemas.sample import Sample


class NoDataset(ValueError):
    """A folder that holds no finished dataset; the message says what it holds."""


def load(folder: Path) -> DatasetManifest:
    """The manifest of a finished dataset.

    Raises:
        NoDataset: There is none.
    """
    path = folder / "dataset.json"
    mirror.fetch(folder, path.name)
    if not path.is_file():
        if mirror.of(folder) is not None:
            mirror.fetch(folder, f"{shards.BUILD}/name")
        begun = (folder / shards.BUILD / "name").is_file()
        why = (
            "its build is not finished: run the same `earwitness build` again" if begun else "no dataset.json is in it"
        )
        raise NoDataset(f"{mirror.address(folder)} holds no finished dataset: {why}")
    try:
        return DatasetManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(map(str, first["loc"]))
        told = f"{keys}: {first['msg']}" if keys else first["msg"]
        raise NoDataset(f"{path} is damaged or of another version: {told}") from error


def files(dataset: DatasetManifest, rejected: bool = False) -> list[ShardFile]:
    """The shards of a dataset: of kept rows, or of rejected ones."""
    if rejected:
        return dataset.rejected
    return [file for split in dataset.splits.values() for file in split.shards]


def row(folder: Path, dataset: DatasetManifest, number: int, rejected: bool = False) -> Sample:
    """Row N, counted from 0 over all shards in the manifest's order.

    Raises:
        NoDataset: There are not so many rows.
    """
    left = number
    for file in files(dataset, rejected):
        if left < file.rows:
            return next(sample for i, sample in enumerate(shards.read(shards.local(folder, file))) if i == left)
        left -= file.rows
    total = sum(file.rows for file in files(dataset, rejected))
    raise NoDataset(f"there is no row {number}: {total} rows, counted from 0")


def examples(folder: Path, dataset: DatasetManifest, rejected: bool = False) -> Iterator[tuple[int, Sample]]:
    """The first row of each task, or of each reason, with its number."""
    seen: set[str] = set()
    wanted = len(dataset.reasons if rejected else dataset.tasks)
    number = 0
    for file in files(dataset, rejected):
        for sample in shards.read(shards.local(folder, file)):
            key = (sample.rejected or "") if rejected else sample.task
            if key not in seen:
                seen.add(key)
                yield number, sample
            number += 1
            if len(seen) == wanted:
                return


def wav(sample: Sample) -> bytes:
    """The speech of a row, one utterance after another, as a WAV file.

    Raises:
        NoDataset: The row has none.
    """
    heard = [u.audio for u in sample.utterances if u.audio is not None]
    if not heard:
        raise NoDataset(f"{sample.id} has no audio: {sample.rejected}: {sample.detail}")
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", SAMPLING_RATE, 1, "PCM_16", format="WAV") as sound:
        for audio in heard:
            sound.write(samples_of(audio))
    return stream.getvalue()


def verify(folder: Path, dataset: DatasetManifest) -> list[str]:
    """What is wrong with the files of a dataset: missing, or not as they were written."""
    told = (shards.complaint(folder, file) for file in [*files(dataset), *files(dataset, rejected=True)])
    return [text for text in told if text]
