"""All real corpora in one dataset, built by the command as people run it: nothing is lost, all is told."""

from __future__ import annotations

import io
import os
import posixpath
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
from ruamel.yaml import YAML

from pipeline import inspect
from schemas.manifest import DatasetManifest
from schemas.sample import Sample
from tests.building import rows
from tests.conftest import ROOT
from tests.reading import Entry, index

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("real")]

DIGITS = "zero one two three four five six seven eight nine".split()
AZURE = {"header": False, "columns": {"audio": 0, "transcript": 1}, "delimiter": "\t", "quoting": False}
NO_AUDIO = "layout_only_no_audio"
LHOTSE = "lhotse_manifests/test/fixtures"
WENET = "wenet_kaldi_jsonl_shard/test/resources/dataset"
CORPORA: dict[str, dict[str, Any]] = {
    "deepspeech": {"reader": "csv", "path": "deepspeech_ru_csv/russian_sample_data", "language": "ru"},
    "fleurs": {
        "reader": "audio_text",
        "path": "fleurs_opus_txt_en_fr_pt/fixtures",
        "pattern": "fleurs-(?P<language>[a-z]{2})-",
        "licence": "CC-BY-4.0",
    },
    "fsdd": {
        "reader": "audio_text",
        "path": "fsdd_2speakers/recordings",
        "pattern": r"(?P<transcript>\d)_(?P<speaker>[a-z]+)_",
        "words": dict(zip("0123456789", DIGITS, strict=True)),
        "language": "en",
    },
    "jfk": {"reader": "audio_text", "path": "jfk", "language": "en"},
    "yesno": {
        "reader": "audio_text",
        "path": "kaldi_yesno/waves_yesno",
        "pattern": "(?P<transcript>[01_]+)$",
        "words": {"1": "yes", "0": "no"},
        "language": "en",
    },
    "voice": {"reader": "common_voice", "path": f"{NO_AUDIO}/common_voice", "language": "en"},
    "empty_libri": {"reader": "librispeech", "path": f"{NO_AUDIO}/librispeech"},
    "mailabs": {"reader": "ljspeech", "path": f"{NO_AUDIO}/mailabs"},
    "tatoeba": {
        "reader": "csv",
        "path": f"{NO_AUDIO}/tatoeba/meta.txt",
        "header": False,
        "columns": {"key": 0, "speaker": 1, "language": 2, "transcript": 3},
        "audio_template": "audio/{language}/{key}.mp3",
        "quoting": False,
    },
    "azure_fr": {
        "reader": "csv",
        "path": "layout_only_zip_bom_tsv/fr-FR/testing/audio-and-trans.zip",
        "language": "fr-FR",
        **AZURE,
    },
    "azure_pt": {
        "reader": "csv",
        "path": "layout_only_zip_bom_tsv/pt-BR/testing/audio-and-trans.zip",
        "language": "pt-BR",
        **AZURE,
    },
    "ami": {"reader": "lhotse", "path": f"{LHOTSE}/ami", "language": "en"},
    "lhotse_libri": {"reader": "lhotse", "path": f"{LHOTSE}/libri", "cuts": "cuts.json", "language": "en"},
    "lhotse_lj": {"reader": "lhotse", "path": f"{LHOTSE}/ljspeech", "language": "en"},
    "lhotse_forms": {"reader": "lhotse", "path": LHOTSE},
    "lhotse_loose": {"reader": "audio_text", "path": LHOTSE},
    "mini_libri": {"reader": "kaldi", "path": f"{LHOTSE}/mini_librispeech", "language": "en"},
    "libri": {"reader": "librispeech", "path": "librispeech_test_clean_mini/LibriSpeech"},
    "lj": {"reader": "ljspeech", "path": "ljspeech_coqui", "language": "en"},
    "lyra": {"reader": "audio_text", "path": "lyra_rates"},
    "mfa": {"reader": "audio_text", "path": "mfa_lab_textgrid", "language": "en"},
    "leopard": {
        "reader": "jsonl",
        "path": "picovoice_leopard/resources/.test/test_data.json",
        "records": "tests.language_tests",
        "audio_root": "picovoice_leopard/resources/audio_samples",
    },
    "leopard_loose": {"reader": "audio_text", "path": "picovoice_leopard/resources/audio_samples"},
    "commands": {
        "reader": "audio_text",
        "path": "speech_commands_mini",
        "pattern": r"(?P<transcript>[a-z]+)/(?P<speaker>[0-9a-f]+)_nohash_\d+$",
        "language": "en",
    },
    "ocean": {"reader": "kaldi", "path": "speechocean762_train4/train", "language": "en"},
    "uberi": {"reader": "audio_text", "path": "uberi_formats"},
    "voicekit": {"reader": "audio_text", "path": "voicekit_ru_untranscribed", "raw": {"sampling_rate": 16_000}},
    "watson": {"reader": "audio_text", "path": "watson_untranscribed"},
    "wenet": {"reader": "kaldi", "path": WENET},
    "wenet_list": {"reader": "jsonl", "path": f"{WENET}/data.list"},
    "wenet_shards": {"reader": "webdataset", "path": f"{WENET}/shards"},
}
"""Each folder of real recordings with the options that its README asks for."""


