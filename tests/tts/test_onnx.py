"""The engines Kokoro and Piper: their packages are real, their models a tone that lasts as long as its phonemes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audio import SAMPLING_RATE, Samples
from pipeline.tts.base import Line, SpeechError
from pipeline.tts.kokoro import Kokoro
from pipeline.tts.piper import Piper
from schemas.sample import Rejection

onnx = pytest.importorskip("onnx", reason="the package onnx, which makes the models, is not installed")

TEXT = "The last bus to the airport leaves in twenty minutes."


def tone(
    path: Path, tokens: str, rate: str, samples: int, others: dict[str, tuple[int, list[int | str]]], quicker: bool
) -> None:
    """A model that gives so many samples a token.

    Args:
        path: Where it goes.
        tokens: The name of its input of shape 1, N.
        rate: The name of its input that says how quick it is to be.
        samples: Of a token.
        others: Further inputs, which it ignores: kind and shape.
        quicker: Whether the rate divides the length; else it multiplies it.
    """
    from onnx import TensorProto, helper

    place = 0 if quicker else 1  # Piper's scales are noise, length, noise of durations
    nodes = [
        helper.make_node("Size", [tokens], ["n"]),
        helper.make_node("Cast", ["n"], ["nf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["nf", "per_token"], ["long"]),
        helper.make_node("Gather", [rate, "place"], ["r"], axis=0),
        helper.make_node("Div" if quicker else "Mul", ["long", "r"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["time"]),
        helper.make_node("Mul", ["time", "step"], ["phase"]),
        helper.make_node("Sin", ["phase"], ["audio"]),
    ]
    known = {"per_token": float(samples), "zero": 0.0, "one": 1.0, "step": 0.05}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in known.items()]
    constants.append(helper.make_tensor("place", TensorProto.INT64, [], [place]))
    inputs = {tokens: (TensorProto.INT64, [1, "N"]), rate: (TensorProto.FLOAT, ["R"])} | others
    graph = helper.make_graph(
        nodes,
        "tone",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["T"])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def line(text: str, voice: str, **fields: Any) -> Line:
    return Line(text, voice, **({"language": "en"} | fields))


def sound(found: Samples | Rejection) -> Samples:
    assert isinstance(found, np.ndarray), found
    assert found.dtype == np.float32
    return found


# Kokoro.


@pytest.fixture
def kokoro(tmp_path: Path) -> dict[str, str]:
    pytest.importorskip("kokoro_onnx", reason="the extra `kokoro` is not installed")
    from onnx import TensorProto

    tone(tmp_path / "kokoro.onnx", "tokens", "speed", 1500, {"style": (TensorProto.FLOAT, ["S", "D"])}, True)
    names = ("af_heart", "am_adam", "bf_emma", "pf_dora", "pm_alex", "zf_xiaoni", "custom")
    with open(tmp_path / "voices.bin", "wb") as stream:
        np.savez(stream, **{name: np.zeros((510, 1, 4), np.float32) for name in names})
    return {"model": str(tmp_path / "kokoro.onnx"), "file": str(tmp_path / "voices.bin")}


def test_kokoros_voices_say_their_language_and_gender(kokoro: dict[str, str]) -> None:
    made = Kokoro(**kokoro)
    made.check()
    assert [v.name for v in made.voices("en")] == ["af_heart", "am_adam", "bf_emma"]
    assert [v.name for v in made.voices("en-GB")] == ["bf_emma"]
    assert [v.name for v in made.voices("pt-BR")] == [v.name for v in made.voices("pt")] == ["pf_dora", "pm_alex"]
    assert made.voices("ru") == []
    (voice,) = made.voices("en-GB")
    assert (voice.labels, voice.licence) == ({"gender": "female", "accent": "british"}, "Apache-2.0")
    assert len(made.all_voices(None)) == 6


def test_kokoro_speaks(kokoro: dict[str, str]) -> None:
    made = Kokoro(**kokoro)
    said, quick, again, bad = made.speak(
        [line(TEXT, "af_heart"), line(TEXT, "af_heart", rate=1.15), line(TEXT, "af_heart"), line("...", "pf_dora")]
    )
    assert 1.0 < len(sound(said)) / SAMPLING_RATE < 8.0
    assert len(sound(said)) / len(sound(quick)) == pytest.approx(1.15, abs=0.03)
    assert np.array_equal(sound(said), sound(again))
    assert isinstance(bad, Rejection) or len(bad)
    with pytest.raises(SpeechError, match="has no voice 'af_nobody'"):
        made.speak([line(TEXT, "af_nobody")])


def test_kokoros_files_that_are_not_there(kokoro: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match="does not exist"):
        Kokoro(**(kokoro | {"model": "nowhere.onnx"})).check()
    (tmp_path / "bad.bin").write_bytes(b"nothing")
    for file in ("nowhere.bin", str(tmp_path / "bad.bin")):
        with pytest.raises(SpeechError, match="holds no voices"):
            Kokoro(**(kokoro | {"file": file})).check()
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(SpeechError, match="cannot load"):
        Kokoro(**(kokoro | {"model": str(tmp_path / "bad.onnx")})).speak([line(TEXT, "af_heart")])


# Piper.


def piper_voice(folder: Path, name: str, speakers: int = 1) -> None:
    from onnx import TensorProto
    from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP

    others: dict[str, Any] = {"input_lengths": (TensorProto.INT64, [1])}
    if speakers > 1:
        others["sid"] = (TensorProto.INT64, [1])
    tone(folder / f"{name}.onnx", "input", "scales", 500, others, False)
    config = {
        "audio": {"sample_rate": 22050},
        "espeak": {"voice": "en-us"},
        "language": {"code": name.split("-")[0]},
        "num_symbols": 256,
        "num_speakers": speakers,
        "speaker_id_map": {f"p{n}": n for n in range(speakers)} if speakers > 1 else {},
        "phoneme_id_map": DEFAULT_PHONEME_ID_MAP,
        "phoneme_type": "espeak",
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
    }
    (folder / f"{name}.onnx.json").write_text(json.dumps(config))


@pytest.fixture
def piper(tmp_path: Path) -> str:
    pytest.importorskip("piper", reason="the extra `piper` is not installed")
    piper_voice(tmp_path, "en_US-lessac-medium")
    piper_voice(tmp_path, "pt_BR-several-low", 2)
    return str(tmp_path)


def test_pipers_voices_are_files_and_their_speakers(piper: str) -> None:
    made = Piper(folder=piper, licence="MIT", licences={"en_US-lessac-medium": "CC-BY-NC-SA-4.0"})
    made.check()
    assert [(v.name, v.licence) for v in made.voices("en")] == [("en_US-lessac-medium", "CC-BY-NC-SA-4.0")]
    assert [v.name for v in made.voices("pt-BR")] == ["pt_BR-several-low#p0", "pt_BR-several-low#p1"]
    assert made.voices("pt-PT") == made.voices("ru") == []
    strict = Piper(folder=piper, licences={"en_US-lessac-medium": "MIT"}, forbid=["non-commercial"])
    strict.check()
    assert [v.name for v in strict.all_voices(None) if strict._may_speak(v)] == ["en_US-lessac-medium"]
    assert "nobody knows" in strict.left_out[0]
    with pytest.raises(SpeechError, match="Did you mean 'en_US-lessac-medium'"):
        Piper(folder=piper, licences={"en_US-lesac-medium": "MIT"}).check()


def test_piper_speaks(piper: str) -> None:
    made = Piper(folder=piper, licence="MIT")
    name = "en_US-lessac-medium"
    said, other, slow = made.speak([line(TEXT, name), line(TEXT, "pt_BR-several-low#p1"), line(TEXT, name, rate=0.9)])
    assert 1.0 < len(sound(said)) / SAMPLING_RATE < 8.0
    assert len(sound(slow)) / len(sound(said)) == pytest.approx(1 / 0.9, abs=0.03)
    assert len(sound(other))
    with pytest.raises(SpeechError, match="has no voice 'en_US-nobody'"):
        made.speak([line(TEXT, "en_US-nobody")])


def test_pipers_files_that_are_not_there(piper: str, tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match="holds no voice of Piper"):
        Piper(folder=str(tmp_path / "nowhere")).check()
    (tmp_path / "en_US-lessac-medium.onnx").write_bytes(b"nothing")
    from pipeline.tts import piper as engine

    engine._load.cache_clear()
    with pytest.raises(SpeechError, match="Piper cannot load"):
        Piper(folder=piper).speak([line(TEXT, "en_US-lessac-medium")])
