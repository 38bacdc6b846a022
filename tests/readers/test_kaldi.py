"""Kaldi data directories."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.audio import load
from pipeline.readers.kaldi import Kaldi
from tests.reading import files_read, index, read, reasons, said, sound, sounds, text, the, wrong


def test_the_usual_files(tmp_path: Path) -> None:
    sounds(tmp_path, "wav/a.WAV", "wav/with blank.wav", "wav/c.wav")
    text(tmp_path / "wav.scp", "a\twav/a.WAV", "b   wav/with blank.wav ", "c wav/c.wav")
    text(tmp_path / "text", "a ONE  TWO", "b\tTHREE")
    text(tmp_path / "utt2spk", "a anna", "b bert", "c anna")
    text(tmp_path / "utt2lang", "a eng", "b Portuguese")
    text(tmp_path / "utt2dur", "a 0.1")
    text(tmp_path / "utt2num_frames", "a 10")
    text(tmp_path / "utt2emotion", "b glad")
    text(tmp_path / "spk2utt", "anna a c", "bert b")
    text(tmp_path / "spk2gender", "anna F", "bert m")
    text(tmp_path / "spk2age", "bert 31")
    found = read("kaldi", tmp_path, language="de")
    assert said(found) == {"a": "ONE TWO", "b": "THREE", "c": ""}
    assert files_read(found) == ["wav/a.WAV", "wav/with blank.wav", "wav/c.wav"]
    assert [u.speaker for u in found] == ["c/anna", "c/bert", "c/anna"]
    assert [u.language for u in found] == ["en", "pt", "de"]
    assert [u.duration for u in found] == [0.1, None, None]
    assert [u.labels for u in found] == [
        {"gender": "female"},
        {"emotion": "glad", "gender": "male", "age": "31"},
        {"gender": "female"},
    ]
    assert {u.recording for u in found} == {None}


def test_segments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound(tmp_path / "r1.wav", 1.0, channels=2)
    sounds(tmp_path, "r2.wav", "r3.wav")
    text(tmp_path / "wav.scp", "r1 r1.wav", "r2 r2.wav", "r3 r3.wav", "cmd sox x |", "none none.wav")
    text(
        tmp_path / "segments",
        "s1 r1 0.125 0.5",
        "s2 r1 0.5 -1 1",
        "s3 r2 0 0.1",
        "back r1 0.5 0.25",
        "before r1 -0.5 0.25",
        "short r1 0.5",
        "words r1 start end",
        "nan r1 nan 1",
        "unknown r9 0 1",
        "command cmd 0 1",
        "missing none 0 1",
        "",
    )
    text(tmp_path / "text", "s1 ONE", "s2 TWO", "r3 NOT A SEGMENT")
    text(tmp_path / "utt2dur", "s1 0.375")
    with caplog.at_level(logging.WARNING):
        found = read("kaldi", tmp_path)
    assert said(found) == {"s1": "ONE", "s2": "TWO", "s3": ""}
    places = [(u.source.start, u.source.duration, u.source.channel, u.recording, u.duration) for u in found[:3]]
    assert places == [(0.125, 0.375, None, "c/r1", None), (0.5, None, 1, "c/r1", None), (0.0, 0.1, None, "c/r2", None)]
    assert reasons(found) == {
        **dict.fromkeys("back before short words nan".split(), "malformed_row"),
        "unknown": "audio_missing",
        "command": "audio_command",
        "missing": "audio_missing",
        "r3": "audio_missing",
    }
    assert "segments:4 goes from 0.5 s to 0.25 s" in the(found, "back").problem
    assert "segments:9 names the recording r9, wav.scp does not" in the(found, "unknown").problem
    assert "text has r3, segments has not" in the(found, "r3").problem
    assert "1 recordings have no segment and are not read: r3" in caplog.text


def test_commands_are_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    text(tmp_path / "wav.scp", f"a touch {marker} |", "b sph2pipe -f wav x.sph|", f"c {marker} ")
    text(tmp_path / "text", "a ONE")
    found = read("kaldi", tmp_path)
    assert not marker.exists()
    assert reasons(found) == {"a": "audio_command", "b": "audio_command", "c": "audio_missing"}
    assert the(found, "a").problem == (
        f"audio_command: wav.scp gives a as the command `touch {marker.name}`, and commands are not executed: "
        f"run it and list its output"
    )
    assert the(found, "a").transcript == "ONE"


def test_what_is_wrong_with_rows(tmp_path: Path) -> None:
    sounds(tmp_path, "corpus/ok.wav", "out.wav", "corpus/d.wav", "corpus/t.wav", "corpus/s.wav")
    corpus = tmp_path / "corpus"
    text(
        corpus / "wav.scp",
        "ok ok.wav",
        "empty",
        "none none.wav",
        "up ../out.wav",
        f"absolute {tmp_path}/out.wav",
        "ark feats.ark:123",
        "twice ok.wav",
        "twice d.wav",
        "dur d.wav",
        "text t.wav",
        "speaker s.wav",
    )
    text(corpus / "text", "ok FINE", "text ONE", "text TWO", "extra NO AUDIO", "ok FINE")
    text(corpus / "utt2dur", "dur long", "ok 0.1")
    text(corpus / "utt2spk", "speaker anna", "speaker bert")
    found = read("kaldi", corpus)
    assert [u.id for u in found].count("c/twice") == 2
    assert said(u for u in found if u.id != "c/twice") == {"ok": "FINE"}
    assert reasons(found) == {
        "empty": "malformed_row",
        "none": "audio_missing",
        "up": "path_outside_corpus",
        "absolute": "path_outside_corpus",
        "ark": "audio_missing",
        "dur": "malformed_row",
        "text": "malformed_row",
        "speaker": "malformed_row",
        "extra": "audio_missing",
    }
    assert "wav.scp:2 names no file for empty" in the(found, "empty").problem
    assert "text:3 gives text again, with another value" in the(found, "text").problem
    assert "utt2dur: dur: could not convert string to float: 'long'" in the(found, "dur").problem


@pytest.mark.parametrize("form", [{"end": "\r\n"}, {"encoding": "utf-8-sig"}])
def test_line_ends_and_byte_order_marks(tmp_path: Path, form: dict[str, str]) -> None:
    sounds(tmp_path, "ä.wav")
    text(tmp_path / "wav.scp", "ü ä.wav", **form)
    text(tmp_path / "text", "ü слово", **form)
    assert said(read("kaldi", tmp_path)) == {"ü": "слово"}


def test_paths_from_the_root_of_the_corpus(tmp_path: Path) -> None:
    sounds(tmp_path, "corpus/WAVE/S1/a.wav")
    text(tmp_path / "corpus" / "train" / "wav.scp", "a WAVE/S1/a.wav", "b WAVE/S1/b.wav")
    found = read("kaldi", tmp_path / "corpus" / "train")
    assert files_read(found) == ["../WAVE/S1/a.wav"]
    assert reasons(found) == {"b": "audio_missing"}


def test_what_is_no_data_directory(tmp_path: Path) -> None:
    assert f"{tmp_path}: wav.scp is not in it" in wrong("kaldi", tmp_path)
    text(tmp_path / "wav.scp")
    assert "wav.scp is empty; `key path` lines are expected" in wrong("kaldi", tmp_path)
    text(tmp_path / "wav.scp", "ä a.wav", encoding="latin-1")
    assert "wav.scp:1 is not UTF-8" in wrong("kaldi", tmp_path)


def test_what_is_recognised(tmp_path: Path) -> None:
    assert Kaldi.recognise(tmp_path) is None
    text(tmp_path / "wav.scp", "a a.wav")
    assert Kaldi.recognise(tmp_path) == {}
    assert Kaldi.recognise(tmp_path / "wav.scp") is None


@pytest.mark.parametrize(("lists", "missing"), [("train", 2420), ("train_subset", 0)])
def test_speechocean(speech: Path, lists: str, missing: int) -> None:
    found = read("kaldi", speech / "speechocean762_train4" / lists, language="en")
    assert list(reasons(found).values()) == ["audio_missing"] * missing
    entries = index(speech)
    good = [u for u in found if u.problem is None]
    assert len(good) == 80
    for utterance in good:
        entry = entries[f"speechocean762_train4/{utterance.source.path.removeprefix('../')}"]
        assert (utterance.transcript, utterance.language) == (entry.transcript, entry.language)
        assert utterance.speaker == f"c/{entry.path.split('SPEAKER')[1][:4]}"
        assert utterance.labels.keys() == {"gender", "age"}


def test_wenet(speech: Path) -> None:
    folder = speech / "wenet_kaldi_jsonl_shard" / "test" / "resources" / "dataset"
    reader = Kaldi(name="c", path=str(folder))
    entries = index(speech)
    found = list(reader.utterances())
    assert len(found) == 2
    for utterance in found:
        entry = entries[f"wenet_kaldi_jsonl_shard/test/resources/dataset/{Path(utterance.source.path).name}"]
        assert utterance.transcript == entry.transcript
        assert load(reader.audio(utterance.source)).seconds == pytest.approx(entry.seconds, abs=0.001)


def test_segments_without_their_audio(speech: Path) -> None:
    found = read("kaldi", speech / "lhotse_manifests" / "test" / "fixtures" / "mini_librispeech")
    assert found
    assert set(reasons(found).values()) <= {"audio_missing", "audio_command", "path_outside_corpus"}
    assert len(reasons(found)) == len(found)
    assert all(u.transcript and u.recording for u in found)
