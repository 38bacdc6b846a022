"""Publishing to a Hub on loopback, and reading the dataset back from there."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("matplotlib", reason="the extra `publish` is not installed")

from pipeline import inspect, shards
from pipeline.cli import COMMANDS
from pipeline.prompting import Prompts
from pipeline.publish import hub as publishing
from pipeline.publish import hub_card, layout, parquet, release
from pipeline.publish.errors import DamagedShard, PublishError
from pipeline.publish.facts import Facts
from schemas.manifest import DatasetManifest, ShardFile, SplitSummary
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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of about one shard each."""
    for name, size in (("LEAST", 200_000), ("WANTED", 300_000), ("MOST", 400_000)):
        monkeypatch.setattr(layout, name, size)


def push(folder: Path, hub: hubs.Hub, dataset: DatasetManifest | None = None, **options: bool) -> publishing.Published:
    return release.publish(folder, dataset or inspect.load(folder), NAME, endpoint=hub.url, **options)


def without(dataset: DatasetManifest, *shard: int) -> DatasetManifest:
    """A dataset that lacks shards of train."""
    train = dataset.splits["train"]
    files = [file for number, file in enumerate(train.shards) if number not in shard]
    return dataset.model_copy(
        update={
            "splits": dataset.splits
            | {"train": train.model_copy(update={"shards": files, "rows": sum(file.rows for file in files)})}
        }
    )


def recordings(content: bytes) -> set[bytes]:
    """The sound in a Parquet file."""
    rows = pq.ParquetFile(io.BytesIO(content)).read(["audio"])["audio"].to_pylist()
    return {row["bytes"] for row in rows}


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
        "      print(config, split, row['id'], row['rejected'], (row['messages'] or [{'content': None}])[-1]['content'], digest, sep='|')\n"
        f"  told = datasets.load_dataset_builder({NAME!r}, config).info\n"
        "  made = rows.info\n"
        "  print('INFO', told.features == made.features, {s: (told.splits[s].num_bytes, told.splits[s].num_examples) for s in told.splits} "
        f"== {{s: (i.num_bytes, i.num_examples) for s, i in made.splits.items()}})\n",
    )
    lines = told.splitlines()
    assert [line for line in lines if line.startswith("INFO")] == ["INFO True True"] * 2, "the card tells what is there"

    def line(config: str, s: object) -> str:
        digest = " ".join(hashlib.sha256(u.audio.flac).hexdigest() if u.audio else "-" for u in s.utterances)
        answer = s.messages[-1].content if s.messages else None
        return "|".join(map(str, (config, s.split, s.id, s.rejected, answer, digest)))

    expected = [line("default", s) for s in kept] + [line("rejected", s) for s in rejected]
    assert sorted(expected) == sorted(line for line in lines if not line.startswith("INFO"))


@pytest.mark.parametrize("most", [400_000, 100_000], ids=["shards together", "a shard is too large"])
def test_files_are_as_the_viewer_wants_them(
    folder: Path, hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 60_000)
    for name, size in (("LEAST", 0.6 * most), ("WANTED", 0.8 * most), ("MOST", most)):
        monkeypatch.setattr(layout, name, int(size))
    push(folder, hub)
    _, files = hub.repositories[NAME].head
    data = {path: content for path, content in files.items() if path.endswith(".parquet")}
    assert len(data) > 2
    ids: dict[str, list[str]] = {"train": [], "test": []}
    for path, content in sorted(data.items()):
        assert len(content) < 2 * most, "the shards, and what Parquet says of each of 75 columns"
        file = pq.ParquetFile(io.BytesIO(content))
        ids[path.split("/")[1].partition("-")[0]] += file.read(["id"])["id"].to_pylist()
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            assert group.total_byte_size < 120_000
            for index in range(group.num_columns):
                column = group.column(index)
                assert column.has_offset_index
                if column.path_in_schema.startswith("audio."):
                    assert column.compression == "UNCOMPRESSED"
                    assert not column.has_dictionary_page
    dataset = inspect.load(folder)
    for split, summary in dataset.splits.items():
        assert ids[split] == [s.id for f in summary.shards for s in shards.read(folder / f.path)]


