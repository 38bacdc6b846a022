"""The words that an answer rests on must be said, and the answer must be one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pipeline.filters.answerable import Answerable
from pipeline.tasks.transcription import Transcription
from tests.examples import asked, chosen, draft, make, sentences, untouched, verdict, written

SAID = {
    "en": "The mountain hut lies at one thousand nine hundred and fifty metres, just above the forest.",
    "ru": "Рабочие обещали закончить ремонт к пятнице, но пока не поклеили даже обои в прихожей.",
    "pt": "Estou nervosa porque amanhã apresento o meu projeto para a diretoria.",
    "zh": "请提醒我明天早上八点去机场接我的姐姐。",
}


@pytest.mark.parametrize(
    ("language", "evidence"),
    [
        ("en", "just above the forest"),
        ("en", "Just above the forest."),
        ("en", "THE MOUNTAIN HUT"),
        ("en", "“The mountain hut” lies"),
        ("en", "The mountain hut ... just above the forest"),
        ("en", "The mountain hut […] above the forest"),
        ("en", "the mountain hut… the forest…"),
        ("en", SAID["en"]),
        ("ru", "закончить ремонт к пятнице"),
        ("ru", "Не поклеили даже обои"),
        ("ru", "рабочие обещали... обои в прихожей"),
        ("pt", "amanhã apresento o meu projeto"),
        ("pt", "AMANHÃ APRESENTO"),
        ("pt", "Estou nervosa… para a diretoria."),
        ("zh", "明天早上八点"),
        ("zh", "明天 早上 八点"),
        ("zh", "提醒我……接我的姐姐。"),
    ],
)
def test_evidence_that_is_said(language: str, evidence: str) -> None:
    sample = asked(SAID[language], "Why?", "Answer.", evidence, language)
    assert verdict(Answerable(), sample) is None


@pytest.mark.parametrize(
    ("language", "evidence"),
    [
        ("en", "just below the forest"),
        ("en", "above the forest just"),
        ("en", "The hut lies at 1950 metres"),
        ("en", "mount"),
        ("en", "The mountain hut ... beside the lake"),
        ("en", "..."),
        ("en", "—"),
        ("ru", "к субботе"),
        ("ru", "поклеили обои"),
        ("ru", "The workers promised"),
        ("pt", "depois de amanhã"),
        ("pt", "apresento meu projeto"),
        ("zh", "明天早上九点"),
        ("zh", "接我的哥哥"),
    ],
)
def test_evidence_that_is_not_said(language: str, evidence: str) -> None:
    sample = replace(asked(SAID[language], "Why?", "Answer.", "Evidence.", language), evidence=evidence)
    assert verdict(Answerable(), sample) == "not_answerable"


@pytest.mark.parametrize(
    ("transcript", "evidence"),
    [
        ("Set a timer for twenty-five minutes, please.", "twenty\u2011five minutes"),  # a non-breaking hyphen
        ("I don't know", "I don’t know"),
        ("Принеси ещё чаю, пожалуйста", "еще чаю"),
        ("O cafe\u0301 esta\u0301 pronto", "café está"),  # composed and not
    ],
)
def test_how_it_is_typed_does_not_matter(transcript: str, evidence: str) -> None:
    assert verdict(Answerable(), asked(transcript, "Why?", "Answer.", evidence)) is None


def test_each_real_sentence_is_evidence_for_itself() -> None:
    for language in ("en", "ru", "pt"):
        for sentence in sentences(language):
            half = " ".join(sentence.split()[: len(sentence.split()) // 2])
            assert verdict(Answerable(), asked(sentence, "Why?", sentence, half, language)) is None, sentence


NO_ANSWERS = {
    "en": [
        "The speaker does not say when.",
        "It is not mentioned.",
        "Not mentioned.",
        "This is not specified in the recording.",
        "The recording doesn't mention a lake.",
        "Unknown.",
        "It cannot be determined.",
        "No information is given.",
        "That is not stated.",
        "The altitude is not given by the speaker.",
        "She didn't specify the day.",
        "The reason is not clear from the audio.",
    ],
    "ru": [
        "Не указано.",
        "Об этом не говорится.",
        "Это не упоминается.",
        "Говорящий не уточняет этого.",
        "Неизвестно.",
        "В аудио этого не сказано.",
        "На записи об этом не говорится.",
        "Это неизвестно.",
        "Не сообщается.",
        "Говорящая об этом не упоминает.",
        "Не упомянуто.",
        "В записи не указано, к какому сроку.",
    ],
    "pt": [
        "Não é mencionado.",
        "Não foi informado.",
        "Isso não é dito.",
        "A pessoa não diz.",
        "Quem fala não menciona o dia.",
        "Desconhecido.",
        "Não se sabe.",
        "A gravação não informa o motivo.",
        "Ele não especifica.",
        "Não está claro.",
        "O falante não explica.",
        "Não especificado.",
    ],
}
ANSWERS = {
    "en": [
        "She says nothing to her boss.",
        "An unknown composer wrote it.",
        "He did not say goodbye.",
        "Nobody knows who built it.",
        "The water is not clear enough to swim.",
        "He was not given a seat.",
        "To a well-known hut above the forest.",
        "She was not told about the party.",
        "It is not far: just above the forest.",
        "No, he does not like chess.",
        "The sky was not clear.",
        "They found an unknown bird.",
    ],
    "ru": [
        "Неизвестный художник.",
        "Он не сказал ни слова соседям.",
        "Не поклеили обои.",
        "Не в субботу, а в пятницу.",
        "К известному врачу.",
        "Рабочие не уложились в срок.",
        "Она не указала соседу на ошибку.",
        "Нет, ремонт ещё не закончен.",
        "Он не говорит по-немецки.",
        "Не обои, а плитку.",
        "Сообщение от брата.",
        "Никто не знает дороги.",
    ],
    "pt": [
        "Não, ela não gosta de xadrez.",
        "Um autor desconhecido.",
        "Não disse nada ao chefe.",
        "A água não estava clara.",
        "Não é amanhã, é na sexta-feira.",
        "Ele não fala alemão.",
        "Que não aguenta mais reuniões.",
        "Não foi de trem.",
        "Para a diretoria.",
        "A um lugar desconhecido.",
        "Não sabe nadar.",
        "Porque não dormiu.",
    ],
}


@pytest.mark.parametrize(("language", "answer"), [(lang, a) for lang, found in NO_ANSWERS.items() for a in found])
def test_no_answer(language: str, answer: str) -> None:
    evidence = " ".join(SAID[language].split()[:3])
    assert verdict(Answerable(), asked(SAID[language], "Why?", answer, evidence, language)) == "not_answerable"


@pytest.mark.parametrize(("language", "answer"), [(lang, a) for lang, found in ANSWERS.items() for a in found])
def test_an_answer(language: str, answer: str) -> None:
    evidence = " ".join(SAID[language].split()[:3])
    assert verdict(Answerable(), asked(SAID[language], "Why?", answer, evidence, language)) is None


def test_the_speaker_may_say_that_something_is_not_said() -> None:
    said = "It is not mentioned in the contract, so ask the landlord."
    assert verdict(Answerable(), asked(said, "Where is it mentioned?", "It is not mentioned.", said)) is None


@pytest.mark.parametrize(
    ("correct", "reason"),
    [("At 1,950 metres", None), ("It is not mentioned", "not_answerable"), ("Unknown", "not_answerable")],
)
def test_the_right_option(correct: str, reason: str | None) -> None:
    wrong = ["At 500 metres", "Not stated", "At 3,000 metres"]
    for question in ("How high is the hut?", "Where is the hut?"):
        sample = chosen(SAID["en"], question, correct, wrong, "the mountain hut lies")
        assert verdict(Answerable(), sample) == reason


def test_only_what_names_its_evidence_is_judged() -> None:
    computed = make(Transcription(), draft("It is not mentioned."))
    assert untouched(Answerable(), [computed, written(SAID["en"], "It is not mentioned.")])


def test_what_is_rejected_is_not_judged_again() -> None:
    assert untouched(Answerable(), [asked(SAID["en"], "Why?", "Unknown.", "nothing").reject("reply_refused")])
