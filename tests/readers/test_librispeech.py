"""LibriSpeech trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.audio import load
from pipeline.readers.librispeech import LibriSpeech
from tests.reading import files_read, forgotten, index, read, reasons, said, sounds, text, the, wrong


def chapter(root: Path, where: str, *rows: str, **form: str) -> None:
    speaker, number = where.split("/")[-2:]
    text(root / where / f"{speaker}-{number}.trans.txt", *rows, **form)


def test_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    sounds(root, "train-clean-100/1/10/1-10-0000.flac", "train-clean-100/1/10/1-10-0001.flac")
    sounds(root, "dev-other/2/20/2-20-0000.flac", "test-clean/3/30/3-30-0000.flac", "odd/4/40/4-40-0000.flac")
    chapter(root, "train-clean-100/1/10", "1-10-0000 ONE", "1-10-0001 TWO  WORDS")
    chapter(root, "dev-other/2/20", "2-20-0000 THREE", end="\r\n", encoding="utf-8-sig")
    chapter(root, "test-clean/3/30", "3-30-0000 FOUR")
    chapter(root, "odd/4/40", "4-40-0000 FIVE")
    text(
        root / "SPEAKERS.TXT",
        "; a comment",
        ";ID |SEX| ...",
        "1  | F | train-clean-100 | 25 | Anna",
        "2 |M| x",
        "3|?",
        "",
    )
    found = read("librispeech", root)
    assert said(found) == {
        "2-20-0000": "THREE",
        "4-40-0000": "FIVE",
        "3-30-0000": "FOUR",
        "1-10-0000": "ONE",
        "1-10-0001": "TWO WORDS",
    }
    first = the(found, "1-10-0000")
    assert first.source.path == "train-clean-100/1/10/1-10-0000.flac"
    assert (first.speaker, first.recording, first.split) == ("c/1", "c/1-10", "train")
    assert (first.language, first.licence, first.labels) == ("en", "CC-BY-4.0", {"gender": "female"})
    assert [(u.split, u.labels) for u in found[:3]] == [("dev", {"gender": "male"}), (None, {}), ("test", {})]
    assert read("librispeech", root, language="fr", licence="CC0")[0].language == "fr"


@pytest.mark.parametrize("where", ["LibriSpeech", "LibriSpeech/train-clean-100", "."])
def test_from_any_level(tmp_path: Path, where: str) -> None:
    sounds(tmp_path, "LibriSpeech/train-clean-100/1/10/1-10-0000.flac")
    chapter(tmp_path / "LibriSpeech", "train-clean-100/1/10", "1-10-0000 ONE")
    text(tmp_path / "LibriSpeech" / "SPEAKERS.TXT", "1 | F |")
    (found,) = read("librispeech", tmp_path / where)
    assert (found.id, found.split, found.labels) == ("c/1-10-0000", "train", {"gender": "female"})


def test_subsets(tmp_path: Path) -> None:
    sounds(tmp_path, "train-a/1/10/1-10-0.flac", "dev-a/2/20/2-20-0.flac")
    chapter(tmp_path, "train-a/1/10", "1-10-0 ONE")
    chapter(tmp_path, "dev-a/2/20", "2-20-0 TWO")
    assert said(read("librispeech", tmp_path, subsets=["dev-a"])) == {"2-20-0": "TWO"}
    complaint = wrong("librispeech", tmp_path, subsets=["dev-a", "test-a"])
    assert "has no subset 'test-a'; there are: dev-a, train-a" in complaint


def test_no_file_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "c"
    sounds(
        root,
        *(
            f"train/1/10/{name}"
            for name in ("a.flac", "b.FLAC", "c.wav", "d.flac", "d.mp3", "unlisted.flac", ".x.flac")
        ),
        "train/1/11/unlisted-chapter.flac",
    )
    chapter(root, "train/1/10", "a ONE", "b TWO", "c THREE", "d FOUR", "e NO AUDIO", "f", "", "a AGAIN", "../../up UP")
    chapter(root, "train/1/12", "../../../../out OUT")
    found = read("librispeech", root)
    assert [u.id for u in found].count("c/a") == 2
    assert said(u for u in found if u.id != "c/a") == {
        "b": "TWO",
        "c": "THREE",
        "d": "FOUR",
        "d.mp3": "",
        "unlisted": "",
        "unlisted-chapter": "",
    }
    assert files_read(found)[:4] == [f"train/1/10/{name}" for name in ("a.flac", "b.FLAC", "c.wav", "d.flac")]
    assert reasons(found) == {
        "e": "audio_missing",
        "f": "audio_missing",
        "../../up": "audio_missing",
        "../../../../out": "path_outside_corpus",
    }
    assert forgotten(root, found) == set()


def test_zero_bytes_are_found_when_decoded(tmp_path: Path) -> None:
    (tmp_path / "dev/1/10").mkdir(parents=True)
    (tmp_path / "dev/1/10/a.flac").write_bytes(b"")
    chapter(tmp_path, "dev/1/10", "a ONE")
    reader = LibriSpeech(name="c", path=str(tmp_path))
    (found,) = reader.utterances()
    assert found.problem is None
    with pytest.raises(ValueError, match="empty"):
        load(reader.audio(found.source))


def test_what_is_no_tree(tmp_path: Path) -> None:
    sounds(tmp_path, "train/1/10/1-10-0.flac")
    assert f"{tmp_path}: no *.trans.txt below it" in wrong("librispeech", tmp_path)
    chapter(tmp_path, "train/1/10", "1-10-0 CAF\xc9", encoding="latin-1")
    assert "1-10.trans.txt:1 is not UTF-8" in wrong("librispeech", tmp_path)


def test_what_is_recognised(tmp_path: Path) -> None:
    assert LibriSpeech.recognise(tmp_path) is None
    chapter(tmp_path, "LibriSpeech/train/1/10", "1-10-0 ONE")
    assert LibriSpeech.recognise(tmp_path) is None, "one folder too high"
    assert LibriSpeech.recognise(tmp_path / "LibriSpeech") == {}
    assert LibriSpeech.recognise(tmp_path / "LibriSpeech" / "train") == {}
    assert LibriSpeech.recognise(tmp_path / "LibriSpeech/train/1/10/1-10.trans.txt") is None


def test_test_clean(speech: Path) -> None:
    found = read("librispeech", speech / "librispeech_test_clean_mini" / "LibriSpeech")
    entries = index(speech)
    assert len(found) == 4
    for utterance in found:
        entry = entries[f"librispeech_test_clean_mini/LibriSpeech/{utterance.source.path}"]
        assert (utterance.transcript, utterance.language) == (entry.transcript, entry.language)
        assert (utterance.speaker, utterance.split, utterance.labels) == ("c/1089", "test", {})


def test_a_layout_of_empty_files(speech: Path) -> None:
    folder = speech / "layout_only_no_audio" / "librispeech"
    found = read("librispeech", folder)
    assert len(found) == len([p for p in index(speech) if p.startswith("layout_only_no_audio/librispeech/")]) == 12
    assert all(u.transcript and u.labels.get("gender") in ("male", "female") for u in found)
    assert forgotten(folder, found) == set()
