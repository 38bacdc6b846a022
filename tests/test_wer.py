"""WER and CER: what parts two texts is counted, how they are written is not."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.spelling import one_way
from pipeline.text import spaced, words
from pipeline.wer import compare, normalise, rates, said
from schemas.utterance import Utterance


def wer(reference: str, hypothesis: str, language: str | None = "en") -> float | None:
    return compare((reference,), hypothesis, language).wer


@pytest.mark.parametrize(
    ("reference", "hypothesis", "language"),
    [
        ("Set a timer for 10 minutes.", "set a timer for ten minutes", "en"),
        ("set a timer for ten minutes", "Set a timer for 10 minutes!", "en"),
        ("Twenty-five people", "twenty five people", "en"),
        ("I can't find the colour, it's grey", "I cannot find the color it is gray", "en"),
        ("We're organising the theatre programme", "we are organizing the theater program", "en"),
        ("Um, I, uh, travelled to the centre", "I traveled to the center", "en"),
        ("Don’t cancel Mr. Smith's café visit", "do not cancel mister Smith's cafe visit", "en"),
        ("at 7 p.m.", "at 7 pm", "en"),
        ("gonna wanna", "going to want to", "en"),
        ("10,000 people", "10000 people", "en"),
        ("Ещё раз, пожалуйста", "еще раз пожалуйста", "ru"),
        ("Поставь таймер на 10 минут", "поставь таймер на десять минут", "ru"),
        ("Купи какой-нибудь хлеб, э-э, чёрный", "купи какой нибудь хлеб черный", "ru"),
        ("Quero 3 guarda-chuvas.", "quero três guarda chuvas", "pt-BR"),
        ("[laughter] hello <NOISE> there", "hello there", "en"),
        ("good morning", "GOOD, MORNING", None),
    ],
)
def test_how_it_is_written_does_not_count(reference: str, hypothesis: str, language: str | None) -> None:
    errors = compare((reference,), hypothesis, language)
    assert (errors.word_edits, errors.character_edits) == (0, 0), errors
    assert errors.wer == errors.cer == 0.0


@pytest.mark.parametrize(
    ("reference", "hypothesis", "language", "edits", "count"),
    [
        ("turn on the light", "turn off the light", "en", 1, 4),
        ("turn on the light", "turn the light", "en", 1, 4),
        ("turn on the light", "turn on the the light", "en", 1, 4),
        ("turn on the light", "", "en", 4, 4),
        ("set it for 15 minutes", "set it for fifty minutes", "en", 1, 5),
        ("avó", "avô", "pt", 1, 1),
        ("for the four of you", "for the for of you", "en", 1, 5),
    ],
)
def test_what_is_wrong_counts(reference: str, hypothesis: str, language: str, edits: int, count: int) -> None:
    errors = compare((reference,), hypothesis, language)
    assert (errors.word_edits, errors.words) == (edits, count)


def test_the_form_that_a_voice_was_given_counts_too() -> None:
    utterance = Utterance("c/1", "c", "Order part AX-204.", spoken="Order part A X two oh four.")
    assert compare(said(utterance), "order part a x two oh four", "en").wer == 0.0
    assert said(Utterance("c/2", "c", "same", spoken="same")) == ("same",)


def test_languages_without_spaces_are_measured_by_characters() -> None:
    errors = compare(("今天天气很好。",), "今天天气 不好", "zh")
    assert errors.wer is None
    assert errors.cer == pytest.approx(1 / 6)
    assert rates([errors]) == (None, pytest.approx(1 / 6, abs=1e-6))


def test_rates_are_of_all_words_together() -> None:
    long, short = compare(("a b c d e f g h i",), "a b c d e f g h i", None), compare(("x",), "y", None)
    assert rates([long, short])[0] == pytest.approx(0.1)
    assert rates([]) == (None, None)


def test_nothing_but_hesitations_is_no_reference() -> None:
    errors = compare(("Um, uh.",), "", "en")
    assert (errors.wer, errors.cer) == (None, None)


TEXTS = st.lists(
    st.sampled_from("the light two rooms please on off seven Москва ёлка é".split()), min_size=1, max_size=12
)


@given(TEXTS, TEXTS)
def test_without_other_forms_it_is_jiwers_figure(reference: list[str], hypothesis: list[str]) -> None:
    one, other = " ".join(words(" ".join(reference))), " ".join(words(" ".join(hypothesis)))
    errors = compare((" ".join(reference),), " ".join(hypothesis), None)
    assert errors.wer == pytest.approx(jiwer.wer(one, other))
    assert errors.cer == pytest.approx(jiwer.cer(one, other))


@given(TEXTS)
def test_a_text_agrees_with_itself(text: list[str]) -> None:
    for language in ("en", "ru", "pt", "zh", None):
        assert compare((" ".join(text),), " ".join(text).upper(), language).character_edits == 0


@example("0-0", "ja")
@example("0\u0300", "ja")
@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["en", "ru", "pt", "ja", None]))
def test_any_text_is_normalised_once_and_for_all(text: str, language: str | None) -> None:
    found = normalise(text, language)
    assert normalise((" " if spaced(language) else "").join(found), language) == found


def test_spelling_variants_meet_and_words_do_not() -> None:
    pairs = """colour color, honoured honored, theatre theater, litres liters, organise organize, analysing analyzing,
    travelled traveled, cancelling canceling, dialogue dialog, defence defense, licence license, paediatric pediatric,
    anaesthetic anesthetic, oestrogen estrogen, diarrhoea diarrhea, catalogue catalog, tyres tires, cheque check,
    grey gray, programme program, judgement judgment, mould mold, sceptical skeptical, counsellor counselor,
    marvellous marvelous, kilogramme kilogram, jewellery jewelry, pyjamas pajamas, fulfil fulfill"""
    for pair in pairs.split(","):
        british, american = pair.split()
        assert one_way(british) == one_way(american), pair
    apart = (
        "four for our or hour your pour poor tour tore rise rice prise price ball bale called caled meter mete".split()
    )
    assert len({one_way(word) for word in apart}) == len(apart)
