"""Sentences that exist only as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.readers.sentences import Sentences
from tests.reading import read, said, text, wrong

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "text"


def test_files_by_language(tmp_path: Path) -> None:
    text(tmp_path / "daily.en.txt", "# a comment", "One.", "", "  Two  words. ")
    text(tmp_path / "daily.pt-BR.TXT", "Três.", end="\r\n", encoding="utf-8-sig")
    text(tmp_path / "more" / "daily.en.txt", "Four.")
    text(tmp_path / ".hidden.en.txt", "No.")
    text(tmp_path / "notes.md", "No.")
    found = read("sentences", tmp_path)
    assert said(found) == {
        "daily.en:2": "One.",
        "daily.en:4": "Two words.",
        "daily.pt-BR.TXT:1": "Três.",
        "more/daily.en:1": "Four.",
    }
    assert [u.language for u in found] == ["en", "en", "pt-BR", "en"]
    assert all(u.source is None and u.problem is None and u.speaker is None for u in found)


def test_voices(tmp_path: Path) -> None:
    path = text(tmp_path / "daily.en.txt", "One.", "Two.")
    found = read("sentences", path, voices=2)
    assert [u.id for u in found] == ["c/daily.en:1#1", "c/daily.en:1#2", "c/daily.en:2#1", "c/daily.en:2#2"]
    assert [u.recording for u in found] == ["c/daily.en:1"] * 2 + ["c/daily.en:2"] * 2, "they share a split"
    with pytest.raises(ValidationError, match="greater than 0"):
        Sentences(name="c", path=".", voices=0)


def test_languages(tmp_path: Path) -> None:
    text(tmp_path / "a.en.txt", "One.")
    text(tmp_path / "a.ru.txt", "Один.")
    assert set(said(read("sentences", tmp_path, languages=["ru"]))) == {"a.ru:1"}
    assert set(said(read("sentences", tmp_path, languages=["English"]))) == {"a.en:1"}
    complaint = wrong("sentences", tmp_path, languages=["ru", "de"])
    assert f"{tmp_path}: no text is in 'de'; there are: en, ru" in complaint


def test_a_file_that_names_no_language(tmp_path: Path) -> None:
    path = text(tmp_path / "daily.txt", "One.")
    complaint = wrong("sentences", tmp_path)
    assert f"{path}: which language is it? Name it NAME.LANGUAGE.txt or set `language`" in complaint
    assert read("sentences", path, language="en")[0].language == "en"
    named = text(tmp_path / "list.of.words", "Eins.")
    assert [(u.id, u.language) for u in read("sentences", named, language="de")] == [("c/list.of.words:1", "de")]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert "no file named NAME.LANGUAGE.txt in it" in wrong("sentences", tmp_path)
    path = text(tmp_path / "a.en.txt", "", "# only this")
    assert "there is no sentence in it; one a line is expected" in wrong("sentences", tmp_path)
    text(path, "One.", "caf\xe9", encoding="latin-1")
    assert "a.en.txt:2 is not UTF-8" in wrong("sentences", tmp_path)


def test_nothing_is_recognised(tmp_path: Path) -> None:
    assert Sentences.recognise(text(tmp_path / "a.en.txt", "One.")) is None
    assert Sentences.recognise(tmp_path) is None


def test_the_shipped_sentences() -> None:
    found = read("sentences", SHIPPED)
    assert {u.language for u in found} == {"en", "pt", "ru"}
    assert len(set(said(found).values())) == len(found), "no sentence comes twice"
    assert all(4 <= len(u.transcript) <= 200 for u in found)
