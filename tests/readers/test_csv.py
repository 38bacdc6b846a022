"""CSV and TSV with chosen columns, in a folder or in a zip file."""

from __future__ import annotations

import csv as tables
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.audio import load
from pipeline.readers.csv import Csv
from tests.reading import files_read, index, read, reasons, said, sound, sounds, text, the, wrong


class TestColumns:
    """What stands where."""

    def test_usual_names(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        text(
            tmp_path / "list.csv",
            "ID,audio_filepath,text,speaker_id,locale,duration,sampling_rate,split,license,gender,session,other",
            "u1,a.wav,some words,anna,pt_BR,0.1,16000.0,dev,CC0,F,r1,x",
        )
        (found,) = read("csv", tmp_path)
        assert (found.id, found.transcript, found.speaker, found.language) == ("c/u1", "some words", "c/anna", "pt-BR")
        assert (found.duration, found.sampling_rate, found.split, found.licence) == (0.1, 16000, "dev", "CC0")
        assert (found.recording, found.labels) == ("c/r1", {"gender": "female"})
        assert (found.source.path, found.source.start, found.source.duration) == ("a.wav", 0.0, None)

    def test_by_name_and_by_number(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        text(tmp_path / "list.csv", "what,where,mood,who", "words,a.wav,glad,anna")
        columns = {"transcript": "what", "audio": 1, "emotion": "mood"}
        (found,) = read("csv", tmp_path, columns=columns)
        assert (found.transcript, found.source.path, found.labels) == ("words", "a.wav", {"emotion": "glad"})
        (labelled,) = read("csv", tmp_path, columns=columns, label_columns=["who"])
        assert labelled.labels == {"emotion": "glad", "who": "anna"}

    def test_without_a_header(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav")
        text(tmp_path / "list.tsv", "a.wav\tone\tm", "b.wav\ttwo", "")
        found = read("csv", tmp_path, header=False, columns={"audio": 0, "transcript": 1, "gender": 2})
        assert said(found) == {"a.wav": "one", "b.wav": "two"}
        assert [u.labels for u in found] == [{"gender": "male"}, {}]

    def test_a_template_for_the_audio(self, tmp_path: Path) -> None:
        sounds(tmp_path, "audio/eng/7.mp3")
        text(
            tmp_path / "meta.txt", "7\tBrave\teng\tI want it.", "8\tBrave\teng\tMissing.", "9\tBrave", "\tBrave\teng\tx"
        )
        options: dict[str, Any] = {
            "header": False,
            "columns": {"key": 0, "speaker": 1, "language": 2, "transcript": 3},
            "audio_template": "audio/{language}/{key}.mp3",
        }
        found = read("csv", tmp_path / "meta.txt", **options)
        assert said(found) == {"7": "I want it."}
        assert the(found, "7").language == "en"
        assert reasons(found) == {
            "8": "audio_missing",
            "9": "malformed_row",
            "meta.txt:4": "malformed_row",
        }
        assert the(found, "9").problem.endswith("meta.txt:3: it names no audio")
        complaint = wrong("csv", tmp_path / "meta.txt", **options | {"columns": {"key": 0}})
        assert "`audio_template` needs the field 'language'" in complaint

    def test_stretches(self, tmp_path: Path) -> None:
        sound(tmp_path / "a.wav", 0.5, channels=2)
        text(
            tmp_path / "list.csv",
            "path,start,duration,channel,text",
            "a.wav,0.125,0.25,1,one",
            "a.wav,0,0.1,,two",
            "a.wav,,0.5,,three",
        )
        found = read("csv", tmp_path)
        places = [(u.source.start, u.source.duration, u.source.channel) for u in found]
        assert places == [(0.125, 0.25, 1), (0.0, 0.1, None), (0.0, None, None)]
        assert [u.id for u in found] == ["c/a.wav@0.125", "c/a.wav@0", "c/a.wav"], "ids of stretches differ"
        assert [u.recording for u in found] == ["c/a.wav", "c/a.wav", None]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"columns": {"transcrpt": 3}}, "Did you mean 'transcript'"),
            ({"columns": {"audio": 1.5}}, "valid integer"),
            ({"delimiter": "::"}, "at most 1"),
            ({"delimiter": ""}, "at least 1"),
            ({"audio_template": "{"}, "'{'"),
            ({"audio_template": "{}.wav"}, "is no field"),
            ({"audio_template": "{ky}.wav"}, r"\{ky\} is no field"),
            ({"audio_template": "{key.__class__}"}, "is no field"),
            ({"quoting": "no"}, "valid boolean"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], expected: str) -> None:
        with pytest.raises(ValidationError, match=expected):
            Csv(name="c", path=".", **options)

    def test_columns_that_are_not_there(self, tmp_path: Path) -> None:
        path = text(tmp_path / "list.csv", "path,text", "a.wav,x")
        where = f"{path}:1: "
        assert wrong("csv", tmp_path, columns={"transcript": "sentence"}) == (
            f"{where}there is no column 'sentence'; there are: path, text"
        )
        assert "there is no column 7; there are: path, text" in wrong("csv", tmp_path, columns={"transcript": 7})
        assert "there is no column 7; there are: 0 to 1" in wrong("csv", tmp_path, header=False, columns={"audio": 7})
        assert "there is no column 'path'" in wrong("csv", tmp_path, header=False, columns={"audio": "path"})
        assert "there is no column 'mood'" in wrong("csv", tmp_path, label_columns=["mood"])
        text(path, "what,text", "a.wav,x")
        assert f"{where}which column names the audio? Set `columns`; it begins: ['what', 'text']" in wrong(
            "csv", tmp_path
        )


