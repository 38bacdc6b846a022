"""`earwitness corpora PATH`: what it finds, how it would read it, and what is wrong with which file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from pipeline import plugins
from tests.conftest import ROOT
from tests.reading import sound, sounds, text

pytestmark = pytest.mark.long


class Shown(NamedTuple):
    """A corpus as the command shows it."""

    path: str
    """Below the path that was given; empty for that itself."""
    told: list[str]
    entry: dict[str, Any]
    """What is to be put into a recipe."""

    def line(self, beginning: str) -> str:
        """The only line that begins like this, without its beginning."""
        (found,) = [line for line in self.told if line.startswith(beginning)]
        return found.removeprefix(beginning).strip()

    def below(self, reason: str) -> list[str]:
        """What is listed under a reason."""
        start = next(n for n, line in enumerate(self.told) if line.startswith(f"{reason}: "))
        end = next((n for n in range(start + 1, len(self.told)) if not self.told[n].startswith("  ")), len(self.told))
        return [line.strip() for line in self.told[start + 1 : end]]


def run(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "corpora", str(path), *more]
    env = os.environ | {"COLUMNS": "500", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=120, check=False)


def shown(path: Path, *more: str) -> list[Shown]:
    """What a sound run shows."""
    result = run(path, *more)
    assert (result.returncode, result.stderr) == (0, "")
    found = []
    sections = re.findall(r"^(/[^\n]*)\n(\d+ utterances, .*?)\n\n(.*?)\n\n", result.stdout, re.MULTILINE | re.DOTALL)
    for title, told, entries in sections:
        lines = told.splitlines()
        (entry,) = YAML(typ="safe").load(entries)
        place = os.path.relpath(title, path.resolve())
        found.append(Shown("" if place == "." else place, lines, entry))
    count = "1 corpus" if len(found) == 1 else f"{len(found)} corpora"
    assert result.stdout.endswith(f"{count}. Put an entry under `corpora:` of a recipe.\n")
    return found


def test_a_small_corpus(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav", "b.wav")
    sound(tmp_path / "c.flac", seconds=3.0, rate=44_100, channels=2)
    sound(tmp_path / "sub" / "nobody names me.wav")
    text(tmp_path / "d.wav", "404 Not Found")
    rows = ("a.wav,one two,en,f,16000", "b.wav,dois,Portuguese,m,8000", "c.flac,n/a,en,f,", "d.wav,four,en,f,")
    text(tmp_path / "list.csv", "path,text,lang,gender,sampling_rate", *rows, "none.wav,five,en,f,", "c.flac,,en,f,")
    (found,) = shown(tmp_path)
    assert found.told[0] == "6 utterances, 4 with a transcript, 0.00 h (6.2 s), 0 speakers"
    assert found.line("languages:") == "en (5), pt (1)"
    assert found.line("rates:") == "16000 (2), 44100 (2)"
    assert found.line("channels:") == "1 (2), 2 (2)"
    assert found.line("formats:") == "WAV/PCM_16 (2), FLAC/PCM_16 (2)"
    assert found.line("labels:") == "gender (6)"
    assert found.below("audio_missing") == ["none.wav is not there"]
    assert found.below("audio_unreadable") == [r"d.wav: it is text, not audio: '404 Not Found\n'"]
    assert found.below("wrong_rate_claimed") == ["b.wav: 8000 Hz are claimed, the file has 16000 Hz"]
    assert found.below("not_listed") == ["sub/nobody names me.wav"]
    assert found.below("transcript_empty") == ["c.flac"]
    assert found.below("transcript_placeholder") == ["corpus/c.flac: n/a"]
    assert found.entry == {"reader": "csv", "path": str(tmp_path)}


def test_paths_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav")
    (tmp_path / "b.wav").symlink_to("c.wav")
    (tmp_path / "c.wav").symlink_to("b.wav")
    lines = (json.dumps({"audio": name, "text": "one"}) for name in ("a.wav", "b.wav", "no\0path.wav", "x" * 5000))
    text(tmp_path / "all.jsonl", *lines)
    (found,) = shown(tmp_path)
    assert len(found.below("audio_missing")) == 3


def test_headers_can_be_left_alone(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav")
    text(tmp_path / "b.wav", "no audio")
    (found,) = shown(tmp_path, "--no-headers")
    assert found.told[0].startswith("2 utterances")
    assert not [line for line in found.told if line.startswith(("rates", "audio_unreadable"))]


def test_only_the_first_of_many_problems_are_listed(tmp_path: Path) -> None:
    for number in range(30):
        text(tmp_path / f"{number:02d}.wav")
    (found,) = shown(tmp_path)
    listed = found.below("audio_unreadable")
    assert listed[0] == "00.wav: the file is empty (0 bytes)"
    assert listed[-1] == "and 25 more"


def test_several_corpora_below_a_folder(tmp_path: Path) -> None:
    sounds(tmp_path, "lj/wavs/LJ001-0001.wav", "tree/dev/1/2/1-2-0001.flac", "loose/x/a.wav", ".hidden/a.wav")
    text(tmp_path / "lj" / "metadata.csv", "LJ001-0001|Dr. No|doctor no")
    text(tmp_path / "tree/dev/1/2/1-2.trans.txt", "1-2-0001 HELLO")
    (tmp_path / "again").symlink_to(tmp_path / "loose")
    found = shown(tmp_path)
    assert {(f.path, f.entry["reader"]) for f in found} == {
        ("again", "audio_text"),
        ("lj", "ljspeech"),
        ("loose", "audio_text"),
        ("tree", "librispeech"),
    }
    assert all(f.told[0].startswith("1 utterances") for f in found)


def test_what_lies_packed_beside_a_listing_is_found(tmp_path: Path) -> None:
    sounds(tmp_path, "a.wav")
    text(tmp_path / "list.csv", "path,text", "a.wav,one")
    text(tmp_path / "a.txt", "two")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as archive:
        archive.add(tmp_path / "a.wav", "k.wav")
        archive.add(tmp_path / "a.txt", "k.txt")
    (tmp_path / "shards" / "damaged.tar").write_bytes(b"\x01" * 5000)
    (tmp_path / "damaged.zip").write_bytes(b"PK\x03\x04" + b"\x01" * 5000)
    assert [(f.path, f.entry["reader"]) for f in shown(tmp_path)] == [("", "csv"), ("shards/0.tar", "webdataset")]


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("none", 2, "does not exist"),
        ("empty", 1, "no corpus is recognised below it. Name its reader in a recipe"),
        ("words", 1, "no corpus is recognised below it"),
        ("words/a.txt", 1, "no corpus is recognised"),
        ("words/b.zip", 1, "no corpus is recognised"),
    ],
)
def test_where_there_is_no_corpus(tmp_path: Path, name: str, status: int, told: str) -> None:
    (tmp_path / "empty").mkdir()
    text(tmp_path / "words" / "a.txt", "hello")
    text(tmp_path / "words" / "b.zip", "no zip")
    result = run(tmp_path / name)
    assert result.returncode == status
    assert told in result.stderr
    assert name in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stdout == ""


def test_a_listing_and_an_archive_can_be_named_themselves(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav")
    listing = text(tmp_path / "list.csv", "path,text", "a.wav,one")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(path, "a.wav")
        archive.write(listing, "list.csv")
    for file in (listing, tmp_path / "c.zip"):
        (found,) = shown(file)
        assert found.entry["reader"] == "csv"
        assert found.told[0] == "1 utterances, 1 with a transcript, 0.00 h (0.1 s), 0 speakers"


SHARED = {
    ("deepspeech_ru_csv/russian_sample_data", "csv"): (1, 1, 0),
    ("fleurs_opus_txt_en_fr_pt", "audio_text"): (30, 30, 0),
    ("fsdd_2speakers", "audio_text"): (100, 0, 0),
    ("jfk", "audio_text"): (3, 0, 0),
    ("kaldi_yesno", "audio_text"): (20, 0, 0),
    ("layout_only_no_audio/common_voice", "common_voice"): (9, 9, 7),
    ("layout_only_no_audio/librispeech", "librispeech"): (12, 12, 5),
    ("layout_only_no_audio/mailabs/de_DE/by_book/female/sara/abc", "ljspeech"): (2, 2, 1),
    ("layout_only_no_audio/mailabs/de_DE/by_book/male/fred/azele", "ljspeech"): (2, 2, 1),
    ("layout_only_no_audio/mailabs/de_DE/by_book/male/fred/thego", "ljspeech"): (3, 3, 1),
    ("layout_only_no_audio/mailabs/de_DE/by_book/male/tim/azele", "ljspeech"): (2, 2, 1),
    ("layout_only_no_audio/mailabs/de_DE/by_book/mix/abc", "ljspeech"): (2, 2, 1),
    ("layout_only_no_audio/mailabs/en_US/by_book/female/elizabeth_klett/jane_eyre", "ljspeech"): (3, 3, 1),
    ("layout_only_no_audio/tatoeba", "audio_text"): (5, 0, 0),
    ("layout_only_zip_bom_tsv/fr-FR/testing/audio-and-trans.zip", "csv"): (1, 1, 0),
    ("layout_only_zip_bom_tsv/pt-BR/testing/audio-and-trans.zip", "csv"): (1, 1, 0),
    ("lhotse_manifests/test/fixtures", "lhotse"): (6, 0, 1),
    ("librispeech_test_clean_mini/LibriSpeech", "librispeech"): (4, 4, 1),
    ("ljspeech_coqui", "csv"): (8, 8, 4),
    ("ljspeech_coqui", "ljspeech"): (32, 8, 1),
    ("lyra_rates", "audio_text"): (5, 0, 0),
    ("mfa_lab_textgrid", "audio_text"): (23, 14, 0),
    ("picovoice_leopard", "audio_text"): (9, 0, 0),
    ("speech_commands_mini", "audio_text"): (14, 13, 8),
    ("speechocean762_train4/WAVE", "audio_text"): (80, 0, 0),
    ("speechocean762_train4/train", "kaldi"): (2500, 2500, 125),
    ("speechocean762_train4/train_subset", "kaldi"): (80, 80, 4),
    ("uberi_formats", "audio_text"): (11, 0, 0),
    ("voicekit_ru_untranscribed", "audio_text"): (5, 0, 0),
    ("watson_untranscribed", "audio_text"): (14, 0, 0),
    ("wenet_kaldi_jsonl_shard/test/resources/dataset", "jsonl"): (3, 2, 0),
    ("wenet_kaldi_jsonl_shard/test/resources/dataset", "kaldi"): (2, 2, 0),
    ("wenet_kaldi_jsonl_shard/test/resources/dataset/shards/shards_000000000.tar", "webdataset"): (2, 2, 0),
}
"""By folder and the reader that is to be guessed: utterances, with a transcript, speakers."""


@pytest.fixture(scope="module")
def found(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Shown]:
    """By folder and reader. The folders lie in one without INDEX.tsv, which would be a corpus of all."""
    pytest.importorskip("lhotse")
    folder = tmp_path_factory.mktemp("speech")
    for corpus in speech.iterdir():
        if corpus.is_dir():
            (folder / corpus.name).symlink_to(corpus)
    return {(f.path, f.entry["reader"]): f for f in shown(folder)}


class TestReal:
    """All real corpora in one run."""

    def test_the_readers_are_guessed(self, found: dict[tuple[str, str], Shown]) -> None:
        assert found.keys() == SHARED.keys()

    def test_what_is_in_them(self, found: dict[tuple[str, str], Shown]) -> None:
        for key, (utterances, told, speakers) in SHARED.items():
            first = found[key].told[0]
            assert first.startswith(f"{utterances} utterances, {told} with a transcript, "), key
            assert re.search(rf" h( \([\d.]+ s\))?, {speakers} speakers$", first), key
        assert "0.09 h" in found["fleurs_opus_txt_en_fr_pt", "audio_text"].told[0]
        assert found["watson_untranscribed", "audio_text"].line("rates:") == "16000 (9), 8000 (4), 44100 (1)"
        assert found["uberi_formats", "audio_text"].line("channels:") == "1 (7), 2 (4)"
        assert found["librispeech_test_clean_mini/LibriSpeech", "librispeech"].line("languages:") == "en (4)"
        assert found["speechocean762_train4/train_subset", "kaldi"].line("labels:") == "age (80), gender (80)"

    def test_what_is_wrong_with_which_file(self, found: dict[tuple[str, str], Shown]) -> None:
        lyra = found["lyra_rates", "audio_text"]
        assert lyra.below("audio_unreadable")[0].startswith("testdata/invalid.wav: it is text, not audio")
        voicekit = found["voicekit_ru_untranscribed", "audio_text"].below("audio_unreadable")
        assert voicekit[0].startswith("audio/sample_3.s16: no audio header is recognised; headerless PCM needs")
        watson = found["watson_untranscribed", "audio_text"]
        (claim,) = watson.below("wrong_rate_claimed")
        assert claim == "public/audio/pt-BR_Sample1-8KHz.wav: 8000 Hz are claimed, the file has 16000 Hz"
        assert "wav_old is audio by its content, not by its name; it is read" in watson.line("note:")
        ocean = found["speechocean762_train4/train", "kaldi"]
        assert ocean.line("audio_missing:") == "2420"
        assert ocean.below("audio_missing")[0].startswith("../WAVE/SPEAKER0001/000010011.WAV is not there")
        lhotse = found["lhotse_manifests/test/fixtures", "lhotse"]
        assert lhotse.below("wrong_duration_claimed")[0].startswith("segment-2 goes from 0.5 to 0.9 s")
        assert lhotse.line("not_listed:") == "9"
        empty = [found[key].below("audio_unreadable") for key in SHARED if key[0].startswith("layout_only_no_audio")]
        assert all("the file is empty (0 bytes)" in details[0] for details in empty)

    def test_the_entry_of_a_recipe_reads_the_corpus(self, found: dict[tuple[str, str], Shown]) -> None:
        for (path, reader), corpus in found.items():
            options = {k: v for k, v in corpus.entry.items() if k not in ("reader", "language")}
            made = plugins.load("readers", reader)(name="c", **options)
            assert sum(1 for _ in made.utterances()) == SHARED[path, reader][0]
