"""The engine for transformers, with tiny models whose weights are random: real code, worthless speech."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `speech` is not installed")
pytest.importorskip("transformers", reason="the extra `speech` is not installed")

from pipeline.audio import Samples
from pipeline.memo import Memo
from pipeline.stages.synthesize import Synthesize
from pipeline.tts.base import Line, SpeechError, Voice
from pipeline.tts.transformers import Transformers
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance
from tests.tts import checkpoints

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("transformers")]

TEXTS = ["good morning", "where is the nearest station", "stop", "it rains again"]


@pytest.fixture(scope="session")
def vits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.vits(tmp_path_factory.mktemp("vits") / "tiny")


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.vits(tmp_path_factory.mktemp("several") / "tiny", speakers=3)


def engine(model: Path, **options: Any) -> Transformers:
    return Transformers(**({"model": str(model), "licence": "MIT", "device": "cpu"} | options))


def lines(voice: str = "tiny", texts: list[str] = TEXTS) -> list[Line]:
    return [Line(text, voice, "en", seed=n) for n, text in enumerate(texts)]


def sounds(found: list[Samples | Rejection]) -> list[bytes]:
    made = [f for f in found if not isinstance(f, Rejection)]
    assert len(made) == len(found), found
    return [samples.tobytes() for samples in made]


def test_it_makes_sound(vits: Path) -> None:
    for said in engine(vits).speak(lines()):
        assert isinstance(said, np.ndarray)
        assert said.dtype == np.float32
        assert said.ndim == 1
        assert len(said) > 200
        assert 0.01 < np.abs(said).max() <= 1.0


def test_a_line_sounds_the_same_whatever_company_it_comes_in(vits: Path) -> None:
    given = lines()
    together = sounds(engine(vits).speak(given))
    assert sounds(engine(vits).speak(given[::-1])) == together[::-1]
    assert [sounds(engine(vits).speak([line]))[0] for line in given] == together


def test_the_seed_draws_how_it_is_said(vits: Path) -> None:
    said = sounds(engine(vits).speak([Line(TEXTS[1], "tiny", "en", seed=n) for n in (1, 1, 2)]))
    assert said[0] == said[1] != said[2]


def test_a_batch_has_the_right_lengths_and_can_be_made_again(vits: Path) -> None:
    one, many = engine(vits).speak(lines()), engine(vits, batch=4).speak(lines())
    assert sounds(many) == sounds(engine(vits, batch=4).speak(lines()))
    for alone, beside in zip(one, many, strict=True):
        assert len(alone) > 0
        assert len(beside) > 0
    assert len({len(said) for said in many}) > 1, "padding is cut off"


def test_speakers_of_a_model_are_voices(several: Path) -> None:
    made = engine(several)
    assert made.voices("en") == [Voice(str(n), "en", {}, "MIT") for n in range(3)]
    assert len(set(sounds(made.speak([Line(TEXTS[0], str(n), "en") for n in range(3)])))) == 3
    with pytest.raises(SpeechError, match="are numbers, not 'anna'"):
        made.speak([Line(TEXTS[0], "anna", "en")])


def test_a_line_that_breaks_the_model_costs_only_itself(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="the extra `speech` is not installed")
    model, vocoder, speakers = checkpoints.speecht5(tmp_path)
    told: dict[int, Samples] = {}
    made = engine(model, vocoder=str(vocoder), folder=str(speakers))
    texts = [TEXTS[0], "too long for its positions " * 40, TEXTS[2]]
    good, bad, other = made.speak(lines("ann", texts), 1, told.__setitem__)
    assert isinstance(bad, Rejection)
    assert bad.reason == "tts_failed"
    assert isinstance(good, np.ndarray)
    assert isinstance(other, np.ndarray)
    assert sorted(told) == [0, 2]


def test_speakers_of_speecht5_are_files(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="the extra `speech` is not installed")
    model, vocoder, speakers = checkpoints.speecht5(tmp_path)
    made = engine(model, vocoder=str(vocoder), folder=str(speakers))
    assert [v.name for v in made.voices("en")] == ["ann", "bob"]
    given = [Line(TEXTS[0], name, "en", seed=5) for name in ("ann", "bob", "ann")]
    first, second, again = sounds(made.speak(given))
    assert first == again != second
    with pytest.raises(SpeechError, match="set `folder`"):
        engine(model, vocoder=str(vocoder)).speak([Line(TEXTS[0], "ann", "en")])


@pytest.mark.parametrize(
    ("kind", "steps", "seconds"), [("csm", 8, 8 / 12.5), ("dia", 40, 24 / (44_100 / 512))], ids=["csm", "dia"]
)
def test_models_that_speak_in_codes(tmp_path: Path, kind: str, steps: int, seconds: float) -> None:
    """CSM makes 12.5 frames a second; of Dia's steps the 16 by which its codebooks are delayed are no sound."""
    model = getattr(checkpoints, kind)(tmp_path / f"tiny-{kind}")
    options = {"max_new_tokens": steps, "do_sample": True}
    made = engine(model, generation=options)
    (voice,) = made.all_voices("en")
    found = made.speak([Line(text, voice.name, "en", seed=n) for n, text in enumerate(TEXTS[:2])])
    # An untrained Mimi has no codebooks: whatever the codes, it decodes the same.
    assert len(set(sounds(found))) == (1 if kind == "csm" else 2)
    assert all(abs(len(f) / 16_000 - seconds) < 0.15 for f in found if not isinstance(f, Rejection)), found


