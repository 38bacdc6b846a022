"""Spoken form: tables of what is written and what is said, and what holds for any text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.readers.sentences import Sentences
from pipeline.spoken import LANGUAGES, spoken, variants
from pipeline.spoken.lexicon import FOLDER, load
from pipeline.text import normalise

TABLES = Path(__file__).parent / "data" / "spoken"


def _cases(language):
    rows = (TABLES / f"{language}.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(row.split("\t")) for row in rows if row and not row.startswith("# ")]


CASES = [(language, *case) for language in LANGUAGES for case in _cases(language)]
PIECES = """0 1 2 5 10 21 24 007 1999 2026 15:30 7pm 7 pm a.m. $ € ₽ R$ £ % °C ° mg мг км/ч - – / . , : ; + ( ) № # @ & = ×
USB МРТ NASA Dr. St. е. т. и т.д. г. ул. Sr. n.º h BX-204-7 eth0 x example.com user@ http:// ½ ² ноября часов November de
XX I A B Я -й th º ª тыс. млн руб. caixas into ' " _ в с до к между 1/2 10.0.4.17 ... 1e5 1,5 1.5 1.000 ١٢""".split()
TEXTS = st.lists(st.one_of(st.sampled_from([*PIECES, "\n", "\t", "\u00a0"]), st.text(max_size=4)), max_size=12).flatmap(
    lambda pieces: st.sampled_from(["", " "]).map(lambda between: between.join(pieces))
)
TAGS = st.sampled_from(["en", "ru", "pt", "pt-BR", "en-GB", "de", "xx-garbage", "", None])


