"""Google's store and the Hub, on loopback; S3 is in test_storage.

The emulator of Google's store keeps objects in memory, answers one request at a time, and knows neither credentials
nor conditions: the one that we ask for, that an object is not there yet, is checked here. The Hub is that of test_publish.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from pipeline import inspect, mirror, plugins, shards, storage
from pipeline.train.rows import Rows
from tests import building
from tests import hub as hubs
from tests.conftest import ROOT

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("storage")]
RECIPE = """
name: small
corpora: [{{reader: jsonl, name: tones, path: "{path}", licence: CC0-1.0}}]
tasks: {{transcription: , keyword_spotting: , word_question: }}
split: {{test: 0.3}}
shards: {{utterances: 9}}
"""


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket's URL."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which gcsfs reads when it is imported
    pytest.importorskip("gcsfs", reason="the extra `gs` is not installed")
    server = pytest.importorskip("gcp_storage_emulator.server", reason="the emulator of Google's store is missing")
    from gcp_storage_emulator.exceptions import NotFound

    insert = server.objects.insert

    def conditional(request, response, store, *args: object, **options: object) -> None:
        if request.query.get("ifGenerationMatch") == ["0"]:
            try:
                store.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
            except NotFound:
                pass
            else:
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
        insert(request, response, store, *args, **options)

    for _, handlers in server.HANDLERS:
        if handlers.get("POST") is insert:
            monkeypatch.setitem(handlers, "POST", conditional)
    running = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    running.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{running._api._httpd.server_port}")
    storage.forget()
    try:
        yield "gs://bucket"
    finally:
        running.stop()


@pytest.mark.services
def test_a_dataset_in_googles_store_is_the_one_on_the_disk(
    google: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARWITNESS_WORK", str(tmp_path / "work"))
    for path in corpus.iterdir():
        storage.send(path, f"{google}/tones/{path.name}")
    recipe, url = tmp_path / "small.yaml", f"{google}/data/small"
    recipe.write_text(RECIPE.format(path=f"{google}/tones"))
    building.build(recipe, tmp_path / "local")
    manifest = building.build(recipe, url)
    monkeypatch.setenv("EARWITNESS_WORK", str(tmp_path / "another machine"))
    there, local = mirror.folder(url), building.files_of(tmp_path / "local")
    assert inspect.load(there) == manifest
    assert inspect.verify(there, manifest) == []
    assert sorted(mirror.names(there)) == sorted(local)
    assert len(Rows([url])) == manifest.splits["train"].rows
    with shards.exclusive(there):
        monkeypatch.setenv("EARWITNESS_WORK", str(tmp_path / "work"))
        refused = pytest.raises(shards.FolderInUse, match="is building in gs://bucket/data/small")
        with refused, shards.exclusive(mirror.folder(url)):
            pass
    with pytest.raises(FileExistsError):
        storage.write(f"{url}/dataset.json", b"", new=True)
    with pytest.raises(FileNotFoundError):
        storage.read(f"{google}/nothing")
    storage.delete(f"{google}/nothing")


@pytest.mark.parametrize(("url", "package", "extra"), [("gs://b/c", "gcsfs", "gs"), ("az://b/c", "adlfs", "azure")])
def test_what_is_not_installed_is_named(url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(plugins.MissingExtra, match=rf"'{package}'.*earwitness\[{extra}\]"):
        storage.place(url)


HUB = """
import sys
from http import HTTPStatus
from pathlib import Path
from pipeline import inspect, mirror, storage
from pipeline.train.rows import Rows
from tests import building
recipe, out, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
building.build(recipe, out)
folder = mirror.folder(url)
assert inspect.verify(folder, inspect.load(folder)) == []
assert [Rows([url])[0], len(Rows([url]))] == [Rows([out])[0], len(Rows([out]))]
"""


@pytest.mark.services
def test_corpora_and_datasets_are_read_from_the_hub(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.format(path=corpus))
    building.build(recipe, tmp_path / "local")
    local = building.files_of(tmp_path / "local")
    with hubs.serving() as hub:
        for name, folder, names in (
            ("tones", corpus, [path.name for path in corpus.iterdir()]),
            ("small", tmp_path / "local", list(local)),
        ):
            made = hub.repositories[f"somebody/{name}"] = hubs.Repository()
            made.large |= {f"v1/{name}" for name in names if name.endswith((".wav", ".arrow"))}
            made.add("upload", {f"v1/{name}": (folder / name).read_bytes() for name in names})
        recipe.write_text(RECIPE.format(path="hf://datasets/somebody/tones/v1"))
        done = subprocess.run(  # the library takes its endpoint when it is imported
            [sys.executable, "-c", HUB, str(recipe), str(tmp_path / "out"), "hf://datasets/somebody/small/v1"],
            env=os.environ
            | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
            | {"EARWITNESS_WORK": str(tmp_path / "work"), "HF_HOME": str(tmp_path / "hf")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        sounds = [path for method, path in hub.seen if path.endswith(".wav") and method == "GET"]
        assert len(sounds) == len(set(sounds)) == 24, "each recording by one request"
    made, expected = (inspect.load(tmp_path / name) for name in ("out", "local"))
    assert (made.tasks, made.set_aside) == (expected.tasks, 0)
    with pytest.raises(storage.StoreError, match="earwitness publish"):
        mirror.target("hf://datasets/somebody/small")
