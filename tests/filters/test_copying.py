"""Responses that are the transcript once more are set aside; those that take up a few words are not."""

from __future__ import annotations

import random

import pytest

from pipeline.filters.copying import Copying
from pipeline.tasks.repeat import Repeat
from tests.examples import LANGUAGES, asked, chosen, draft, make, sentences, untouched, verdict, written

EVERY = [(language, sentence) for language in LANGUAGES for sentence in sentences(language)]


def test_every_sentence_is_known_again() -> None:
    for language, sentence in EVERY:
        assert verdict(Copying(), written(sentence, sentence, language)) == "copies_transcript", sentence
        shouted = f"«{sentence.upper()}»"
        assert verdict(Copying(), written(sentence, shouted, language)) == "copies_transcript", sentence


def test_no_sentence_copies_another() -> None:
    """Nor all others of its language together: a long text has most words somewhere."""
    for language in LANGUAGES:
        found = sentences(language)
        for place, sentence in enumerate(found):
            others = found[:place] + found[place + 1 :]
            assert verdict(Copying(), written(sentence, " ".join(others), language)) is None, sentence
            assert verdict(Copying(), written(sentence, others[0], language)) is None, sentence


COPIES = {
    "en": (
        "Is it safe to eat rice that has been in the fridge for three days?",
        [
            "Is it safe to eat rice that has been in the fridge for three days",
            "You asked: is it safe to eat rice that has been in the fridge for three days? Yes.",
            "Is it safe to eat rice which has been in the fridge for three days?",
            "IS IT SAFE TO EAT RICE THAT HAS BEEN IN THE FRIDGE FOR THREE DAYS",
            "is it safe -- to eat rice -- that has been in the fridge, for three days...",
            "Is it safe to eat rice that's been in the fridge? Is it safe to eat rice that has been in the fridge for three days?",
            "Okay. Is it safe to eat rice that has been in the fridge for four days?",
            "It safe to eat rice that has been in the fridge for three days!",
            "Is it really safe to eat rice that has been in the fridge for three days?",
            "Is it safe, to eat rice that has been in the fridge for three days?",
            "Hm, is it safe to eat rice that has been in the fridge for three",
            "Is it safe to eat rice that has been in the fridge for three long days?",
        ],
        [
            "Yes, if it was cooled down quickly and smells fine.",
            "Is that safe? Better not.",
            "Rice keeps for about one day; after three days I would throw it away.",
            "Three days is too long for cooked rice, even in the fridge.",
            "It is safe for a day or two.",
            "Is it brown rice? That goes off sooner.",
            "Eat rice on the day that you cook it, or freeze it for later.",
            "No. Bacteria grow in rice that has been left warm, even before it is put in the fridge.",
            "That depends on how fast it was cooled.",
            "In the fridge, rice is fine for a day, but three days is a risk that I would not take to save a bowl.",
            "Is",
            "Safe to eat? For three days in the fridge, hardly; it has been in there for too long.",
        ],
    ),
    "ru": (
        "Почему на закате небо становится красным, хотя днём оно голубое?",
        [
            "Почему на закате небо становится красным, хотя днём оно голубое?",
            "почему на закате небо становится красным хотя днем оно голубое",
            "Вы спросили, почему на закате небо становится красным, хотя днём оно голубое.",
            "А почему на закате небо становится красным, хотя днём оно голубое?",
            "Почему на закате небо становится красным, хотя днём оно",
            "ПОЧЕМУ НА ЗАКАТЕ НЕБО СТАНОВИТСЯ КРАСНЫМ, ХОТЯ ДНЁМ ОНО ГОЛУБОЕ",
            "На закате небо становится красным, хотя днём оно голубое.",
            "Интересно, почему на закате небо становится красным, хотя днём оно голубое!",
            "Хороший вопрос. Почему на закате небо становится красным, хотя днём оно голубое? Из-за воздуха.",
            "Почему на закате небо становится таким красным, хотя днём оно голубое?",
            "«Почему на закате небо становится красным, хотя днём оно голубое?» — так звучит вопрос.",
            "Почему, на закате, небо становится красным, хотя днём оно голубое...",
        ],
        [
            "Потому что свет проходит через более толстый слой воздуха.",
            "Почему? Из-за рассеяния света.",
            "На закате лучи идут наклонно, и голубой свет рассеивается.",
            "Небо становится красным, потому что солнце стоит низко.",
            "Днём небо голубое, а на закате красное: так рассеивается свет.",
            "Красным его делает пыль в воздухе.",
            "Хотя кажется, что дело в солнце, дело в воздухе.",
            "Днём путь света короче, поэтому до нас доходит больше голубого.",
            "Оно голубое из-за коротких волн, а красным становится из-за длинных.",
            "Это вопрос из физики.",
            "Голубое",
            "Становится, да, и ещё каким: на севере закат длится часами, небо долго остаётся алым.",
        ],
    ),
    "pt": (
        "Por que os gatos dormem tanto durante o dia e correm pela casa de madrugada?",
        [
            "Por que os gatos dormem tanto durante o dia e correm pela casa de madrugada?",
            "por que os gatos dormem tanto durante o dia e correm pela casa de madrugada",
            "Você perguntou por que os gatos dormem tanto durante o dia e correm pela casa de madrugada.",
            "Por que os gatos dormem tanto durante o dia e correm pela casa à noite de madrugada?",
            "Os gatos, por que os gatos dormem tanto durante o dia e correm pela casa de madrugada?",
            "POR QUE OS GATOS DORMEM TANTO DURANTE O DIA E CORREM PELA CASA DE MADRUGADA",
            "Sim: por que os gatos dormem tanto durante o dia e correm pela casa de madrugada? Boa pergunta.",
            "Por que os gatos dormem tanto durante o dia, e correm pela casa de",
            "Por que os gatos dormem tanto durante o dia e correm pela casa toda de madrugada?",
            "“Por que os gatos dormem tanto durante o dia e correm pela casa de madrugada?”",
            "E por que os gatos dormem tanto durante o dia e correm pela casa de madrugada, hein?",
            "Por que os cães dormem tanto durante o dia e correm pela casa de madrugada?",
        ],
        [
            "Porque são caçadores do crepúsculo e guardam energia.",
            "Os gatos dormem até dezesseis horas por dia.",
            "Brinque com ele antes de dormir.",
            "Por que não? É da natureza deles.",
            "Durante o dia eles descansam e de madrugada caçam.",
            "Correm porque têm energia de sobra.",
            "A casa fica quieta de madrugada, e eles aproveitam.",
            "Tanto os gatos jovens quanto os velhos dormem muito.",
            "De dia dormem, de noite brincam.",
            "Isso muda com a idade.",
            "Gatos",
            "O que ajuda é um brinquedo à noite, comida tarde e, durante o dia, companhia pela casa.",
        ],
    ),
}


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, (_, found, _) in COPIES.items() for r in found])
def test_a_copy(language: str, reply: str) -> None:
    assert verdict(Copying(), written(COPIES[language][0], reply, language)) == "copies_transcript"


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, (_, _, found) in COPIES.items() for r in found])
def test_no_copy(language: str, reply: str) -> None:
    assert verdict(Copying(), written(COPIES[language][0], reply, language)) is None


