"""Corpora and datasets in an object store.

The store is moto's, on loopback. It keeps objects in memory and answers at once, so it cannot show: how long
requests take, throttling (503 SlowDown), credentials that expire, policies that forbid a part, encryption with
keys of its own (where an ETag is no MD5), versions, or what a store does with parts that nobody completes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import plugins, storage
from pipeline.readers.base import CorpusError
from tests import reading

pytest.importorskip("s3fs")
pytest.importorskip("moto")

from tests import stores

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("storage")]


@pytest.fixture(scope="module")
def store() -> Iterator[stores.Store]:
    with pytest.MonkeyPatch.context() as patch:
        made = stores.Store()
        for name, value in (stores.ENVIRONMENT | {"AWS_ENDPOINT_URL": made.url}).items():
            patch.setenv(name, value)
        made.bucket("corpora")
        try:
            yield made
        finally:
            stores.disconnect()
            made.stop()


@pytest.fixture(autouse=True)
def counted(store: stores.Store) -> None:
    storage.forget()
    store.forget()


def same_as_on_disk(store: stores.Store, reader: str, folder: Path) -> dict[str, int]:
    """Reads a corpus from the disk and from the store: the same utterances, problems and sound. What was asked."""
    url = f"s3://corpora/{folder.name}"
    store.upload(folder, url)
    store.forget()
    made = plugins.load("readers", reader)
    here, there = made(name="c", path=str(folder)), made(name="c", path=url)
    local = list(here.utterances())
    found = list(there.utterances())
    asked = dict(store.asked)
    assert [(u.id, u.transcript, u.speaker, u.problem) for u in found] == [
        (u.id, u.transcript, u.speaker, u.problem) for u in local
    ]
    for utterance in found:
        if utterance.problem is None:
            assert utterance.source is not None
            store.forget()
            content, expected = there.audio(utterance.source), here.audio(utterance.source)
            assert content == (expected if isinstance(expected, bytes) else expected.read_bytes())
            assert (store.asked, store.taken) == ({"GET": 1}, len(content)), "one request, and no byte too many"
    assert list(made(name="c", path=url).utterances()) == found
    return asked


class TestCorpora:
    def test_a_tree_is_listed_by_one_request_for_a_thousand_files(self, store, tmp_path):
        chapters = [(speaker, chapter) for speaker in range(4) for chapter in range(5)]
        for speaker, chapter in chapters:
            folder = tmp_path / "libri" / "train-clean" / str(speaker) / str(chapter)
            names = [f"{speaker}-{chapter}-{number:04d}" for number in range(50)]
            reading.text(folder / f"{speaker}-{chapter}.trans.txt", *(f"{name} WORDS OF {name}" for name in names))
            for name in names:
                (folder / f"{name}.flac").write_bytes(name.encode())
        store.upload(tmp_path / "libri", "s3://corpora/libri")
        store.forget()
        reader = plugins.load("readers", "librispeech")(name="c", path="s3://corpora/libri")
        found = list(reader.utterances())
        assert len(found) == 1000
        assert not any(utterance.problem for utterance in found)
        assert len({utterance.source.identity for utterance in found}) == 1000, "told apart without reading one"
        assert store.asked["GET"] <= len(chapters) + 1, "each transcript once"
        # Two pages of the listing of 1,020 objects; whether it is there, and where SPEAKERS.TXT may lie.
        assert store.asked.total() - store.asked["GET"] <= 12, store.asked

    def test_librispeech(self, store, tmp_path):
        folder = tmp_path / "small-libri"
        chapter = folder / "dev-clean" / "1" / "2"
        reading.text(chapter / "1-2.trans.txt", "1-2-0000 GOOD MORNING", "1-2-0001 NOT THERE")
        reading.sounds(chapter, "1-2-0000.flac", "1-2-0002.flac")
        same_as_on_disk(store, "librispeech", folder)

    def test_json_lines(self, store, tmp_path):
        folder = tmp_path / "nemo"
        reading.sounds(folder / "clips", "a.wav", "b.wav")
        rows = [{"audio_filepath": f"clips/{name}.wav", "text": name} for name in "abc"]
        reading.text(folder / "manifest.jsonl", *map(json.dumps, rows))
        asked = same_as_on_disk(store, "jsonl", folder)
        assert sum(asked.values()) < 15, "no request for each file"

    def test_archives_are_read_by_ranges(self, store, tmp_path):
        folder = tmp_path / "tars"
        folder.mkdir()
        with tarfile.open(folder / "one.tar", "w") as tar:
            for name in ("a", "b"):
                tar.add(reading.sound(tmp_path / f"{name}.flac"), f"{name}.flac")
                info = tarfile.TarInfo(f"{name}.txt")
                info.size = 5
                tar.addfile(info, io.BytesIO(b"hello"))
        same_as_on_disk(store, "webdataset", folder)

    def test_a_listing_on_the_disk_names_audio_in_a_store(self, store, tmp_path):
        reading.sounds(tmp_path / "clips", "a.wav")
        store.upload(tmp_path / "clips", "s3://corpora/loose/clips")
        names = ("s3://corpora/loose/clips/a.wav", "clips/a.wav", "s3://corpora/secret/a.wav", "../libri/x.wav")
        rows = [{"audio_filepath": name, "text": "hello", "id": str(i)} for i, name in enumerate(names)]
        listing = reading.text(tmp_path / "list.jsonl", *map(json.dumps, rows))
        made = plugins.load("readers", "jsonl")(name="c", path=str(listing), audio_root="s3://corpora/loose")
        found = list(made.utterances())
        assert reading.reasons(found) == {"2": "path_outside_corpus", "3": "path_outside_corpus"}
        for utterance in found[:2]:
            assert made.audio(utterance.source) == (tmp_path / "clips/a.wav").read_bytes()

    def test_what_is_wrong_is_told(self, store, monkeypatch):
        made = plugins.load("readers", "librispeech")
        with pytest.raises(CorpusError, match="s3://corpora/nothing is not there"):
            list(made(name="c", path="s3://corpora/nothing").utterances())
        with pytest.raises(storage.StoreError, match="no such bucket"):
            storage.write("s3://not-a-bucket/x", b"1")
        with pytest.raises(storage.StoreError, match="AWS_ACCESS_KEY_ID") as refused:
            storage.place("s3://me:hush-hush@corpora/libri")
        assert "hush" not in str(refused.value)
        with pytest.raises(storage.StoreError, match="s3, "):
            storage.place("ftp://corpora/libri")
        with pytest.raises(storage.StoreError, match="publish"):
            storage.writable("hf://datasets/me/it")
        for name in stores.ENVIRONMENT:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        stores.disconnect()
        with pytest.raises(storage.StoreError, match="no credentials are found"):
            storage.read("s3://corpora/libri/x")
        stores.disconnect()
