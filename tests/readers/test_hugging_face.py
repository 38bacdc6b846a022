"""Hugging Face datasets, made on the spot; none of it needs the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline import plugins
from pipeline.audio import AudioError, load
from tests.conftest import ROOT
from tests.reading import read, reasons, said, sound, the, wrong

READER = "hugging_face"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library converts goes into the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(folder: Path, count: int = 3, **columns: list[Any]) -> datasets.Dataset:
    """Rows whose audio lies in them, each of another length."""
    names = [sound(folder / "sounds" / f"{n}.wav", seconds=0.1 * (n + 1)) for n in range(count)]
    audio = [{"bytes": name.read_bytes(), "path": name.name} for name in names]
    content = {"audio": audio, "text": [f"words {n}" for n in range(count)]} | columns
    made = datasets.Dataset.from_dict({k: v for k, v in content.items() if v})
    return made.cast_column("audio", datasets.Audio(decode=False)) if content["audio"] is audio else made


def seconds(path: Path, **options: Any) -> list[float]:
    """Of the audio of each row."""
    reader = plugins.load("readers", READER)(name="c", path=str(path), **options)
    return [round(load(reader.audio(u.source)).seconds, 3) for u in reader.utterances()]


def test_a_dataset_that_was_saved(tmp_path: Path) -> None:
    table(tmp_path, id=["x", "y", "z"], speaker_id=[7, 7, 8], lang=["en", "Russian", None]).save_to_disk(
        tmp_path / "saved"
    )
    found = read(READER, tmp_path / "saved", language="de")
    assert said(found) == {"train/x": "words 0", "train/y": "words 1", "train/z": "words 2"}
    assert [u.speaker for u in found] == ["c/7", "c/7", "c/8"]
    assert [u.language for u in found] == ["en", "ru", "de"]
    assert seconds(tmp_path / "saved") == [0.1, 0.2, 0.3]


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    rows = table(tmp_path)
    rows.select([0, 1]).to_parquet(tmp_path / "corpus" / "train-00000-of-00002.parquet")
    rows.select([2]).to_parquet(tmp_path / "corpus" / "train-00001-of-00002.parquet")
    rows.select([0]).to_parquet(tmp_path / "corpus" / "test-00000-of-00001.parquet")
    found = read(READER, tmp_path / "corpus")
    assert sorted(said(found).items()) == [
        ("test/0", "words 0"),
        ("train/0", "words 0"),
        ("train/1", "words 1"),
        ("train/2", "words 2"),
    ]
    assert {u.id.split("/")[1]: u.split for u in found} == {"train": "train", "test": "test"}
    assert sorted(seconds(tmp_path / "corpus")) == [0.1, 0.1, 0.2, 0.3]


class TestSplits:
    """Of a `DatasetDict`."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = table(tmp_path)
        names = {"train.clean": rows, "validation": rows.select([1]), "test": rows.select([2]), "other": rows}
        datasets.DatasetDict(names).save_to_disk(tmp_path / "saved")
        return tmp_path / "saved"

    def test_all(self, folder: Path) -> None:
        found = read(READER, folder)
        splits = {u.id.split("/")[1]: u.split for u in found}
        assert splits == {"train.clean": "train", "validation": "dev", "test": "test", "other": None}
        assert len(found) == 8

    def test_chosen(self, folder: Path) -> None:
        assert said(read(READER, folder, splits=["validation"])) == {"validation/0": "words 1"}
        assert seconds(folder, splits=["test"]) == [0.3]

    def test_unknown(self, folder: Path) -> None:
        complaint = wrong(READER, folder, splits=["dev"])
        assert "has no split 'dev'; there are: train.clean, validation, test, other" in complaint


class TestColumns:
    """Names and labels."""

    def test_chosen(self, tmp_path: Path) -> None:
        table(tmp_path, caption=["a", "b", "c"]).save_to_disk(tmp_path / "saved")
        found = read(READER, tmp_path / "saved", columns={"transcript": "caption"})
        assert list(said(found).values()) == ["a", "b", "c"]

    def test_a_chosen_one_that_is_missing(self, tmp_path: Path) -> None:
        table(tmp_path).save_to_disk(tmp_path / "saved")
        complaint = wrong(READER, tmp_path / "saved", columns={"transcript": "caption"})
        assert "split train: no column 'caption'; there are: audio, text" in complaint

    def test_no_audio(self, tmp_path: Path) -> None:
        datasets.Dataset.from_dict({"text": ["a"], "sound": ["b"]}).save_to_disk(tmp_path / "saved")
        complaint = wrong(READER, tmp_path / "saved")
        assert "no column that looks like audio; there are: text, sound" in complaint

    def test_labels_by_name(self, tmp_path: Path) -> None:
        rows = table(tmp_path, emotion=[1, 0, -1], gender=["F", "male", None], mood=["x", "y", "z"])
        rows.cast_column("emotion", datasets.ClassLabel(names=["joy", "rage"])).save_to_disk(tmp_path / "saved")
        found = read(READER, tmp_path / "saved")
        assert [u.labels.get("emotion") for u in found[:2]] == ["rage", "joy"]
        assert [u.labels.get("gender") for u in found] == ["female", "male", None]
        assert [u.labels for u in read(READER, tmp_path / "saved", label_columns=["mood"])] == [
            {"mood": "x"},
            {"mood": "y"},
            {"mood": "z"},
        ]
        assert "no column 'humour'" in wrong(READER, tmp_path / "saved", label_columns=["humour"])

    def test_a_broken_row_is_named_and_the_others_are_read(self, tmp_path: Path) -> None:
        table(tmp_path, duration=["0.1", "long", "0.3"]).save_to_disk(tmp_path / "saved")
        found = read(READER, tmp_path / "saved")
        assert reasons(found) == {"train/1": "malformed_row"}
        assert "row 1 of split train" in str(the(found, "train/1").problem)
        assert [u.duration for u in found] == [0.1, None, 0.3]


