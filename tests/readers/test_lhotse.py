"""Lhotse manifests."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.audio import load
from pipeline.readers.lhotse import Lhotse
from tests.reading import files_read, index, read, reasons, said, sound, text, the, wrong

pytest.importorskip("lhotse")


def recording(name: str, path: str, seconds: float = 1.0, channels: int = 1, **more: Any) -> dict[str, Any]:
    source = {"type": "file", "channels": list(range(channels)), "source": path}
    size = {"sampling_rate": 16000, "num_samples": round(16000 * seconds), "duration": seconds}
    return {"id": name, "sources": [source], **size, "channel_ids": list(range(channels))} | more


def supervision(name: str, of: str, start: float, duration: float, **more: Any) -> dict[str, Any]:
    return {"id": name, "recording_id": of, "start": start, "duration": duration, "channel": 0} | more


def cut(
    name: str, of: dict[str, Any] | None, *said_: dict[str, Any], start: float = 0.0, **more: Any
) -> dict[str, Any]:
    value = {"id": name, "start": start, "duration": 1.0 - start, "channel": 0, "type": "MonoCut"} | more
    return value | {"supervisions": list(said_)} | ({"recording": of} if of else {})


def manifest(path: Path, *rows: Any) -> Path:
    return text(path, *(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows))


class TestCuts:
    """A manifest of cuts."""

    def test_supervisions_are_utterances(self, tmp_path: Path) -> None:
        sound(tmp_path / "r.wav", 1.0)
        of = recording("r", "r.wav")
        one = supervision(
            "s1",
            "r",
            0.125,
            0.25,
            text="ONE  TWO",
            speaker="anna",
            language="English",
            gender="F",
            custom={"accent": "scottish", "normalized_text": "x", "score": 0.5, "long": "x" * 200},
        )
        path = manifest(
            tmp_path / "cuts.jsonl",
            cut("c1", of, one, supervision("s2", "r", 0.5, 0.5, text="ü")),
            cut("c2", of, supervision("s3", "r", 0.25, 0.25), start=0.5),
            cut("c3", of),
            cut("c4", of, start=0.5),
        )
        found = read("lhotse", tmp_path)
        assert said(found) == {"s1": "ONE TWO", "s2": "ü", "s3": "", "c3": "", "c4": ""}
        places = [(u.source.path, u.source.start, u.source.duration, u.source.channel) for u in found]
        assert places == [
            ("r.wav", 0.125, 0.25, None),
            ("r.wav", 0.5, 0.5, None),
            ("r.wav", 0.75, 0.25, None),
            ("r.wav", 0.0, None, None),
            ("r.wav", 0.5, 0.5, None),
        ]
        first = found[0]
        assert (first.speaker, first.language, first.recording) == ("c/anna", "en", "c/r")
        assert (first.duration, first.sampling_rate) == (0.25, 16000)
        assert first.labels == {"gender": "female", "accent": "scottish"}
        assert read("lhotse", path) == found

    def test_compressed_and_plain_json(self, tmp_path: Path) -> None:
        sound(tmp_path / "r.wav", 1.0)
        row = cut("c", recording("r", "r.wav"), supervision("s", "r", 0, 1.0, text="words"))
        text(tmp_path / "cuts.json", json.dumps([row]))
        assert said(read("lhotse", tmp_path)) == {"s": "words"}
        (tmp_path / "cuts.json").unlink()
        (tmp_path / "my_cuts.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
        assert said(read("lhotse", tmp_path)) == {"s": "words"}

    def test_channels(self, tmp_path: Path) -> None:
        sound(tmp_path / "r.wav", 1.0, channels=2)
        of = recording("r", "r.wav", channels=2)
        rows = [
            cut("m", of, supervision("left", "r", 0, 1.0), supervision("right", "r", 0, 1.0, channel=1)),
            cut("b", of, supervision("both", "r", 0, 1.0, channel=[0, 1]), channel=[0, 1], type="MultiCut"),
            cut("n", of, supervision("none", "r", 0, 1.0, channel=5)),
        ]
        manifest(tmp_path / "cuts.jsonl", *rows)
        found = read("lhotse", tmp_path)
        assert {u.id[2:]: u.source.channel for u in found if u.source} == {"left": 0, "right": 1, "both": None}
        assert reasons(found) == {"none": "audio_missing"}
        assert "r has no source for channel [5]" in the(found, "none").problem

    def test_a_file_for_each_channel(self, tmp_path: Path) -> None:
        sound(tmp_path / "0.wav", 1.0)
        sound(tmp_path / "1.wav", 1.0)
        of = recording("r", "0.wav", channels=2)
        of["sources"] = [{"type": "file", "channels": [c], "source": f"{c}.wav"} for c in (0, 1)]
        manifest(tmp_path / "cuts.jsonl", cut("c", of, supervision("s", "r", 0, 1.0, channel=1)))
        (found,) = read("lhotse", tmp_path)
        assert (found.source.path, found.source.channel) == ("1.wav", None)

    def test_what_is_not_read(self, tmp_path: Path) -> None:
        sound(tmp_path / "r.wav", 1.0)
        marker = tmp_path / "executed"
        of = recording("r", "r.wav")
        command = recording("cmd", "") | {
            "sources": [{"type": "command", "channels": [0], "source": f"touch {marker} "}],
        }
        url = recording("url", "") | {"sources": [{"type": "url", "channels": [0], "source": "http://x/y.wav"}]}
        fast = of | {"id": "fast", "transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}
        mixed = {
            "id": "mix",
            "type": "MixedCut",
            "tracks": [{"type": "MonoCut", "cut": cut("a", of, supervision("s-mix", "r", 0, 1.0, text="MIXED"))}],
        }
        manifest(
            tmp_path / "cuts.jsonl",
            cut("ok", of, supervision("ok", "r", 0, 1.0, text="FINE")),
            cut("c", command, supervision("command", "cmd", 0, 1.0, text="x")),
            cut("u", url, supervision("url", "url", 0, 1.0, text="x")),
            cut("f", fast, supervision("fast", "fast", 0, 1.0, text="x")),
            mixed,
            cut("bare", None, supervision("no recording", "r", 0, 1.0, text="x")),
            cut("m", recording("m", "none.wav"), supervision("missing", "m", 0, 1.0, text="x")),
            cut("o", recording("o", "../../out.wav"), supervision("out", "o", 0, 1.0, text="x")),
            cut("e", recording("e", ""), supervision("empty", "e", 0, 1.0, text="x")),
            cut("l", of, supervision("late", "r", 0.75, 0.5, text="x")),
        )
        found = read("lhotse", tmp_path)
        assert not marker.exists()
        assert said(found) == {"ok": "FINE"}
        assert reasons(found) == {
            "command": "audio_command",
            "url": "audio_unreadable",
            "fast": "audio_unreadable",
            "s-mix": "audio_unreadable",
            "no recording": "audio_unreadable",
            "missing": "audio_missing",
            "out": "path_outside_corpus",
            "empty": "audio_unreadable",
            "late": "wrong_duration_claimed",
        }
        assert (
            f"made by the command `touch {marker.name}`, and commands are not executed" in the(found, "command").problem
        )
        assert "late goes from 0.75 to 1.25 s, the recording r lasts 1 s" in the(found, "late").problem
        assert "save_audios" in the(found, "s-mix").problem
        assert the(found, "s-mix").transcript == "MIXED"


class TestPairs:
    """Recordings and supervisions."""

    def test_recordings_and_supervisions(self, tmp_path: Path) -> None:
        sound(tmp_path / "1.wav", 1.0)
        sound(tmp_path / "2.wav", 1.0, channels=2)
        manifest(tmp_path / "x_recordings.jsonl", recording("r1", "1.wav"), recording("r2", "2.wav", channels=2))
        manifest(
            tmp_path / "x_supervisions.jsonl",
            supervision("s2", "r1", 0.5, 0.5, text="TWO"),
            supervision("lost", "r9", 0, 1.0, text="NO RECORDING"),
            supervision("s1", "r1", 0.0, 0.5, text="ONE"),
        )
        found = read("lhotse", tmp_path)
        assert said(found) == {"s2": "TWO", "s1": "ONE", "r2": ""}
        assert files_read(found) == ["1.wav [0.5-1 s]", "1.wav [0-0.5 s]", "2.wav"]
        assert reasons(found) == {"lost": "audio_missing"}
        assert "the supervision lost is of the recording r9" in the(found, "lost").problem
        assert the(found, "lost").transcript == "NO RECORDING"

    def test_named(self, tmp_path: Path) -> None:
        sound(tmp_path / "1.wav", 1.0)
        for name in "ab":
            manifest(tmp_path / f"recordings_{name}.jsonl", recording("r", "1.wav"))
            manifest(tmp_path / f"supervisions_{name}.jsonl", supervision(name, "r", 0, 1.0, text=name))
        assert "name one manifest with `cuts`, or two with `recordings` and `supervisions`" in wrong("lhotse", tmp_path)
        options = {"recordings": "recordings_a.jsonl", "supervisions": "supervisions_b.jsonl"}
        assert said(read("lhotse", tmp_path, **options)) == {"b": "b"}
        assert "none.jsonl is no manifest that lhotse reads as a SupervisionSet" in wrong(
            "lhotse", tmp_path, **options | {"supervisions": "none.jsonl"}
        )

    def test_several_manifests_of_cuts(self, tmp_path: Path) -> None:
        sound(tmp_path / "1.wav", 1.0)
        for name in "ab":
            row = cut(name, recording("r", "1.wav"), supervision(name, "r", 0, 1.0, text=name))
            manifest(tmp_path / f"cuts_{name}.jsonl", row)
        complaint = wrong("lhotse", tmp_path)
        assert "has 2 manifests of cuts (cuts_a.jsonl, cuts_b.jsonl): say which with `cuts`" in complaint
        assert said(read("lhotse", tmp_path, cuts="cuts_b.jsonl")) == {"b": "b"}


class TestDamage:
    """What is no manifest."""

    @pytest.mark.parametrize(
        "content",
        [
            "not json",
            '{"id": "x", "type": "MonoCut"}',
            '{"id": "x", "type": "Unheard"}',
            '{"id": "r", "sources": [], "sampling_rate": 16000, "num_samples": 1, "duration": 1}',
            "[1, 2]",
        ],
    )
    def test_named_with_its_kind(self, tmp_path: Path, content: str) -> None:
        path = manifest(tmp_path / "cuts.jsonl", content)
        assert f"{path} is no manifest that lhotse reads as a CutSet: " in wrong("lhotse", path)

    def test_in_a_later_line(self, tmp_path: Path) -> None:
        sound(tmp_path / "r.wav", 1.0)
        row = cut("c", recording("r", "r.wav"), supervision("s", "r", 0, 1.0))
        path = manifest(tmp_path / "cuts.jsonl", row, row, '{"id": ')
        assert f"{path} is no manifest that lhotse reads as a CutSet" in wrong("lhotse", path)

    def test_empty_or_missing(self, tmp_path: Path) -> None:
        path = manifest(tmp_path / "cuts.jsonl")
        assert f"{path}: there is neither a cut nor a recording in it" in wrong("lhotse", path)
        (tmp_path / "cuts.jsonl.gz").write_bytes(b"no gzip")
        assert "cuts.jsonl.gz is no manifest" in wrong("lhotse", tmp_path / "cuts.jsonl.gz")
        assert "none.jsonl is no manifest" in wrong("lhotse", tmp_path, cuts="none.jsonl")
        (tmp_path / "empty").mkdir()
        assert "name one manifest with `cuts`" in wrong("lhotse", tmp_path / "empty")

    def test_without_the_package(self, tmp_path: Path) -> None:
        manifest(tmp_path / "cuts.jsonl", "{}")
        program = (
            "import sys; sys.modules['lhotse'] = None\n"
            "from pipeline.readers.lhotse import Lhotse\n"
            f"list(Lhotse(name='c', path={str(tmp_path)!r}).utterances())\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "MissingExtra: the reader lhotse needs the package 'lhotse'" in ended.stderr
        assert "pip install 'earwitness[lhotse]'" in ended.stderr


def test_what_is_recognised(tmp_path: Path) -> None:
    assert Lhotse.recognise(tmp_path) is None
    manifest(tmp_path / "recordings.jsonl", "{}")
    assert Lhotse.recognise(tmp_path) is None
    manifest(tmp_path / "supervisions.jsonl", "{}")
    assert Lhotse.recognise(tmp_path) == {}
    path = manifest(tmp_path / "cuts_a.jsonl", "{}")
    assert Lhotse.recognise(tmp_path) == Lhotse.recognise(path) == {}
    manifest(tmp_path / "cuts_b.jsonl", "{}")
    assert Lhotse.recognise(tmp_path) == {"cuts": "cuts_a.jsonl"}
    assert Lhotse.recognise(text(tmp_path / "cuts.txt", "x")) is None


class TestReal:
    """Manifests of lhotse's own tests."""

    def test_ljspeech(self, speech: Path) -> None:
        folder = speech / "lhotse_manifests" / "test" / "fixtures" / "ljspeech"
        reader = Lhotse(name="c", path=str(folder))
        found = list(reader.utterances())
        told = {u.source.path.split("/")[-1]: u for u in found if u.problem is None}
        for name in ("LJ002-0020.wav", "LJ002-0035.wav"):
            entry = index(speech)[f"lhotse_manifests/test/fixtures/ljspeech/storage/{name}"]
            assert told[name].transcript == entry.transcript
            assert load(reader.audio(told[name].source)).seconds == pytest.approx(entry.seconds, abs=0.02)

    def test_ami(self, speech: Path) -> None:
        folder = speech / "lhotse_manifests" / "test" / "fixtures" / "ami"
        found = read("lhotse", folder)
        entry = index(speech)["lhotse_manifests/test/fixtures/ami/ES2011a.Headset-0-40s-46s.wav"]
        assert [u.transcript for u in found if u.problem is None] == entry.transcript.split(" / ")
        assert [round(u.source.start, 2) for u in found] == [1.46, 3.36]

    def test_a_placeholder_is_read_as_it_stands(self, speech: Path) -> None:
        folder = speech / "lhotse_manifests" / "test" / "fixtures" / "libri"
        assert [u.transcript for u in read("lhotse", folder, cuts="cuts.json")] == ["EXAMPLE OF TEXT"]
        assert [u.transcript for u in read("lhotse", folder, cuts="cuts_no_feats.json")] == [""]

    def test_formats(self, speech: Path) -> None:
        found = read("lhotse", speech / "lhotse_manifests" / "test" / "fixtures")
        assert Counter(reasons(found).values()) == {"wrong_duration_claimed": 1}
        assert len(found) == 6

    @pytest.mark.parametrize("folder", ["lhotse", "lhotse-b"])
    def test_manifests_without_their_audio(self, speech: Path, folder: str) -> None:
        where = speech / "lhotse_manifests" / "test" / "fixtures" / "mini_librispeech" / folder
        found = read("lhotse", where)
        assert found
        assert len(reasons(found)) == len(found)
        assert set(reasons(found).values()) <= {"audio_missing", "audio_command", "path_outside_corpus"}
