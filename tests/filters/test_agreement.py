"""The right reason: something else is said, an argument was lost, or nothing is heard."""

from __future__ import annotations

import pytest

from pipeline.filters.agreement import Agreement
from schemas.sample import Mention, Sample
from schemas.utterance import Utterance


def sample(
    transcript: str, hypothesis: str | None, *mentions: str, language: str | None = "en", spoken: str | None = None
) -> Sample:
    utterance = Utterance("c/1", "c", transcript, language, hypothesis=hypothesis, spoken=spoken)
    found = tuple(Mention(0, f"tool.argument{n}", words) for n, words in enumerate(mentions))
    return Sample("c/1:task", (utterance,), "train", mentions=found)


def reason(judged: Sample, **options: float) -> str | None:
    return Agreement(**options).judge(judged).rejected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "language"),
    [
        ("Set a timer for 10 minutes.", "set a timer for ten minutes", "en"),
        ("Please tell me what the weather will be tomorrow", "please tell me what weather will be tomorrow", "en"),
        ("Stop.", "Stop", "en"),
        ("Call Bob", "Call Rob", "en"),  # one word is too little to judge by, if it is no argument
        ("Restart the hostname server", "restart the host name server", "en"),
        ("Um...", "", "en"),  # nobody writes a hesitation
        ("Включи ещё раз свет на кухне", "включи еще раз свет на кухне", "ru"),
        ("今天天气很好", "今天天气真好", "zh"),
    ],
)
def test_what_is_said_passes(transcript: str, hypothesis: str, language: str) -> None:
    assert reason(sample(transcript, hypothesis, language=language)) is None


def test_what_nobody_has_listened_to_passes() -> None:
    assert reason(sample("set a timer for ten minutes", None, "ten minutes")) is None


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "language"),
    [
        ("Set a timer for ten minutes.", "The weather will be nice on Sunday", "en"),
        ("Set a timer for ten minutes.", "Set a timer", "en"),
        ("Yes.", "No.", "en"),
        ("Set a timer for ten minutes.", "set a timer for ten minutes and then call me when it is all done", "en"),
        ("Поставь таймер на десять минут", "какая завтра будет погода", "ru"),
        ("今天天气很好", "我想买两本书", "zh"),
    ],
)
def test_another_text(transcript: str, hypothesis: str, language: str) -> None:
    judged = Agreement().judge(sample(transcript, hypothesis, language=language))
    assert judged.rejected == "transcript_mismatch"
    assert hypothesis in judged.detail
    assert transcript in judged.detail


@pytest.mark.parametrize("hypothesis", ["", "  ", "...", "[silence]", "um"])
def test_nothing_is_heard(hypothesis: str) -> None:
    assert reason(sample("set a timer for ten minutes", hypothesis, "ten minutes")) == "nothing_heard"


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "mention", "language"),
    [
        ("Set a timer for 10 minutes.", "set a timer for ten minutes", "10 minutes", "en"),
        ("Set a timer for ten minutes.", "Set a timer for 10 minutes.", "ten", "en"),
        ("Order part AX 204 for the pump", "order part ax204 for the pump", "AX 204", "en"),
        ("Order part AX-204 for the pump", "order part a x 204 for the pump", "AX-204", "en"),
        ("Send it to the colour theatre", "send it to the color theater", "colour theatre", "en"),
        ("Take two 5 milligram tablets", "take two five milligram tablets", "5 milligram", "en"),
        ("Between five and ten people", "between 5 and 10 people", "five", "en"),
        ("Купи чёрный чай", "купи черный чай", "чёрный чай", "ru"),
        ("明天下午去北京", "明天下午去北京。", "北京", "zh"),
        ("Say ...", "say", "...", "en"),
        ("Ask for KL350 in the shop", "ask for k l 350 in the shop", "KL350", "en"),
        ("Call Anna at the office", "call Anna Anna at the office", "Anna", "en"),
        ("Fly to Lisbon on Monday", "fly to Lisbon on a Monday", "Monday", "en"),
    ],
)
def test_an_argument_that_is_heard(transcript: str, hypothesis: str, mention: str, language: str) -> None:
    assert reason(sample(transcript, hypothesis, mention, language=language)) is None


