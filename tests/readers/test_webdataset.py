"""WebDataset tar files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.audio import AudioError, load
from pipeline.readers.webdataset import WebDataset
from tests.reading import index, read, reasons, said, sound, text, the, wrong


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sound(tmp_path_factory.mktemp("one") / "a.wav").read_bytes()


def pack(path: Path, members: dict[str, bytes | str], mode: str = "w", **form: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **form) as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_samples(tmp_path: Path, wav: bytes) -> None:
    record = {
        "text": "zwei",
        "speaker": 7,
        "lang": "deu",
        "emotion": "glad",
        "session": "r1",
        "duration": "0.1",
        "sampling_rate": 16000.0,
        "split": "dev",
        "license": "CC0",
    }
    pack(
        tmp_path / "0.tar",
        {"x/a.txt": "\ufeffone\r\n", "x/a.wav": wav, "b.json": json.dumps(record), "b.wav": wav, "c.WAV": wav},
    )
    pack(tmp_path / "sub" / "1.tar", {"d.lab": "four", "d.flac": wav, "e.transcript": "five", "e.mp3": wav})
    found = read("webdataset", tmp_path, language="en")
    assert said(found) == {"x/a": "one", "b": "zwei", "c": "", "d": "four", "e": "five"}
    b = the(found, "b")
    assert (b.speaker, b.language, b.recording, b.split, b.licence) == ("c/7", "de", "c/r1", "dev", "CC0")
    assert (b.duration, b.sampling_rate, b.labels) == (0.1, 16000, {"emotion": "glad"})
    assert [(u.source.path, u.source.member) for u in found][3:] == [("sub/1.tar", "d.flac"), ("sub/1.tar", "e.mp3")]
    reader = WebDataset(name="c", path=str(tmp_path))
    assert all(reader.audio(u.source) == wav for u in found)
    assert load(reader.audio(found[0].source)).seconds == 0.1
    assert said(read("webdataset", tmp_path / "sub" / "1.tar")) == {"d": "four", "e": "five"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_kinds_of_tar(tmp_path: Path, wav: bytes, form: int) -> None:
    long = "ü" * 40 + "/" + "x" * 50
    pack(tmp_path / "a.tar", {f"{long}.txt": "words", f"{long}.wav": wav}, format=form)
    reader = WebDataset(name="c", path=str(tmp_path))
    (found,) = reader.utterances()
    assert (found.id, found.transcript) == (f"c/{long}", "words")
    assert reader.audio(found.source) == wav


def test_chosen_fields(tmp_path: Path, wav: bytes) -> None:
    pack(tmp_path / "a.tar", {"a.json": '{"caption": "words", "text": "no"}', "a.wav": wav})
    assert said(read("webdataset", tmp_path, fields={"transcript": "caption"})) == {"a": "words"}
    found = read("webdataset", tmp_path, fields={"transcript": "captoin"})
    assert reasons(found) == {"a": "malformed_row"}
    assert "there is no field 'captoin'; there are: caption, text" in found[0].problem
    with pytest.raises(ValidationError, match="Did you mean 'transcript'"):
        WebDataset(name="c", path=".", fields={"transcrpt": "caption"})


def test_text_suffixes(tmp_path: Path, wav: bytes) -> None:
    pack(tmp_path / "a.tar", {"a.txt": "one", "a.ref": "two", "a.wav": wav})
    assert said(read("webdataset", tmp_path, text_suffixes=[".ref"])) == {"a": "two"}
    assert said(read("webdataset", tmp_path)) == {"a": "one"}


def test_no_audio_of_a_sample_is_left_out(tmp_path: Path, wav: bytes) -> None:
    pack(
        tmp_path / "a.tar",
        {
            "mics.1.wav": wav,
            "mics.2.wav": wav,
            "mics.txt": "both",
            "dots.1.wav": wav,
            "dots.1.txt": "first",
            "dots.2.wav": wav,
            "dots.2.txt": "second",
            "dots.3.txt": "no audio",
            "one.wav": wav,
            "one.meta.json": '{"speaker": "anna"}',
            "one.txt": "alone",
            "jfk.wav": wav,
            "jfk.flac": wav,
            "jfk.txt": "ask not",
        },
    )
    found = read("webdataset", tmp_path)
    assert said(found) == {
        "mics.1.wav": "both",
        "mics.2.wav": "both",
        "dots.1.wav": "first",
        "dots.2.wav": "second",
        "one": "alone",
        "jfk.wav": "ask not",
        "jfk.flac": "ask not",
    }
    assert reasons(found) == {"dots.3": "audio_missing"}
    assert the(found, "dots.3").transcript == "no audio"
    assert the(found, "one").speaker == "c/anna"


def test_what_is_wrong_with_samples(tmp_path: Path, wav: bytes) -> None:
    path = pack(
        tmp_path / "a.tar",
        {
            "ok.wav": wav,
            "ok.txt": "words",
            ".hidden.wav": wav,
            "._ok.wav": wav,
            "text.txt": "no audio",
            "picture.png": b"png",
            "latin.wav": wav,
            "latin.txt": "caf\xe9".encode("latin-1"),
            "json.wav": wav,
            "json.json": "{",
            "list.wav": wav,
            "list.json": '["text"]',
            "number.wav": wav,
            "number.json": '{"text": "x", "duration": "long"}',
            "huge.wav": wav,
            "huge.txt": b"x" * (2**20 + 1),
            "twice.wav": wav,
            "other.wav": wav,
            "twice.flac": wav,
        },
    )
    with tarfile.open(path, "a") as archive:
        archive.addfile(_link("soft.wav", tarfile.SYMTYPE))
        archive.addfile(_link("hard.wav", tarfile.LNKTYPE))
        archive.addfile(_link("folder", tarfile.DIRTYPE))
    found = read("webdataset", tmp_path)
    assert [u.id for u in found].count("c/twice") == 2
    assert said(u for u in found if u.id != "c/twice") == {"ok": "words", "other": ""}
    assert reasons(found) == {
        "text": "audio_missing",
        **dict.fromkeys("latin json list number huge".split(), "malformed_row"),
        "soft": "audio_unreadable",
        "hard": "audio_unreadable",
    }
    assert "a.tar!huge.txt: huge.txt is over 1 MB" in the(found, "huge").problem
    assert "a JSON object is expected" in the(found, "list").problem
    assert "is a link: pack the file itself" in the(found, "hard").problem


def _link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "ok.wav"
    return info


class TestDamage:
    """Tar files that cannot be read, or not to their end."""

    def test_cut_off(self, tmp_path: Path, wav: bytes) -> None:
        members = {f"{n}.{kind}": wav if kind == "wav" else f"words {n}" for n in range(4) for kind in ("txt", "wav")}
        path = pack(tmp_path / "a.tar", members)
        content = path.read_bytes()
        path.write_bytes(content[: content.rindex(b"RIFF") + 100])
        reader = WebDataset(name="c", path=str(path))
        found = list(reader.utterances())
        assert reasons(found) == {"a.tar!damaged": "audio_unreadable"}
        assert "is damaged after 3.wav: unexpected end of data" in found[-1].problem
        assert said(found) == {str(n): f"words {n}" for n in range(4)}
        with pytest.raises(AudioError, match="cut off"):
            load(reader.audio(the(found, "3").source))

    def test_a_header_that_is_none(self, tmp_path: Path, wav: bytes) -> None:
        path = pack(tmp_path / "a.tar", {"a.wav": wav, "b.wav": wav, "c.wav": wav})
        content = bytearray(path.read_bytes())
        at = content.index(b"b.wav")
        content[at : at + 200] = b"\x07" * 200
        path.write_bytes(content)
        found = read("webdataset", tmp_path)
        assert said(found) == {"a": ""}
        assert "a.tar is damaged after a.wav: a header is expected" in the(found, "a.tar!damaged").problem

    @pytest.mark.parametrize("content", [b"", b"no tar file", b"x" * 5000])
    def test_no_tar_at_all_spoils_no_other(self, tmp_path: Path, wav: bytes, content: bytes) -> None:
        (tmp_path / "a.tar").write_bytes(content)
        pack(tmp_path / "b.tar", {"b.wav": wav})
        found = read("webdataset", tmp_path)
        assert said(found) == {"b": ""}
        assert reasons(found) == {"a.tar!damaged": "audio_unreadable"}

    def test_compressed_ones_are_named(self, tmp_path: Path, wav: bytes) -> None:
        pack(tmp_path / "a.tar.gz", {"a.wav": wav}, "w:gz")
        assert "no *.tar below it; compressed ones must be unpacked first" in wrong("webdataset", tmp_path)
        assert "compressed ones must be unpacked first" in wrong("webdataset", tmp_path / "a.tar.gz")
        pack(tmp_path / "b.TAR", {"b.wav": wav})
        found = read("webdataset", tmp_path)
        assert said(found) == {"b": ""}
        assert reasons(found) == {"a.tar.gz!": "audio_unreadable"}
        assert "is compressed: unpack it to a *.tar" in found[0].problem

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_any_damage_is_named(self, tmp_path: Path, wav: bytes, data: st.DataObject) -> None:
        names = [f"{n}.{kind}" for n in range(3) for kind in ("txt", "wav")]
        path = pack(tmp_path / "a.tar", {n: wav if n.endswith("wav") else f"words {n[0]}" for n in names})
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1025))
        content[at : at + 600] = bytes([data.draw(st.integers(1, 255))]) * 600
        path.write_bytes(content)
        found = read("webdataset", tmp_path)
        assert {"c/0", "c/1", "c/2"} <= {u.id for u in found} or "a.tar!damaged" in reasons(found)


def test_what_is_recognised(tmp_path: Path, wav: bytes) -> None:
    assert WebDataset.recognise(tmp_path) is None
    (tmp_path / "0.tar").write_bytes(b"no tar file")
    pack(tmp_path / "1.tar", {"a.png": b"png"})
    assert WebDataset.recognise(tmp_path) is None
    path = pack(tmp_path / "2.tar", {"a.txt": "x", "a.wav": wav})
    assert WebDataset.recognise(tmp_path) == WebDataset.recognise(path) == {}
    assert WebDataset.recognise(text(tmp_path / "x.txt", "x")) is None


def test_wenet(speech: Path) -> None:
    folder = speech / "wenet_kaldi_jsonl_shard" / "test" / "resources" / "dataset" / "shards"
    reader = WebDataset(name="c", path=str(folder))
    entries = index(speech)
    found = list(reader.utterances())
    assert len(found) == 2
    for utterance in found:
        prefix = "wenet_kaldi_jsonl_shard/test/resources/dataset/shards/"
        entry = entries[f"{prefix}{utterance.source.path}!{utterance.source.member}"]
        assert utterance.transcript == entry.transcript
        assert load(reader.audio(utterance.source)).seconds == pytest.approx(entry.seconds, abs=0.001)