def test_card_tells_whose_it_is_and_how_it_was_made(folder: Path, hub: hubs.Hub) -> None:
    push(folder, hub, rejected=True)
    _, files = hub.repositories[NAME].head
    card = files["README.md"].decode()
    for told in (
        *('license: ["unknown"]', "dataset_info", "## Sources", "## A row"),
        *(hub_card.PICTURE, f"/datasets/{NAME}/resolve/main/{hub_card.SOUND}", "word_question", "too_long"),
    ):
        assert told in card
    assert files[hub_card.PICTURE].startswith(b"\x89PNG")
    assert files[hub_card.SOUND].startswith(b"fLaC")


def test_card_shows_prompts_in_the_language_in_which_the_llm_was_asked(folder: Path) -> None:
    dataset, prompts = inspect.load(folder), Prompts()
    told = {name: prompts.get("reply", name) for name in ("pt", "ru")}
    rows_by = {f"reply\t\t{one.digest}\topenai\tsome": 3 for one in told.values()}
    sample = next(iter(shards.read(folder / dataset.splits["train"].shards[0].path)))
    card = hub_card.Card(folder, dataset, Facts(prompts=rows_by), {}, NAME, "https://hub", {}).text(sample)
    assert "have been changed" not in card
    for name, one in told.items():
        assert f"`reply` in `{name}`" in card
        assert one.content.system.strip() in card


def test_a_dataset_that_was_withdrawn_leaves_the_hub(folder: Path, hub: hubs.Hub) -> None:
    push(folder, hub)
    dataset = inspect.load(folder)
    nothing = dataset.model_copy(update={"splits": {}, "rejected": [], "reasons": {}})
    with pytest.raises(PublishError, match="stays as it is"):
        push(folder, hub, nothing)
    assert any(path.endswith(".parquet") for path in hub.repositories[NAME].head[1]), "a slip withdraws nothing"
    gone = nothing.model_copy(update={"removed": {"withdrawn": 9}})
    assert push(folder, hub, gone).changed
    assert set(hub.repositories[NAME].head[1]) == {".gitattributes", "README.md", release.MANIFEST}
    assert not push(folder, hub, gone).changed
    assert push(folder, hub, gone, purge=True).purged
    assert not hub.objects
    assert push(folder, hub).changed, "and comes back"


@pytest.mark.parametrize("name", ["spoken", "a/b/c", "a b/c", "a/-b", "a/b..c", "é/b", ""])
def test_a_wrong_name_makes_nothing(folder: Path, hub: hubs.Hub, name: str) -> None:
    with pytest.raises(PublishError, match="OWNER/NAME"):
        release.publish(folder, inspect.load(folder), name, endpoint=hub.url)
    assert not hub.repositories
    assert not hub.seen


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
        {"path": "/store/", "status": 409, "times": 1},
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