class TestTables:
    """Which file is the table."""

    def test_the_only_one(self, tmp_path: Path) -> None:
        assert "has no *.csv or *.tsv" in wrong("csv", tmp_path)
        sounds(tmp_path, "a.wav")
        text(tmp_path / "one.CSV", "path,text", "a.wav,x")
        text(tmp_path / ".hidden.csv", "path,text")
        assert said(read("csv", tmp_path)) == {"a.wav": "x"}

    def test_one_of_many(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav")
        text(tmp_path / "one.csv", "path,text", "a.wav,x")
        text(tmp_path / "two.tsv", "path\ttext", "a.wav\ty")
        assert "has 2 tables (one.csv, two.tsv): say which with `file`" in wrong("csv", tmp_path)
        assert said(read("csv", tmp_path, file="two.tsv")) == {"a.wav": "y"}
        assert "three.csv cannot be read: No such file" in wrong("csv", tmp_path, file="three.csv")

    @pytest.mark.parametrize("rows", [[], ["path,text"], ["path,text", "", ","]])
    def test_empty_ones(self, tmp_path: Path, rows: list[str]) -> None:
        path = text(tmp_path / "list.csv", *rows)
        complaint = wrong("csv", tmp_path)
        assert str(path) in complaint
        assert "is empty" in complaint or "no row in it" in complaint

    def test_odd_encodings(self, tmp_path: Path) -> None:
        sounds(tmp_path, "é.wav")
        path = text(tmp_path / "list.csv", "path,text", "é.wav,café", end="\r\n", encoding="utf-8-sig")
        assert said(read("csv", tmp_path)) == {"é.wav": "café"}
        text(path, "path,text", "é.wav,café", encoding="latin-1")
        assert "list.csv:2 is not UTF-8" in wrong("csv", tmp_path)
        text(path, "path,text", "é.wav,café", encoding="utf-16")
        assert "list.csv:1 is not UTF-8" in wrong("csv", tmp_path)

    @pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
    def test_delimiters(self, tmp_path: Path, delimiter: str) -> None:
        sounds(tmp_path, "a.wav")
        text(tmp_path / "list.csv", f"path{delimiter}text", f"a.wav{delimiter}one  two")
        assert said(read("csv", tmp_path)) == said(read("csv", tmp_path, delimiter=delimiter)) == {"a.wav": "one two"}


class TestRows:
    """What is wrong with rows."""

    def test_each_is_named(self, tmp_path: Path) -> None:
        sounds(tmp_path, "ok.wav", "twice.wav")
        text(
            tmp_path / "list.csv",
            "id,path,text,duration,sampling_rate,start,channel",
            "ok,ok.wav,words,0.1,16000,,",
            "none,none.wav,words,0.1,16000,,",
            "short,ok.wav,words",
            "long,ok.wav,words,0.1,16000,,,more",
            "length,ok.wav,words,long,16000,,",
            "nan,ok.wav,words,nan,16000,,",
            "rate,ok.wav,words,0.1,16k,,",
            "rate2,ok.wav,words,0.1,0.5,,",
            "start,ok.wav,words,0.1,16000,soon,",
            "channel,ok.wav,words,0.1,16000,0,left",
            "no file,,words,0.1,16000,,",
            ",,words,0.1,16000,,",
            "out,../../out.wav,words,0.1,16000,,",
            "twice,twice.wav,one,,,,",
            "twice,twice.wav,one,,,,",
            ",,,,,,",
        )
        found = read("csv", tmp_path)
        assert [u.id for u in found].count("c/twice") == 2
        assert said(u for u in found if u.id != "c/twice") == {"ok": "words"}
        assert reasons(found) == {
            "none": "audio_missing",
            **dict.fromkeys("short long length nan rate rate2 start channel".split(), "malformed_row"),
            "no file": "malformed_row",
            "list.csv:13": "malformed_row",
            "out": "path_outside_corpus",
        }
        assert "list.csv:4: it has 3 columns, 7 are expected" in the(found, "short").problem
        assert "list.csv:5: it has 8 columns, 7 are expected" in the(found, "long").problem
        assert "list.csv:6: could not convert string to float: 'long'" in the(found, "length").problem
        assert "list.csv:7: a number is expected, not 'nan'" in the(found, "nan").problem
        assert "list.csv:9: a whole number is expected, not '0.5'" in the(found, "rate2").problem
        assert "list.csv:12: it names no audio" in the(found, "no file").problem

    def test_quotes(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a,b.wav", "c.wav", "d.wav")
        text(
            tmp_path / "list.csv",
            "path,text",
            '"a,b.wav","He said ""no"", twice"',
            'c.wav,"over two',
            'lines"',
            "d.wav,after it",
        )
        found = read("csv", tmp_path)
        assert said(found) == {"a,b.wav": 'He said "no", twice', "c.wav": "over two lines", "d.wav": "after it"}

    def test_rows_that_a_quote_swallows_are_not_lost_silently(self, tmp_path: Path) -> None:
        sounds(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav", "e.wav")
        rows = ['a.wav\t"Hello, he said', "b.wav\twords", 'c.wav\tBye" he said', "d.wav\tmore", 'e.wav\t"open']
        text(tmp_path / "list.tsv", "path\ttext", *rows)
        found = read("csv", tmp_path)
        assert said(found) == {"d.wav": "more", "e.wav": "open"}
        problem = the(found, "a.wav").problem
        assert "list.tsv:2: a quote opens in it and closes in another row; it goes on to line 4" in problem
        assert "`quoting: false`" in problem
        unquoted = read("csv", tmp_path, quoting=False)
        assert len(said(unquoted)) == 5
        assert said(unquoted)["a.wav"] == '"Hello, he said'

    def test_a_quote_that_swallows_the_rest_is_an_error(self, tmp_path: Path) -> None:
        rows = ['1.wav\t"open', *(f"{n}.wav\t{'word ' * 20}" for n in range(2, 2000))]
        path = text(tmp_path / "list.tsv", "path\ttext", *rows)
        complaint = wrong("csv", tmp_path)
        assert f"{path}:2: field larger than field limit" in complaint
        assert "`quoting: false`" in complaint

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30), min_size=1, max_size=8),
        st.sampled_from([",", "\t", ";", "|"]),
        st.sampled_from(["\n", "\r\n"]),
    )
    def test_what_a_csv_writer_writes_is_read(self, tmp_path: Path, words: list[str], delimiter: str, end: str) -> None:
        sounds(tmp_path, "a.wav")
        stream = io.StringIO()
        writer = tables.writer(stream, delimiter=delimiter, lineterminator=end)
        writer.writerow(["id", "path", "text"])
        for number, transcript in enumerate(words):
            writer.writerow([number, "a.wav", transcript])
        (tmp_path / "list.csv").write_bytes(stream.getvalue().encode())
        found = read("csv", tmp_path)
        assert [u.id for u in found] == [f"c/{n}" for n in range(len(words))]
        assert all(u.problem is None for u in found)
        simple = [(u.transcript, w) for u, w in zip(found, words, strict=True) if w.isascii()]
        assert all(got == " ".join(word.split()) for got, word in simple)


