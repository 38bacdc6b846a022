"""Tasks about the sound itself: what they mix is listened to by numbers."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from pydantic import ValidationError

from pipeline.audio import Samples, samples_of, speech_dbfs, store
from pipeline.tasks.speaker_count import SpeakerCount
from pipeline.tasks.speech_detection import SpeechDetection
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Sample
from schemas.utterance import Audio, Part, Utterance
from tests.examples import companions, draft, make, tone, utterance


def noise(seconds: float, level: float, seed: int) -> Samples:
    return np.random.default_rng(seed).normal(0, level, int(seconds * SAMPLING_RATE)).astype(np.float32)


@lru_cache(maxsize=64)
def voice(number: int, seconds: float = 2.0, level: float = 0.1) -> Audio:
    """Noise of its own for each speaker: unlike a tone, it is found again in a mixture."""
    return store(noise(seconds, level, number), kind="WAV/PCM_16")


def spoken(number: int, seconds: float = 2.0, level: float = 0.1, **fields: Any) -> Utterance:
    fields = {"id": f"c/{number}", "speaker": f"c/s{number}", "audio": voice(number, seconds, level)} | fields
    return utterance(f"words of {number}", **fields)


def several(*seconds: float, number: int = 0, **fields: Any) -> Sample:
    """A draft and its companions, each of a speaker of their own."""
    first, *others = (spoken(n, s) for n, s in enumerate(seconds))
    given = draft(first.transcript, id=f"d/{number}", speaker=first.speaker, audio=first.audio, **fields)
    return companions(given, *others)


def found(mixture: Samples, one: Samples) -> tuple[int, float]:
    """Where a voice begins in a mixture, and how loud it is there, by correlation."""
    size = 2 ** (len(mixture) + len(one)).bit_length()
    spectrum = np.fft.rfft(mixture, size) * np.conj(np.fft.rfft(one, size))
    correlation = np.fft.irfft(spectrum, size)[: len(mixture)]
    begin = int(np.argmax(correlation))
    return begin, float(correlation[begin] / np.sum(one.astype(np.float64) ** 2))


@pytest.mark.parametrize("lengths", [(2.0, 2.0, 2.0), (3.0, 0.8, 3.0), (0.7, 2.5, 1.0)])
def test_a_mixture_is_the_sum_of_its_voices(lengths: tuple[float, ...]) -> None:
    overlapping = 0
    for number in range(40):
        given = several(*lengths, number=number)
        sample = make(SpeakerCount(), given)
        (heard,) = sample.utterances
        if sample.answer == "1":
            assert heard == given.utterances[0]
            continue
        assert heard.audio is not None
        mixed = samples_of(heard.audio)
        voices = {u.id: samples_of(u.audio) for u in given.utterances if u.audio}
        rest = mixed.astype(np.float64)
        spans, loudness = [], []
        for part in heard.parts:
            one = voices[part.id]
            begin, gain = found(mixed, one)
            rest[begin : begin + len(one)] -= gain * one
            spans.append((begin, begin + len(one)))
            loudness.append(20 * np.log10(gain))
        assert np.abs(rest).max() < 0.05 * np.abs(mixed).max(), "there is nothing else in it"
        assert max(loudness) - min(loudness) < 6.5, "no voice is much louder than another"
        assert spans == sorted(spans), "the parts are told in their order"
        assert spans[0][0] == 0
        assert max(end for _, end in spans) == len(mixed)
        assert np.abs(mixed).max() <= 0.951
        for (begin, end), others in ((s, [o for o in spans if o is not s]) for s in spans):
            alone = np.ones(end - begin, bool)
            for start, stop in others:
                alone[max(0, start - begin) : max(0, stop - begin)] = False
            assert alone.mean() > 0.39, "each is heard alone for a while"
            overlapping += not alone.all()
    assert overlapping > 10


def test_a_mixture_says_what_it_is_made_of() -> None:
    first = spoken(0, licence="CC0-1.0", recording="c/r", labels={"gender": "male"}, duration=2.0)
    given = companions(Sample("c/0", (first,), "train"), spoken(1, licence="CC-BY-4.0"), spoken(2, licence="CC0-1.0"))
    seen = set()
    for seed in range(40):
        sample = make(SpeakerCount(), given, seed=seed)
        (heard,) = sample.utterances
        seen.add(sample.answer)
        assert sample.id == "c/0:speaker_count:0"
        if sample.answer == "1":
            continue
        assert len(heard.parts) == int(sample.answer)
        assert heard.labels == {"speakers": sample.answer}
        assert heard.id.startswith("c/0+c/")
        assert {p.speaker for p in heard.parts} >= {"c/s0"}
        assert heard.transcript == " ".join(f"words of {p.id.removeprefix('c/')}" for p in heard.parts)
        assert (heard.speaker, heard.recording, heard.source, heard.duration) == (None, None, None, None)
        assert heard.licence == "CC-BY-4.0 AND CC0-1.0"
    assert seen == {"1", "2", "3"}


def test_each_number_is_about_as_frequent() -> None:
    counts: Counter[str] = Counter()
    for number in range(240):
        sample = make(SpeakerCount(most=4), several(0.4, 0.4, 0.4, 0.4, number=number))
        counts[sample.answer] += 1
        assert (
            sample.response.split()[0].rstrip(".")
            in {"1": ["One"], "2": ["Two"], "3": ["Three"], "4": ["Four"]}[sample.answer]
        )
    assert set(counts) == {"1", "2", "3", "4"}
    assert min(counts.values()) > 40, counts


@pytest.mark.parametrize(
    "other",
    [
        spoken(1, speaker="c/s0"),
        spoken(1, speaker=None),
        spoken(1, audio=None),
        spoken(1, level=0.00001),
        spoken(1, labels={"speech": "no"}),
        spoken(1, seconds=40.0),
    ],
    ids=["same speaker", "unknown speaker", "not decoded", "silent", "no speech", "too long"],
)
def test_who_is_not_counted(other: Utterance) -> None:
    for number in range(12):
        given = companions(several(2.0, number=number), other)
        assert make(SpeakerCount(), given).answer == "1"


def test_two_utterances_of_one_speaker_are_one() -> None:
    given = companions(several(1.0), spoken(1), spoken(2, speaker="c/s1"))
    assert {make(SpeakerCount(), given, seed=seed).answer for seed in range(20)} == {"1", "2"}


def test_speakers_must_be_known_to_be_counted() -> None:
    assert SpeakerCount().fits(utterance("", speaker="c/s"))
    assert not SpeakerCount().fits(utterance("words", speaker=None))
    assert not SpeakerCount().fits(utterance("words", voice="en+f1")), "nobody would ever speak beside it"
    for wrong in ({"most": 1}, {"most": 5}, {"longest": 0.0}, {"least": 2}):
        with pytest.raises(ValidationError):
            SpeakerCount(**wrong)


def test_a_count_is_scored_as_a_word_or_a_number() -> None:
    sample = next(s for n in range(20) if (s := make(SpeakerCount(), several(1.0, 1.0, number=n))).answer == "2")
    assert [SpeakerCount().score(sample, out)["correct"] for out in ("Two people.", "2", "Three", "")] == [1, 1, 0, 0]


def recorded(seed: int = 0, **fields: Any) -> Utterance:
    """A recording with a pause of 0.8 s in which its room is heard."""
    room = noise(2.8, 0.001, seed)
    room[:SAMPLING_RATE] += tone(1.0)
    room[-SAMPLING_RATE:] += tone(1.0, 300)
    return utterance("words", **({"id": f"c/{seed}", "audio": store(room, kind="WAV/PCM_16")} | fields))


def detected(first: Utterance, *others: Utterance, seed: int = 0, **options: float) -> Sample:
    return make(SpeechDetection(**options), companions(Sample(first.id, (first,), "train"), *others), seed=seed)


def test_a_pause_is_no_speech() -> None:
    first = recorded(licence="CC0-1.0", labels={"gender": "male"})
    original = samples_of(first.audio)  # type: ignore[arg-type]
    for seed in range(10):
        sample = detected(first, seed=seed, pauses=1.0)
        (heard,) = sample.utterances
        assert (sample.answer, sample.id) == ("No", "c/0:speech_detection:0")
        assert sample.response.startswith("No")
        assert (heard.id, heard.transcript, heard.labels["speech"], heard.licence) == ("c/0+pause", "", "no", "CC0-1.0")
        assert not heard.is_speech
        assert heard.audio is not None
        assert 1.5 <= heard.audio.seconds <= 4.0
        assert -62 < heard.audio.speech_dbfs < -56, "the room's noise, not the voice"
        _, gain = found(original[SAMPLING_RATE:-SAMPLING_RATE], samples_of(heard.audio)[:8000])
        assert gain == pytest.approx(1.0, abs=0.01), "it is what is heard between the words"


@pytest.mark.parametrize(
    "first",
    [
        recorded(voice="en+f1"),
        utterance("words", audio=store(tone(2.0))),
        utterance("words", audio=store(np.concatenate([tone(1.0), np.zeros(16000, np.float32), tone(1.0)]))),
        utterance("words", audio=store(tone(0.01))),
    ],
    ids=["synthetic", "without a pause", "digital silence", "a hundredth of a second"],
)
def test_without_a_real_pause_it_is_speech(first: Utterance) -> None:
    sample = detected(first, pauses=1.0)
    assert sample.answer == "Yes"
    assert sample.utterances == (first,)


@pytest.mark.parametrize("speech", [True, False])
def test_noise_of_another_recording_lies_below_speech(speech: bool) -> None:
    other = recorded(1)
    if not speech:
        other = replace(other, labels={"speech": "no"}, audio=store(noise(1.0, 0.05, 3)))
    first = utterance("words", audio=store(tone(3.0)))
    original = samples_of(first.audio)  # type: ignore[arg-type]
    margins = []
    for seed in range(25):
        sample = detected(first, other, seed=seed, pauses=0.0, noisy=1.0)
        (heard,) = sample.utterances
        assert sample.answer == "Yes"
        assert (heard.id, heard.transcript) == ("c/1+noise", "words")
        assert heard.is_speech
        mixed = samples_of(heard.audio)  # type: ignore[arg-type]
        assert len(mixed) == len(original)
        scale = float(mixed @ original / (original @ original))
        assert 0.5 < scale < 1.01
        margins.append(speech_dbfs(scale * original) - speech_dbfs(mixed - scale * original))
    assert 4.5 < min(margins) < 8
    assert 17 < max(margins) < 20.5


@pytest.mark.parametrize(
    ("other", "licence"), [("CC-BY-4.0", "CC-BY-4.0 AND CC0-1.0"), ("CC0-1.0", "CC0-1.0"), (None, "CC0-1.0")]
)
def test_noise_says_where_it_comes_from(other: str | None, licence: str) -> None:
    first, companion = recorded(0, licence="CC0-1.0"), recorded(1, licence=other, speaker="c/s2")
    (noisy,) = detected(first, companion, pauses=0.0, noisy=1.0).utterances
    assert noisy.parts == (Part("c/0", "c/s1"), Part("c/1", "c/s2"))
    assert (noisy.speaker, noisy.licence) == ("c/s1", licence)
    (pause,) = detected(first, companion, pauses=1.0).utterances
    assert (pause.parts, pause.licence) == ((Part("c/0", "c/s1"),), "CC0-1.0"), "the companion is not heard"


def test_recordings_of_no_speech_stay_as_they_are() -> None:
    silent = utterance("", labels={"speech": "no"}, audio=store(noise(1.0, 0.02, 5)))
    assert SpeechDetection().fits(silent)
    sample = detected(silent, recorded(1))
    assert sample.answer == "No"
    assert sample.utterances == (silent,)


def test_half_of_the_recordings_are_pauses_and_half_of_the_others_noisy() -> None:
    first, other = recorded(0), recorded(1)
    kinds: Counter[str] = Counter()
    for number in range(200):
        sample = detected(replace(first, id=f"c/{number}"), other)
        kinds[sample.utterances[0].id.partition("+")[2]] += 1
    assert 75 < kinds["pause"] < 125, kinds
    assert 30 < kinds["noise"] < 70, kinds
    assert 30 < kinds[""] < 70, kinds


def test_detection_is_scored_by_its_first_word() -> None:
    sample = detected(recorded(), pauses=1.0)
    assert [SpeechDetection().score(sample, out)["correct"] for out in ("No.", "no, nobody", "Yes", "")] == [1, 1, 0, 0]
