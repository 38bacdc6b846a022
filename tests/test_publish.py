"""Publishing to a Hub on loopback, and reading the dataset back from there."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("matplotlib", reason="the extra `publish` is not installed")

from pipeline import inspect, shards
from pipeline.cli import COMMANDS
from pipeline.publish import hub as publishing
from pipeline.publish import parquet, release
from pipeline.publish.errors import DamagedShard, PublishError
from tests import hub as hubs
from tests.building import build, rows

pytestmark = pytest.mark.long
NAME = "somebody/spoken"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    place = tmp_path_factory.mktemp("publish")
    recipe = place / "spoken.yaml"
    recipe.write_text(
        f"name: spoken\ncorpora:\n  - {{reader: jsonl, path: {corpus}}}\ntasks: {{transcription: , word_question: }}\n"
        "samples_per_utterance: all\nsplit: {test: 0.3}\nshards: {utterances: 6}\n"
        "filters: {duration: {longest: 3.0}, agreement: false, transcript: false, speech_rate: false}\n"
    )
    build(recipe, place / "out")
    return place / "out"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.Hub]:
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(publishing, "FIRST_WAIT", 0.01)
    with hubs.serving() as running:
        yield running


def push(folder: Path, hub: hubs.Hub, **options: bool) -> publishing.Published:
    return release.publish(folder, inspect.load(folder), NAME, endpoint=hub.url, **options)


def load(hub: hubs.Hub, home: Path, code: str) -> str:
    """What a fresh process of somebody else reads from the Hub."""
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_release_is_read_back_with_equal_rows(folder: Path, hub: hubs.Hub, tmp_path: Path) -> None:
    done = push(folder, hub, rejected=True)
    assert done.changed
    kept, rejected = rows(folder, inspect.load(folder))
    assert rejected, "the recipe sets something aside"
    told = load(
        hub,
        tmp_path,
        "import datasets, hashlib\n"
        f"for config in datasets.get_dataset_config_names({NAME!r}):\n"
        f"  for split, rows in datasets.load_dataset({NAME!r}, config).items():\n"
        "    column = 'audio' if config == 'default' else 'audios'\n"
        "    kind = datasets.Audio(decode=False)\n"
        "    for row in rows.cast_column(column, kind if config == 'default' else [kind]):\n"
        "      sounds = [row[column]] if config == 'default' else row[column]\n"
        "      digest = ' '.join(hashlib.sha256(a['bytes']).hexdigest() if a else '-' for a in sounds)\n"
        "      print(config, split, row['id'], row['rejected'], (row['messages'] or [{'content': None}])[-1]['content'], digest, sep='|')\n",
    )

    def line(config: str, s: object) -> str:
        digest = " ".join(hashlib.sha256(u.audio.flac).hexdigest() if u.audio else "-" for u in s.utterances)
        answer = s.messages[-1].content if s.messages else None
        return "|".join(map(str, (config, s.split, s.id, s.rejected, answer, digest)))

    expected = [line("default", s) for s in kept] + [line("rejected", s) for s in rejected]
    assert sorted(expected) == sorted(told.splitlines())


def test_files_are_as_the_viewer_wants_them(folder: Path, hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 200_000)
    monkeypatch.setattr(parquet, "FILE_BYTES", 400_000)
    push(folder, hub)
    _, files = hub.repositories[NAME].head
    data = {path: content for path, content in files.items() if path.endswith(".parquet")}
    assert len(data) > 2
    for content in data.values():
        file = pq.ParquetFile(io.BytesIO(content))
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            assert group.total_byte_size < 400_000
            for index in range(group.num_columns):
                column = group.column(index)
                assert column.has_offset_index
                if column.path_in_schema.startswith("audio."):
                    assert column.compression == "UNCOMPRESSED"
                    assert not column.has_dictionary_page
    card = files["README.md"].decode()
    for told in ("license", "dataset_info", "## A row", release.PICTURE, "word_question"):
        assert told in card
    assert files[release.PICTURE].startswith(b"\x89PNG")


def test_nothing_new_makes_no_commit_and_reads_nothing(folder: Path, hub: hubs.Hub) -> None:
    first = push(folder, hub)
    sent = sum(hub.sent.values())
    sizes = sum(f.bytes for split in inspect.load(folder).splits.values() for f in split.shards)
    assert sent <= 1.05 * sizes
    assert first.bytes_read == sizes
    again = push(folder, hub)
    assert (again.changed, again.made, again.bytes_read) == (False, 0, 0)
    assert again.commit == first.commit
    assert sum(hub.sent.values()) == sent


def test_busy_hub_is_waited_for_and_nothing_is_sent_twice(folder: Path, hub: hubs.Hub) -> None:
    hub.faults = [
        {"path": "/commit/", "status": 429, "times": 2},
        {"path": "/objects/batch", "status": 503, "times": 1},
        {"path": "/api/datasets", "status": 500, "times": 1},
        {"path": "/commit/", "status": 409, "times": 1},
    ]
    assert push(folder, hub).changed
    assert len(hub.repositories[NAME].commits) == 2
    sizes = {oid: len(content) for oid, content in hub.objects.items()}
    assert dict(hub.sent) == sizes


def test_stopped_push_goes_on(folder: Path, hub: hubs.Hub) -> None:
    hub.faults = [{"path": "/commit/", "status": 403, "times": 99}]
    with pytest.raises(PublishError, match="write access"):
        push(folder, hub)
    assert len(hub.repositories[NAME].commits) == 1, "nothing is visible of a release that was stopped"
    hub.faults = []
    sent = dict(hub.sent)
    assert push(folder, hub).changed
    assert dict(hub.sent) == sent


def test_somebody_else_was_faster(folder: Path, hub: hubs.Hub) -> None:
    push(folder, hub)
    gone = release.PICTURE

    def meddle(repository: hubs.Repository) -> None:
        files = {path: content for path, content in repository.head[1].items() if path != gone}
        repository.add("somebody else", files | {"theirs.txt": b"1", "default/train-99999.parquet": b"old"})

    hub.repositories[NAME].add("older card", hub.repositories[NAME].head[1] | {"README.md": b"old"})
    hub.before_commit = [meddle]
    assert push(folder, hub).changed
    _, files = hub.repositories[NAME].head
    assert gone in files
    assert files["theirs.txt"] == b"1"
    assert "default/train-99999.parquet" not in files, "what an older release had is gone"
    assert files["README.md"] != b"old"


def test_wrong_token_and_damage_are_told(folder: Path, hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PublishError, match="HF_TOKEN") as error:
        push(folder, hub)
    assert "hf_wrong" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    (folder / shards.BUILD / "published.json").unlink(missing_ok=True)
    dataset = inspect.load(folder)
    path = folder / dataset.splits["train"].shards[0].path
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(DamagedShard, match=path.name):
            push(folder, hub)
    finally:
        path.write_bytes(content)


def test_the_command(folder: Path, hub: hubs.Hub) -> None:
    assert "publish" in COMMANDS
    env = os.environ | {"HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "pipeline.cli", "publish", str(folder), NAME]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"load_dataset('{NAME}')" in done.stdout
    done = subprocess.run(command, env=env | {"HF_TOKEN": "hf_secretive"}, capture_output=True, text=True, check=False)
    assert "hf_secretive" not in done.stdout + done.stderr
    assert all(hubs.TOKEN.encode() not in content for content in hub.repositories[NAME].head[1].values())
