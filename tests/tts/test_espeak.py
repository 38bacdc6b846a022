"""eSpeak NG in the process: it says what it is given, with the voice it is given, the same every time."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from pipeline.audio import SAMPLING_RATE, Samples
from pipeline.tts._espeak import Speaker, setting_of
from pipeline.tts._memory import Memory
from pipeline.tts.base import Line, SpeechError
from pipeline.tts.espeak import Espeak
from tests.conftest import ROOT
from tests.examples import sentences

SAID = {
    "en": "The last bus to the airport leaves in twenty minutes.",
    "ru": "Последний автобус в аэропорт уходит через двадцать минут.",
    "pt": "O último ônibus para o aeroporto sai em vinte minutos.",
}
VOICES = {
    "en": ["en-us+f1", "en-us+m3", "en-gb-scotland+f2", "en+klatt"],
    "ru": ["ru+m1", "ru+f4", "ru+klatt6"],
    "pt": ["pt-br+f1", "pt+m7", "pt+klatt4"],
}


def say(text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Samples:
    (samples,) = Espeak().speak([Line(text, voice, "", rate, pitch)])
    assert isinstance(samples, np.ndarray)
    return samples


@pytest.mark.parametrize("language", sorted(SAID))
def test_it_speaks(language: str) -> None:
    samples = say(SAID[language], Espeak().voices(language)[0].name)
    assert samples.dtype == np.float32
    assert 2.0 < len(samples) / SAMPLING_RATE < 6.0
    assert 0.1 < np.abs(samples).max() <= 1.0
    loud = np.sqrt(np.mean(samples[: len(samples) // 160 * 160].reshape(-1, 160) ** 2, axis=1)) > 0.01
    assert loud.mean() > 0.5, "most of it is sound"


def test_more_words_take_longer() -> None:
    voice = Espeak().voices("en")[0].name
    assert len(say(SAID["en"], voice)) > 2 * len(say("Good evening.", voice))


@pytest.mark.parametrize("voice", ["en-us+f1", "ru+m2", "pt-br+m7"])
def test_rate_and_pitch_are_what_was_asked_for(voice: str) -> None:
    text = SAID[voice[:2]]
    normal = say(text, voice)
    for rate in (0.85, 1.15):
        changed = len(normal) / len(say(text, voice, rate))
        assert changed == pytest.approx(rate, rel=0.08)
    assert fundamental(say(text, voice, pitch=1.3)) / fundamental(normal) == pytest.approx(1.3, rel=0.06)
    assert fundamental(say(text, voice, pitch=0.8)) / fundamental(normal) == pytest.approx(0.8, rel=0.06)
    assert [setting_of(pitch) for pitch in (0.5, 1.0, 2.0, 9.0)] == [0, 50, 100, 100]


def fundamental(samples: Samples) -> float:
    """The median pitch of the loud frames in Hz, by autocorrelation."""
    found = []
    for begin in range(0, len(samples) - 1024, 512):
        frame = samples[begin : begin + 1024]
        if np.sqrt(np.mean(frame**2)) > 0.03:
            own = np.correlate(frame, frame, "full")[1023:]
            lag = 40 + int(own[40:260].argmax())
            if own[lag] > 0.6 * own[0]:
                found.append(SAMPLING_RATE / lag)
    return float(np.median(found))


@pytest.mark.parametrize("language", ["en", "ru", "pt", "pt-BR", "de", "zh"])
def test_voices_differ_and_are_labelled(language: str) -> None:
    voices = Espeak().voices(language)
    assert len({v.name for v in voices}) == len(voices) >= 5
    assert {v.labels["gender"] for v in voices} == {"male", "female"}
    assert {v.licence for v in voices} == {"GPL-3.0-or-later"}
    assert {v.name.partition("+")[2] for v in voices if v.held_out} == {"klatt", *(f"klatt{n}" for n in range(2, 7))}
    spoken = Espeak().speak([Line("Radio 4.", voice.name, language) for voice in voices])
    assert len({samples.tobytes() for samples in spoken}) == len(voices), "each voice has its own sound"


@pytest.mark.parametrize("language", ["tlh", "ed", "f1", ""])
def test_a_language_that_it_does_not_speak(language: str) -> None:
    assert Espeak().voices(language) == []


def test_all_its_voices_can_be_listed() -> None:
    every = {voice.name for voice in Espeak().all_voices(None)}
    assert {"en-us+f1", "ru+klatt6", "cmn+m3", "de+f5"} <= every
    assert all(Espeak().voice(name, language) for language, names in VOICES.items() for name in names)


# Determinism.


def lines(count: int, seed: int) -> list[Line]:
    """Texts of three languages, some with words of another, in voices of both synthesisers."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        language = rng.choice(sorted(VOICES))
        text = rng.choice(sentences(language))
        if rng.random() < 0.3:
            text += rng.choice([" database", " привет", " help marketing", " 12 μέγα", " ...", " Ünïcode 漢字 🙂"])
        rate, pitch = rng.choice([1.0, 0.9, 1.15]), rng.choice([1.0, 0.93, 1.1])
        found.append(Line(text, rng.choice(VOICES[language]), language, rate, pitch))
    return found