@pytest.mark.parametrize(
    ("transcript", "hypothesis", "mention", "language"),
    [
        ("Set a timer for ten minutes please", "set a timer for twenty minutes please", "ten", "en"),
        ("Set a timer for five minutes please", "set a timer for twenty five minutes please", "five", "en"),
        ("Set a timer for 5 minutes please", "set a timer for 25 minutes please", "5", "en"),
        ("Set a timer for twenty minutes please", "set a timer for twenty five minutes please", "twenty", "en"),
        ("Give me 2 milligrams of it now", "give me 2.5 milligrams of it now", "2", "en"),
        ("What is the weather like in York today", "what is the weather like in New York today", "York", "en"),
        ("Prescribe amoxicillin now please", "prescribe amoxicillin clavulanate now please", "amoxicillin", "en"),
        ("Позвони сегодня Анне на работу", "позвони сегодня Анне Ивановне на работу", "Анне", "ru"),
        ("Order 5 pieces of part AX 205", "order 25 pieces of part AX 205", "5", "en"),
        ("Call Bob", "Call Rob", "Bob", "en"),
        ("Call Bob", "Call Alexandra Smith", "Bob", "en"),
        ("Bob", "Alexandra", "Bob", "en"),
        ("Order part AX-204 for the pump", "order part ax-205 for the pump", "AX-204", "en"),
        ("Order part AX-204 for the pump", "order part ax-2045 for the pump", "AX-204", "en"),
        ("Prescribe amoxicillin for this patient", "prescribe a moxy sealant for this patient", "amoxicillin", "en"),
        (
            "Book a table for the twenty first of March",
            "book a table for the third of April",
            "twenty first of March",
            "en",
        ),
        ("Поставь таймер на пять минут", "поставь таймер на двадцать пять минут", "пять", "ru"),
        ("Ponha um alarme para cinco horas", "ponha um alarme para vinte e cinco horas", "cinco", "pt"),
        ("明天下午去北京看朋友", "明天下午去南京看朋友", "北京", "zh"),
    ],
)
def test_an_argument_that_was_lost(transcript: str, hypothesis: str, mention: str, language: str) -> None:
    judged = Agreement().judge(sample(transcript, hypothesis, mention, language=language))
    assert judged.rejected == "argument_not_heard"
    assert mention in judged.detail
    assert "tool.argument0" in judged.detail


def test_of_another_text_the_arguments_are_not_told() -> None:
    assert reason(sample("Call Bob", "What a nice day", "Bob")) == "transcript_mismatch"
    assert reason(sample("Set a timer for ten minutes.", "play some jazz in here", "ten")) == "transcript_mismatch"


def test_several_arguments_are_all_asked_for() -> None:
    text = "Book a table for four people at seven in Lisbon"
    assert reason(sample(text, text, "four", "seven", "Lisbon")) is None
    judged = Agreement().judge(
        sample(text, "book a table for five people at nine in Lisbon", "four", "seven", "Lisbon")
    )
    assert judged.rejected == "argument_not_heard"
    assert "'four'" in judged.detail
    assert "'seven'" in judged.detail
    assert "'Lisbon'" not in judged.detail


def test_what_the_voice_was_given_counts_as_said() -> None:
    text, aloud = "Reach 10.0.0.1 now please", "Reach ten dot zero dot zero dot one now please"
    assert reason(sample(text, "reach ten dot zero dot zero dot one now please", spoken=aloud)) is None


def test_each_utterance_is_judged_for_itself() -> None:
    long = "please tell me what the weather will be in the mountains tomorrow afternoon"
    first = Utterance("c/1", "c", long, "en", hypothesis=long)
    second = Utterance("c/2", "c", "ten minutes", "en", hypothesis="nobody knows")
    judged = Sample("c/1:t", (first, second), "train", mentions=(Mention(1, "timer.minutes", "ten"),))
    assert reason(judged) in ("transcript_mismatch", "argument_not_heard")
    other = Sample("c/1:t", (first, Utterance("c/2", "c", "ten", "en")), "train", mentions=(Mention(1, "t.m", "ten"),))
    assert reason(other) is None


def test_the_bounds_are_the_recipes() -> None:
    text, heard = "one red two blue three green four white", "one bread two glue three green four white"
    assert reason(sample(text, heard)) is None
    assert reason(sample(text, heard), most_wer=0.1, most_cer=0.01) == "transcript_mismatch"
    assert reason(sample(text, heard), most_wer=0.1, most_cer=0.01, allowance=2) is None


def test_an_argument_may_be_heard_nearly_if_the_recipe_says_so() -> None:
    judged = sample("Prescribe amoxicillin for this patient", "prescribe amoxicilin for this patient", "amoxicillin")
    assert reason(judged) == "argument_not_heard"
    assert reason(judged, likeness=0.85) is None
    number = sample("Wait for fifteen minutes now", "wait for fifty minutes now", "fifteen")
    assert reason(number, likeness=0.5) == "argument_not_heard"