def test_killed_push_goes_on_where_it_was(folder: Path, hub: hubs.Hub, small: None) -> None:
    hub.takes = 2
    (folder / shards.BUILD / "published.json").unlink(missing_ok=True)
    code = (
        "import sys; from pathlib import Path; from pipeline import inspect; from pipeline.publish import layout, release\n"
        "layout.LEAST, layout.WANTED, layout.MOST = 200_000, 300_000, 400_000\n"
        "folder = Path(sys.argv[1]); release.publish(folder, inspect.load(folder), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(folder), NAME]
    with subprocess.Popen(command, env=os.environ | {"HF_ENDPOINT": hub.url}) as pushing:
        deadline = time.monotonic() + 60
        while sum(path.startswith("/store/") for _, path in hub.seen) < 3:
            assert time.monotonic() < deadline, "the push does not come to its third file"
            assert pushing.poll() is None, "it has ended"
            time.sleep(0.01)
        pushing.kill()
    assert len(hub.repositories[NAME].commits) == 1, "nothing is visible of a release that was stopped"
    hub.takes = 10**9
    done = push(folder, hub)
    there = [path for path in hub.repositories[NAME].head[1] if path.endswith(".parquet")]
    assert done.made in (len(there) - 2, len(there) - 3), "the third file may have come to an end, unknown to the push"
    assert dict(hub.sent) == {oid: len(content) for oid, content in hub.objects.items()}


def test_what_is_new_is_sent_and_what_was_withdrawn_goes(folder: Path, hub: hubs.Hub, small: None) -> None:
    dataset = inspect.load(folder)
    last = len(dataset.splits["train"].shards) - 1
    push(folder, hub, without(dataset, last))
    _, before = hub.repositories[NAME].head
    done = push(folder, hub)
    _, files = hub.repositories[NAME].head
    assert done.made == 1
    assert done.bytes_read <= 2 * dataset.splits["train"].shards[last].bytes
    same = [path for path in before if path.endswith(".parquet") and files.get(path) == before[path]]
    assert len(same) >= sum(path.endswith(".parquet") for path in before) - 1
    gone = {
        a.flac
        for s in shards.read(folder / dataset.splits["train"].shards[0].path)
        for u in s.utterances
        if (a := u.audio)
    }
    hub.repositories[NAME].others["v1"] = hub.repositories[NAME].head
    push(folder, hub, without(dataset, 0))
    repository = hub.repositories[NAME]
    _, files = repository.head
    assert not gone & set().union(*(recordings(files[path]) for path in files if path.endswith(".parquet")))

    purged = push(folder, hub, without(dataset, 0), purge=True)
    assert not purged.changed
    assert len(repository.commits) == 1
    assert any(recording in content for content in hub.objects.values() for recording in gone), "a tag names it"
    del repository.others["v1"]
    assert push(folder, hub, without(dataset, 0), purge=True).purged
    assert set(hub.objects) == {hashlib.sha256(files[path]).hexdigest() for path in repository.large & set(files)}
    assert not any(recording in content for content in hub.objects.values() for recording in gone)
    assert push(folder, hub, without(dataset, 0), purge=True).purged == 0
    assert repository.head[1] == files


def test_files_stay_as_they_are_while_shards_come_and_go() -> None:
    rng = random.Random(3)
    every = [
        ShardFile(path=f"train/shard-{n}.arrow", rows=10, bytes=rng.randrange(1, 90) * 2**20, digest=str(n))
        for n in range(400)
    ]
    before: dict[str, layout.File] = {}
    sent = 0
    for end in range(20, 401, 4):
        if end == 200:
            every[50] = every[50].model_copy(update={"digest": "again", "bytes": 1})
            del every[60]
        found = layout.parts(_dataset(every[:end]), before, single=True, rejected=False)
        files = {part.paths[0]: _file(part) for part in found}
        assert [name for path in sorted(files) for name in files[path].shards] == [s.path for s in every[:end]]
        changed = [part for part in found if before.get(part.paths[0]) != files[part.paths[0]]]
        new = sum(
            shard.bytes
            for part in changed
            for shard in part.shards
            if shard.path in {s.path for s in every[end - 4 : end]}
        )
        if before and end != 200:
            sent += sum(part.bytes for part in changed)
            assert sum(part.bytes for part in changed) <= new + 4 * layout.LEAST
        elif before:
            assert len(changed) <= 4, "one that was rewritten and one that was withdrawn change their files, no other"
        before = files
    assert sum(part.bytes < layout.LEAST for part in found) <= 6
    assert all(part.bytes <= layout.MOST for part in found)
    assert sent < 3 * sum(shard.bytes for shard in every)


def _dataset(files: list[ShardFile]) -> DatasetManifest:
    train = SplitSummary(rows=1, utterances=1, seconds=1, row_seconds=1, speakers=1, shards=files)
    return DatasetManifest.model_construct(splits={"train": train}, rejected=[])


def _file(part: layout.Part) -> layout.File:
    names = [shard.path for shard in part.shards]
    return layout.File(key=part.key(0), sha256="", bytes=part.bytes, rows=1, memory=1, shards=names)


def test_somebody_else_was_faster(folder: Path, hub: hubs.Hub) -> None:
    push(folder, hub)
    gone = hub_card.PICTURE

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
    with monkeypatch.context() as nobody:
        nobody.setattr("huggingface_hub.get_token", lambda: None)
        with pytest.raises(PublishError, match="no token: set HF_TOKEN"):
            push(folder, hub)
    assert not hub.seen, "it is told before anything is made"
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


def test_the_command(
    folder: Path, hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    with pytest.raises(PublishError, match="name the repository"):
        COMMANDS["publish"](folder)
    COMMANDS["publish"](folder, NAME, purge=True)
    assert f"load_dataset('{NAME}')" in capsys.readouterr().out
    dataset = inspect.load(folder)
    recipe = dataset.recipe | {"publish": {"repository": "somebody/other", "rejected": True}}
    done = release.publish(folder, dataset.model_copy(update={"recipe": recipe}))
    assert done.repository == "somebody/other"
    assert any(path.startswith("rejected/") for path in hub.repositories["somebody/other"].head[1])