def test_equal_texts_sound_equal_whatever_came_before() -> None:
    given = lines(60, 1)
    first = [s.tobytes() for s in Espeak().speak(given)]
    order = random.Random(2).sample(range(len(given)), len(given))
    for size in (1, 7, 60):
        for begin in range(0, len(order), size):
            part = order[begin : begin + size]
            again = Espeak().speak([given[n] for n in part])
            assert [s.tobytes() for s in again] == [first[n] for n in part]


def test_memory_that_is_put_back_sounds_like_a_library_that_was_just_loaded() -> None:
    kept, fresh = Speaker(), Speaker(puts_back=False)
    for line in lines(40, 3):
        asked = (line.text, line.voice, line.rate, line.pitch)
        expected = fresh.say(*asked)
        assert expected is not None
        assert kept.say(*asked) == expected
    kept.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is put back on Linux alone")
def test_on_linux_memory_is_put_back() -> None:
    speaker = Speaker()
    speaker.say("Hello.", "en-us+f1")
    assert isinstance(speaker._memory(), Memory)
    speaker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_words_of_other_languages_cost_no_memory() -> None:
    """Left to itself the library forgets 190 kB for each such text."""
    script = """
import psutil
from pipeline.tts.base import Line
from pipeline.tts.espeak import Espeak
line = Line("Перезагрузи сервер database production.", "ru+f1", "ru")
memory = psutil.Process().memory_info
Espeak().speak([line] * 20)
before = memory().rss
for _ in range(20):
    Espeak().speak([line] * 10)
print(memory().rss - before)
"""  # in a process of its own, where nothing else takes memory
    grown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True).stdout
    assert int(grown) < 200 * 30_000


def test_another_process_says_the_same() -> None:
    voice = Espeak().voices("en")[0].name
    script = (
        "import sys\nfrom pipeline.tts.base import Line\nfrom pipeline.tts.espeak import Espeak\n"
        f"sys.stdout.buffer.write(Espeak().speak([Line({SAID['en']!r}, {voice!r}, 'en', 1.1, 0.95)])[0].tobytes())"
    )
    other = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True).stdout
    assert other == say(SAID["en"], voice, 1.1, 0.95).tobytes()


# Bad input.


@pytest.mark.parametrize("voice", ["no-such-voice", "en-us+nobody", "", "+f1", "f1"])
def test_an_unknown_voice_is_an_error(voice: str) -> None:
    say("Hello.", "en-us+f1")
    with pytest.raises(SpeechError, match="has no voice"):
        say("Hello.", voice)
    assert len(say("Hello.", "en-us+f1"))


@pytest.mark.parametrize("text", ["...", "", " ", "\0", "\ud800"])
def test_nothing_to_say_is_silence_not_an_error(text: str) -> None:
    samples = say(text, Espeak().voices("en")[0].name)
    assert np.abs(samples).max(initial=0.0) < 0.2


@pytest.mark.parametrize("text", ["word " * 3000, "a" * 5000, "<voice name='ru'>one</voice>", "[[h@loU]] &amp;"])
def test_strange_texts_are_spoken(text: str) -> None:
    assert len(say(text, "en-us+f1")) > SAMPLING_RATE / 2
