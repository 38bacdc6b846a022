"""eSpeak NG in the process: it says what it is given, with the voice it is given, the same every time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipeline.audio import SAMPLING_RATE
from pipeline.tts.base import SpeechError
from pipeline.tts.espeak import Espeak
from tests.conftest import ROOT

SAID = {
    "en": "The last bus to the airport leaves in twenty minutes.",
    "ru": "Последний автобус в аэропорт уходит через двадцать минут.",
    "pt": "O último ônibus para o aeroporto sai em vinte minutos.",
}


@pytest.mark.parametrize("language", sorted(SAID))
def test_it_speaks(language: str) -> None:
    voice = Espeak().voices(language)[0]
    (samples,) = Espeak().speak([(SAID[language], voice.name)])
    assert samples.dtype == np.float32
    assert 2.0 < len(samples) / SAMPLING_RATE < 6.0
    assert 0.1 < np.abs(samples).max() <= 1.0
    loud = np.sqrt(np.mean(samples.reshape(-1, 1)[: len(samples) // 160 * 160].reshape(-1, 160) ** 2, axis=1)) > 0.01
    assert loud.mean() > 0.5, "most of it is sound"


def test_more_words_take_longer() -> None:
    voice = Espeak().voices("en")[0].name
    short, long = Espeak().speak([("Good evening.", voice), (SAID["en"], voice)])
    assert len(long) > 2 * len(short)


@pytest.mark.parametrize("language", ["en", "ru", "pt", "pt-BR", "de", "zh"])
def test_voices_differ_and_are_labelled(language: str) -> None:
    voices = Espeak().voices(language)
    assert len({v.name for v in voices}) == len(voices) >= 5
    assert {v.labels["gender"] for v in voices} == {"male", "female"}
    spoken = Espeak().speak([("Radio 4.", voice.name) for voice in voices])
    assert len({samples.tobytes() for samples in spoken}) == len(voices), "each voice has its own sound"


def test_a_language_that_it_does_not_speak() -> None:
    assert Espeak().voices("tlh") == []


def test_equal_texts_sound_equal_whatever_came_before() -> None:
    voice = Espeak().voices("en")[0].name
    (alone,) = Espeak().speak([(SAID["en"], voice)])
    *_, after = Espeak().speak([(SAID["ru"], Espeak().voices("ru")[-1].name), ("Hush!", voice), (SAID["en"], voice)])
    assert np.array_equal(alone, after)
    script = (
        "import sys\nfrom pipeline.tts.espeak import Espeak\n"
        f"sys.stdout.buffer.write(Espeak().speak([({SAID['en']!r}, {voice!r})])[0].tobytes())"
    )
    other = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True).stdout
    assert other == alone.tobytes(), "also in another process"


@pytest.mark.parametrize("voice", ["no-such-voice", "en-us+nobody", ""])
def test_an_unknown_voice_is_an_error(voice: str) -> None:
    with pytest.raises(SpeechError, match="has no voice"):
        Espeak().speak([("Hello.", voice)])


def test_nothing_to_say_is_silence_not_an_error() -> None:
    voice = Espeak().voices("en")[0].name
    (samples,) = Espeak().speak([("...", voice)])
    assert np.abs(samples).max(initial=0.0) < 0.01
