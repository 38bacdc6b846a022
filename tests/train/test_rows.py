from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash

from pipeline import shards
from pipeline.train.rows import DataError, Rows
from schemas.manifest import SCHEMA_VERSION, DatasetManifest


def manifest(folder: Path) -> DatasetManifest:
    return DatasetManifest.model_validate_json((folder / "dataset.json").read_bytes())


@pytest.fixture
def copied(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "copied"))


def change(folder: Path, **changes: object) -> None:
    place = folder / "dataset.json"
    place.write_text(json.dumps(json.loads(place.read_bytes()) | changes))


def rewrite(folder: Path, table: pa.Table) -> None:
    """Another first shard of train, with a manifest that fits it."""
    known = json.loads((folder / "dataset.json").read_bytes())
    file = known["splits"]["train"]["shards"][0]
    with pa.OSFile(str(folder / file["path"]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = (folder / file["path"]).read_bytes()
    file |= {"bytes": len(content), "digest": xxhash.xxh3_128_hexdigest(content), "rows": table.num_rows}
    (folder / "dataset.json").write_text(json.dumps(known))


def test_rows_are_those_of_the_manifests_in_their_order(dataset: Path, copied: Path):
    (copied / "train" / "shard-stray.arrow").write_bytes(b"no manifest names it")
    for split in ("train", "test"):
        written = [s for file in manifest(dataset).splits[split].shards for s in shards.read(dataset / file.path)]
        rows = Rows([dataset, copied], split)
        assert len(rows) == 2 * len(written)
        assert [rows[n] for n in range(len(rows))] == written * 2
        assert rows[len(rows) - 1] == written[-1]  # at random, too
        assert rows.identity(1) == (str(dataset), written[1].id, written[1].position)
        assert str(rows.identity(len(written))) == f"row {written[0].id!r} of {copied}"
        with pytest.raises(IndexError):
            rows[len(rows)]
        rows.check()
        for row, whole in enumerate(written):
            brief = rows.brief(row)
            same = ("id", "split", "task", "language", "messages", "tools", "transcript", "response")
            assert [getattr(brief, name) for name in same] == [getattr(whole, name) for name in same]
            for one, other in zip(brief.utterances, whole.utterances, strict=True):
                assert one.audio is not None
                assert other.audio is not None
                assert [one.audio.flac, one.audio.seconds] == [other.audio.flac, other.audio.seconds]
    held = {path.resolve() for path in Path("/proc/self/fd").iterdir()}
    assert not {path for path in held if path.is_relative_to(copied)}  # thousands of shards may be open


def test_equal_datasets_have_equal_digests(dataset: Path, copied: Path):
    assert Rows([dataset]).digest == Rows([copied]).digest
    assert Rows([dataset]).digest != Rows([dataset, copied]).digest != Rows([dataset], "test").digest


def test_what_is_no_finished_dataset_is_refused(copied: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere is no dataset of ours.*earwitness build"):
        Rows([tmp_path / "nowhere"])
    (copied / "dataset.json").rename(copied / "kept.json")
    (copied / ".build").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"copied is not finished.*earwitness build"):
        Rows([copied])
    (copied / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json is damaged.*build it again"):
        Rows([copied])


@pytest.mark.parametrize(("version", "cure"), [(SCHEMA_VERSION + 1, "update this program"), (1, "build it again")])
def test_another_schema_version_is_named(copied: Path, version: int, cure: str):
    change(copied, schema_version=version)
    with pytest.raises(DataError, match=rf"dataset\.json: schema version {version}, .* reads {SCHEMA_VERSION}: {cure}"):
        Rows([copied])


def test_a_split_without_rows_is_an_error(copied: Path):
    change(copied, splits={})
    with pytest.raises(DataError, match="the split 'train' has no rows"):
        Rows([copied])


def test_missing_and_damaged_shards_are_named(copied: Path):
    file = copied / manifest(copied).splits["train"].shards[0].path
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"{file.name} is damaged: it has .* Delete it and build it again"):
        Rows([copied])
    file.write_bytes(content[:100_000] + b"?" + content[100_001:])
    with pytest.raises(DataError, match=rf"{file.name} is damaged: its content is not what its manifest says"):
        Rows([copied]).check()
    file.write_bytes(b"\0" * len(content))
    with pytest.raises(DataError, match=rf"{file.name} .*build it again"):
        Rows([copied])[0]
    file.unlink()
    with pytest.raises(DataError, match=rf"{file.name} cannot be read \(No such file"):
        Rows([copied])


def test_missing_columns_are_named(copied: Path):
    file = copied / manifest(copied).splits["train"].shards[0].path
    table = pa.ipc.open_stream(file.read_bytes()).read_all()
    rewrite(copied, table.drop_columns(["choices"]))
    with pytest.raises(DataError, match=rf"{file.name} lacks the column 'choices'"):
        Rows([copied])[0]
    scores = table["scores"].combine_chunks()
    fields = [field for field in scores.type if field.name != "cer"]
    less = pa.StructArray.from_arrays([scores.field(field.name) for field in fields], fields=fields)
    rewrite(copied, table.set_column(table.schema.get_field_index("scores"), "scores", less))
    with pytest.raises(DataError, match=rf"{file.name}: the column 'scores' .*it lacks cer"):
        Rows([copied])[0]