def test_a_continuation_may_begin_with_a_word_of_the_transcript() -> None:
    said = "He hoped there would be stew for dinner"
    assert verdict(Copying(), written(said, "dinner with turnips and carrots", task="continuation")) is None
    assert verdict(Copying(), written(said, "for dinner, and bread with it.", task="continuation")) is None
    assert verdict(Copying(), written(said, f"{said}, and bread.", task="continuation")) == "copies_transcript"


@pytest.mark.parametrize(("count", "reason"), [(5, None), (6, "copies_transcript")])
def test_short_transcripts_may_come_up(count: int, reason: str | None) -> None:
    said = " ".join("turn left at the big bank".split()[:count])
    assert verdict(Copying(), written(said, f"Yes, {said} and go on.")) == reason
    assert verdict(Copying(fewest_words=5), written(said, f"Yes, {said} and go on.")) == "copies_transcript"


@pytest.mark.parametrize(("kept", "reason"), [(18, "copies_transcript"), (17, None)])
def test_the_share(kept: int, reason: str | None) -> None:
    said = [f"word{n}" for n in range(20)]
    assert verdict(Copying(), written(" ".join(said), " ".join(said[:kept]))) == reason
    assert verdict(Copying(share=0.85), written(" ".join(said), " ".join(said[:17]))) == "copies_transcript"


