"""Tasks that give back what is said: transcription, repeat, spell."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from pipeline.tasks.repeat import Repeat
from pipeline.tasks.spell import Spell
from pipeline.tasks.transcription import Transcription
from tests.examples import LANGUAGES, draft, make, sentences, utterance


@pytest.mark.parametrize("language", LANGUAGES)
def test_transcription_is_the_transcript(language: str) -> None:
    for sentence in sentences(language):
        sample = make(Transcription(), draft(sentence, language))
        assert sample.response == sentence
        assert sample.language == language


@pytest.mark.parametrize(
    ("transcript", "language", "response"),
    [
        ("HE HOPED THERE WOULD BE STEW", "en", "He hoped there would be stew"),
        ("AND I'M SURE I'LL GO", "en", "And I'm sure I'll go"),
        ("well <NOISE> I [laughter] see", "en", "well I see"),
        ("  two   blanks ", "en", "two blanks"),
        ("ЧТО ЭТО ТАКОЕ", "ru", "Что это такое"),
        ("今天天气很好", "zh", "今天天气很好"),
        ("NATO met", "en", "NATO met"),
    ],
)
def test_transcripts_are_written_as_a_person_would(transcript: str, language: str, response: str) -> None:
    assert make(Transcription(), draft(transcript, language)).response == response


def test_the_transcript_keeps_its_language_whatever_the_instruction_is_in() -> None:
    sample = make(Transcription(), draft("Что это такое", "ru"), language="en")
    assert (sample.language, sample.response) == ("ru", "Что это такое")
    assert make(Transcription(), draft("hello there", None)).language is None


def test_transcription_is_scored_by_its_errors() -> None:
    sample = make(Transcription(), draft("He hoped there would be stew"))
    score = Transcription().score
    assert score(sample, "he hoped there would be stew.") == {"wer": 0.0, "cer": 0.0}
    assert score(sample, "he hoped there would be two")["wer"] == pytest.approx(1 / 6)
    assert score(sample, "")["wer"] == 1.0


@pytest.mark.parametrize("language", LANGUAGES)
def test_repeat_gives_all_or_as_many_words_as_are_asked_for(language: str) -> None:
    kinds: Counter[str] = Counter()
    for place, sentence in enumerate(sentences(language)):
        said = [w for token in sentence.lower().split() if (w := token.strip(".,!?;:…—–-\"'«»“”()"))]
        for seed in range(12):
            sample = make(Repeat(), draft(sentence, language, id=f"c/{place}"), seed=seed)
            number = re.search(r"\d+", sample.messages[0].content)
            if number is None:
                kinds["all"] += 1
                assert sample.response == sentence
                continue
            n = int(number[0])
            assert 2 <= n <= 6
            begin, end = " ".join(said[:n]), " ".join(said[-n:])
            assert sample.response in (begin, end), sample.messages
            kinds["begin" if sample.response == begin else "end"] += 1
    assert min(kinds.values()) > kinds.total() / 4, kinds


def test_the_end_is_given_where_the_end_is_asked_for() -> None:
    words = "one two three four five six seven"
    for seed in range(200):
        sample = make(Repeat(), draft(words), seed=seed)
        text, number = sample.messages[0].content, re.search(r"\d+", sample.messages[0].content)
        if number is None:
            continue
        ends = re.search(r"\b(last|final|closing|end|finishes)\b", text) is not None
        n = int(number[0])
        assert sample.response == " ".join(words.split()[-n:] if ends else words.split()[:n]), text


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("good evening all", "en"),
        ("it was 5:30 in the morning", "en"),
        ("you & me and them too", "en"),
        ("今天天气很好", "zh"),
    ],
)
def test_what_cannot_be_counted_is_repeated_whole(text: str, language: str) -> None:
    for seed in range(30):
        sample = make(Repeat(), draft(text, language), seed=seed)
        assert sample.response == text
        assert not re.search(r"\b\d\b", sample.messages[0].content)


@pytest.mark.parametrize("language", LANGUAGES)
def test_spelling_is_letter_by_letter_of_the_word_that_is_asked_for(language: str) -> None:
    wanted = {
        "first": {
            "en": r"first|start|opening|begin",
            "ru": r"перв|начина|начал|открыва",
            "pt": r"primeir|começ|inici|abre",
        },
        "last": {
            "en": r"last|final|end|closing",
            "ru": r"последн|заверш|конц|заканч|конч",
            "pt": r"últim|final|termin|encerr|acab|fim",
        },
    }
    seen: Counter[str] = Counter()
    for place, sentence in enumerate(sentences(language)):
        said = [w for token in sentence.lower().split() if (w := token.strip(".,!?;:…—–-\"'«»“”()"))]
        for seed in range(12):
            sample = make(Spell(), draft(sentence, language, id=f"c/{place}"), seed=seed)
            text = sample.messages[0].content
            word = sample.response.replace(" ", "").lower()
            assert sample.response == " ".join(word.upper())
            assert word.isalpha()
            assert word in said
            if number := re.search(r"\b\d+", text):
                assert word == said[int(number[0]) - 1], text
                seen["nth"] += 1
            elif word == said[0] != said[-1]:
                assert re.search(wanted["first"][language], text.lower()) or word == max(said, key=len), text
                seen["first"] += 1
            elif word == said[-1]:
                assert re.search(wanted["last"][language], text.lower()) or word == max(said, key=len), text
                seen["last"] += 1
            else:
                assert [w for w in said if len(w) >= len(word)] == [word], "the longest, and there is one"
                seen["longest"] += 1
    assert min(seen.values()) > seen.total() / 10, seen
    assert len(seen) == 4


def test_two_longest_words_are_not_asked_for() -> None:
    for seed in range(60):
        sample = make(Spell(), draft("a silver needle is here"), seed=seed)
        assert not re.search(r"longest|most letters", sample.messages[0].content)


@pytest.mark.parametrize(
    ("text", "language", "fits"),
    [
        ("dinner", "en", True),
        ("a I", "en", False),
        ("in 1984 we left", "en", False),
        ("well-known", "en", False),
        ("straße", "de", False),
        ("今天天气很好", "zh", False),
        ("", "en", False),
    ],
)
def test_what_can_be_spelled(text: str, language: str, fits: bool) -> None:
    assert Spell().fits(utterance(text, language)) is fits


def test_a_word_in_the_middle_serves_where_no_other_can_be_spelled() -> None:
    for seed in range(30):
        sample = make(Spell(), draft("it's a cat isn't it's"), seed=seed)
        assert sample.response == "C A T"
        assert "3" in sample.messages[0].content


def test_spelling_is_scored_by_its_letters() -> None:
    sample = make(Spell(), draft("dinner"))
    score = Spell().score
    assert [score(sample, out)["correct"] for out in ("D I N N E R", "d-i-n-n-e-r.", "dinner", "D I N E R", "")] == [
        1,
        1,
        1,
        0,
        0,
    ]
