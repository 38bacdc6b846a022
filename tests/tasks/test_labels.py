"""Label tasks: what the corpus says of an utterance, open or with the answers to choose from; slots."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import plugins
from pipeline.tasks.accent import Accent
from pipeline.tasks.emotion import Emotion
from pipeline.tasks.gender import Gender
from pipeline.tasks.intent import Intent
from pipeline.tasks.label import Label
from pipeline.tasks.slots import Slots
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample
from tests.examples import LANGUAGES, draft, make, utterance


def question(sample: Sample) -> str:
    return sample.messages[0].content.replace(AUDIO_PLACEHOLDER, "").strip()


@pytest.mark.parametrize("name", ["accent", "emotion", "gender", "intent"])
def test_each_asks_about_its_own_label(name: str) -> None:
    task = plugins.load("tasks", name)()
    assert task.fits(utterance("words", labels={name: "abc_def"}))
    assert not task.fits(utterance("words", labels={}))
    assert not task.fits(utterance("words", labels=dict.fromkeys(("age", "topic"), "x")))
    for value in ("", " ", "unknown", "Unknown", "n/a", "other", "xxx", "NaN"):
        assert not task.fits(utterance("words", labels={name: value})), value
    for seed in range(20):
        sample = make(task, draft("words", labels={name: "abc_def"}), seed=seed)
        assert sample.answer == "abc def"
        assert "abc def" in sample.response
        assert sample.choices == ()
        assert "abc def" not in question(sample)


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", ("a man", "a woman")), ("ru", ("мужской", "женский")), ("pt", ("homem", "mulher"))],
)
def test_values_are_said_in_the_language_of_the_instruction(language: str, said: tuple[str, str]) -> None:
    for value, name in zip(("male", "female"), said, strict=True):
        sample = make(Gender(), draft("words", labels={"gender": value}), language=language)
        assert name in sample.response.lower()
        assert value not in sample.response.split()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_value_without_a_name_is_in_no_known_language(language: str) -> None:
    """It is said as the corpus has it: in English, as a rule."""
    named = make(Emotion(), draft("words", labels={"emotion": "ang"}), language=language)
    unnamed = make(Intent(), draft("words", labels={"intent": "play_music"}), language=language)
    assert named.language == language
    assert unnamed.language == ("en" if language == "en" else None)
    assert "play music" in unnamed.response


@pytest.mark.parametrize("same", [("ang", "angry", "anger"), ("hap", "happy", "happiness"), ("sad", "sadness")])
@pytest.mark.parametrize("language", LANGUAGES)
def test_an_emotion_has_one_name(language: str, same: tuple[str, ...]) -> None:
    names = {make(Emotion(), draft("words", labels={"emotion": v}), language=language).answer for v in same}
    assert len(names) == 1


COMMON_VOICE_ACCENTS = (
    "us england indian australia canada scotland ireland wales african newzealand hongkong singapore philippines "
    "malaysia bermuda southatlandtic"
).split()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_accents_of_common_voice_have_names(language: str) -> None:
    newer = ["United States English", "England English", "India and South Asia (India, Pakistan, Sri Lanka)"]
    for value in (*COMMON_VOICE_ACCENTS, *newer):
        sample = make(Accent(), draft("words", labels={"accent": value}), language=language)
        assert sample.answer != value
        assert sample.language == language, value


@pytest.mark.parametrize("language", LANGUAGES)
def test_abbreviations_are_not_said(language: str) -> None:
    for value in ("m", "f", "man", "woman", "male_masculine", "female_feminine", "male", "female"):
        same = {"m": "male", "f": "female"}[value[0] if value[0] in "mf" else "f" if value == "woman" else "m"]
        samples = [make(Gender(), draft("words", labels={"gender": v}), language=language) for v in (value, same)]
        assert samples[0].answer == samples[1].answer, value
    for value in ("ang", "dis", "fea", "hap", "neu", "sur", "exc", "fru"):
        assert len(make(Emotion(), draft("words", labels={"emotion": value}), language=language).answer) > 3, value


def test_half_of_the_questions_list_the_choices_shuffled() -> None:
    task = Intent(choices=["play_music", "set_alarm", "call"])
    orders: Counter[tuple[str, ...]] = Counter()
    for number in range(600):
        sample = make(task, draft("words", id=f"c/{number}", labels={"intent": "set_alarm"}))
        assert sample.answer == "set alarm"
        listed = ", ".join(sample.choices)
        if sample.choices:
            assert sorted(sample.choices) == ["call", "play music", "set alarm"]
            assert listed in question(sample)
        else:
            assert "play music" not in question(sample)
        orders[sample.choices] += 1
    assert 240 < orders.pop(()) < 360
    assert len(orders) == 6
    assert min(orders.values()) > 25


def test_labels_that_are_no_choice_do_not_fit() -> None:
    task = Intent(choices=["play_music", "call"])
    assert task.fits(utterance("words", labels={"intent": "call"}))
    assert not task.fits(utterance("words", labels={"intent": "set_alarm"}))


def test_the_general_one_names_its_label() -> None:
    task = Label(name="age")
    assert task.fits(utterance("words", labels={"age": "thirties"}))
    assert not task.fits(utterance("words", labels={"gender": "male"}))
    for seed in range(20):
        sample = make(task, draft("words", labels={"age": "thirties"}), seed=seed)
        assert "age" in question(sample).lower()
        assert "thirties" in sample.response
    sample = make(task, draft("слова", "ru", labels={"age": "thirties"}))
    assert "возраст" in question(sample).lower()
    assert "30–39 лет" in sample.response
    for language, name in (("en", "native language"), ("ru", "родной язык"), ("pt", "língua materna")):
        sample = make(
            Label(name="native_language"), draft("words", labels={"native_language": "thai"}), language=language
        )
        assert name in question(sample).lower()
    sample = make(Label(name="noise_level"), draft("words", labels={"noise_level": "low"}))
    assert "noise level" in question(sample).lower()
    with pytest.raises(ValidationError, match="name"):
        Label()
    with pytest.raises(ValidationError, match="choises"):
        Label(name="age", choises=["a"])


def test_a_label_is_text_and_nothing_else() -> None:
    sample = make(Intent(), draft("words", labels={"intent": f"play {AUDIO_PLACEHOLDER}\x00 music\ud800"}))
    assert sample.answer == "play music"


@pytest.mark.parametrize(
    ("output", "correct"),
    [("set alarm", 1.0), ("The intent is Set Alarm.", 1.0), ("call", 0.0), ("set alarm or call", 0.0), ("", 0.0)],
)
def test_scores(output: str, correct: float) -> None:
    task = Intent(choices=["play_music", "set_alarm", "call"])
    given = draft("words", labels={"intent": "set_alarm"})
    sample = next(s for n in range(20) if (s := make(task, given, seed=n)).choices)
    assert task.score(sample, output) == {"correct": correct}


@pytest.mark.parametrize(
    ("value", "response"),
    [
        ({"date": "tomorrow", "place_name": "paris"}, "date: tomorrow; place_name: paris"),
        ([{"type": "time", "filler": "nine am"}, {"type": "date", "filler": "today"}], "time: nine am; date: today"),
        ([{"type": "room", "value": "kitchen"}], "room: kitchen"),
        ({"guests": ["Ann", "Bob"], "count": 2}, "guests: Ann, Bob; count: 2"),
        ({"date": None, "time": "noon"}, "time: noon"),
        ({"odd": {"a": 1}, "time": "noon", "": "x", "empty": ""}, "time: noon"),
    ],
)
def test_slots(value: Any, response: str) -> None:
    for name in ("slots", "entities"):
        given = draft("do it", labels={name: json.dumps(value)})
        assert Slots().fits(given.utterances[0])
        assert make(Slots(), given).response == response


def test_slots_are_text_and_nothing_else() -> None:
    value = {f"da{AUDIO_PLACEHOLDER}te": f"tomorrow {AUDIO_PLACEHOLDER}", "guests": [AUDIO_PLACEHOLDER, "Ann"]}
    sample = make(Slots(), draft("do it", labels={"slots": json.dumps(value)}))
    assert sample.response == "da te: tomorrow; guests: Ann"


@pytest.mark.parametrize("value", ["{}", "[]", '{"date": null}'])
def test_no_slots_are_said_to_be_none(value: str) -> None:
    responses = {make(Slots(), draft("do it", labels={"slots": value}), seed=n).response for n in range(30)}
    assert responses == {"There are no details.", "None.", "The request contains no details."}


@pytest.mark.parametrize("value", ["", "date: tomorrow", "[1, 2]", '"a"', "3", "null", "[" * 5000, '[{"filler": "x"}]'])
def test_labels_that_are_no_slots(value: str) -> None:
    assert not Slots().fits(utterance("do it", labels={"slots": value}))
    assert not Slots().fits(utterance("do it"))


def test_slots_are_scored_one_by_one() -> None:
    sample = make(Slots(), draft("do it", labels={"slots": '{"date": "tomorrow", "place": "Paris"}'}))
    score = Slots().score
    assert score(sample, "place: paris; date: tomorrow") == {"f1": 1.0}
    assert score(sample, "date: tomorrow") == {"f1": pytest.approx(2 / 3)}
    assert score(sample, "none") == {"f1": 0.0}
    empty = make(Slots(), draft("do it", labels={"slots": "{}"}))
    assert score(empty, "There are no details.") == {"f1": 1.0}
    assert score(empty, "date: today") == {"f1": 0.0}