class Built(NamedTuple):
    """The dataset, and what the command said."""

    folder: Path
    manifest: DatasetManifest
    kept: list[Sample]
    rejected: list[Sample]
    output: str
    errors: str


@pytest.fixture(scope="module")
def built(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """One build of all corpora."""
    pytest.importorskip("lhotse")
    folder = tmp_path_factory.mktemp("real")
    corpora = [{"name": name} | options for name, options in CORPORA.items()]
    for corpus in corpora:
        corpus |= {key: str(speech / corpus[key]) for key in ("path", "audio_root") if key in corpus}
    tasks = ["transcription", "keyword_spotting", "word_question", "number_question", "repeat", "spell", "gender"]
    recipe = {
        "name": "real",
        "corpora": corpora,
        "tasks": dict.fromkeys([*tasks, "speaker_count", "speech_detection"]),
        "samples_per_utterance": 2,
        "split": {"test": 0.3},
    }
    with open(folder / "real.yaml", "w") as stream:
        YAML().dump(recipe, stream)
    env = os.environ | {
        "COLUMNS": "500",
        "PYTHONIOENCODING": "utf-8",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    out = folder / "out"
    command = [sys.executable, "-m", "pipeline.cli", "build", str(folder / "real.yaml"), "--out", str(out)]
    result = subprocess.run(
        [*command, "--workers", "2"], cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    manifest = inspect.load(out)
    return Built(out, manifest, *rows(out, manifest), result.stdout, result.stderr)


def place(name: str, source: Any) -> str:
    """A source as INDEX.tsv names it."""
    path = CORPORA[name].get("audio_root", CORPORA[name]["path"])
    folder = posixpath.dirname(path) if posixpath.splitext(path)[1] else path
    file = posixpath.normpath(posixpath.join(folder, source.path))
    return file if source.member is None else f"{file}!{source.member}"


def outcomes(built: Built) -> dict[str, set[str]]:
    """What became of each file: `kept`, or the reasons for which it was set aside."""
    found: dict[str, set[str]] = {}
    for sample in [*built.kept, *built.rejected]:
        first = sample.utterances[0]
        if first.source is not None:
            found.setdefault(place(first.corpus, first.source), set()).add(sample.rejected or "kept")
    return found


@pytest.fixture(scope="module")
def known(speech: Path) -> dict[str, Entry]:
    """What a person found in each recording."""
    return index(speech)


def test_every_file_is_accounted_for(built: Built, known: dict[str, Entry]) -> None:
    found = outcomes(built)
    untold = {path for path in known if path not in found}
    other_forms = {path for path in untold if path.startswith("ljspeech_coqui/wavs/")}
    assert untold == other_forms
    assert f"ljspeech_coqui/wavs: {len(other_forms)} files are the same utterances in other formats; not read" in (
        built.errors
    )


def test_every_row_is_accounted_for(built: Built) -> None:
    manifest = built.manifest
    assert len(built.kept) == sum(split.rows for split in manifest.splits.values())
    assert len(built.kept) + len(built.rejected) == manifest.rows_in
    assert Counter(s.rejected for s in built.rejected) == manifest.reasons
    own = {s.id.rsplit(":", 2)[0] if s.task else s.id for s in [*built.kept, *built.rejected]}
    assert len(own) == manifest.planned_utterances
    assert {name.split("/")[0] for name in own} == CORPORA.keys()
    for sample in built.rejected:
        assert re.fullmatch("[a-z]+(_[a-z]+)*", sample.rejected)


def test_no_row_says_where_the_corpora_lie(built: Built, speech: Path) -> None:
    told = [s for s in [*built.kept, *built.rejected] if str(speech) in f"{s.id} {s.detail} {s.utterances[0].source}"]
    assert not told


def test_broken_files_have_the_right_reason(built: Built, known: dict[str, Entry]) -> None:
    found = outcomes(built)
    for path, entry in known.items():
        if entry.seconds is None and not path.endswith(".s16"):
            assert "kept" not in found[path], path
            told = [s for s in built.rejected if s.utterances[0].source and place_of(s) == path]
            assert {s.rejected for s in told} <= {"audio_unreadable", "malformed_name", "malformed_row"}, path
    assert found["lyra_rates/testdata/invalid.wav"] == {"audio_unreadable"}
    assert found["speech_commands_mini/speech_commands/_background_noise_/empty.wav"] == {"malformed_name"}
    assert "wrong_rate_claimed" in found["watson_untranscribed/public/audio/pt-BR_Sample1-8KHz.wav"]
    assert found["layout_only_zip_bom_tsv/pt-BR/testing/audio-and-trans.zip!audio.wav"] == {"too_long"}
    assert found["layout_only_zip_bom_tsv/fr-FR/testing/audio-and-trans.zip!audio.wav"] == {"kept"}
    reasons = built.manifest.reasons
    assert reasons["audio_missing"] >= 2420, "of the lists of speechocean762"
    assert reasons["audio_command"] > 0, "wav.scp of mini_librispeech runs programs"
    assert reasons["transcript_placeholder"] >= 1, "EXAMPLE OF TEXT"
    assert reasons["wrong_duration_claimed"] == 1
    unreadable = [s for s in built.rejected if s.rejected == "audio_unreadable"]
    assert all(Path(s.utterances[0].source.path).name in s.detail for s in unreadable), "a detail names its file"


def place_of(sample: Sample) -> str:
    return place(sample.utterances[0].corpus, sample.utterances[0].source)


def test_sound_files_are_kept(built: Built, known: dict[str, Entry]) -> None:
    """A file with a transcript and of a usual length is in the dataset, or what sets it aside is named."""
    found = outcomes(built)
    good = {
        path
        for path, entry in known.items()
        if entry.transcript and entry.seconds and 0.5 <= entry.seconds < 28 and "!" not in path
    }
    lost = {path: found.get(path) for path in good if "kept" not in found.get(path, ())}
    excused = {
        "duplicate_audio",
        "near_duplicate_audio",
        "transcript_empty",
        "too_short",
        "clipped",
        "implausible_speech_rate",
    }
    assert all(why is None or why <= excused for why in lost.values()), lost
    by_folder = Counter(path.split("/")[0] for path in good if "kept" in found.get(path, ()))
    assert by_folder["speechocean762_train4"] == 80
    assert by_folder["kaldi_yesno"] == 20
    assert by_folder["librispeech_test_clean_mini"] == 4
    assert by_folder["fleurs_opus_txt_en_fr_pt"] >= 25


def test_nothing_went_wrong_on_the_way(built: Built) -> None:
    for said in (built.output, built.errors):
        assert "Traceback" not in said
        assert "Error" not in said
        assert "Exception" not in said


def test_the_samples_are_those_of_the_corpora(built: Built, known: dict[str, Entry]) -> None:
    """Audio of the right length and the transcript that a person wrote down."""
    compared = 0
    for sample in built.kept:
        first = sample.utterances[0]
        assert first.audio is not None
        assert first.audio.flac.startswith(b"fLaC")
        if first.source is None or first.parts or first.source.start or first.source.duration:
            continue
        entry = known[place_of(sample)]
        assert first.audio.seconds == pytest.approx(entry.seconds, abs=0.03)
        if first.corpus in ("fleurs", "fsdd", "yesno", "libri", "ocean", "commands"):
            assert first.transcript == " ".join(entry.transcript.split())
            compared += 1
    assert compared > 200


def test_splits_share_no_speaker_and_no_instruction(built: Built) -> None:
    by_split: dict[str, set[str]] = {"train": set(), "test": set()}
    recordings: dict[str, set[str]] = {"train": set(), "test": set()}
    instructions: dict[str, set[str]] = {"train": set(), "test": set()}
    for sample in built.kept:
        if sample.provenance.instruction:
            instructions[sample.split].add(sample.provenance.instruction)
        for utterance in sample.utterances:
            speakers = [p.speaker for p in utterance.parts] or [utterance.speaker]
            by_split[sample.split] |= {s for s in speakers if s}
            if not any(speakers):
                recordings[sample.split].add(utterance.recording or utterance.id)
            recordings[sample.split] |= {p.id for p in utterance.parts}
    assert by_split["train"]
    assert by_split["test"]
    assert not by_split["train"] & by_split["test"]
    assert not recordings["train"] & recordings["test"]
    assert not instructions["train"] & instructions["test"]
    assert built.manifest.leakage.speakers_in_both == built.manifest.leakage.instructions_in_both == []


def test_it_loads_with_datasets_alone_and_plays(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset(str(built.folder), cache_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in loaded.items()} == {
        name: split.rows for name, split in built.manifest.splits.items()
    }
    heard = 0
    for rows_ in loaded.values():
        for row in rows_.cast_column("audios", datasets.List(datasets.Audio(decode=False))):
            for audio in row["audios"]:
                samples, rate = soundfile.read(io.BytesIO(audio["bytes"]))
                assert rate == 16_000
                assert samples.ndim == 1
                assert len(samples) > 0
                heard += 1
    assert heard >= len(built.kept)
