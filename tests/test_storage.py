"""Corpora and datasets in an object store.

The store is moto's, on loopback. It keeps objects in memory and answers at once, so it cannot show: how long
requests take, throttling (503 SlowDown), credentials that expire, policies that forbid a part, encryption with
keys of its own (where an ETag is no MD5), versions, or what a store does with parts that nobody completes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from pipeline import inspect, lease, mirror, plugins, shards, storage
from pipeline.build import Job, build_unit
from pipeline.finish import finish
from pipeline.readers.base import CorpusError
from pipeline.setup import prepare
from pipeline.stages import _ahead as ahead
from pipeline.stages.decode import Decode
from pipeline.status import look
from pipeline.train.rows import Rows
from schemas.manifest import DatasetManifest
from schemas.sample import Rejection, Sample
from tests import building, reading

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

    def test_recordings_are_fetched_ahead_of_their_turn(self, store, corpus, monkeypatch):
        store.upload(corpus, "s3://corpora/ahead")
        made = plugins.load("readers", "jsonl")
        here, there = made(name="c", path=str(corpus)), made(name="c", path="s3://corpora/ahead")
        drafts = [Sample(id=u.id, utterances=(u,), split="train") for u in there.utterances()]
        expected = list(Decode({"c": here}, lambda _: False)(drafts))
        store.forget()
        assert list(Decode({"c": there}, lambda _: False)(drafts)) == expected
        assert store.asked == {"GET": 24}
        assert store.most > 1
        monkeypatch.setattr(ahead, "MOST", 1)
        store.forget()
        assert list(Decode({"c": there}, lambda _: False)(drafts)) == expected
        assert (store.asked, store.most) == ({"GET": 24}, 1), "one at a time, where memory bounds them"
        store.client.delete_object(Bucket="corpora", Key="ahead/03.wav")
        told = [s.id for s in Decode({"c": there}, lambda _: False)(drafts) if s.rejected == "audio_unreadable"]
        assert told == ["c/03.wav"]

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


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where work folders lie: another one is another machine."""
    monkeypatch.setenv("EARWITNESS_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture(scope="module")
def built(store: stores.Store, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and the folder that it makes on the disk."""
    folder = tmp_path_factory.mktemp("built")
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.format(corpus=corpus))
    building.build(recipe, folder / "out")
    return recipe, folder / "out"


RECIPE = """
name: small
corpora: [{{reader: jsonl, name: tones, path: {corpus}, licence: CC0-1.0}}]
tasks: {{transcription: , keyword_spotting: , word_question: }}
split: {{test: 0.3}}
shards: {{utterances: 5, rows_per_batch: 4}}
"""


def digests(objects: dict[str, bytes]) -> dict[str, str]:
    """As `building.files_of` gives those of a folder."""
    return {
        name: hashlib.sha256(content).hexdigest() for name, content in objects.items() if not name.startswith(".build/")
    }


def ending(call: Callable[..., None], steps: Iterator[int], last: int) -> Callable[..., None]:
    """A machine's requests to a store, which end before one of them."""

    def instead(*args: object, **options: object) -> None:
        if next(steps) >= last:
            raise storage.StoreError("the machine is gone")
        call(*args, **options)

    return instead


class TestDatasets:
    def test_a_dataset_in_a_store_is_the_one_on_the_disk(self, store, built, work, monkeypatch):
        recipe, local = built
        store.bucket("datasets")
        store.forget()
        manifest = building.build(recipe, "s3://datasets/small")
        taken, objects = store.taken, store.objects("s3://datasets/small")
        assert digests(objects) == building.files_of(local)
        assert store.sent <= 1.001 * sum(map(len, objects.values())) + 1000, "every byte is sent once"
        units = sum(len(split.shards) for split in manifest.splits.values())
        assert store.asked["PUT"] <= 2 * units + 16, "a shard and its manifest; plan, lock and the dataset's files"
        assert taken < 40_000, "what was written here is not fetched"

        store.forget()
        building.build(recipe, "s3://datasets/small")
        assert digests(store.objects("s3://datasets/small")) == building.files_of(local)
        assert store.sent < 40_000, "what is finished is not sent again"

        monkeypatch.setenv("EARWITNESS_WORK", str(work.with_name("elsewhere")))
        rows = Rows(["s3://datasets/small"])
        expected = Rows([local])
        assert [rows[i] for i in range(len(rows))] == [expected[i] for i in range(len(expected))]
        store.forget()
        assert len(Rows(["s3://datasets/small"])) == len(expected)
        assert store.asked == {"GET": 1}, "shards are kept, the manifest is asked for"
        folder = mirror.folder("s3://datasets/small")
        assert inspect.load(folder) == manifest
        assert inspect.verify(folder, manifest) == []
        lost = manifest.splits["test"].shards[0].path
        store.client.delete_object(Bucket="datasets", Key=f"small/{lost}")
        assert inspect.verify(folder, manifest) == [f"{lost} is missing"]

    def test_datasets_loads_it(self, store, built, work, tmp_path):
        store.upload(built[1], "s3://corpora/loaded")
        options = {"client_kwargs": {"endpoint_url": store.url}}
        names = sorted(
            f"s3://corpora/loaded/{name}" for name in building.files_of(built[1]) if name.startswith("train/")
        )
        streamed = datasets.load_dataset(
            "arrow",
            data_files={"train": [name for name in names if name.endswith(".arrow")]},
            storage_options=dict(options),
            cache_dir=str(tmp_path),
        )
        saved = datasets.load_from_disk("s3://corpora/loaded", storage_options=dict(options))
        expected = datasets.load_from_disk(str(built[1]))
        assert saved["train"]["id"][:] == expected["train"]["id"][:]
        assert sorted(streamed["train"]["id"]) == sorted(expected["train"]["id"])

    def test_a_run_that_was_killed_goes_on_here_or_elsewhere(self, store, built, work, monkeypatch):
        recipe, local = built
        url = store.bucket("killed") + "/small"
        script = (
            "import os, sys; from pipeline import storage\n"
            "from tests import building\n"
            "send, sent = storage.send, []\n"
            "def killed(file, url):\n"
            "    send(file, url)\n"
            "    sent.append(url) if url.endswith('.arrow') and '.build' not in url else None\n"
            "    if len(sent) == 3: os.kill(os.getpid(), 9)\n"  # a shard is there, its manifest is not
            "storage.send = killed\n"
            "building.build(sys.argv[1], sys.argv[2])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(recipe), url], env=stores.environment(store), check=False
        )
        assert done.returncode == -signal.SIGKILL
        begun = store.objects(url)
        assert sum(name.endswith(".arrow") and not name.startswith(".build") for name in begun) == 3
        assert sum("/shard-" in name and name.endswith(".json") for name in begun) == 2
        assert "dataset.json" not in begun

        monkeypatch.setenv("EARWITNESS_WORK", str(work.with_name("elsewhere")))
        with pytest.raises(shards.FolderInUse, match=r"is building in s3://killed/small, seen \d+ s ago"):
            building.build(recipe, url)
        monkeypatch.setattr(lease, "STALE", 0.0)  # as if five minutes had gone by
        store.forget()
        building.build(recipe, url)
        assert digests(store.objects(url)) == building.files_of(local)
        monkeypatch.setattr(lease, "STALE", 300.0)
        monkeypatch.setenv("EARWITNESS_WORK", str(work))
        building.build(recipe, url)  # where the killed one was
        assert digests(store.objects(url)) == building.files_of(local)

    @pytest.mark.services
    def test_what_is_withdrawn_or_disappears_leaves_the_store(self, store, corpus, work, tmp_path, monkeypatch):
        """From another machine each time, of which one is gone in the middle: as on the disk."""
        monkeypatch.setattr(lease, "STALE", 0.0)
        url, place = store.bucket("withdrawn") + "/small", tmp_path / "corpus"
        shutil.copytree(corpus, place)
        recipe, local = tmp_path / "small.yaml", tmp_path / "out"

        def run(machine: str, more: str) -> DatasetManifest:
            recipe.write_text(RECIPE.format(corpus=place) + more)
            monkeypatch.setenv("EARWITNESS_WORK", str(work / machine))
            return building.build(recipe, url)

        run("first", "")
        building.build(recipe, local)
        listing = place / "manifest.jsonl"
        listing.write_text("".join(line for line in listing.open() if "07.wav" not in line))
        gone = "withdrawn: {speakers: [tones/s2]}\nlater: {disappeared: withdraw}\n"
        with monkeypatch.context() as patch:
            steps = itertools.count(1)
            for name in ("send", "write", "copy", "delete"):
                patch.setattr(storage, name, ending(getattr(storage, name), steps, 16))
            with pytest.raises(storage.StoreError, match="the machine is gone"):
                run("second", gone)
        assert next(steps) > 16
        made = run("third", gone)
        assert made == building.build(recipe, local)
        assert made.taken_out == {"withdrawn": 4, "disappeared": 1}
        objects = store.objects(url)
        assert digests(objects) == building.files_of(local)
        everything = b"".join(objects.values())
        assert b"tones/s3" in everything
        assert b"tones/s2" not in everything
        assert b"tones/07.wav" not in everything
        assert not [name for name in objects if name.startswith(".build/pending")]
        shown = look(prepare(str(recipe)), mirror.folder(url))
        assert (shown.finished, shown.running, shown.estimate.units) == (True, False, 0)
        again = run("first", "")  # off the list: it is made again, with the sound that is there
        assert again == building.build(recipe, local)
        assert digests(store.objects(url)) == building.files_of(local)
        run("third", gone)  # which has seen this list before, and not that it was empty meanwhile
        building.build(recipe, local)
        assert digests(store.objects(url)) == building.files_of(local)
        assert b"tones/s2" not in b"".join(store.objects(url).values())

    def test_a_shard_that_is_rewritten_is_there_before_or_after(self, store, built, work, monkeypatch):
        bucket, step, gone = store.bucket("rewritten"), 0, True
        alone = work / "alone"  # one unit of it
        (alone / "train").mkdir(parents=True)
        unit = min(built[1].glob("train/shard-*.arrow"))
        for path in (unit, unit.with_suffix(".json")):
            shutil.copy(path, alone / "train")
        monkeypatch.setattr(lease, "STALE", 0.0)
        while gone:
            step, gone = step + 1, False
            url = f"{bucket}/{step}"
            store.upload(alone, url)
            monkeypatch.setenv("EARWITNESS_WORK", str(work / f"gone{step}"))
            here = mirror.folder(url)
            try:
                with shards.exclusive(here), monkeypatch.context() as patch:
                    first = next(shards.manifests(here, ("train",)))
                    steps = itertools.count(1)
                    for name in ("send", "write", "copy", "delete"):
                        patch.setattr(storage, name, ending(getattr(storage, name), steps, step))
                    shards.judged(here, first, {0: Rejection("set_aside", "for a test")}, 4)
            except storage.StoreError:
                gone = True
            monkeypatch.setenv("EARWITNESS_WORK", str(work / f"next{step}"))
            there = mirror.folder(url)
            with shards.exclusive(there):
                shards.clear_temporary(there)
                found = next(m for m in shards.manifests(there, ("train",)) if m.unit == first.unit)
                rows = [row for f in (found.kept, found.rejected) if f for row in shards.read(mirror.local(there, f))]
            assert len(rows) == first.kept.rows, f"it ended before request {step}"
            assert not [name for name in store.objects(url) if name.startswith(".build/pending")]
        assert step > 6
        assert [row.rejected for row in rows if row.rejected] == ["set_aside"]

    def test_a_broken_connection_leaves_nothing_half(self, store, built, work, monkeypatch):
        recipe, local = built
        url = store.bucket("broken") + "/small"
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # else a minute goes by before it gives up
        stores.disconnect()
        store.broken = "/rejected" if any("rejected/" in name for name in building.files_of(local)) else "/train/shard-"
        with pytest.raises(storage.StoreError, match=r"s3://broken/small/.*run it again"):
            building.build(recipe, url)
        store.broken = ""
        stores.disconnect()
        there = store.objects(url)
        assert "dataset.json" not in there
        for name, content in digests(there).items():
            assert building.files_of(local)[name] == content, "what is there is whole"
        building.build(recipe, url)
        assert digests(store.objects(url)) == building.files_of(local)

    def test_machines_that_share_only_the_store(self, store, built, work, monkeypatch):
        recipe, local = built
        url = store.bucket("shared") + "/small"
        prepare.cache_clear()
        setup = prepare(str(recipe))
        job = Job(str(recipe), url, setup.fingerprint)
        here = mirror.folder(url)
        with shards.exclusive(here):
            shards.claim(here, "small")
            plan = setup.plan(here)
            for number, unit in enumerate(plan.units):
                monkeypatch.setenv("EARWITNESS_WORK", str(work.with_name(f"machine{number % 3}")))
                assert not build_unit(job, unit).skipped
            monkeypatch.setenv("EARWITNESS_WORK", str(work.with_name("machine0")))
            assert build_unit(job, plan.units[1]).skipped, "it was built by another"
            monkeypatch.setenv("EARWITNESS_WORK", str(work))
            finish(job, plan)
        assert digests(store.objects(url)) == building.files_of(local)

    def test_one_run_holds_it(self, store, work, monkeypatch):
        url = store.bucket("held") + "/it"
        here = mirror.folder(url)
        with shards.exclusive(here):
            monkeypatch.setenv("EARWITNESS_WORK", str(work.with_name("elsewhere")))
            there = mirror.folder(url)
            refused = pytest.raises(shards.FolderInUse, match=r"on .* \(process \d+\) is building in s3://held/it")
            with refused, shards.exclusive(there):
                pass
        with shards.exclusive(there):
            pass
        # Both find it stale at the same moment; one of them gets it.
        first, second = (lease._Lease(url, name) for name in "ab")
        first.take()
        monkeypatch.setattr(lease, "STALE", 0.0)
        monkeypatch.setattr(lease, "BEAT", 0.05)
        second.take()
        third = lease._Lease(url, "c")
        third._highest = lambda: second._number - 1  # what it saw before
        with pytest.raises(shards.FolderInUse, match="just begun"):
            third.take()
        first._ended.set()
        first._thread.join()
        assert first._highest() == second._number
        first._ended.clear()
        first._renew()
        with pytest.raises(shards.FolderInUse, match="nothing more is written here"):
            first.check()
        second.check()
        second.leave()

    def test_the_shards_that_are_kept_are_bounded(self, store, built, work, monkeypatch):
        store.upload(built[1], "s3://corpora/bounded")
        folder = mirror.folder("s3://corpora/bounded")
        files = inspect.load(folder).splits["train"].shards
        monkeypatch.setenv("EARWITNESS_CACHE_GB", str(1.5 * files[0].bytes / 1e9))
        monkeypatch.setattr(mirror, "_RECENT", 0.0)
        with ThreadPoolExecutor(2) as threads:
            store.forget()
            one, other = threads.map(lambda _: mirror.local(folder, files[0]), range(2))
            assert one == other
            assert store.asked["GET"] == 1, "two that want the same fetch it once"
        mapped = pa.memory_map(str(one))
        assert mirror.local(folder, files[1]).is_file()
        assert not one.exists(), "it was used before the other"
        assert len(mapped.read()) == files[0].bytes, "whoever has it open keeps it"
        with pytest.raises(storage.StoreError, match="EARWITNESS_CACHE_GB"):
            mirror.local_all(folder, files)
        store.client.put_object(Bucket="corpora", Key=f"bounded/{files[0].path}", Body=b"another")
        with pytest.raises(storage.StoreError, match="not as its manifest says"):
            mirror.local(folder, files[0])

    def test_a_large_object_goes_in_parts(self, store, work, tmp_path, monkeypatch):
        file = tmp_path / "large"
        file.write_bytes(bytes(range(256)) * 2**16)  # 16 MB
        url = store.bucket("large") + "/object"
        monkeypatch.setattr(storage, "_PART", 5 * 2**20)  # the least that S3 takes
        store.forget()
        storage.send(file, url)
        assert store.asked["PUT"] == 4
        assert store.sent < 1.001 * file.stat().st_size
        assert storage.digest(url) == shards.digest_of(file)