def test_words_scattered_over_a_long_answer_are_no_copy() -> None:
    said = "what do you think about this one".split()
    rng = random.Random(3)
    filler = "the a some people often say that it could be good or bad if we look at how things are".split()
    long = " ".join(f"{word} {' '.join(rng.sample(filler, 9))}" for word in said)
    assert verdict(Copying(), written(" ".join(said), long)) is None


@pytest.mark.parametrize(
    ("language", "said", "reply", "reason"),
    [
        ("zh", "请提醒我明天早上八点去机场接我的姐姐。", "请提醒我明天早上八点去机场接我的姐姐", "copies_transcript"),
        ("zh", "请提醒我明天早上八点去机场接我的姐姐。", "好的，明天早上八点我会提醒您去机场。", None),
        (
            "ja",
            "明日の朝八時に母に電話するように言ってください。",
            "明日の朝、八時に母に電話するように言ってください！",
            "copies_transcript",
        ),
        ("ja", "明日の朝八時に母に電話するように言ってください。", "わかりました。八時にお知らせします。", None),
        ("ja", "おはようございます。", "おはようございます。今日もいい天気ですね。", None),  # nine characters are few
        ("zh", "今天天气真好啊", "今天天气真好啊，我们出去走走吧。", None),
        ("th", "พรุ่งนี้ฝนจะตกไหม", "พรุ่งนี้ฝนจะตกไหม", "copies_transcript"),
    ],
)
def test_languages_without_spaces(language: str, said: str, reply: str, reason: str | None) -> None:
    assert verdict(Copying(), written(said, reply, language)) == reason


def test_hindi() -> None:
    said = "कृपया मुझे कल सुबह आठ बजे जगा देना"
    assert verdict(Copying(), written(said, said, "hi")) == "copies_transcript"
    assert verdict(Copying(), written(said, "ठीक है, मैं आपको कल सुबह जगा दूँगा", "hi")) is None


def test_a_summary_that_is_no_shorter() -> None:
    said = sentences("en")[3]
    assert verdict(Copying(), written(said, said, task="summary")) == "copies_transcript"
    assert verdict(Copying(), written(said, "The speaker's grandmother kept bees.", task="summary")) is None


def test_a_translation_that_is_none() -> None:
    said = sentences("ru")[3]
    assert verdict(Copying(), written(said, said, "ru", task="translation", into="en")) == "copies_transcript"
    right = "Why do leaves change colour and fall in autumn?"
    assert verdict(Copying(), written(said, right, "ru", task="translation", into="en")) is None


def test_questions() -> None:
    said = sentences("en")[8]
    evidence = "How far away is the moon"
    wrong = ["How big it is", "How old it is", "How hot it is"]
    assert verdict(Copying(), asked(said, "What is asked about?", "The moon.", evidence)) is None
    assert verdict(Copying(), asked(said, said, "The moon.", evidence)) == "copies_transcript"
    assert verdict(Copying(), asked(said, "What is said?", said, evidence)) == "copies_transcript"
    assert verdict(Copying(), chosen(said, "What is asked?", "How far the moon is", wrong, evidence)) is None
    assert verdict(Copying(), chosen(said, said, "How far the moon is", wrong, evidence)) == "copies_transcript"
    assert verdict(Copying(), chosen(said, "What is said?", said, wrong, evidence)) == "copies_transcript"


def test_only_what_an_llm_wrote_is_judged() -> None:
    assert untouched(Copying(), [make(Repeat(), draft(sentences("en")[0]), seed=n) for n in range(9)])


def test_what_is_rejected_is_not_judged_again() -> None:
    said = sentences("en")[0]
    assert untouched(Copying(), [written(said, said).reject("reply_refused")])
