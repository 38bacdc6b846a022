"""Common Voice TSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.readers.common_voice import CommonVoice
from tests.examples import ROOT
from tests.reading import files_read, index, read, reasons, said, sounds, text, the, wrong

HEADER = "client_id path sentence up_votes down_votes age gender accent".split()


def row(*values: str) -> str:
    return "\t".join(values)


def table(path: Path, *rows: str, header: list[str] = HEADER, **form: Any) -> Path:
    return text(path, row(*header), *rows, **form)


def test_the_official_splits_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "de"
    sounds(folder, "clips/1.mp3", "clips/2.mp3", "clips/3.mp3", "clips/4.mp3")
    table(folder / "train.tsv", row("anna", "1.mp3", "Eins.", "2", "0", "twenties", "female", "austria"))
    table(folder / "dev.tsv", row("bert", "2.mp3", "Zwei", "2", "0", "", "male_masculine", ""))
    table(folder / "test.tsv", row("cleo", "3", "Drei"))
    table(folder / "other.tsv", row("dora", "4.mp3", "Vier", "0", "1", "", "", ""))
    found = read("common_voice", folder)
    assert said(found) == {"1.mp3": "Eins.", "2.mp3": "Zwei", "3.mp3": "Drei"}
    assert files_read(found) == ["clips/1.mp3", "clips/2.mp3", "clips/3.mp3"]
    assert [u.split for u in found] == ["train", "dev", "test"]
    assert [u.speaker for u in found] == ["c/anna", "c/bert", "c/cleo"]
    assert [u.labels for u in found] == [
        {"gender": "female", "age": "twenties", "accent": "austria"},
        {"gender": "male"},
        {},
    ]
    assert {(u.language, u.licence) for u in found} == {("de", "CC0-1.0")}


def test_newer_columns(tmp_path: Path) -> None:
    sounds(tmp_path, "clips/1.mp3")
    header = (
        "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant".split()
    )
    header += ["locale", "segment"]
    values = ["anna", "1.mp3", "x1", "Olá", "news", "2", "0", "", "", "paulista", "Brasil", "pt", ""]
    table(tmp_path / "train.tsv", row(*values), header=header)
    text(tmp_path / "clip_durations.tsv", "clip\tduration[ms]", "1.mp3\t100")
    assert CommonVoice.recognise(tmp_path) == {}
    (found,) = read("common_voice", tmp_path)
    assert found.labels == {"accent": "paulista", "dialect": "Brasil", "topic": "news"}
    assert found.language == "pt"


def test_languages(tmp_path: Path) -> None:
    named, odd = tmp_path / "zh-TW", tmp_path / "my-collection"
    for folder in (named, odd):
        sounds(folder, "clips/1.mp3")
        table(folder / "train.tsv", row("a", "1.mp3", "x"))
    assert read("common_voice", named)[0].language == "zh-TW"
    assert read("common_voice", named, language="en")[0].language == "en"
    assert read("common_voice", odd)[0].language is None


def test_validated_is_read_where_there_are_no_splits(tmp_path: Path) -> None:
    sounds(tmp_path, "clips/1.mp3", "clips/2.mp3")
    table(tmp_path / "validated.tsv", row("a", "1.mp3", "one", "2", "0"), row("b", "2.mp3", "two", "2", "1"))
    found = read("common_voice", tmp_path)
    assert said(found) == {"1.mp3": "one", "2.mp3": "two"}
    assert {u.split for u in found} == {None}


def test_chosen_tables(tmp_path: Path) -> None:
    sounds(tmp_path, "clips/1.mp3", "clips/2.mp3", "clips/3.mp3")
    table(tmp_path / "train.tsv", row("a", "1.mp3", "one"))
    table(tmp_path / "validated.tsv", row("a", "1.mp3", "one"), row("b", "2.mp3", "two"))
    table(tmp_path / "other.tsv", row("c", "3.mp3", "three"))
    assert said(read("common_voice", tmp_path, tables=["other"])) == {"3.mp3": "three"}
    assert said(read("common_voice", tmp_path, tables=["other.tsv"])) == {"3.mp3": "three"}
    found = read("common_voice", tmp_path, tables=["train", "validated"])
    assert said(found) == {"1.mp3": "one", "2.mp3": "two"}, "validated.tsv repeats train.tsv"
    complaint = wrong("common_voice", tmp_path, tables=["valdated"])
    assert "valdated.tsv is not in it; there are: other, train, validated" in complaint


def test_the_tables_of_the_reference_recipe(tmp_path: Path) -> None:
    recipe = YAML(typ="safe").load((ROOT / "data" / "recipes" / "reference.yaml").read_text(encoding="utf-8"))
    (options,) = (c for c in recipe["corpora"] if c["reader"] == "common_voice")
    sounds(tmp_path, "clips/1.mp3")
    for name in ("train", "dev", "test", "validated"):
        table(tmp_path / f"{name}.tsv", row("a", "1.mp3", name))
    found = read("common_voice", tmp_path, tables=options["tables"])
    assert [u.transcript for u in found] == ["train", "dev", "test"]


def test_a_clip_that_is_listed_twice_is_not_dropped(tmp_path: Path) -> None:
    sounds(tmp_path, "clips/1.mp3")
    table(tmp_path / "train.tsv", row("a", "1.mp3", "one"), row("b", "1.mp3", "uno"))
    table(tmp_path / "test.tsv", row("a", "1.mp3", "one"))
    found = read("common_voice", tmp_path)
    assert [(u.id, u.transcript, u.split) for u in found] == [
        ("c/1.mp3", "one", "train"),
        ("c/1.mp3", "uno", "train"),
        ("c/1.mp3", "one", "test"),
    ], "the plan tells them apart and names them"


def test_what_is_wrong_with_rows(tmp_path: Path) -> None:
    sounds(tmp_path, "clips/ok.mp3", "secret.mp3")
    table(
        tmp_path / "train.tsv",
        row("a", "ok.mp3", "“quotes” and 'more \"of them", "2", "0", "", "", ""),
        row("a", "none.mp3", "x", "2", "0", "", "", ""),
        row("a", "tab.mp3", "missing 2", "0", "fourties", "male", "germany"),
        row("a", "wide.mp3", "x", "2", "0", "", "", "", "more"),
        row("a", "", "no clip", "2", "0"),
        row("a", "../../other.mp3", "x", "2", "0"),
        row("a", "../secret.mp3", "inside the corpus", "2", "0"),
        "",
        row("a"),
    )
    found = read("common_voice", tmp_path)
    assert said(found) == {"ok.mp3": "“quotes” and 'more \"of them", "../secret.mp3": "inside the corpus"}
    assert reasons(found) == {
        "none.mp3": "audio_missing",
        "tab.mp3": "malformed_row",
        "wide.mp3": "malformed_row",
        "train:6": "malformed_row",
        "../../other.mp3": "path_outside_corpus",
        "train:10": "malformed_row",
    }
    assert "train.tsv:4: down_votes is 'fourties', a number is expected" in the(found, "tab.mp3").problem
    assert "train.tsv:5 has 9 columns, the header has 8" in the(found, "wide.mp3").problem
    assert "train.tsv:6 names no clip" in the(found, "train:6").problem


@pytest.mark.parametrize("form", [{"end": "\r\n"}, {"encoding": "utf-8-sig"}])
def test_line_ends_and_byte_order_marks(tmp_path: Path, form: dict[str, Any]) -> None:
    sounds(tmp_path, "clips/1.mp3")
    table(tmp_path / "train.tsv", row("a", "1.mp3", "čtyři"), **form)
    assert said(read("common_voice", tmp_path)) == {"1.mp3": "čtyři"}


def test_what_is_no_corpus(tmp_path: Path) -> None:
    text(tmp_path / "train.tsv", "path\tsentence", "1.mp3\tx")
    complaint = wrong("common_voice", tmp_path)
    assert "train.tsv:1: the header has no client_id; it has: path, sentence" in complaint
    table(tmp_path / "train.tsv")
    assert "train list no clips" in wrong("common_voice", tmp_path)
    (tmp_path / "train.tsv").write_bytes(b"")
    assert "the header has no client_id, path, sentence" in wrong("common_voice", tmp_path)
    (tmp_path / "train.tsv").unlink()
    assert "validated.tsv is not in it; there are: none" in wrong("common_voice", tmp_path)
    table(tmp_path / "train.tsv", row("a", "1.mp3", "caf\xe9"), encoding="latin-1")
    assert "train.tsv:2 is not UTF-8" in wrong("common_voice", tmp_path)


def test_what_is_recognised(tmp_path: Path) -> None:
    assert CommonVoice.recognise(tmp_path) is None
    text(tmp_path / "a.tsv", "path\ttext")
    assert CommonVoice.recognise(tmp_path) is None
    table(tmp_path / "validated.tsv")
    assert CommonVoice.recognise(tmp_path) == {}
    assert CommonVoice.recognise(tmp_path / "validated.tsv") is None


def test_a_real_layout(speech: Path) -> None:
    folder = speech / "layout_only_no_audio" / "common_voice"
    found = read("common_voice", folder, language="de")
    assert said(found) == {
        "c4b.mp3": "Man sollte",
        "8ea.mp3": "empfehlen",
        "f08.mp3": "Valentin",
        "b5c.mp3": "Gehörschutz",
        "8f4.mp3": "Es",
        "7f4.mp3": "Zieht euch",
        "059.mp3": "Sonnensystem",
        "d08.mp3": "nehmen",
    }
    assert reasons(found) == {"67c.mp3": "malformed_row"}
    listed = {f"layout_only_no_audio/common_voice/{u.source.path}" for u in found}
    assert listed == {path for path in index(speech) if path.startswith("layout_only_no_audio/common_voice/")}