@pytest.mark.parametrize(("language", "written", "said"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_what_is_written_is_said(language, written, said):
    assert spoken(written, language) == said


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tables_are_long_enough(language):
    cases = _cases(language)
    assert len(cases) >= 60
    assert len({written for written, _ in cases}) == len(cases)


@pytest.mark.parametrize(("language", "written", "said"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_what_is_said_is_among_the_variants(language, written, said):
    found = variants(written, language)
    assert found[0] == normalise(written)
    assert normalise(said) in found


@settings(max_examples=400, deadline=None)
@given(TEXTS, TAGS)
def test_any_text_can_be_said_and_said_again(text, language):
    once = spoken(text, language)
    assert spoken(once, language) == once


@settings(max_examples=200, deadline=None)
@given(TEXTS, TAGS)
def test_variants_of_any_text_are_normalised_and_told_once(text, language):
    found = variants(text, language)
    assert len(set(found)) == len(found)
    assert all(form and form == form.strip() for form in found)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(LANGUAGES))
def test_no_digit_is_left(text, language):
    assert not any(c in "0123456789" for c in spoken(text, language))


@pytest.mark.parametrize("language", LANGUAGES)
def test_plain_sentences_stay_as_they_are(language):
    lines = (FOLDER / f"daily.{language}.txt").read_text(encoding="utf-8").splitlines()
    plain = [line for line in lines if line and not line.startswith("#") and not any(c.isdigit() for c in line)]
    assert len(plain) > 20
    assert [spoken(line, language) for line in plain] == plain


def test_unknown_languages_stay_as_they_are():
    for language in ("de", "zh", "xx", "", None):
        assert spoken("5 mg um 15:30", language) == "5 mg um 15:30"
        assert variants("5 mg", language) == ["5 mg"]


def test_regions_that_say_otherwise():
    assert spoken("16 km", "pt-BR") == "dezesseis quilômetros"
    assert spoken("16 km", "pt") == spoken("16 km", "pt-PT") == "dezasseis quilómetros"
    assert spoken("R$ 1,50 e $ 1,50", "pt-BR") == "um real e cinquenta centavos e um dólar e cinquenta centavos"
    assert spoken("on 05/04/2026", "en-GB") == "on the fifth of April, twenty twenty-six"
    assert spoken("on 05/04/2026", "en-US") == "on May fourth, twenty twenty-six"


def test_enormous_numbers_are_read_digit_by_digit():
    assert spoken("1" * 5000, "en").split() == ["one"] * 5000
    for language in LANGUAGES:
        assert "9" not in spoken("9" * 40 + " mg", language)
        assert "9" not in spoken("9." + "9" * 40, language)


def test_prosody_is_kept():
    assert spoken("Really?! At 7 pm... OK, then!", "en") == "Really?! At seven p.m... OK, then!"
    assert spoken("Wait 5 min. Then stop.", "en") == "Wait five minutes. Then stop."


@pytest.mark.parametrize(
    ("language", "written", "heard"),
    [
        ("en", "15:30", ["half past three", "three thirty pm", "three thirty", "fifteen thirty", "3 30 pm", "15 30"]),
        ("en", "7:45 am", ["quarter to eight", "seven forty-five am", "7 45"]),
        ("en", "7 pm", ["seven p m", "7pm", "seven o'clock in the evening"]),
        ("en", "24 November", ["november twenty-fourth", "november 24th", "24th of november", "24 november"]),
        ("en", "2026-11-24", ["november 24 2026", "twenty fourth of november"]),
        ("en", "5 mg", ["5mg", "5 milligrams", "five milligrams"]),
        ("en", "BX-204-7", ["bx2047", "bx 204 7", "b x two zero four seven", "b x two oh four seven", "bx204-7"]),
        ("en", "9503", ["ninety-five zero three", "ninety-five oh three", "nine five oh three"]),
        ("en", "Dr. Lee", ["dr lee", "doctor lee"]),
        ("en", "120", ["one hundred and twenty", "one hundred twenty", "a hundred and twenty"]),
        ("ru", "15:30", ["половина четвертого", "три тридцать", "пятнадцать часов тридцать минут", "15 30"]),
        ("ru", "15:45", ["без четверти четыре", "без пятнадцати четыре"]),
        ("ru", "24 ноября", ["двадцать четвертое ноября", "двадцать четвертому ноября", "24-го ноября"]),
        ("ru", "5 мг", ["5мг", "пяти миллиграммам", "5 миллиграммов"]),
        ("ru", "2", ["два", "две", "двум"]),
        ("ru", "BX-204-7", ["би икс двести четыре семь", "bx 204 7"]),
        ("pt", "15h30", ["três e meia", "quinze horas e trinta minutos", "quinze e meia", "15 30"]),
        ("pt", "15h45", ["um quarto para as quatro", "quinze para as quatro", "quatro menos um quarto"]),
        ("pt", "24/11/2026", ["24 de novembro", "vinte e quatro de novembro de 2026"]),
        ("pt", "2", ["dois", "duas"]),
        ("pt", "912 345 678", ["912345678", "nove um dois três quatro cinco seis sete oito"]),
    ],
)
def test_variants_hold_what_a_recogniser_could_write(language, written, heard):
    missing = set(heard) - set(variants(written, language))
    assert not missing


def test_variants_do_not_hear_another_value():
    assert "three" not in variants("3 pm", "en")
    assert not {"пять", "пяти"} & set(variants("5 мг", "ru"))
    assert not set(variants("15:30", "en")) & set(variants("15:45", "en"))
    assert not set(variants("BX-204-7", "en")) & set(variants("BX-204-8", "en"))


def test_lexicons_are_whole_and_no_sentences():
    read = Sentences(name="text", path=str(FOLDER))
    assert {u.recording.split(":")[0] for u in read.utterances()} == {
        f"text/daily.{language}" for language in LANGUAGES
    }
    for language in LANGUAGES:
        lexicon = load(language)
        for said in [*lexicon.words.values(), *lexicon.abbreviations.values(), *lexicon.symbols.values()]:
            assert spoken(said, language) == said
        counts = {"en": (2, 4), "pt": (3, 5), "ru": (4, 8)}[language]
        assert all(len(lexicon.forms(lexicon.units, unit)) in (counts[0], counts[0] + 1) for unit in lexicon.units)
        assert all(len(lexicon.forms(lexicon.currencies, name)) == counts[1] for name in lexicon.currencies)
