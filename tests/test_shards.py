"""Shards on disk: whole or not there, and what the manifest says is so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline import shards
from pipeline.shards import DiskError, FolderInUse, ShardWriter, UnitWriter
from schemas.manifest import SCHEMA_VERSION
from schemas.sample import Provenance, Sample
from schemas.utterance import AUGMENTED, Audio, Part, Utterance
from tests.building import build, files_of
from tests.conftest import ROOT


def sample(number: int, rejected: str | None = None) -> Sample:
    audio = Audio(os.urandom(200), 2.0, 16000, 1, "WAV/PCM_16", -3.0, -20.0, 0.0, str(number), b"")
    speech = Utterance(f"c/{number // 2}", "c", "some words", "en", f"c/s{number % 3}", licence="CC0", audio=audio)
    made = Provenance(instruction=f"t/en/{number}", model="m", attempts=1, prompt_tokens=10, completion_tokens=5)
    return Sample(f"c/{number // 2}:t:{number}", (speech,), "train", "t", provenance=made, rejected=rejected)


def write(out: Path, rows: list[Sample], unit: str = "aa") -> shards.ShardManifest:
    with UnitWriter(out, unit, "train", 4) as writer:
        for row in rows:
            writer.add(row)
        return writer.finish("f", 10)


def test_the_manifest_accounts_for_every_row(tmp_path: Path) -> None:
    rows = [sample(n, "too_short" if n % 4 == 0 else None) for n in range(20)]
    manifest = write(tmp_path, rows)
    assert manifest.kept is not None
    assert manifest.rejected is not None
    assert (manifest.kept.rows, manifest.rejected.rows) == (15, 5)
    assert manifest.reasons == {"too_short": 5}
    assert manifest.tasks == {"t": 15}
    assert manifest.row_seconds == 30.0
    assert manifest.seconds == 20.0  # ten utterances, and each has a kept row
    assert manifest.languages == {"en": 20.0}
    assert manifest.speakers == ["c/s0", "c/s1", "c/s2"]
    assert manifest.tokens["m"].model_dump() == {"requests": 20, "prompt": 200, "completion": 100}
    assert list(shards.read(tmp_path / manifest.kept.path)) == [r for r in rows if r.rejected is None]
    assert list(shards.read(tmp_path / manifest.rejected.path)) == [r for r in rows if r.rejected]
    assert shards.finished(tmp_path, "aa", "train", "f") == manifest


def test_hours_of_rows_and_of_what_they_are_made_of(tmp_path: Path) -> None:
    """A mixture, a pause and an augmented copy are rows, and no further recordings."""
    whole = sample(0)
    speech = whole.utterances[0]
    mixed = replace(speech, id="c/0+c/9", parts=(Part("c/0", "c/x"), Part("c/9", "c/y")), licence="CC-BY-4.0")
    changed = replace(speech, id=f"c/0{AUGMENTED}", effects={"gain_db": "3.0"})
    rows = [replace(whole, id=f"r{n}", utterances=(u,)) for n, u in enumerate((speech, mixed, changed, speech))]
    manifest = write(tmp_path, rows)
    assert (manifest.row_seconds, manifest.seconds, manifest.augmented) == (8.0, 2.0, 2.0)
    assert manifest.languages == {"en": 2.0}
    assert manifest.licences == {"CC-BY-4.0": 0.0, "CC0": 2.0}, "the licence of what is heard is always named"
    only = write(tmp_path / "only", [rows[2]])
    assert (only.row_seconds, only.seconds) == (2.0, 2.0)


def test_speakers_of_mixtures_count(tmp_path: Path) -> None:
    row = sample(0)
    mixed = replace(row.utterances[0], speaker=None, parts=(Part("c/8", "c/x"), Part("c/9", "c/y")))
    assert write(tmp_path, [replace(row, utterances=(mixed,))]).speakers == ["c/x", "c/y"]


def test_a_unit_without_kept_rows_has_a_manifest(tmp_path: Path) -> None:
    manifest = write(tmp_path, [sample(0, "silent")])
    assert manifest.kept is None
    assert not list(tmp_path.glob("train/*.arrow"))
    assert shards.finished(tmp_path, "aa", "train", "f") == manifest


def test_a_new_version_of_a_unit_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    write(tmp_path, [sample(0), sample(1, "silent")])
    manifest = write(tmp_path, [sample(0)])
    assert not list(tmp_path.glob("rejected/*"))
    assert shards.finished(tmp_path, "aa", "train", "f") == manifest


@pytest.mark.parametrize("damage", ["manifest", "garbage", "shard", "truncated", "fingerprint", "version"])
def test_what_is_not_whole_does_not_exist(tmp_path: Path, damage: str) -> None:
    manifest = write(tmp_path, [sample(n) for n in range(8)])
    assert manifest.kept is not None
    shard, listing = tmp_path / manifest.kept.path, tmp_path / shards.manifest_path("train", "aa")
    if damage == "manifest":
        listing.unlink()
    elif damage == "garbage":
        listing.write_text(listing.read_text()[:100])
    elif damage == "shard":
        shard.unlink()
    elif damage == "truncated":
        os.truncate(shard, shard.stat().st_size - 8)
    elif damage == "version":
        listing.write_text(listing.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 0'))
    assert shards.finished(tmp_path, "aa", "train", "other" if damage == "fingerprint" else "f") is None


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with UnitWriter(tmp_path, "aa", "train", 4) as writer:
            for n in range(9):
                writer.add(sample(n))
            raise RuntimeError("something else broke")

    with pytest.raises(RuntimeError, match="something else"):
        fail()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_rows_can_be_set_aside_later_and_taken_back(tmp_path: Path) -> None:
    rows = [replace(sample(n, "silent" if n == 3 else None), position=n) for n in range(10)]
    manifest = write(tmp_path, rows)
    first = {p.name: p.read_bytes() for p in tmp_path.rglob("*.arrow")}
    changed = shards.judged(tmp_path, manifest, {0: shards.Rejection("duplicate_audio", "like x")}, 4)
    assert changed.kept is not None
    assert changed.rejected is not None
    assert (changed.kept.rows, changed.rejected.rows) == (8, 2)
    assert changed.reasons == {"duplicate_audio": 1, "silent": 1}
    assert changed.utterances == manifest.utterances
    assert [s.position for s in shards.read(tmp_path / changed.rejected.path)] == [0, 3]
    assert shards.judged(tmp_path, changed, {0: None}, 4) == manifest
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*.arrow")} == first


def test_a_file_that_does_not_read_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path / "shard", 4)
    for n in range(8):
        writer.add(sample(n))
    sync = os.fsync

    def rotten(handle: int) -> None:
        """A disk that keeps other bytes than it was given."""
        sync(handle)
        with open(tmp_path / "shard", "r+b") as stream:
            stream.seek(3000)
            byte = stream.read(1)
            stream.seek(3000)
            stream.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(os, "fsync", rotten)
    with pytest.raises(DiskError, match="does not read back"):
        writer.close("shard")


def test_one_run_at_a_time(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from pipeline.shards import exclusive\n"
    script += "with exclusive(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(FolderInUse, match="another run"), shards.exclusive(tmp_path):
        pass
    other.kill()
    other.wait()
    with shards.exclusive(tmp_path):  # the system has freed it
        pass


def test_the_place_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"file.*give another --out"), shards.exclusive(tmp_path / "file" / "out"):
        pass


def test_what_has_rotted_is_found_and_made_again(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    """Sizes say nothing: one bit of a shard is another, and one of a row that was set aside."""
    recipe, out = write_recipe(filters={"duration": {"shortest": 2.0}}), tmp_path / "out"
    build(recipe, out)
    whole = files_of(out)
    for pattern in ("train/shard-*.arrow", "rejected/train-*.arrow"):
        path = sorted(out.glob(pattern))[-1]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    build(recipe, out)
    assert files_of(out) != whole, "a build looks at sizes"
    assert shards.distrust(out) in (1, 2)
    build(recipe, out)
    assert files_of(out) == whole
    assert shards.distrust(out) == 0
