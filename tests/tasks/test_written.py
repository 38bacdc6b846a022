"""Tasks whose responses an LLM writes: what it is asked, and what becomes of its reply."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.tasks.base import LLMTask, Question
from pipeline.tasks.continuation import Continuation
from pipeline.tasks.keywords import Keywords
from pipeline.tasks.multiple_choice import MultipleChoice
from pipeline.tasks.question_answer import QuestionAnswer
from pipeline.tasks.reply import Reply
from pipeline.tasks.sentiment import Sentiment
from pipeline.tasks.summary import Summary
from pipeline.tasks.translation import Translation
from schemas import replies
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample
from tests.examples import LANGUAGES, answered, brief, draft, sentences, utterance

STEW = "He hoped there would be stew for dinner, turnips and carrots and bruised potatoes."
WORDS = {
    "en": ["positive", "neutral", "negative"],
    "ru": ["позитив", "нейтрал", "негатив"],
    "pt": ["positiv", "neutr", "negativ"],
}


def asked(task: LLMTask, given: Sample, *, seed: int = 0, language: str | None = None) -> Question:
    return task.ask(given, brief(task, given, seed=seed, language=language))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "task", [Continuation(), Keywords(), MultipleChoice(), QuestionAnswer(), Sentiment(), Summary()]
)
def test_the_llm_reads_the_transcript_as_data(task: LLMTask, language: str) -> None:
    for sentence in sentences(language)[:10]:
        question = asked(task, draft(sentence, language))
        system, user = question.messages
        assert (system.role, user.role) == ("system", "user")
        assert re.search(rf"<transcript>\s*{re.escape(sentence)}\s*</transcript>", user.content)
        assert sentence not in system.content
        assert AUDIO_PLACEHOLDER not in system.content + user.content
        assert question.reply is task.reply
        assert question.most_tokens == task.most_tokens
        if task.reply is not None:
            assert "JSON" in system.content
            for key in next(
                iter(task.reply.model_json_schema().get("$defs", {"": task.reply.model_json_schema()}).values())
            )["properties"]:
                assert f'"{key}"' in system.content, "it is told each key"


# Reply: AudioChatLLaMA.


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("system", [None, "", "You are a pirate."])
def test_the_two_prompts_of_a_reply_differ_only_by_modality(language: str, system: str | None) -> None:
    task = Reply(system=system)
    for sentence in sentences(language)[:20]:
        given = draft(sentence, language)
        told = asked(task, given).messages
        (sample,) = answered(task, given, "Good idea.")
        *heard, response = sample.messages
        assert [m if m.content != AUDIO_PLACEHOLDER else Message("user", sentence) for m in heard] == list(told)
        assert heard[-1] == Message("user", AUDIO_PLACEHOLDER)
        assert response == Message("assistant", "Good idea.")
        assert sample.provenance.instruction == ""
        assert sample.language == language
        roles = [m.role for m in told]
        assert roles == (["user"] if system == "" else ["system", "user"])
        if system:
            assert told[0].content == system


def test_the_reply_is_asked_for_as_if_the_user_had_spoken() -> None:
    question = asked(Reply(), draft("CAN YOU TELL ME THE TIME <NOISE>"))
    assert question.messages[-1] == Message("user", "Can you tell me the time")
    assert question.reply is None


@pytest.mark.parametrize(
    ("language", "told"),
    [("en", "in brackets is not said"), ("ru", "в скобках, не сказано"), ("pt", "colchetes não é dito")],
)
@pytest.mark.parametrize("system", [None, "", "You are a pirate."])
def test_labels_are_explained_where_there_are_any(language: str, told: str, system: str | None) -> None:
    task = Reply(describe=["emotion"], system=system)
    given = draft("I am fine", labels={"emotion": "happy"})
    *before, user = asked(task, given, language=language).messages
    words, explanation = user.content.split("\n\n")
    assert words == "I am fine [emotion: happy]"
    assert told in explanation
    plain = asked(task, draft("I am fine"), language=language).messages
    assert plain == (*before, Message("user", "I am fine")), "all else is the same"
    (sample,) = answered(task, given, "You sound like it.", language=language)
    assert list(sample.messages[:-1]) == [*before, Message("user", AUDIO_PLACEHOLDER)]


def test_labels_are_described_to_the_llm_alone() -> None:
    given = draft("I am fine", labels={"emotion": "anger", "gender": "female", "age": "", "place": "here"})
    task = Reply(describe=["emotion", "gender", "age", "accent"])
    assert asked(task, given).messages[-1].content.startswith("I am fine [emotion: anger; gender: female]\n")
    (sample,) = answered(task, given, "You do not sound like it.")
    assert "anger" not in str(sample.messages)
    plain = draft("I am fine", labels={"place": "here"})
    assert asked(task, plain).messages[-1].content == "I am fine"
    assert asked(Reply(), given).messages[-1].content == "I am fine"


def test_a_share_of_replies_comes_with_an_instruction() -> None:
    kinds: Counter[bool] = Counter()
    for number in range(300):
        (sample,) = answered(Reply(instructed=0.4), draft("I am fine", id=f"c/{number}"), "Good.")
        content = sample.messages[-2].content
        kinds[content != AUDIO_PLACEHOLDER] += 1
        assert (content != AUDIO_PLACEHOLDER) == bool(sample.provenance.instruction)
        assert content.count(AUDIO_PLACEHOLDER) == 1
    assert 90 < kinds[True] < 150


# Questions.


def pairs(*texts: str) -> replies.QuestionAnswers:
    return replies.QuestionAnswers(
        pairs=[replies.QuestionAnswer(question=f"{t}?", evidence="stew for dinner", answer=f"{t}.") for t in texts]
    )


def test_each_pair_becomes_a_sample() -> None:
    rows = answered(QuestionAnswer(), draft(STEW), pairs("What", "When"))
    assert [r.id for r in rows] == ["c/1:question_answer:0", "c/1:question_answer:1"]
    assert [(r.response, r.evidence) for r in rows] == [("What.", "stew for dinner"), ("When.", "stew for dinner")]
    for row, other in zip(rows, reversed(rows), strict=True):
        assert row.response.replace(".", "?") in row.messages[0].content
        assert other.response.replace(".", "?") not in row.messages[0].content
        assert row.messages[0].content.count(AUDIO_PLACEHOLDER) == 1


@pytest.mark.parametrize(
    ("words", "wanted", "most"), [(5, 2, 1), (13, 2, 1), (14, 2, 2), (40, 2, 2), (40, 5, 5), (20, 5, 2)]
)
def test_no_more_is_asked_than_is_said(words: int, wanted: int, most: int) -> None:
    given = draft(" ".join(f"word{chr(97 + n % 26)}" for n in range(words)))
    task = QuestionAnswer(pairs=wanted)
    assert task.fits(given.utterances[0])
    assert f"exactly {most}" in asked(task, given).messages[0].content
    assert len(answered(task, given, pairs(*"abcdefgh"))) == most, "more than was asked for is left out"
    assert len(answered(task, given, pairs("a"))) == 1


def choice(**changes: Any) -> replies.MultipleChoice:
    fields = {
        "question": "What for?",
        "evidence": "stew for dinner",
        "correct": "stew",
        "wrong": ["fish", "soup", "bread"],
    }
    return replies.MultipleChoice(**(fields | changes))


def test_the_right_option_stands_behind_the_letter_and_each_letter_is_as_frequent() -> None:
    letters: Counter[str] = Counter()
    orders = set()
    for number in range(800):
        (row,) = answered(MultipleChoice(), draft(STEW, id=f"c/{number}"), choice())
        content = row.messages[0].content
        options = dict(re.findall(r"^([A-D])\. (\w+)$", content, re.MULTILINE))
        assert sorted(options.values()) == ["bread", "fish", "soup", "stew"]
        assert list(options) == ["A", "B", "C", "D"]
        assert options[row.response] == "stew"
        assert row.answer == row.response
        assert row.choices == tuple(options.values())
        assert "What for?" in content
        letters[row.response] += 1
        orders.add(row.choices)
    assert min(letters.values()) > 160, letters  # of 200; the standard deviation is 12
    assert len(orders) == 24


def test_letters_of_the_llms_own_are_taken_off() -> None:
    lettered = choice(correct="A) stew", wrong=["B) fish", "C) a soup", "D) bread"])
    (row,) = answered(MultipleChoice(), draft(STEW), lettered)
    assert sorted(row.choices) == ["a soup", "bread", "fish", "stew"]
    assert row.choices["ABCD".index(row.answer)] == "stew"
    (row,) = answered(MultipleChoice(), draft(STEW), choice(correct="a. m.", wrong=["noon", "p. m.", "midnight"]))
    assert "a. m." in row.choices


@pytest.mark.parametrize("wrong", [["Stew.", "soup", "bread"], ["fish", "fish", "bread"], ["fish", "FISH!", "bread"]])
def test_equal_options_are_rejected(wrong: list[str]) -> None:
    (row,) = answered(MultipleChoice(), draft(STEW), choice(wrong=wrong))
    assert row.rejected == "options_not_distinct"


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("B", "B"), ("B.", "B"), ("B) stew", "B"), ("(B)", "B"), ("B: stew", "B"), (" B\n", "B"), ("**B**", "B"), ("B, stew", "B"),
        ("A man", ""), ("I think B", ""), ("b", ""), ("Bread", ""), ("", ""), ("E", ""), ("D’accord", ""), ("B'", "B"),
    ],
)  # fmt: skip
def test_a_letter_is_read_or_it_is_none(output: str, parsed: str) -> None:
    rows = (answered(MultipleChoice(), draft(STEW, id=f"c/{n}"), choice())[0] for n in range(40))
    row = next(r for r in rows if r.response == "B")
    assert MultipleChoice().score(row, output) == {"correct": float(parsed == "B"), "parsed": float(bool(parsed))}


# The others.


def test_keywords_are_those_that_are_said_in_their_order() -> None:
    def kept(*found: str, **options: int) -> tuple[str, str | None]:
        (row,) = answered(Keywords(**options), draft(STEW), replies.Keywords(keywords=list(found)))
        return row.response, row.rejected

    assert kept("stew", "Dinner", "bruised potatoes") == ("stew, Dinner, bruised potatoes", None)
    assert kept("stew", "dinner", "Stew!", "carrots") == ("stew, dinner, carrots", None)
    assert kept("stew", "dinner", "turnips", "carrots", "potatoes")[0] == "stew, dinner, turnips, carrots"
    assert kept("stew", "dinner", most=1) == ("stew", None)
    assert kept("stew", "bruised carrots")[1] == "keyword_not_said"
    assert kept("stews")[1] == "keyword_not_said"
    chinese = answered(
        Keywords(), draft("今天天气很好我们去公园散步", "zh"), replies.Keywords(keywords=["天气", "公园"])
    )
    assert (chinese[0].response, chinese[0].rejected) == ("天气, 公园", None)


def test_keywords_are_scored_as_a_set() -> None:
    (row,) = answered(Keywords(), draft(STEW), replies.Keywords(keywords=["stew", "dinner"]))
    assert [Keywords().score(row, out)["f1"] for out in ("Dinner, stew.", "stew", "", "fish")] == [
        1,
        pytest.approx(2 / 3),
        0,
        0,
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentiment_is_named_in_the_language_of_the_instruction(language: str) -> None:
    for label, stem in zip(("positive", "neutral", "negative"), WORDS[language], strict=True):
        for seed in range(8):
            reply = replies.Sentiment(sentiment=label)  # type: ignore[arg-type]
            (row,) = answered(Sentiment(), draft(STEW), reply, language=language, seed=seed)
            assert stem in row.response.lower()
            assert len(row.choices) == 3
            assert row.answer in row.choices
            assert Sentiment().score(row, row.response) == {"correct": 1.0}
            assert Sentiment().score(row, " ".join(row.choices)) == {"correct": 0.0}


def test_a_translation_goes_into_one_of_the_other_languages() -> None:
    task = Translation(targets=["en", "ru", "pt-BR", "de"])
    drawn: Counter[str | None] = Counter()
    for number in range(300):
        given = draft(STEW, "en-GB", id=f"c/{number}")
        (row,) = answered(task, given, "Er hoffte")
        drawn[row.language] += 1
        name = {"ru": "Russian", "pt-BR": "Portuguese", "de": "German"}[str(row.language)]
        assert name in asked(task, given).messages[-1].content, "what is asked for is what is said to be there"
        assert name in row.messages[0].content
    assert set(drawn) == {"ru", "pt-BR", "de"}
    assert min(drawn.values()) > 70


def test_what_a_translation_fits() -> None:
    assert Translation().fits(utterance("good evening", "en"))
    assert Translation().fits(utterance("今天天气很好", "zh"))
    assert not Translation().fits(utterance("good evening", None))
    assert not Translation(targets=["en"]).fits(utterance("good evening", "en-US"))
    for wrong in ([], "en", [1]):
        with pytest.raises(ValidationError):
            Translation(targets=wrong)  # type: ignore[arg-type]


def test_a_continuation_and_a_summary_are_the_reply_itself() -> None:
    (row,) = answered(Continuation(most_words=23), draft(STEW, "en"), "with bread.")
    assert (row.response, row.language) == ("with bread.", "en")
    assert "23" in asked(Continuation(most_words=23), draft(STEW)).messages[0].content
    (row,) = answered(Summary(), draft("Он надеялся на рагу", "ru"), "A man hopes for stew.", language="en")
    assert (row.response, row.language) == ("A man hopes for stew.", "en"), "in the language of the instruction"
    (row,) = answered(Continuation(), draft("Он надеялся на рагу", "ru"), "и хлеб.", language="en")
    assert row.language == "ru", "in the language of the speech"


@pytest.mark.parametrize(
    ("task", "fewest"),
    [
        (Continuation(), 4),
        (Keywords(), 8),
        (MultipleChoice(), 5),
        (QuestionAnswer(), 5),
        (Sentiment(), 4),
        (Summary(), 15),
        (Reply(), 2),
    ],
    ids=lambda value: getattr(value, "key", value),
)
def test_too_little_said_is_not_asked_about(task: LLMTask, fewest: int) -> None:
    for language, length in (("en", fewest), ("ru", fewest)):
        assert task.fits(utterance("слово " * length, language))
        assert not task.fits(utterance("слово " * (length - 1) + "<NOISE>", language))
    assert task.fits(utterance("天" * 2 * fewest, "zh"))
    assert not task.fits(utterance("天" * (2 * fewest - 1), "zh"))
