"""Filters that measure the recording: each on both sides of its limit, and options that make no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from pydantic import ValidationError

from pipeline import audio, plugins
from pipeline.filters.claims import Claims
from pipeline.filters.clipping import Clipping
from pipeline.filters.duration import Duration
from pipeline.filters.silence import Silence
from pipeline.filters.speech_rate import SpeechRate
from schemas.sample import Sample
from schemas.utterance import AudioSource
from tests.examples import draft, sound, tone, untouched, verdict

FILE = AudioSource("a.wav")


def lasting(seconds: float, text: str = "", language: str | None = "en", **fields: Any) -> Sample:
    return draft(text, language, audio=replace(sound(), seconds=seconds), **fields)


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(0.29, "too_short"), (0.3, None), (2.0, None), (30.0, None), (30.01, "too_long"), (3000, "too_long")],
)
def test_duration(seconds: float, reason: str | None) -> None:
    assert verdict(Duration(), lasting(seconds)) == reason


def test_duration_has_its_bounds_from_the_recipe() -> None:
    task = Duration(shortest=2.0, longest=4.0)
    assert [verdict(task, lasting(s)) for s in (1.9, 2.0, 4.0, 4.1)] == ["too_short", None, None, "too_long"]
    (row,) = task([lasting(1.234)])
    assert row.detail == "1.234 s, at least 2 s are asked for"


@pytest.mark.parametrize(
    ("claimed", "seconds", "reason"),
    [
        (None, 2.0, None),
        (2.0, 2.0, None),
        (2.0, 2.49, None),
        (2.0, 1.51, None),
        (2.0, 2.51, "wrong_duration_claimed"),
        (2.0, 1.49, "wrong_duration_claimed"),
        (20.0, 21.9, None),
        (20.0, 17.9, "wrong_duration_claimed"),
        (0.0, 0.4, None),
        (0.0, 3.0, "wrong_duration_claimed"),
    ],
)
def test_a_claimed_duration(claimed: float | None, seconds: float, reason: str | None) -> None:
    assert verdict(Claims(), lasting(seconds, source=FILE, duration=claimed)) == reason


@pytest.mark.parametrize(
    ("claimed", "reason"), [(None, None), (16_000, None), (8_000, "wrong_rate_claimed"), (44_100, "wrong_rate_claimed")]
)
def test_a_claimed_rate(claimed: int | None, reason: str | None) -> None:
    (row,) = Claims()([draft(audio=sound(), source=FILE, sampling_rate=claimed)])
    assert row.rejected == reason
    if reason:
        assert row.detail == f"{claimed} Hz are claimed, the file has 16000 Hz"


def test_the_claim_is_compared_with_the_rate_of_the_file_not_of_what_is_stored() -> None:
    narrow = replace(sound(), sampling_rate=8_000)
    assert verdict(Claims(), draft(audio=narrow, source=FILE, sampling_rate=8_000)) is None
    assert verdict(Claims(), draft(audio=narrow, source=FILE, sampling_rate=16_000)) == "wrong_rate_claimed"


def test_what_was_spoken_by_a_machine_claims_nothing() -> None:
    assert verdict(Claims(), draft(audio=sound(), duration=99.0, sampling_rate=8_000)) is None


def test_claims_have_their_bounds_from_the_recipe() -> None:
    strict = Claims(seconds=0.1, share=0.01)
    assert verdict(strict, lasting(2.2, source=FILE, duration=2.0)) == "wrong_duration_claimed"
    assert verdict(strict, lasting(2.05, source=FILE, duration=2.0)) is None


def test_clipping() -> None:
    for share, reason in [(0.0, None), (0.005, None), (0.0051, "clipped"), (1.0, "clipped")]:
        assert verdict(Clipping(), draft(audio=replace(sound(), clipped=share))) == reason
    assert verdict(Clipping(most=0.0), draft(audio=replace(sound(), clipped=0.0001))) == "clipped"
    assert verdict(Clipping(most=1.0), draft(audio=replace(sound(), clipped=1.0))) is None


def test_clipping_of_real_samples() -> None:
    for level, reason in [(0.3, None), (3.0, "clipped")]:
        loud = np.clip(tone(1.0, level=level), -1, 1)
        stored = audio.store(loud, clipped=audio.clipped(loud[:, None]))
        assert verdict(Clipping(), draft(audio=stored)) == reason


@pytest.mark.parametrize(("level", "reason"), [(0.0, "silent"), (0.0003, "silent"), (0.003, None), (0.3, None)])
def test_silence(level: float, reason: str | None) -> None:
    assert verdict(Silence(), draft(audio=audio.store(tone(1.0, level=level)))) == reason


def test_silence_is_measured_where_it_is_loudest() -> None:
    mostly_silent = np.concatenate([np.zeros(9 * 16_000, np.float32), tone(1.0)])
    assert verdict(Silence(), draft(audio=audio.store(mostly_silent))) is None
    for measured, reason in [(-65.1, "silent"), (-65.0, None), (-120.0, "silent")]:
        assert verdict(Silence(), draft(audio=replace(sound(), speech_dbfs=measured))) == reason
    assert verdict(Silence(quietest=-30.0), draft(audio=replace(sound(), speech_dbfs=-40.0))) == "silent"


@pytest.mark.parametrize(
    ("letters", "seconds", "language", "reason"),
    [
        (60, 2.0, "en", None),
        (61, 2.0, "en", "implausible_speech_rate"),
        (60, 2.0, None, None),
        (24, 2.0, "zh", None),
        (25, 2.0, "zh", "implausible_speech_rate"),
        (25, 2.0, "th", "implausible_speech_rate"),
        (4, 4.0, "en", None),
        (3, 4.0, "en", "implausible_speech_rate"),
        (1, 3.9, "en", None),
        (500, 30.0, "ru", None),
    ],
)
def test_speech_rate(letters: int, seconds: float, language: str | None, reason: str | None) -> None:
    (row,) = SpeechRate()([lasting(seconds, "天" * letters if language == "zh" else "a" * letters, language)])
    assert row.rejected == reason
    assert row.scores.characters_per_second == pytest.approx(letters / seconds, abs=0.001)


def test_only_letters_and_digits_count() -> None:
    (row,) = SpeechRate()([lasting(2.0, "<NOISE> Hi, [laughter] 25 -- 'there'!!! ...")])
    assert row.scores.characters_per_second == 4.5


def test_what_has_no_rate() -> None:
    for sample in (draft("some words"), lasting(9.0), lasting(9.0, "words", labels={"speech": "no"})):
        (row,) = SpeechRate()([sample])
        assert (row.rejected, row.scores.characters_per_second) == (None, None)
    (row,) = SpeechRate()([lasting(1.0, "x" * 99).reject("silent")])
    assert (row.rejected, row.scores.characters_per_second) == ("silent", None)


def test_the_rate_has_its_bounds_from_the_recipe() -> None:
    assert verdict(SpeechRate(fastest=5.0), lasting(2.0, "a" * 11)) == "implausible_speech_rate"
    assert verdict(SpeechRate(fastest_unspaced=5.0), lasting(2.0, "天" * 11, "ja")) == "implausible_speech_rate"
    assert verdict(SpeechRate(slowest=5.0), lasting(5.0, "a" * 24)) == "implausible_speech_rate"


@pytest.mark.parametrize("name", ["claims", "clipping", "duration", "silence", "speech_rate"])
def test_without_audio_nothing_is_measured(name: str) -> None:
    made = plugins.load("filters", name)()
    assert made.before_tasks
    samples = [draft("some words", source=FILE, duration=1.0, sampling_rate=8_000), lasting(99.0).reject("silent", "x")]
    assert untouched(made, samples)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("duration", {"shortest": 0.0}),
        ("duration", {"longest": -1.0}),
        ("duration", {"longest": "30"}),
        ("duration", {"longst": 30.0}),
        ("claims", {"seconds": 0.0}),
        ("claims", {"share": -0.1}),
        ("clipping", {"most": 1.1}),
        ("clipping", {"most": -0.1}),
        ("silence", {"quietest": "low"}),
        ("speech_rate", {"slowest": 0.0}),
        ("speech_rate", {"fastest": -1.0}),
        ("speech_rate", {"rate": 1.0}),
    ],
)
def test_options_that_make_no_sense(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugins.load("filters", name)(**options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("duration", {"shortest": 5.0, "longest": 4.0}),
        ("silence", {"quietest": 3.0}),
        ("silence", {"quietest": float("nan")}),
        ("speech_rate", {"slowest": 31.0}),
    ],
)
def test_bounds_that_nothing_can_pass(name: str, options: dict[str, Any]) -> None:
    """An impossible value is an error before any work, not a dataset of rejections."""
    with pytest.raises(ValidationError):
        plugins.load("filters", name)(**options)
