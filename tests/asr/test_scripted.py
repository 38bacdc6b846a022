"""The scripted engine hears what is in the audio, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import audio, shards
from pipeline.asr.base import ASRError, Clip
from pipeline.asr.scripted import Scripted, main
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance


def sound(seed: int, level: float = 0.1) -> Clip:
    samples = np.random.default_rng(seed).normal(0, level, 16000).astype(np.float32)
    return Clip(audio.store(samples), "en")


def engine(folder: Path, *told: tuple[Clip, str], **options: float) -> Scripted:
    path = folder / "heard.jsonl"
    path.write_text("".join(json.dumps({"digest": c.audio.digest, "text": text}) + "\n" for c, text in told))
    return Scripted(file=str(path), **options)


def test_it_hears_what_the_table_says(tmp_path: Path) -> None:
    one, two, other = sound(1), sound(2), sound(3)
    hypotheses = engine(tmp_path, (one, "good morning"), (two, "доброе утро")).transcribe([two, one, other])
    assert hypotheses[:2] == ["доброе утро", "good morning"]
    assert isinstance(hypotheses[2], Rejection)
    assert hypotheses[2].reason == "asr_failed"
    assert other.audio.digest in hypotheses[2].detail


def test_it_hears_nothing_in_silence_whatever_the_table_says(tmp_path: Path) -> None:
    quiet = sound(1, 1e-5)
    assert engine(tmp_path, (quiet, "good morning")).transcribe([quiet]) == [""]


def test_it_mishears_as_often_as_it_is_told(tmp_path: Path) -> None:
    text = " ".join(f"word{n}" for n in range(2000))
    clip = sound(1)
    (heard,) = engine(tmp_path, (clip, text), error_rate=0.2).transcribe([clip])
    assert isinstance(heard, str)
    kept = set(heard.split()) & set(text.split())
    assert 0.8 <= len(kept) / 2000 <= 0.92  # a third of the wrong words are only said twice
    assert engine(tmp_path, (clip, text), error_rate=0.2).transcribe([clip]) == [heard]


def test_it_fails_as_often_as_it_is_told(tmp_path: Path) -> None:
    clips = [sound(n) for n in range(200)]
    found = engine(tmp_path, *((clip, "x") for clip in clips), faults=0.25).transcribe(clips)
    assert 25 <= sum(isinstance(answer, Rejection) for answer in found) <= 75


def test_another_table_is_another_engine(tmp_path: Path) -> None:
    clip = sound(1)
    first = engine(tmp_path, (clip, "good morning")).identity
    (tmp_path / "other").mkdir()
    second = engine(tmp_path / "other", (clip, "good evening")).identity
    assert first != second
    (tmp_path / "third").mkdir()
    assert engine(tmp_path / "third", (clip, "good morning")).identity == first


def test_a_table_that_is_none_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ASRError, match="set `file`"):
        Scripted().check()
    with pytest.raises(ASRError, match=r"missing\.jsonl"):
        Scripted(file=str(tmp_path / "missing.jsonl")).check()
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"id": 1}\n')
    with pytest.raises(ASRError, match="digest"):
        Scripted(file=str(wrong)).check()


def test_a_dataset_gives_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    clips = [sound(1), sound(2)]
    (tmp_path / "train").mkdir()
    writer = shards.ShardWriter(tmp_path / "train" / "shard-a.arrow", 4)
    for number, clip in enumerate(clips):
        utterance = Utterance(f"c/{number}", "c", f"at {number}", spoken=f"at number {number}", audio=clip.audio)
        writer.add(Sample(f"c/{number}", (utterance,), "train"))
    writer.close("train/shard-a.arrow")
    monkeypatch.setattr(sys, "argv", ["scripted", str(tmp_path)])
    main()
    table = tmp_path / "table.jsonl"
    table.write_bytes(capfdbinary.readouterr().out)
    assert Scripted(file=str(table)).transcribe(clips) == ["at number 0", "at number 1"]
