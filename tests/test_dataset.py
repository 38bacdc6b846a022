"""A finished folder as others see it: `datasets` alone, soundfile alone, and what keeps train from test."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from pipeline.inspect import load
from pipeline.publish.card import small
from tests.building import build
from tests.building import rows as rows_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    place = tmp_path_factory.mktemp("dataset")
    recipe = place / "small.yaml"
    recipe.write_text(
        f"name: small\ncorpora: [{{reader: jsonl, name: tones, path: {corpus}, licence: CC0-1.0}}]\n"
        "tasks: {transcription: , keyword_spotting: , speaker_count: }\nsplit: {test: 0.4}\n"
        "samples_per_utterance: all\nfilters: {duration: {longest: 3.5}, duplicates: false}\n"
        "shards: {utterances: 5, rows_per_batch: 4}\n"
    )
    build(recipe, place / "out")
    return place / "out"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(folder: Path) -> dict[str, int]:
    manifest = json.loads((folder / "dataset.json").read_text())
    return {name: split["rows"] for name, split in manifest["splits"].items()}


def test_load_dataset(folder: Path) -> None:
    found = datasets.load_dataset(str(folder))
    assert {name: len(split) for name, split in found.items()} == rows_of(folder)
    for row in found["train"]:
        for audio, speech in zip(row["audios"], row["utterances"], strict=True):
            samples, rate = soundfile.read(io.BytesIO(audio["bytes"]))
            assert (rate, samples.ndim) == (16_000, 1)
            assert len(samples) / rate == pytest.approx(speech["seconds"])
            assert np.abs(samples).max() > 0.01
        assert sum(m["content"].count("<|audio|>") for m in row["messages"]) == len(row["audios"])
        assert row["rejected"] is None


def test_load_dataset_does_not_take_another_build_of_that_name_from_its_cache(
    folder: Path, corpus: Path, tmp_path: Path
) -> None:
    first = datasets.load_dataset(str(folder), split="train")
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        f"name: small\ncorpora: [{{reader: jsonl, name: tones, path: {corpus}, licence: CC0-1.0}}]\n"
        "tasks: {transcription: }\nsplit: {test: 0.4}\nfilters: {duration: {longest: 3.5}, duplicates: false}\n"
    )
    again = tmp_path / "elsewhere" / folder.name
    build(recipe, again)
    found = datasets.load_dataset(str(again))
    assert {name: len(split) for name, split in found.items()} == rows_of(again)
    assert set(found["train"]["task"]) == {"transcription"} != set(first["task"])


def test_streaming(folder: Path) -> None:
    stream = datasets.load_dataset(str(folder), split="test", streaming=True)
    assert sum(1 for _ in stream) == rows_of(folder)["test"]


def test_rejected_rows_are_a_configuration(folder: Path) -> None:
    found = datasets.load_dataset(str(folder), "rejected")
    reasons = {row["rejected"] for split in found.values() for row in split}
    assert "too_long" in reasons
    assert None not in reasons


def test_load_from_disk_maps_the_shards(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    found = datasets.load_from_disk(str(folder))
    assert {name: len(split) for name, split in found.items()} == rows_of(folder)
    assert {Path(f["filename"]).parent.name for f in found["train"].cache_files} == {"train"}
    assert next(iter(found["test"]))["split"] == "test"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "nothing is copied or written"


def test_no_speaker_and_no_paraphrase_is_in_both_splits(folder: Path) -> None:
    found = datasets.load_from_disk(str(folder))
    speakers, paraphrases = {}, {}
    for name, split in found.items():
        heard = [speech for row in split for speech in row["utterances"]]
        speakers[name] = {s["speaker"] for s in heard} | {p["speaker"] for s in heard for p in s["parts"]}
        paraphrases[name] = {row["provenance"]["instruction"] for row in split}
    assert speakers["train"] - {None}
    assert speakers["test"] - {None}
    assert not (speakers["train"] & speakers["test"]) - {None}
    assert not paraphrases["train"] & paraphrases["test"]


def test_the_card_is_true(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    kept, _ = rows_in(folder, load(folder))
    for name, rows in rows_of(folder).items():
        speech = [u for row in kept if row.split == name for u in row.utterances]
        of_rows = sum(u.audio.seconds for u in speech if u.audio) / 3600
        source = sum({u.id: u.audio.seconds for u in speech if u.audio and not u.parts}.values()) / 3600
        assert f"| {name} | {rows} | {small(of_rows)} | {small(source)} |" in card
    assert "too_long" in card
    assert "CC0-1.0" in card


def test_a_long_recording_is_set_aside_without_its_sound(tmp_path: Path, corpus: Path) -> None:
    """Whether its length is told by its header, by a listing, or by nobody."""
    rng = np.random.default_rng(1)
    soundfile.write(tmp_path / "long.wav", rng.normal(0, 0.1, 8_000 * 90), 8_000)
    rows = [
        {"id": "header", "audio_filepath": "long.wav", "text": "It goes on and on."},
        {"id": "listed", "audio_filepath": "long.wav", "text": "It goes on and on.", "offset": 1.5, "duration": 60.0},
        {"id": "short", "audio_filepath": "long.wav", "text": "It goes on and on.", "offset": 1.5, "duration": 3.0},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: long\ncorpora: [{reader: jsonl, name: c, path: m.jsonl, language: en}]\n"
        "tasks: {transcription: }\nfilters: {silence: false, language: false}\n"
    )
    kept, aside = rows_in(tmp_path / "out", build(recipe, tmp_path / "out"))
    assert [s.utterances[0].id for s in kept] == ["c/short"]
    told = {s.utterances[0].id: (s.rejected, s.detail, s.utterances[0].audio) for s in aside}
    assert told == {
        "c/header": ("too_long", "90 s, at most 30 s are asked for", None),
        "c/listed": ("too_long", "60 s, at most 30 s are asked for", None),
    }


def test_rejected_rows_are_not_taken_for_a_dataset_without_rows(tmp_path: Path, corpus: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    content = f"name: none\ncorpora: [{{reader: jsonl, name: c, path: {corpus}}}]\ntasks: {{transcription: }}\n"
    recipe.write_text(content + "filters: {duration: {shortest: 20}}\n")
    out = tmp_path / "out"
    manifest = build(recipe, out)
    assert not manifest.splits
    with pytest.raises(ValueError, match="no data"):
        datasets.load_dataset(str(out))
    aside = datasets.load_dataset(str(out), "rejected")
    assert sum(len(split) for split in aside.values()) == manifest.rows_in == 24
    assert not datasets.load_from_disk(str(out))
    recipe.write_text(content + "split: {test: 0}\n")
    kept = build(recipe, out).splits["train"].rows
    assert len(datasets.load_dataset(str(out))["train"]) == kept > 0
    assert not (out / "empty.arrow").exists()
