"""JSON lines, and JSON files with a list of records."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.readers.jsonl import Jsonl
from tests.reading import files_read, index, read, reasons, said, sound, sounds, text, the, wrong


def listing(path: Path, *records: Any, **form: Any) -> Path:
    return text(path, *(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records), **form)


class TestFields:
    """What records say."""

    def test_nemo(self, tmp_path: Path) -> None:
        sound(tmp_path / "clips" / "1.wav", 0.5)
        listing(
            tmp_path / "train.jsonl",
            {
                "audio_filepath": "clips/1.wav",
                "text": "he hoped",
                "duration": 0.25,
                "offset": 0.125,
                "speaker": 7,
                "lang": "German",
                "emotion": "glad",
                "intent": {"name": "play"},
                "split": "dev",
                "license": "CC0",
                "sample_rate": 16000,
                "channel": "0",
            },
        )
        (found,) = read("jsonl", tmp_path)
        assert (found.id, found.transcript, found.speaker, found.language) == (
            "c/clips/1.wav@0.125",
            "he hoped",
            "c/7",
            "de",
        )
        assert (found.duration, found.sampling_rate, found.split, found.licence) == (0.25, 16000, "dev", "CC0")
        assert found.labels == {"emotion": "glad", "intent": '{"name":"play"}'}
        assert found.recording == "c/clips/1.wav"
        assert (found.source.start, found.source.duration, found.source.channel) == (0.125, 0.25, 0)

    def test_a_duration_without_an_offset_is_a_claim(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        listing(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", "text": "x", "duration": 0.1})
        (found,) = read("jsonl", tmp_path)
        assert (found.duration, found.source.duration, found.recording) == (0.1, None, None)

    def test_wenet(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav")
        listing(
            tmp_path / "data.list",
            {"key": "k/1", "wav": "a.wav", "txt": "广州市"},
            {"key": 0, "wav": "b.wav", "txt": None},
        )
        assert said(read("jsonl", tmp_path)) == {"k/1": "广州市", "0": ""}

    def test_chosen_fields_and_labels(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        listing(tmp_path / "m.jsonl", {"where": "a.wav", "what": "words", "mood": "glad", "emotion": "sad"})
        options = {"fields": {"audio": "where", "transcript": "what"}}
        assert read("jsonl", tmp_path, **options)[0].labels == {"emotion": "sad"}
        assert read("jsonl", tmp_path, **options, label_fields=["mood"])[0].labels == {"mood": "glad"}

    def test_records_need_not_have_the_same_fields(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav", "c.wav")
        listing(
            tmp_path / "m.jsonl",
            {"audio_filepath": "a.wav"},
            {"text": "two", "audio_filepath": "b.wav", "speaker": "anna", "emotion": "glad"},
            {"audio": "c.wav", "sentence": "three"},
        )
        found = read("jsonl", tmp_path)
        assert said(found) == {"a.wav": "", "b.wav": "two", "c.wav": "three"}
        assert [u.speaker for u in found] == [None, "c/anna", None]
        assert found[1].labels == {"emotion": "glad"}

    def test_numbers_are_transcripts(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav")
        listing(tmp_path / "m.jsonl", {"audio": "a.wav", "text": 7}, {"audio": "b.wav", "text": 0.5})
        assert said(read("jsonl", tmp_path)) == {"a.wav": "7", "b.wav": "0.5"}

    def test_wrong_options(self, tmp_path: Path) -> None:
        with pytest.raises(ValidationError, match="Did you mean 'transcript'"):
            Jsonl(name="c", path=".", fields={"transcrpt": "txt"})
        with pytest.raises(ValidationError, match="valid string"):
            Jsonl(name="c", path=".", fields={"transcript": 1})
        sounds(tmp_path, "a.wav")
        path = listing(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "x"})
        assert f"{path}:1: a field 'wav' is expected, the record has: audio, text" in wrong(
            "jsonl", tmp_path, fields={"audio": "wav"}
        )
        assert "the recipe names the field 'spkr', and no record has it" in wrong(
            "jsonl", tmp_path, fields={"speaker": "spkr"}
        )
        assert "the recipe names the field 'mood'" in wrong("jsonl", tmp_path, label_fields=["mood"])
        listing(path, {"what": "a.wav", "text": "x"})
        assert f"{path}:1: a field that names the audio is expected, the record has: what, text" in wrong(
            "jsonl", tmp_path
        )


class TestFiles:
    """Which files are listings."""

    def test_several_in_a_folder(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav")
        listing(tmp_path / "1.jsonl", {"audio": "a.wav", "text": "one", "speaker": "x"})
        listing(tmp_path / "2.NDJSON", {"audio": "b.wav", "text": "two"})
        listing(tmp_path / "3.list", {"audio": "c.wav", "text": "three"})
        with gzip.open(tmp_path / "4.jsonl.gz", "wt") as stream:
            stream.write('{"audio": "d.wav", "text": "four"}\n')
        listing(tmp_path / ".hidden.jsonl", {"audio": "d.wav", "text": "no"})
        listing(tmp_path / "below" / "5.jsonl", {"audio": "d.wav", "text": "no"})
        found = read("jsonl", tmp_path, fields={"speaker": "speaker"})
        assert said(found) == {"a.wav": "one", "b.wav": "two", "c.wav": "three", "d.wav": "four"}
        assert files_read(found) == ["a.wav", "b.wav", "c.wav", "d.wav"]
        assert said(read("jsonl", tmp_path / "3.list")) == {"c.wav": "three"}

    def test_none(self, tmp_path: Path) -> None:
        assert "no file named *.jsonl, *.jsonl.gz, *.ndjson, *.list in it" in wrong("jsonl", tmp_path)
        path = listing(tmp_path / "m.jsonl", "", "  ")
        assert f"{tmp_path}: there is no record in it" in wrong("jsonl", tmp_path)
        path.write_bytes(b"")
        assert "there is no record in it" in wrong("jsonl", path)

    def test_damaged_compression(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        path = tmp_path / "m.jsonl.gz"
        rows = "".join(json.dumps({"audio": "a.wav", "key": n, "text": str(n * n)}) + "\n" for n in range(500))
        content = gzip.compress(rows.encode())
        for damaged in (b"no gzip", content[: len(content) // 2], content[:200] + bytes(99) + content[300:]):
            path.write_bytes(damaged)
            assert f"{path} cannot be read" in wrong("jsonl", path)

    @pytest.mark.parametrize("form", [{"end": "\r\n"}, {"encoding": "utf-8-sig"}, {"end": "\n\n"}])
    def test_line_ends_and_byte_order_marks(self, tmp_path: Path, form: dict[str, Any]) -> None:
        sounds(tmp_path, "ä.wav", "b.wav")
        listing(tmp_path / "m.jsonl", {"audio": "ä.wav", "text": "ю"}, {"audio": "b.wav", "text": "я"}, **form)
        assert said(read("jsonl", tmp_path)) == {"ä.wav": "ю", "b.wav": "я"}


class TestOneJson:
    """Lists of records within a JSON file."""

    def test_records(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        rows = [{"audio": "a.wav", "text": "x"}, 3, {"audio": None}]
        path = text(tmp_path / "m.json", json.dumps({"tests": {"list": rows}, "other": {}}, indent=1))
        found = read("jsonl", path, records="tests.list")
        assert said(found) == {"a.wav": "x"}
        assert reasons(found) == {"m.json:2": "malformed_row", "m.json:3": "malformed_row"}
        assert "leads nowhere; at 'lists' there is no such key" in wrong("jsonl", path, records="tests.lists")
        assert "at 'list' there is no such key" in wrong("jsonl", path, records="other.list")
        assert "a list of records is expected; say with `records`" in wrong("jsonl", path, records="other")
        assert "a list of records is expected" in wrong("jsonl", path)
        text(path, json.dumps(rows))
        assert said(read("jsonl", path)) == said(read("jsonl", path, records="")) == {"a.wav": "x"}

    def test_what_is_no_json(self, tmp_path: Path) -> None:
        path = text(tmp_path / "m.json", "{")
        assert f"{path} cannot be read: unexpected end of data" in wrong("jsonl", path)
        text(path, "[]")
        assert "there is no record in it" in wrong("jsonl", path)


class TestRows:
    """What is wrong with rows."""

    def test_each_is_named(self, tmp_path: Path) -> None:
        sounds(tmp_path, "ok.wav", "b.wav")
        good = {"audio": "ok.wav", "text": "x"}
        path = listing(
            tmp_path / "m.jsonl",
            good | {"key": "ok", "duration": "0.1"},
            "not json",
            "[1, 2]",
            '"text"',
            good | {"key": "duration", "duration": "long"},
            good | {"key": "list", "duration": [1]},
            good | {"key": "rate", "duration": 0.1, "sampling_rate": "16k"},
            good | {"key": "offset", "offset": "soon"},
            good | {"key": "infinite", "offset": "inf", "duration": 1},
            good | {"key": "channel", "channel": "left"},
            {"key": "none", "audio": "none.wav", "text": "x"},
            {"key": "empty", "audio": "", "text": "x"},
            {"key": "null", "audio": None, "text": "x"},
            {"key": "object", "audio": {"path": "ok.wav"}, "text": "x"},
            {"key": "nothing", "text": "x"},
            {"text": "x"},
            {"key": "up", "audio": "../../up.wav", "text": "x"},
            {"key": "text", "audio": "b.wav", "text": ["a", "b"]},
            {"key": "flag", "audio": "b.wav", "text": True},
            '{"audio": "b.wav", "text": "cut o',
            "{}",
        )
        with open(path, "ab") as stream:
            stream.write('{"audio": "b.wav", "text": "café"}\n'.encode("latin-1"))
        found = read("jsonl", tmp_path)
        assert said(found) == {"ok": "x"}
        malformed = "duration list rate offset infinite channel empty null object nothing text flag".split()
        assert reasons(found) == {
            **{f"m.jsonl:{line}": "malformed_row" for line in (2, 3, 4, 16, 20, 21, 22)},
            **dict.fromkeys(malformed, "malformed_row"),
            "none": "audio_missing",
            "up": "path_outside_corpus",
        }
        assert the(found, "m.jsonl:2").problem == "malformed_row: m.jsonl:2 is no JSON object"
        assert the(found, "duration").problem.endswith("m.jsonl:5: could not convert string to float: 'long'")
        assert the(found, "nothing").problem.endswith("it names no audio file")
        assert the(found, "text").problem.endswith("the transcript is no text but ['a', 'b']")
        assert all(u.source is None or u.source.path for u in found)

    def test_rows_that_come_twice_are_not_dropped(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        listing(tmp_path / "m.jsonl", *[{"audio": "a.wav", "text": "x"}] * 2)
        assert [u.id for u in read("jsonl", tmp_path)] == ["c/a.wav", "c/a.wav"]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from("audio text key speaker lang duration offset channel sampling_rate emotion x".split()),
                st.none() | st.booleans() | st.integers(-9, 10**20) | st.floats() | st.text(max_size=9) | st.just([]),
            )
            | st.integers()
            | st.text(max_size=5),
            max_size=6,
        )
    )
    def test_any_json_gives_a_row_a_record(self, tmp_path: Path, records: list[Any]) -> None:
        first = {"audio": "a.wav", "text": "x"}
        text(tmp_path / "m.jsonl", json.dumps(first), *map(json.dumps, records))
        found = read("jsonl", tmp_path)
        assert len(found) == len(records) + 1
        assert all(u.problem is not None for u in found), "no such file is there"
        assert all(u.source is None or (u.source.start == u.source.start and u.source.path) for u in found)


class TestRecognise:
    """Which files are of this layout."""

    def test_listings(self, tmp_path: Path) -> None:
        assert Jsonl.recognise(tmp_path) is None
        listing(tmp_path / "1.jsonl", {"a": 1})
        assert Jsonl.recognise(tmp_path) is None
        path = listing(tmp_path / "2.jsonl", "junk", {"audio_filepath": "a.wav", "text": "x"})
        assert Jsonl.recognise(tmp_path) == Jsonl.recognise(path) == {}
        assert Jsonl.recognise(text(tmp_path / "x.json", '[{"wav": "a", "txt": "b"}]')) == {}
        assert Jsonl.recognise(text(tmp_path / "y.json", "{")) is None

    def test_lhotse_has_a_reader_of_its_own(self, tmp_path: Path) -> None:
        listing(tmp_path / "cuts.jsonl", {"audio": "a", "text": "x", "type": "MonoCut"})
        assert Jsonl.recognise(tmp_path) is None


class TestReal:
    """Manifests as they are found."""

    def test_wenet(self, speech: Path) -> None:
        found = read("jsonl", speech / "wenet_kaldi_jsonl_shard" / "test" / "resources" / "dataset" / "data.list")
        entries = index(speech)
        assert len(found) == 2
        for utterance in found:
            entry = entries[f"wenet_kaldi_jsonl_shard/test/resources/dataset/{utterance.source.path}"]
            assert utterance.transcript == entry.transcript
            assert "/" in utterance.id[2:]

    def test_a_list_of_shards_is_no_list_of_utterances(self, speech: Path) -> None:
        folder = speech / "wenet_kaldi_jsonl_shard" / "test" / "resources" / "dataset"
        found = read("jsonl", folder)
        assert reasons(found) == {"data.shards.list:1": "malformed_row"}
        assert len(found) == 3

    @pytest.mark.parametrize("field", ["transcript", "transcript_with_punctuation"])
    def test_leopard(self, speech: Path, field: str) -> None:
        folder = speech / "picovoice_leopard" / "resources"
        found = read(
            "jsonl",
            folder / ".test" / "test_data.json",
            records="tests.language_tests",
            audio_root=str(folder / "audio_samples"),
            fields={"transcript": field},
        )
        entries = index(speech)
        assert len(found) == 8
        for utterance in found:
            name = utterance.source.path.removeprefix("../audio_samples/")
            entry = entries[f"picovoice_leopard/resources/audio_samples/{name}"]
            assert utterance.problem is None
            assert utterance.language == entry.language
            if field == "transcript_with_punctuation":
                assert utterance.transcript == entry.transcript
