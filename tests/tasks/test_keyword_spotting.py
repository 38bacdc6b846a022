"""Keyword spotting: 70 words in 100 are said, and those that are not might have been."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from pipeline.prompting import Prompts
from pipeline.tasks.keyword_spotting import KeywordSpotting
from schemas.sample import Sample
from tests.examples import LANGUAGES, companions, draft, make, sentences, utterance

YES = {"en": "Yes", "ru": "Да", "pt": "Sim"}
NO = {"en": "No", "ru": "Нет", "pt": "Não"}


def asked(sample: Sample) -> str:
    """The word in quotation marks."""
    found = re.search(r"[\"“«](\w+)[\"”»]", sample.messages[0].content)
    assert found, sample.messages[0].content
    return found[1]


def plain(text: str) -> list[str]:
    """The words of a text, found in another way than the code does."""
    return re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.lower())


def with_others(language: str, number: int) -> Sample:
    lines = sentences(language)
    others = [utterance(lines[(number + n) % len(lines)], language, id=f"c/o{n}") for n in (11, 23, 37)]
    return companions(draft(lines[number], language, id=f"c/{number}"), *others)


@pytest.mark.parametrize("language", LANGUAGES)
def test_seventy_to_thirty_and_every_answer_is_right(language: str) -> None:
    present = total = 0
    for number in range(len(sentences(language))):
        given = with_others(language, number)
        assert KeywordSpotting().fits(given.utterances[0])
        said, elsewhere = (
            plain(given.utterances[0].transcript),
            [w for u in given.utterances[1:] for w in plain(u.transcript)],
        )
        for seed in range(16):
            sample = make(KeywordSpotting(), given, seed=seed)
            word = asked(sample)
            there = word in said
            assert sample.answer == (YES if there else NO)[language]
            assert sample.response.startswith(sample.answer)
            assert len(word) >= 4
            if not there:
                assert word in elsewhere, "it is said in the same corpus"
                assert not any(word in other or other[:4] == word[:4] for other in said), (
                    "no form or part of what is said"
                )
            present += there
            total += 1
    assert total == 1120
    assert 0.66 < present / total < 0.74  # three standard deviations are 0.04


def test_the_share_is_an_option() -> None:
    given = with_others("en", 0)
    answers = [make(KeywordSpotting(present=0.2), given, seed=seed).answer for seed in range(500)]
    assert 60 < answers.count("Yes") < 140
    for wrong in (0.0, 1.0, -0.1, "0.5"):
        with pytest.raises(ValidationError):
            KeywordSpotting(present=wrong)


def test_absent_words_are_about_as_long_as_those_that_are_said() -> None:
    """Length alone must not give the answer away."""
    lengths: dict[str, list[int]] = {"Yes": [], "No": []}
    for number in range(70):
        for seed in range(8):
            sample = make(KeywordSpotting(), with_others("en", number), seed=seed)
            lengths[sample.answer].append(len(asked(sample)))
    said, unsaid = (sum(found) / len(found) for found in lengths.values())
    assert abs(said - unsaid) < 0.5


def test_alone_the_words_of_the_prompts_serve() -> None:
    given = draft("The early train is late again")
    samples = [make(KeywordSpotting(), given, seed=seed) for seed in range(100)]
    absent = {asked(s) for s in samples if s.answer == "No"}
    assert len(absent) > 3
    assert absent <= set(Prompts().get("keyword_spotting", "en").content.words)


def test_a_word_of_another_language_is_never_asked_for() -> None:
    """Where nothing plausible is to be had, the word is one that is said."""
    given = draft("Вечером мы пойдём гулять по набережной", "ru")
    for seed in range(60):
        sample = make(KeywordSpotting(), given, seed=seed, language="en")
        assert sample.answer == "Yes"
        assert asked(sample) in plain(given.transcript)


def test_where_every_word_is_said_none_is_absent() -> None:
    given = draft(" ".join(Prompts().get("keyword_spotting", "en").content.words))
    assert {make(KeywordSpotting(), given, seed=seed).answer for seed in range(40)} == {"Yes"}


@pytest.mark.parametrize(
    ("said", "elsewhere", "language"),
    [
        ("they took their coats and went home", "there", "en"),
        ("I know which one", "witch", "en"),
        ("this is a walking tour", "walked", "en"),
        ("a well-known doctor", "known", "en"),
        ("the grandmother waits", "mother", "en"),
        ("рабочая кампания началась", "компания", "ru"),
        ("она ещё придёт", "еще", "ru"),
        ("a sessão começou", "seção", "pt"),
    ],
)
def test_what_sounds_like_a_said_word_is_not_asked_for(said: str, elsewhere: str, language: str) -> None:
    given = companions(draft(said, language), utterance(f"{elsewhere} zzzz", language, id="c/2"))
    for seed in range(60):
        assert asked(make(KeywordSpotting(), given, seed=seed)) != elsewhere


def test_what_it_does_not_fit() -> None:
    for text, language in [
        ("", "en"),
        ("he is on it", "en"),
        ("in 1984 1985", "en"),
        ("今天天气很好", "zh"),
        ("<NOISE>", "en"),
    ]:
        assert not KeywordSpotting().fits(utterance(text, language))
    assert KeywordSpotting().fits(utterance("HE WENT HOME", "en"))


@pytest.mark.parametrize(
    ("output", "correct"),
    [("Yes.", 1.0), ("yes, the word is said", 1.0), ("No.", 0.0), ("The answer is yes", 0.0), ("", 0.0)],
)
def test_scores(output: str, correct: float) -> None:
    sample = next(s for n in range(9) if (s := make(KeywordSpotting(), with_others("en", n))).answer == "Yes")
    assert KeywordSpotting().score(sample, output) == {"correct": correct}
