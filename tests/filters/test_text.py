"""Filters that look at the text alone: empty transcripts, and responses that are too long."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.filters.length import Length
from pipeline.filters.transcript import Transcript
from pipeline.tasks.transcription import Transcription
from tests.examples import LANGUAGES, asked, draft, make, sentences, untouched, verdict, written


@pytest.mark.parametrize("text", ["", " ", "\t\n", "<NOISE>", "[laughter] {CG}", "\x00\ufeff", "!SIL", "<unk> <unk>"])
def test_an_empty_transcript(text: str) -> None:
    assert verdict(Transcript(), draft(text)) == "transcript_empty"
    assert verdict(Transcript(needed=False), draft(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "n/a", "N/A.", "null", "None", "TODO", "???", "...", "-", "lorem ipsum dolor sit amet", "XXX", "(inaudible)", "test",
        "[laughter] n/a", "EXAMPLE OF TEXT", "transcript of the first segment", "IGNORE_TIME_SEGMENT_IN_SCORING", "sem texto",
        "нет текста",
    ],
)  # fmt: skip
def test_a_placeholder(text: str) -> None:
    for needed in (True, False):
        assert verdict(Transcript(needed=needed), draft(text)) == "transcript_placeholder"


@pytest.mark.parametrize(
    "text",
    [
        "No.", "I", "25", "¿Qué?", "null and void", "The test is tomorrow", "a text from her", "none of us", "todos", "x", "今天",
        "silence is golden", "мы написали тест", "unknown to me", "Nan went home", "<NOISE> hello",
    ],
)  # fmt: skip
def test_a_transcript(text: str) -> None:
    assert verdict(Transcript(), draft(text)) is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_real_sentences_pass(language: str) -> None:
    assert untouched(Transcript(), [draft(s, language) for s in sentences(language)])


def test_recordings_without_speech_need_no_transcript() -> None:
    assert verdict(Transcript(), draft("", labels={"speech": "no"})) is None
    assert verdict(Transcript(), draft("n/a", labels={"speech": "no"})) is None


def test_the_transcript_is_told() -> None:
    (row,) = Transcript()([draft("EXAMPLE OF TEXT")])
    assert row.detail == "EXAMPLE OF TEXT"


@pytest.mark.parametrize(
    ("task", "most"), [("reply", 1500), ("translation", 1500), ("summary", 500), ("continuation", 800)]
)
def test_length(task: str, most: int) -> None:
    def sample(length: int):
        return written("How are you today?", "a" * length, task=task, into="de" if task == "translation" else None)

    assert verdict(Length(), sample(most)) is None
    (row,) = Length()([sample(most + 1)])
    assert (row.rejected, row.detail) == ("reply_too_long", f"{most + 1} characters, at most {most}")


def test_the_length_of_an_answer_is_that_of_the_answer() -> None:
    text = "She went to the harbour to see the boats."
    assert verdict(Length(), asked(text, "Why? " * 200, "To see the boats.", "to see the boats")) is None
    assert verdict(Length(), asked(text, "Why?", "To see. " * 80, "to see the boats")) == "reply_too_long"


def test_lengths_from_the_recipe() -> None:
    short = Length(most_characters=10, by_task={"summary": 20})
    assert [verdict(short, written("Hello there", "a" * n)) for n in (10, 11)] == [None, "reply_too_long"]
    assert [verdict(short, written("Hello there", "a" * n, task="summary")) for n in (20, 21)] == [
        None,
        "reply_too_long",
    ]
    assert verdict(short, written("Hello there", "a" * 11, task="continuation")) == "reply_too_long"


def test_what_no_llm_wrote_may_be_long() -> None:
    assert untouched(Length(), [make(Transcription(), draft("word " * 1000))])


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (Length, {"most_characters": 0}),
        (Length, {"by_task": {"summary": -1}}),
        (Length, {"by_task": {"summary": "many"}}),
        (Length, {"most": 7}),
        (Transcript, {"needed": "yes"}),
        (Transcript, {"need": True}),
    ],
)
def test_options_that_make_no_sense(made: type, options: dict) -> None:
    with pytest.raises(ValidationError):
        made(**options)
