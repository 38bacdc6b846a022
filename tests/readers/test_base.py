"""What all readers share: options, sources, labels, links, listings and zip files."""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import plugins
from pipeline.audio import AudioError, RawFormat, load
from pipeline.readers._fields import ALIASES, guess, labels_of, number
from pipeline.readers.base import CorpusError, Reader, audio_files, files, identity, lines
from schemas.utterance import AudioSource
from tests.reading import read, reasons, said, sound, sounds, text, the, wrong

READERS = plugins.names("readers")


def make(reader: str, **options: Any) -> Reader:
    return plugins.load("readers", reader)(**{"name": "c", "path": "."} | options)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_is_documented_and_strict(reader: str) -> None:
    kind = plugins.load("readers", reader)
    module = __import__(kind.__module__, fromlist=["_"])
    assert "Source: " in module.__doc__
    assert "icence: " in module.__doc__, "its docstring names source and licence"
    with pytest.raises(ValidationError, match="Extra inputs"):
        make(reader, sped=1)
    with pytest.raises(ValidationError, match="frozen"):
        make(reader).name = "other"


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_is_not_there_is_named(reader: str, tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav")  # beside it: nothing of the parent folder may be read
    text(tmp_path / "a.txt", "words")
    complaint = wrong(reader, tmp_path / "typo")
    assert f"{tmp_path / 'typo'} is not there" in complaint


@pytest.mark.parametrize("reader", ["audio_text", "librispeech", "kaldi", "common_voice"])
def test_a_file_is_no_folder(reader: str, tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav")
    assert f"{path} is a file; the corpus's folder is expected" in wrong(reader, path)


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_folder_is_an_error(reader: str, tmp_path: Path) -> None:
    assert str(tmp_path) in wrong(reader, tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"language": "xx"}, "BCP-47"),
        ({"split": "valid"}, "'train' or 'test'"),
        ({"speech": "no"}, "valid boolean"),
        ({"raw": {"sampling_rate": 0}}, "greater than 0"),
        ({"raw": {"sampling_rate": 16000, "subtype": "PCM16"}}, "'PCM_16'"),
        ({"raw": {"subtype": "PCM_16"}}, "Field required"),
        ({"labels": {"accent": 1}}, "valid string"),
        ({"name": None}, "valid string"),
    ],
)
def test_wrong_options_say_what_is_expected(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        make("audio_text", **options)


def test_common_options_reach_every_utterance(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav")
    text(tmp_path / "a.txt", "words")
    (found,) = read(
        "audio_text",
        tmp_path,
        language="German",
        licence="CC-BY-4.0",
        labels={"accent": "bavarian", "speech": "yes"},
        speaker="anna",
    )
    assert (found.language, found.licence, found.speaker) == ("de", "CC-BY-4.0", "c/anna")
    assert found.labels == {"accent": "bavarian", "speech": "yes"}
    assert found.is_speech
    (noise,) = read("audio_text", tmp_path, speech=False, labels={"topic": "street"})
    assert noise.labels == {"topic": "street", "speech": "no"}
    assert not noise.is_speech


def test_texts_are_cleaned(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav")
    text(tmp_path / "a.txt", "  e\u0301te\u0301 \u00a0 a\x00b\tc ")
    assert said(read("audio_text", tmp_path)) == {"a": "été ab c"}


def packed(folder: Path) -> None:
    """The same two sounds as files, in a table, a manifest, a zip, a tar and a Parquet file."""
    sound(folder / "files" / "a.wav", hz=300.0)
    sound(folder / "files" / "b.wav", seconds=1.0, hz=500.0)
    text(folder / "files" / "list.csv", "path,text", "a.wav,one", "b.wav,two")
    text(folder / "files" / "list.jsonl", '{"path": "a.wav", "text": "one"}', '{"path": "b.wav", "text": "two"}')
    with zipfile.ZipFile(folder / "c.zip", "w") as archive, tarfile.open(folder / "c.tar", "w") as tar:
        for name in ("a.wav", "b.wav"):
            archive.write(folder / "files" / name, name)
            tar.add(folder / "files" / name, name)
        archive.write(folder / "files" / "list.csv", "list.csv")


@pytest.mark.parametrize(
    ("reader", "path"),
    [("audio_text", "files"), ("csv", "files"), ("jsonl", "files"), ("csv", "c.zip"), ("webdataset", "c.tar")],
)
def test_a_copy_is_the_same_and_a_change_is_not(tmp_path: Path, reader: str, path: str) -> None:
    options = {"file": "list.csv"} if path == "c.zip" else {}
    packed(tmp_path / "1")
    before = read(reader, tmp_path / "1" / path, **options)
    shutil.copytree(tmp_path / "1", tmp_path / "2", copy_function=shutil.copyfile)
    for place in (tmp_path / "2").rglob("*"):
        os.utime(place, (1e9, 1e9))
    assert read(reader, tmp_path / "2" / path, **options) == before
    assert all(u.source.identity for u in before)

    sound(tmp_path / "2" / "files" / "a.wav", hz=301.0)  # of the same size
    os.utime(tmp_path / "2" / "files" / "a.wav", (1.1e9, 1.1e9))
    with zipfile.ZipFile(tmp_path / "2" / "c.zip", "w") as archive, tarfile.open(tmp_path / "2" / "c.tar", "w") as tar:
        for name in ("a.wav", "b.wav", "list.csv"):
            archive.write(tmp_path / "2" / "files" / name, name)
            tar.add(tmp_path / "2" / "files" / name, name)
    after = read(reader, tmp_path / "2" / path, **options)
    assert after[0].source.identity != before[0].source.identity
    assert [u.id for u in after] == [u.id for u in before]
    if reader != "webdataset":  # of a member of a tar its header counts, with its time
        assert after[1] == before[1]


@pytest.mark.parametrize("size", [0, 1, 4096, 12_287, 12_288, 12_289, 100_000])
def test_a_change_at_the_begin_the_middle_or_the_end_is_seen(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    content = bytearray(os.urandom(size))
    path.write_bytes(content)
    seen = {identity(str(path))}
    for place in {0, size // 2, size - 1} if size else ():
        content[place] ^= 1
        path.write_bytes(content)
        seen.add(identity(str(path)))
    path.write_bytes(content + b"x")
    seen.add(identity(str(path)))
    assert len(seen) == len({0, size // 2, size - 1} if size else ()) + 2


def test_what_is_no_file_is_there_but_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    assert identity(str(tmp_path / "pipe.wav")).endswith("unreadable")
    assert identity(str(tmp_path / "folder.wav")).endswith("unreadable")
    assert identity(str(tmp_path / "none.wav")) == identity("a\0b") == ""


def test_raw_format_is_for_files_without_header() -> None:
    reader = make("audio_text", raw={"sampling_rate": 8000, "subtype": "ULAW", "channels": 2})
    assert reader.raw_format(AudioSource("x/a.S16")) == RawFormat(8000, "ULAW", 2)
    assert reader.raw_format(AudioSource("x.zip", "a.pcm")) == RawFormat(8000, "ULAW", 2)
    assert reader.raw_format(AudioSource("a.wav")) is None
    assert make("audio_text").raw_format(AudioSource("a.raw")) is None


class TestFiles:
    """Walks."""

    def test_sorted_without_hidden_ones(self, tmp_path: Path) -> None:
        sounds(tmp_path, "b.wav", "B.WAV", "a/z.flac", ".hidden.wav", ".git/x.wav", "a/._z.flac")
        text(tmp_path / "a" / "z.txt", "x")
        assert [p.relative_to(tmp_path).as_posix() for p in files(tmp_path)] == [
            "B.WAV",
            "b.wav",
            "a/z.flac",
            "a/z.txt",
        ]
        assert [p.name for p in audio_files(tmp_path)] == ["B.WAV", "b.wav", "z.flac"]

    def test_links_to_folders_elsewhere_are_followed(self, tmp_path: Path) -> None:
        sounds(tmp_path, "elsewhere/wav/a.wav", "corpus/own/b.wav")
        corpus = tmp_path / "corpus"
        (corpus / "disk2").symlink_to(tmp_path / "elsewhere")
        assert [p.relative_to(corpus).as_posix() for p in files(corpus)] == ["disk2/wav/a.wav", "own/b.wav"]

    def test_no_link_makes_a_file_appear_twice_or_for_ever(self, tmp_path: Path) -> None:
        sounds(tmp_path, "corpus/own/b.wav", "elsewhere/c.wav")
        corpus = tmp_path / "corpus"
        for name, target in {
            "again": corpus / "own",
            "round": corpus,
            "up": tmp_path,
            "one": tmp_path / "elsewhere",
            "two": tmp_path / "elsewhere",
        }.items():
            (corpus / name).symlink_to(target)
        (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
        assert [p.relative_to(corpus).as_posix() for p in files(corpus)] == ["one/c.wav", "own/b.wav"]

    def test_a_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match="cannot be read"):
            list(files(tmp_path / "none"))


class TestLines:
    """Text files."""

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_line_ends_and_byte_order_marks(self, tmp_path: Path, end: str, encoding: str) -> None:
        path = text(tmp_path / "t", "a b", "", "ю\u2028\x85я", end=end, encoding=encoding)
        assert list(lines(path)) == [(1, "a b"), (2, ""), (3, "ю\u2028\x85я")]

    @pytest.mark.parametrize("before", [0, 1, 5000])
    def test_the_line_that_is_not_utf8_is_named(self, tmp_path: Path, before: int) -> None:
        path = tmp_path / "t.csv"
        path.write_bytes("длинная строка\n".encode() * before + "caf\xe9\n".encode("latin-1") + b"x\n")
        with pytest.raises(CorpusError, match=rf"t\.csv:{before + 1} is not UTF-8: convert the file with iconv"):
            list(lines(path))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match="none cannot be read: No such file"):
            list(lines(tmp_path / "none"))


class TestFields:
    """Names, numbers and labels of rows."""

    @given(st.sampled_from(sorted({(k, n) for k, names in ALIASES.items() for n in names})), st.booleans())
    def test_usual_names_are_known_in_any_case(self, pair: tuple[str, str], shout: bool) -> None:
        what, name = pair
        written = name.upper() if shout else name
        assert guess(["other", written], {})[what] == written

    def test_what_the_recipe_says_goes_first(self) -> None:
        assert guess(["text", "caption"], {"transcript": "caption"}) == {"transcript": "caption"}

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_numbers_are_read_as_they_are_written(self, value: float) -> None:
        assert number(str(value)) == number(value) == value

    @pytest.mark.parametrize("nothing", [None, "", True, False])
    def test_no_number(self, nothing: object) -> None:
        assert number(nothing) is None

    @pytest.mark.parametrize("odd", ["x", "nan", "inf", "-Infinity", [1], {}])
    def test_what_is_no_number(self, odd: object) -> None:
        with pytest.raises((ValueError, TypeError)):
            number(odd)

    def test_whole_numbers(self) -> None:
        assert number("16000.0", int) == number(16000, int) == 16000
        with pytest.raises(ValueError, match="whole number"):
            number("0.5", int)

    def test_labels(self) -> None:
        row = {"sex": "F", "age": 30, "intent": "play", "slots": [{"a": "ä"}], "topic": "", "emotion": None, "x": "y"}
        wanted = {"gender": "female", "age": "30", "intent": "play", "slots": '[{"a":"ä"}]'}
        assert labels_of(row, ["sex", "age", "intent", "slots", "topic", "emotion", "dialect"]) == wanted

    def test_labels_that_json_does_not_know(self) -> None:
        assert labels_of({"age": b"x"}, ["age"]) == {"age": "\"b'x'\""}


class TestListing:
    """How the paths of a listing are found. The CSV reader has nothing of its own in it."""

    def listing(self, folder: Path, *paths: str) -> Path:
        return text(folder / "list.csv", "path,text", *(f"{p},words" for p in paths))

    def test_relative_to_itself(self, tmp_path: Path) -> None:
        sounds(tmp_path, "wav/a.wav")
        self.listing(tmp_path, "wav/a.wav", "./wav/a.wav", "wav/none.wav")
        found = read("csv", tmp_path)
        assert [u.source.path for u in found] == ["wav/a.wav", "./wav/a.wav", "wav/none.wav"]
        assert reasons(found) == {"wav/none.wav": "audio_missing"}

    def test_relative_to_a_folder_above(self, tmp_path: Path) -> None:
        sounds(tmp_path, "corpus/wav/a.wav", "corpus/lists/here/b.wav")
        listing = self.listing(tmp_path / "corpus" / "lists", "corpus/wav/a.wav", "corpus/lists/here/b.wav")
        found = read("csv", listing)
        assert [u.source.path for u in found] == ["../../corpus/wav/a.wav", "here/b.wav"]
        reader = make("csv", path=str(listing))
        assert all(load(reader.audio(u.source)).seconds == 0.1 for u in found)

    def test_the_first_file_may_be_missing_where_its_folder_is_there(self, tmp_path: Path) -> None:
        sounds(tmp_path, "corpus/wav/b.wav")
        listing = self.listing(tmp_path / "corpus" / "lists", "corpus/wav/a.wav", "corpus/wav/b.wav")
        found = read("csv", listing)
        assert reasons(found) == {"corpus/wav/a.wav": "audio_missing"}
        assert found[1].problem is None

    def test_a_path_that_no_file_can_have(self, tmp_path: Path) -> None:
        listing = self.listing(tmp_path, "x" * 5000, "y\0z")
        assert set(reasons(read("csv", listing)).values()) == {"audio_missing"}

    def test_absolute_paths(self, tmp_path: Path) -> None:
        sounds(tmp_path, "corpus/a.wav", "other/b.wav")
        inside, outside = tmp_path / "corpus/a.wav", tmp_path / "other/b.wav"
        listing = self.listing(tmp_path / "corpus", str(inside), str(outside), f"{tmp_path}/corpus/../other/b.wav")
        found = read("csv", listing)
        assert found[0].source.path == "a.wav"
        assert [u.problem is None for u in found] == [True, False, False]
        assert all("path_outside_corpus" in u.problem and "audio_root" in u.problem for u in found[1:])
        allowed = read("csv", listing, audio_root=str(tmp_path))
        assert [u.source.path for u in allowed] == ["a.wav", "../other/b.wav", "../other/b.wav"]
        assert not reasons(allowed)

    def test_absolute_paths_through_a_link(self, tmp_path: Path) -> None:
        sounds(tmp_path, "disk/corpus/a.wav")
        (tmp_path / "link").symlink_to(tmp_path / "disk")
        listing = self.listing(tmp_path / "link" / "corpus", str(tmp_path / "link/corpus/a.wav"))
        assert files_of(read("csv", listing)) == ["a.wav"]

    def test_paths_that_go_up(self, tmp_path: Path) -> None:
        sounds(tmp_path, "corpus/wav/a.wav", "corpus/lists/b.wav")
        listing = self.listing(tmp_path / "corpus" / "lists", "../wav/a.wav", "../lists/b.wav")
        found = read("csv", listing)
        assert reasons(found) == {"../wav/a.wav": "path_outside_corpus"}
        allowed = read("csv", listing, audio_root=str(tmp_path / "corpus"))
        assert files_of(allowed) == ["../wav/a.wav", "b.wav"]

    def test_audio_root(self, tmp_path: Path) -> None:
        sounds(tmp_path, "audio/a.wav")
        listing = self.listing(tmp_path / "lists", "a.wav")
        (found,) = read("csv", listing, audio_root=str(tmp_path / "audio"))
        assert found.source.path == "../audio/a.wav"
        assert found.problem is None
        assert "audio_root: " in wrong("csv", listing, audio_root=str(tmp_path / "typo"))


def files_of(utterances: list[Any]) -> list[str]:
    return [u.source.path for u in utterances if u.problem is None]


class TestZip:
    """Audio from a zip file."""

    def pack(self, path: Path, count: int, method: int = zipfile.ZIP_STORED) -> Path:
        content = sound(path.parent / "one.wav", seconds=0.02).read_bytes()
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("list.tsv", "\n".join(f"{n}.wav\twords {n}" for n in range(count)))
            for number_ in range(count):
                archive.writestr(f"{number_}.wav", content)
        return path

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_what_unpacks_without_a_bound_is_refused(self, tmp_path: Path, method: int) -> None:
        path = self.pack(tmp_path / "c.zip", 3, method)
        with pytest.raises(CorpusError, match="pack it with deflate"):
            read("csv", path, header=False, columns={"audio": 0})

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_members_are_read_without_unpacking(self, tmp_path: Path, method: int) -> None:
        options = {"header": False, "columns": {"audio": 0, "transcript": 1}}
        path = self.pack(tmp_path / "c.zip", 3, method)
        reader = make("csv", path=str(path), **options)
        found = list(reader.utterances())
        assert [u.source.member for u in found] == ["0.wav", "1.wav", "2.wav"]
        assert [load(reader.audio(u.source)).seconds for u in found] == [0.02] * 3

    def test_the_directory_is_not_read_for_every_member(self, tmp_path: Path) -> None:
        reader = make("csv", path=str(self.pack(tmp_path / "c.zip", 3000)), header=False, columns={"audio": 0})
        begin = time.perf_counter()
        found = list(reader.utterances())
        for utterance in found:
            reader.audio(utterance.source)
        # Quadratic, it takes over a minute.
        assert time.perf_counter() - begin < 5
        assert len(found) == 3000

    def test_a_changed_file_is_read_anew(self, tmp_path: Path) -> None:
        path = self.pack(tmp_path / "c.zip", 2)
        assert len(read("csv", path, header=False, columns={"audio": 0})) == 2
        self.pack(path, 5)
        os.utime(path, ns=(1, 1))
        assert len(read("csv", path, header=False, columns={"audio": 0})) == 5

    def test_many_threads_may_read(self, tmp_path: Path) -> None:
        reader = make("csv", path=str(self.pack(tmp_path / "c.zip", 50, zipfile.ZIP_DEFLATED)), header=False)
        reader = make("csv", path=reader.path, header=False, columns={"audio": 0})
        found = list(reader.utterances())
        got: list[int] = []

        def take() -> None:
            got.extend(len(reader.audio(u.source)) for u in found)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 200
        assert len(set(got)) == 1

    def test_damage_is_an_audio_error(self, tmp_path: Path) -> None:
        path = self.pack(tmp_path / "c.zip", 3, zipfile.ZIP_DEFLATED)
        reader = make("csv", path=str(path), header=False, columns={"audio": 0})
        sources = [u.source for u in reader.utterances()]
        content = bytearray(path.read_bytes())
        start = content.index(b"1.wav", content.index(b"PK\x03\x04")) + 40
        content[start : start + 60] = b"\xff" * 60
        path.write_bytes(content)
        with pytest.raises(AudioError, match=r"1\.wav cannot be read from .*c\.zip"):
            reader.audio(sources[1])
        with pytest.raises(AudioError, match=r"9\.wav cannot be read"):
            reader.audio(AudioSource("c.zip", "9.wav"))
        path.write_bytes(b"no zip file")
        with pytest.raises(AudioError, match="not a zip file"):
            reader.audio(sources[0])


def test_file_names_that_are_not_utf8_are_named_and_can_be_stored(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    sound(tmp_path / "ok.wav").rename(os.fsdecode(name))
    sounds(tmp_path, "é/ok.wav")
    found = read("audio_text", tmp_path)
    assert [u.id for u in found] == ["c/caf\ufffd", "c/é/ok"]
    assert "is not UTF-8: rename the file" in the(found, "caf\ufffd").problem
    assert all(u.source.path.encode() for u in found)
    assert found[1].problem is None
