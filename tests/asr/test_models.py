"""Engines in the process, with tiny models of random weights: their text is worthless, their ways are the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import audio
from pipeline.asr.base import ASRError, Clip, content_of
from pipeline.asr.faster_whisper import FasterWhisper
from pipeline.asr.transformers import Transformers, _pieces
from pipeline.tts.base import Line
from pipeline.tts.espeak import Espeak
from schemas.sample import Rejection
from tests.asr import checkpoints

pytestmark = pytest.mark.long


def clip(text: str, language: str | None = "en", times: int = 1) -> Clip:
    (samples,) = Espeak().speak([Line(text, "en-us+f1", "en")])
    assert not isinstance(samples, Rejection)
    return Clip(audio.store(np.tile(samples, times)), language)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [
        clip("Set a timer for ten minutes."),
        clip("Turn off the lights, please, all of them."),
        clip("Olá, mundo.", "pt-BR"),
        clip("Hi.", None),
        clip("Turn off the lights, please, all of them.", times=20),
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("transformers", reason="the extra `speech` is not installed")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models")
    return {
        "whisper": checkpoints.whisper(folder / "whisper"),
        "ctc": checkpoints.ctc(folder / "ctc"),
        "ctc_without_mask": checkpoints.ctc(folder / "ctc_without_mask", mask=False),
    }


@pytest.mark.parametrize("kind", ["whisper", "ctc", "ctc_without_mask"])
def test_a_hypothesis_does_not_depend_on_what_else_is_in_the_batch(
    models: dict[str, Path], clips: list[Clip], kind: str
) -> None:
    engine = Transformers(model=str(models[kind]), device="cpu")
    engine.check()
    together = engine.transcribe(clips)
    assert all(isinstance(text, str) and text for text in together)
    assert len(set(together)) == len(clips)
    assert [engine.transcribe([one])[0] for one in clips] == together
    assert engine.transcribe(clips[::-1]) == together[::-1]


def test_ctc_letters_are_joined_as_they_are_spelled(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two letters with a blank between them are two, without one they are one."""
    import torch

    engine = Transformers(model=str(models["ctc"]), device="cpu")
    loaded = engine._model()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
    path = ["h", "h", "e", "l", "<pad>", "l", "l", "o", "|", "|", "y", "o", "u", "<pad>"]

    class Spelled:
        logits = torch.nn.functional.one_hot(torch.tensor([[letters.index(c) for c in path]]), len(letters)).float()

    monkeypatch.setattr(loaded.model, "forward", lambda **_: Spelled)
    (text,) = engine.transcribe([clip("Hello you.")])
    assert text == "hello you"


def test_whisper_is_told_the_language(models: dict[str, Path], clips: list[Clip]) -> None:
    engine = Transformers(model=str(models["whisper"]), device="cpu")
    one = clips[0]
    in_english, in_russian, in_french = engine.transcribe([one, Clip(one.audio, "ru-RU"), Clip(one.audio, "fr")])
    assert in_english != in_russian
    assert isinstance(in_french, Rejection)
    assert "does not know the language fr" in in_french.detail


def test_long_speech_is_heard_to_its_end(models: dict[str, Path], clips: list[Clip]) -> None:
    long = clips[-1]
    assert long.audio.seconds > 45
    short = Clip(audio.store(long.samples[: 30 * 16000]), "en")
    engine = Transformers(model=str(models["ctc"]), device="cpu", longest=20.0)
    whole, part = (str(text) for text in engine.transcribe([long, short]))
    assert len(whole) > 1.3 * len(part)


def test_long_speech_is_cut_where_it_is_quiet() -> None:
    rng = np.random.default_rng(0)
    loud = rng.normal(0, 0.3, 50 * 16000).astype(np.float32)
    for second in (17, 33, 47):
        loud[second * 16000 : second * 16000 + 4800] = 0.0
    pieces = _pieces(loud, 20.0)
    assert np.array_equal(np.concatenate(pieces), loud)
    assert all(len(piece) <= 20 * 16000 for piece in pieces)
    edges = np.cumsum([len(piece) for piece in pieces])[:-1] / 16000
    assert [int(edge) for edge in edges] == [17, 33]


def test_a_clip_that_breaks_the_model_costs_only_itself(
    models: dict[str, Path], clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Transformers(model=str(models["ctc"]), device="cpu")
    wanted = engine.transcribe(clips[:4])
    loaded = engine._model()
    original = loaded.model.forward
    broken = len(clips[1].samples)

    def forward(input_values: Any, attention_mask: Any) -> Any:
        if broken in attention_mask.sum(-1).tolist() or len(input_values) > 3:
            raise RuntimeError("CUDA out of memory")
        return original(input_values, attention_mask=attention_mask)

    monkeypatch.setattr(loaded.model, "forward", forward)
    found = engine.transcribe(clips[:4])
    assert isinstance(found[1], Rejection)
    assert found[1].reason == "asr_failed"
    assert "out of memory" in found[1].detail
    assert [found[n] for n in (0, 2, 3)] == [wanted[n] for n in (0, 2, 3)]


def test_no_model_is_told_before_any_work(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ASRError, match="cannot load"):
        Transformers(model=str(tmp_path), device="cpu").check()


def test_a_model_that_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8).save_pretrained(tmp_path)
    with pytest.raises(ASRError, match="gpt2"):
        Transformers(model=str(tmp_path), device="cpu").check()


def test_other_weights_under_the_same_name_are_another_model(models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(models["ctc"], tmp_path / "ctc")
    same = Transformers(model=str(copy)).identity
    assert same == Transformers(model=str(models["ctc"])).identity
    assert str(tmp_path).encode() not in same
    with open(copy / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    content_of.cache_clear()
    assert Transformers(model=str(copy)).identity != same


def test_faster_whisper(clips: list[Clip], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("faster_whisper", reason="the extra `faster-whisper` is not installed")
    converters = pytest.importorskip("ctranslate2.converters")
    folder = tmp_path / "converted"
    converters.TransformersConverter(
        str(checkpoints.whisper(tmp_path / "whisper", positions=448)),
        copy_files=["tokenizer.json", "preprocessor_config.json"],
    ).convert(str(folder))
    engine = FasterWhisper(model=str(folder), device="cpu", beams=1)
    engine.check()
    first, second, foreign, unknown, long = engine.transcribe(clips)
    assert isinstance(first, str)
    assert isinstance(second, str)
    assert isinstance(long, str)
    assert len({first, second, long, unknown}) == 4
    assert isinstance(foreign, Rejection)  # so small a vocabulary is taken for that of an English model
    assert engine.transcribe(clips[:1]) == [first]
    with pytest.raises(ASRError, match="ct2-transformers-converter"):
        FasterWhisper(model=str(tmp_path), device="cpu").check()
    with pytest.raises(ASRError, match="cannot load"):
        FasterWhisper(model=str(tmp_path), device="cpu").transcribe(clips[:1])