def test_voices_that_are_known_without_the_model() -> None:
    bark = Transformers(model="suno/bark", licence="MIT")
    assert [v.name for v in bark.voices("ru")] == [f"v2/ru_speaker_{n}" for n in range(10)]
    assert bark.voices("eo") == []
    mms = Transformers(model="facebook/mms-tts-por")
    mms.check()
    assert mms.voices("pt-BR") == [Voice("mms-tts-por", "pt-BR", {}, "CC-BY-NC-4.0")]
    assert mms.voices("en") == []


def test_licences() -> None:
    with pytest.raises(SpeechError, match="licence: say which licence suno/bark has"):
        Transformers(model="suno/bark").check()
    with pytest.raises(SpeechError, match="no voice of transformers is left, whose licences are: CC-BY-NC-4"):
        Transformers(model="facebook/mms-tts-eng", forbid=["non-commercial"]).check()
    Transformers(model="suno/bark", licence="MIT", forbid=["non-commercial", "share-alike"]).check()


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match="transformers cannot load"):
        engine(tmp_path).speak(lines())


def test_other_weights_are_another_voice(vits: Path, several: Path, tmp_path: Path) -> None:
    assert engine(vits).identity != engine(several).identity
    moved = shutil.copytree(vits, tmp_path / "tiny")
    assert engine(moved).identity == engine(vits).identity, "the place says nothing"
    assert engine(vits, batch=2).identity != engine(vits).identity
    assert str(vits) not in str(engine(vits).shaping)


def test_noise_is_noticed_and_speech_is_remembered(vits: Path, tmp_path: Path) -> None:
    """Random weights cannot speak: the stage must not take it for speech, and not ask for it twice."""
    given = [
        Sample(id=f"t/{n}", utterances=(Utterance(f"t/{n}", "t", text, "en", voice="tiny"),), split="train")
        for n, text in enumerate(
            ["please tell my brother that the train is late again", "we have no milk left, have we"]
        )
    ]
    with Memo(tmp_path / "memo.sqlite") as memo:
        first, again = Synthesize(engine(vits), memo=memo), Synthesize(engine(vits), memo=memo)
        one, two = list(first(given)), list(again(given))
    assert one == two
    assert (first.asked, again.asked, again.remembered) == (2, 0, 2)
    assert {s.rejected for s in one} <= {"tts_noise", "tts_too_short", "tts_silent"}