class TestZip:
    """A table and its audio in one file."""

    def pack(
        self, path: Path, table: str, names: list[str], *, name: str = "trans.txt", encoding: str = "utf-8"
    ) -> Path:
        content = sound(path.parent / "one.wav").read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, table.encode(encoding))
            for member in names:
                archive.writestr(member, content)
        return path

    def test_a_list_without_header(self, tmp_path: Path) -> None:
        rows = "a.wav\tun “mot”\u00a0 \r\nb.wav\tligne\u2028même ligne\r\nc.wav\tmanque\r\n"
        path = self.pack(tmp_path / "c.ZIP", rows, ["a.wav", "b.wav", "extra.wav", "._a.wav"], encoding="utf-8-sig")
        options = Csv.recognise(path)
        reader = Csv(name="c", path=str(path), **options)
        found = list(reader.utterances())
        assert said(found) == {"a.wav": "un “mot”", "b.wav": "ligne même ligne", "extra.wav": ""}
        assert reasons(found) == {"c.wav": "audio_missing"}
        assert (found[0].source.path, found[0].source.member) == ("c.ZIP", "a.wav")
        assert load(reader.audio(found[0].source)).seconds == 0.1

    def test_in_a_folder_of_the_zip_file(self, tmp_path: Path) -> None:
        path = self.pack(
            tmp_path / "c.zip", "a.wav\tone\nwav/b.wav\ttwo\n", ["x/a.wav", "wav/b.wav"], name="x/trans.tsv"
        )
        found = read("csv", path, **Csv.recognise(path))
        assert [(u.source.member, u.transcript) for u in found] == [("x/a.wav", "one"), ("wav/b.wav", "two")]

    def test_with_a_header(self, tmp_path: Path) -> None:
        path = self.pack(tmp_path / "c.zip", "path,text\na.wav,one\n", ["a.wav"], name="list.csv")
        assert Csv.recognise(path) == {}
        assert said(read("csv", path)) == {"a.wav": "one"}

    def test_which_table(self, tmp_path: Path) -> None:
        path = self.pack(tmp_path / "c.zip", "path,text\na.wav,one\n", ["a.wav"], name="list.csv")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("README.txt", "words")
            archive.writestr("__MACOSX/._list.csv", b"\0\1")
        assert "one table is expected; say which with `file`. There are: list.csv, README.txt" in wrong("csv", path)
        assert said(read("csv", path, file="list.csv")) == {"a.wav": "one"}
        assert "one table is expected" in wrong("csv", path, file="other.csv")

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        path = tmp_path / "c.zip"
        path.write_bytes(b"no zip file")
        assert f"{path} cannot be read: File is not a zip file" in wrong("csv", path)
        path.write_bytes(b"")
        assert f"{path} cannot be read" in wrong("csv", path)
        self.pack(path, "a.wav\tcaf\xe9\n", ["a.wav"], encoding="latin-1")
        assert "trans.txt is not UTF-8 (byte 9)" in wrong("csv", path)
        self.pack(path, "", ["a.wav"])
        assert "trans.txt is empty" in wrong("csv", path)
        content = self.pack(path, "a.wav\tone two three\n", ["a.wav"]).read_bytes()
        path.write_bytes(content.replace(b"one two three", b"one two thrEE", 1))
        assert "Bad CRC-32" in wrong("csv", path)

    def test_an_encrypted_one(self, tmp_path: Path) -> None:
        path = self.pack(tmp_path / "c.zip", "a.wav\tone\n", ["a.wav"])
        content = bytearray(path.read_bytes())
        for sign, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            begin = 0
            while (at := content.find(sign, begin)) >= 0:
                content[at + flags] |= 1
                begin = at + 4
        path.write_bytes(content)
        assert "password" in wrong("csv", path)