class TestAudio:
    """In the row, beside the dataset, or nowhere."""

    def test_paths(self, tmp_path: Path) -> None:
        folder = tmp_path / "saved"
        absolute = sound(tmp_path / "elsewhere" / "a.wav", seconds=0.2)
        table(tmp_path, 2, audio=[str(absolute), "wav/b.wav"]).save_to_disk(folder)
        sound(tmp_path / "wav" / "b.wav", seconds=0.4)
        assert seconds(folder, audio_root=str(tmp_path)) == [0.2, 0.4]
        with pytest.raises(AudioError, match="leads out of the corpus; if it is meant, set audio_root"):
            seconds(folder)

    def test_a_path_in_the_place_of_bytes(self, tmp_path: Path) -> None:
        path = str(sound(tmp_path / "a.wav", seconds=0.2))
        rows = datasets.Dataset.from_dict({"audio": [{"bytes": None, "path": path}], "text": ["a"]})
        rows.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(tmp_path / "saved")
        assert seconds(tmp_path / "saved", audio_root=str(tmp_path)) == [0.2]

    def test_none(self, tmp_path: Path) -> None:
        rows = datasets.Dataset.from_dict({"audio": ["a.wav", None], "text": ["a", "b"]})
        rows.save_to_disk(tmp_path / "saved")
        reader = plugins.load("readers", READER)(name="c", path=str(tmp_path / "saved"))
        with pytest.raises(FileNotFoundError, match="row 1 of split train holds no audio"):
            reader.audio(list(reader.utterances())[1].source)


@pytest.mark.parametrize("layout", ["saved", "parquet"])
def test_a_copy_is_the_same_and_a_change_is_not(tmp_path: Path, layout: str) -> None:
    def write(folder: Path, rows: datasets.Dataset) -> None:
        folder.mkdir(exist_ok=True)
        if layout == "saved":
            rows.save_to_disk(folder)
        else:
            rows.to_parquet(folder / "train-00000-of-00001.parquet")

    rows = table(tmp_path)
    write(tmp_path / "1", rows)
    before = read(READER, tmp_path / "1")
    shutil.copytree(tmp_path / "1", tmp_path / "2", copy_function=shutil.copyfile)
    for place in (tmp_path / "2").rglob("*"):
        os.utime(place, (1e9, 1e9))
    assert read(READER, tmp_path / "2") == before
    shutil.rmtree(tmp_path / "2")
    write(tmp_path / "2", rows.select([0, 2, 2]))
    after = read(READER, tmp_path / "2")
    earlier, later = ([u.source.identity for u in part if u.source] for part in (before, after))
    assert later == [earlier[0], earlier[2], earlier[2]], "a row is known by its sound, whatever is beside it"


@pytest.mark.long
def test_an_id_of_the_hub_where_there_is_no_network(tmp_path: Path) -> None:
    script = (
        "from pipeline import plugins\n"
        "from pipeline.readers.base import CorpusError\n"
        "try:\n"
        "    list(plugins.load('readers', 'hugging_face')(name='c', path='nobody/nothing').utterances())\n"
        "except CorpusError as error:\n"
        "    print(error)\n"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("nobody/nothing cannot be loaded as a dataset: Couldn't reach 'nobody/nothing'")


def test_recognised_by_its_files(tmp_path: Path) -> None:
    recognise = plugins.load("readers", READER).recognise
    table(tmp_path).save_to_disk(tmp_path / "saved")
    (tmp_path / "tables").mkdir()
    table(tmp_path).to_parquet(tmp_path / "tables" / "train.parquet")
    assert recognise(tmp_path / "saved") == {}
    assert recognise(tmp_path / "tables") == {}
    assert recognise(tmp_path / "sounds") is None
