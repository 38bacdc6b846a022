"""LJSpeech `metadata.csv`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.readers.ljspeech import LJSpeech
from tests.reading import files_read, forgotten, index, read, reasons, said, sounds, text, the, wrong


def test_the_layout(tmp_path: Path) -> None:
    sounds(tmp_path, "wavs/LJ-1.wav", "wavs/LJ-2.wav", "wavs/LJ-3.wav")
    text(tmp_path / "metadata.csv", 'LJ-1|In 1813 "he|In eighteen "he', "LJ-2|only, text", "", "LJ-3|Written| ")
    found = read("ljspeech", tmp_path, language="en")
    assert said(found) == {"LJ-1": 'In eighteen "he', "LJ-2": "only, text", "LJ-3": "Written"}
    assert {(u.speaker, u.language) for u in found} == {("c/c", "en")}, "one folder, one speaker"
    assert said(read("ljspeech", tmp_path, text="written"))["LJ-1"] == 'In 1813 "he'
    assert read("ljspeech", tmp_path, speaker="linda")[0].speaker == "c/linda"
    assert read("ljspeech", tmp_path / "metadata.csv") == read("ljspeech", tmp_path)


def test_folders_below_are_voices(tmp_path: Path) -> None:
    for who in ("anna", "x/bert"):
        sounds(tmp_path, f"{who}/wavs/1.wav")
        text(tmp_path / who / "metadata.csv", f"1|{who}")
    found = read("ljspeech", tmp_path)
    assert said(found) == {"anna/1": "anna", "x/bert/1": "x/bert"}
    assert files_read(found) == ["anna/wavs/1.wav", "x/bert/wavs/1.wav"]
    assert [u.speaker for u in found] == ["c/anna", "c/x/bert"]


def test_mailabs(tmp_path: Path) -> None:
    for where in ("de_DE/by_book/female/sara/abc", "en_US/by_book/mix/rain"):
        sounds(tmp_path, f"{where}/wavs/1.wav")
        text(tmp_path / where / "metadata.csv", "1|Text 1|text one")
    found = read("ljspeech", tmp_path)
    assert [(u.language, u.labels, u.speaker) for u in found] == [
        ("de-DE", {"gender": "female"}, "c/sara"),
        ("en-US", {}, "c/en_US/by_book/mix/rain"),
    ]
    (alone,) = read("ljspeech", tmp_path / "de_DE/by_book/female/sara/abc")
    assert (alone.language, alone.speaker) == ("de-DE", "c/sara")


def test_formats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sounds(
        tmp_path, "wavs/1.wav", "wavs/1.FLAC", "wavs/1.mp3", "wavs/2.flac", "wavs/3.aiff", "wavs/1.aiff", "wavs/4.mp3"
    )
    text(tmp_path / "metadata.csv", "1|one", "2|two", "3|three", "4|four")
    with caplog.at_level(logging.WARNING):
        found = read("ljspeech", tmp_path)
    assert files_read(found) == ["wavs/1.wav", "wavs/2.flac", "wavs/4.mp3"]
    assert reasons(found) == {"3": "audio_missing"}
    assert "wavs: 3 files are the same utterances in other formats; not read" in caplog.text
    assert "not read, since their kind is not among `suffixes`: 3.aiff" in caplog.text
    assert files_read(read("ljspeech", tmp_path, suffixes=[".aiff", ".flac"])) == [
        "wavs/1.aiff",
        "wavs/2.flac",
        "wavs/3.aiff",
    ]


@pytest.mark.parametrize(
    ("option", "expected"), [({"text": "raw"}, "'normalised' or 'written'"), ({"suffixes": []}, "at least 1")]
)
def test_wrong_options(option: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        LJSpeech(name="c", path=".", **option)


def test_what_is_wrong_with_rows(tmp_path: Path) -> None:
    root = tmp_path / "c"
    sounds(root, "wavs/ok.wav", "wavs/unlisted.wav", "wavs/twice.flac", "wavs/._ok.wav")
    text(
        root / "metadata.csv",
        "ok|words",
        "none|words",
        "one column",
        "four|a|b|c",
        "|no file|no file",
        "twice|a",
        "twice|b",
        "../../../out|words",
    )
    found = read("ljspeech", root)
    assert [u.source.path for u in found if u.id == "c/twice"] == ["wavs/twice.flac"] * 2
    assert said(u for u in found if u.id != "c/twice") == {"ok": "words", "unlisted": ""}
    assert reasons(found) == {
        "none": "audio_missing",
        "one column": "malformed_row",
        "four": "malformed_row",
        "5": "malformed_row",
        "../../../out": "path_outside_corpus",
    }
    assert "metadata.csv:4 has 4 columns, not 2 or 3" in the(found, "four").problem
    assert "metadata.csv:5 names no file" in the(found, "5").problem
    assert forgotten(root, found) == set()


@pytest.mark.parametrize("form", [{"end": "\r\n"}, {"encoding": "utf-8-sig"}])
def test_line_ends_and_byte_order_marks(tmp_path: Path, form: dict[str, str]) -> None:
    sounds(tmp_path, "wavs/ü.wav")
    text(tmp_path / "metadata.csv", "ü|слово", **form)
    assert said(read("ljspeech", tmp_path)) == {"ü": "слово"}


def test_what_is_no_corpus(tmp_path: Path) -> None:
    assert "no metadata.csv in it or below it" in wrong("ljspeech", tmp_path)
    text(tmp_path / "metadata.csv")
    assert "metadata.csv is empty; lines of `id|text|normalised text` are expected" in wrong("ljspeech", tmp_path)
    text(tmp_path / "metadata.csv", "1|caf\xe9", encoding="latin-1")
    assert "metadata.csv:1 is not UTF-8" in wrong("ljspeech", tmp_path)


def test_what_is_recognised(tmp_path: Path) -> None:
    text(tmp_path / "metadata.csv", "1|one|one")
    assert LJSpeech.recognise(tmp_path) is None, "there is no wavs/"
    (tmp_path / "wavs").mkdir()
    assert LJSpeech.recognise(tmp_path) == {}
    text(tmp_path / "metadata.csv", "audio_file|text")
    assert LJSpeech.recognise(tmp_path) is None
    text(tmp_path / "metadata.csv", "path,text")
    assert LJSpeech.recognise(tmp_path) is None


def test_coqui(speech: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = speech / "ljspeech_coqui"
    with caplog.at_level(logging.WARNING):
        found = read("ljspeech", folder, language="en")
    entries = index(speech)
    assert len(found) == 32
    assert "22 files are the same utterances in other formats; not read" in caplog.text
    for utterance in found:
        entry = entries[f"ljspeech_coqui/{utterance.source.path}"]
        assert utterance.problem is None
        assert bool(utterance.transcript) == bool(entry.transcript), entry.path
    written = read("ljspeech", folder, text="written")
    assert all(u.transcript == entries[f"ljspeech_coqui/{u.source.path}"].transcript for u in written)
    every = {u.source.path for s in (".wav", ".mp3", ".flac") for u in read("ljspeech", folder, suffixes=[s])}
    assert {f"ljspeech_coqui/{path}" for path in every} == {p for p in entries if p.startswith("ljspeech_coqui/")}


def test_mailabs_layout(speech: Path) -> None:
    folder = speech / "layout_only_no_audio" / "mailabs"
    found = read("ljspeech", folder)
    assert len(found) == 14
    assert {u.language for u in found} == {"de-DE", "en-US"}
    assert {u.speaker.split("/")[-1] for u in found if "mix" not in u.id} == {"sara", "fred", "tim", "elizabeth_klett"}
    assert list(reasons(found).values()) == ["audio_missing"]
    assert forgotten(folder, found) == set()
