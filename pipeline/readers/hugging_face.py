"""Hugging Face datasets: from the Hub, or from a folder.

Source: huggingface.co/docs/datasets. Licence: the dataset card's; say it in `licence`. A row of
`openslr/librispeech_asr`:

    {"audio": {"bytes": ..., "path": "374-180298-0000.flac"}, "text": "CHAPTER SIXTEEN I MIGHT ...",
     "speaker_id": 374, "chapter_id": 180298, "id": "374-180298-0000"}

Folders are read as `load_from_disk` or `load_dataset` would (Arrow, Parquet, audiofolder). Audio is
decoded by us, never by the library, so torchcodec is not needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.audio import AudioError
from pipeline.readers._fields import LABELS, Chosen, guess, labels_of, number
from pipeline.readers.base import CorpusError, Reader, files, identity, identity_of
from schemas.utterance import AudioSource, Utterance

_OFFICIAL = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}


class HuggingFace(Reader):
    """`path` is a Hub id (`openslr/librispeech_asr`), a folder, or the URL of one."""

    path_may_be_remote: ClassVar[bool] = True

    config: str | None = None
    """Which configuration, e.g. a language."""
    splits: list[str] = []
    """Which splits; empty means all."""
    revision: str | None = None
    """A commit or tag of the Hub; give one, and the corpus cannot change below you."""
    columns: Chosen = {}
    """What is called what, e.g. `{transcript: raw_transcription}`; the usual names are known."""
    label_columns: list[str] = LABELS

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Any] | None:
        if not path.is_dir():
            return None
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return {}
        tables = [*path.glob("*.parquet"), *path.glob("*/*.parquet")]
        return {} if tables else None

    def utterances(self) -> Iterator[Utterance]:
        for name, rows in self._datasets.items():
            names = guess(rows.column_names, self.columns)
            chosen = [*self.columns.values()]
            if "label_columns" in self.model_fields_set:
                chosen += self.label_columns
            wrong = [n for n in chosen if n not in rows.column_names]
            if wrong or "audio" not in names:
                what = f"no column {wrong[0]!r}" if wrong else "no column that looks like audio"
                raise CorpusError(f"{self.path}, split {name}: {what}; there are: {', '.join(rows.column_names)}")
            plain = rows.select_columns([c for c in rows.column_names if c != names["audio"]])
            kinds = {n: f for n, f in plain.features.items() if hasattr(f, "int2str")}
            sounds = self._identities(rows, names["audio"])
            for index, (row, sound) in enumerate(zip(plain, sounds, strict=True)):
                for column, feature in kinds.items():  # class labels are stored as numbers
                    if row[column] is not None and row[column] >= 0:
                        row[column] = feature.int2str(row[column])
                yield self._utterance(name, index, row, names, sound)

    def _utterance(self, split: str, index: int, row: dict[str, Any], names: dict[str, str], sound: str) -> Utterance:
        get = {what: row.get(name) for what, name in names.items() if what != "audio"}
        key = get.get("key")
        duration, rate, problem = None, None, None
        try:
            duration, rate = number(get.get("duration")), number(get.get("sampling_rate"), int)
        except (ValueError, TypeError) as error:
            problem = f"malformed_row: row {index} of split {split}: {error}"
        return self.utterance(
            f"{split}/{key if key is not None else index}",
            source=AudioSource(split, str(index), identity=sound),
            transcript=_text(get.get("transcript")),
            speaker=_text(get.get("speaker")),
            language=_text(get.get("language")),
            recording=_text(get.get("recording")),
            labels=labels_of(row, self.label_columns),
            duration=duration,
            sampling_rate=rate,
            problem=problem,
            split=_OFFICIAL.get(split.split(".")[0]),
            licence=_text(get.get("licence")),
        )

    def audio(self, source: AudioSource) -> Path | bytes:
        rows = self._datasets[source.path]
        assert source.member is not None
        name = guess(rows.column_names, self.columns)["audio"]
        value = rows[int(source.member)][name]
        if isinstance(value, dict) and value.get("bytes") is not None:
            return bytes(value["bytes"])
        path = value.get("path") if isinstance(value, dict) else value
        if not path:
            raise FileNotFoundError(f"row {source.member} of split {source.path} holds no audio")
        return storage.read(self._below(path)) if storage.is_url(path) else self._inside(path)

    def _below(self, url: str) -> str:
        """The URL that a row names, in the folder.

        Raises:
            AudioError: It is another.
        """
        full, root = storage.normal(url), self.audio_root or self.path
        if not storage.is_url(root) or not full.startswith(f"{storage.normal(root)}/"):
            raise AudioError(f"{full} leads out of the corpus; if it is meant, set audio_root to a folder above it")
        return full

    def _inside(self, path: str) -> Path:
        """The file that a row names: in the folder, or where `datasets` keeps what it has unpacked.

        Raises:
            AudioError: It is another.
        """
        import datasets
        from huggingface_hub import constants

        cached = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
        roots = (self.audio_root or self.path, *cached)
        full = os.path.abspath(os.path.join(roots[0], path))
        if not any(full.startswith(f"{os.path.abspath(root).rstrip('/')}/") for root in roots):
            raise AudioError(f"{path} leads out of the corpus; if it is meant, set audio_root to a folder above it")
        return Path(full)

    @cached_property
    def _datasets(self) -> dict[str, Any]:
        import datasets

        path = storage.place(self.path)
        if not path.exists() and (self.path.startswith(("/", ".", "~")) or self.path.count("/") > 1):
            raise CorpusError(f"{path} is not there; a folder, or the id of a dataset on the Hub, is expected")
        try:
            if path.is_dir() and any((path / n).is_file() for n in ("dataset_dict.json", "state.json")):
                loaded = datasets.load_from_disk(self.path)
            elif storage.is_url(self.path):
                loaded = datasets.load_dataset("parquet", data_files=self._tables)
            else:
                loaded = datasets.load_dataset(self.path, self.config, revision=self.revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise CorpusError(f"{self.path} cannot be loaded as a dataset: {error}") from error
        if not isinstance(loaded, dict):
            loaded = {str(loaded.split or "train"): loaded}
        unknown = set(self.splits) - set(loaded)
        if unknown:
            raise CorpusError(f"{self.path} has no split {sorted(unknown)[0]!r}; there are: {', '.join(loaded)}")
        chosen = {n: d for n, d in loaded.items() if not self.splits or n in self.splits}
        return {name: _undecoded(rows) for name, rows in chosen.items()}

    @property
    def _tables(self) -> dict[str, list[str]]:
        """The Parquet files of a folder in a store, by split: `datasets` lists folders of the disk and the Hub only."""
        found: dict[str, list[str]] = {}
        for path in files(storage.place(self.path)):
            if path.suffix == ".parquet":
                said = re.findall(r"[a-z]+", str(path)[len(self.path) :].lower())
                found.setdefault(next((name for name in said if name in _OFFICIAL), "train"), []).append(str(path))
        if not found:
            raise CorpusError(f"{self.path}: no *.parquet below it, and it was not written by `save_to_disk`")
        return found

    def _identities(self, rows: Any, column: str) -> Iterator[str]:
        """What tells the sound of each row from others, whichever rows are beside it: as `identity` of a file."""
        if rows._indices is not None:  # in another order than the table: nothing that `save_to_disk` writes
            yield from (f"{rows._fingerprint}-{index}" for index in range(rows.num_rows))
            return
        for chunk in rows.data.column(column).chunks:
            if not pa.types.is_struct(chunk.type):
                yield from (self._identity(value) for value in chunk)
                continue
            content, path = (pc.struct_field(chunk, name) for name in ("bytes", "path"))
            yield from (self._identity(a if a.is_valid else b) for a, b in zip(content, path, strict=True))

    def _identity(self, value: pa.Scalar) -> str:
        if not pa.types.is_string(value.type) and not pa.types.is_large_string(value.type):
            return identity_of(memoryview(value.as_buffer())) if value.is_valid else "none"
        path = value.as_py()
        if not path:
            return "none"
        try:
            return identity(self._below(path) if storage.is_url(path) else str(self._inside(path))) or path
        except AudioError:  # it leads out, which is said where it would be read
            return str(path)


def _undecoded(rows: Any) -> Any:
    import datasets

    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(name, datasets.Audio(decode=False))
    return rows


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