class TestRecognise:
    """Which tables are of this layout."""

    def test_tables(self, tmp_path: Path) -> None:
        assert Csv.recognise(tmp_path) is None
        path = text(tmp_path / "a.csv", "name,value")
        assert Csv.recognise(tmp_path) is None
        text(tmp_path / "b.csv", "Path,Sentence")
        assert Csv.recognise(tmp_path) == {"file": "b.csv"}
        path.unlink()
        assert Csv.recognise(tmp_path) == {}
        assert Csv.recognise(tmp_path / "b.csv") == {}
        assert Csv.recognise(text(tmp_path / "b.txt", "path,text")) is None

    def test_common_voice_has_a_reader_of_its_own(self, tmp_path: Path) -> None:
        text(tmp_path / "train.tsv", "client_id\tpath\tsentence\tup_votes")
        assert Csv.recognise(tmp_path) is None


class TestReal:
    """Tables as they are found."""

    def test_deepspeech(self, speech: Path) -> None:
        folder = speech / "deepspeech_ru_csv" / "russian_sample_data"
        found = read("csv", folder, language="ru")
        entry = index(speech)["deepspeech_ru_csv/russian_sample_data/ru.wav"]
        assert [(u.transcript, u.language, u.source.path) for u in found] == [(entry.transcript, "ru", "ru.wav")]

    @pytest.mark.parametrize("form", ["wav", "mp3", "flac"])
    def test_coqui(self, speech: Path, form: str) -> None:
        found = read("csv", speech / "ljspeech_coqui", file=f"metadata_{form}.csv", columns={"speaker": "speaker_name"})
        entries = index(speech)
        assert len(found) == 8
        for utterance in found:
            entry = entries[f"ljspeech_coqui/{utterance.source.path}"]
            assert utterance.problem is None
            assert utterance.speaker.startswith("c/ljspeech-")
            assert entry.transcript.replace('"', "") == utterance.transcript.replace('"', "")

    def test_tatoeba(self, speech: Path) -> None:
        folder = speech / "layout_only_no_audio" / "tatoeba"
        found = read(
            "csv",
            folder / "meta.txt",
            header=False,
            columns={"key": 0, "speaker": 1, "language": 2, "transcript": 3},
            audio_template="audio/{language}/{key}.mp3",
            quoting=False,
        )
        listed = {f"layout_only_no_audio/tatoeba/{u.source.path}" for u in found if u.problem is None}
        assert listed == {path for path in index(speech) if path.startswith("layout_only_no_audio/tatoeba/")}
        assert set(reasons(found).values()) <= {"audio_missing"}

    @pytest.mark.parametrize(("folder", "language"), [("fr-FR", "fr-FR"), ("pt-BR", "pt-BR")])
    def test_azure(self, speech: Path, folder: str, language: str) -> None:
        path = speech / "layout_only_zip_bom_tsv" / folder / "testing" / "audio-and-trans.zip"
        options = Csv.recognise(path)
        reader = Csv(name="c", path=str(path), language=language, **options)
        (found,) = reader.utterances()
        entry = index(speech)[f"layout_only_zip_bom_tsv/{folder}/testing/audio-and-trans.zip!audio.wav"]
        assert (found.transcript, found.language) == (" ".join(entry.transcript.split()), entry.language)
        assert load(reader.audio(found.source)).seconds == pytest.approx(entry.seconds, abs=0.001)

    def test_the_index_of_all(self, speech: Path) -> None:
        found = read("csv", speech, quoting=False)
        assert len(found) == len(index(speech))
        inside = {u.id for u in found if "!" in u.id}
        assert {u.id for u in found if u.problem} == inside, "members of archives are no files"
        assert files_read(found)[0] == "deepspeech_ru_csv/russian_sample_data/ru.wav"
