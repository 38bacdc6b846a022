"""Replies that decline are set aside; replies that are only sorry are not."""

from __future__ import annotations

import pytest

from pipeline.filters.refusal import Refusal
from pipeline.tasks.transcription import Transcription
from tests.examples import draft, make, untouched, verdict, written

QUESTION = {
    "en": "Could you tell me whether I will need an umbrella tomorrow afternoon?",
    "ru": "Какая погода ожидается завтра утром и стоит ли брать с собой зонт?",
    "pt": "Será que vai chover hoje à tarde ou posso estender a roupa no quintal?",
}
DECLINED = {
    "en": [
        "As an AI language model, I don't have favourite foods.",
        "I'm just an AI, so I have never been to the sea.",
        "I am a large language model and cannot look out of the window.",
        "I'm sorry, but I can't assist with that.",
        "I’m sorry, but I can’t help with that request.",
        "Sorry, I cannot set timers or reminders.",
        "I am unable to provide medical advice; please see a doctor.",
        "I'm not able to check the weather for you.",
        "I don't have access to your calendar, so I can't tell.",
        "I cannot fulfil this request.",
        "I cannot fulfill this request.",
        "I apologize, but I am unable to do that.",
        "I won't engage in that conversation.",
        "Unfortunately, I can't look up tomorrow's forecast.",
        "Thanks for asking! I can't play music, but I can hum the title.",
        "I do not have enough information to say.",
    ],
    "ru": [
        "Извините, но я не могу помочь с этой просьбой.",
        "К сожалению, я не могу проверить погоду в реальном времени.",
        "Как ИИ, я не испытываю эмоций.",
        "Как языковая модель, я не ем борщ.",
        "Я — языковая модель и не выхожу на улицу.",
        "Я всего лишь искусственный интеллект, у меня нет бабушки.",
        "Я просто языковая модель, но попробую.",
        "Я являюсь языковой моделью и не имею личного мнения.",
        "Простите, я не в состоянии выполнить это.",
        "Я не могу ответить на этот вопрос.",
        "У меня нет доступа к вашему календарю.",
        "К сожалению, у меня нет возможности ставить таймеры.",
        "Прошу прощения, но я не умею включать музыку.",
        "Я не могу предоставить медицинскую консультацию.",
        "Будучи искусственным интеллектом, я не сплю.",
    ],
    "pt": [
        "Desculpe, mas não posso ajudar com isso.",
        "Sinto muito, não consigo tocar músicas.",
        "Como uma inteligência artificial, não tenho avó.",
        "Como IA, não sinto frio.",
        "Como uma IA, eu não durmo.",
        "Sou apenas um modelo de linguagem.",
        "Eu sou uma inteligência artificial e não como bolo.",
        "Lamento, mas não tenho acesso ao seu calendário.",
        "Não posso fornecer conselhos médicos.",
        "Infelizmente, não consigo verificar a previsão do tempo.",
        "Não tenho acesso a informações em tempo real.",
        "Desculpa, não posso continuar com esse assunto.",
        "Como assistente virtual, prefiro não opinar.",
        "Não consigo responder a essa pergunta.",
        "Como modelo de linguagem, não tenho opinião.",
    ],
}
ANSWERED = {
    "en": [
        "I'm sorry to hear that you can't sleep. A warm bath may help.",
        "Sorry to hear that. Your team will surely win the next one.",
        "You can't go wrong with a plain omelette.",
        "No, I can't imagine anything better than honey on warm bread.",
        "I can't help smiling when I hear about your cat.",
        "As an aid to memory, tie a knot in your handkerchief.",
        "As an airport, it is small, but it has a good café.",
        "An AI can translate it, but a native speaker is better.",
        "That must be annoying; nobody can help how loud a puppy is.",
        "He apologised to her, and they cannot be parted since.",
        "You won't need an umbrella: the afternoon stays dry.",
        "Sadly the library can't lend it out, so read it there.",
        "Unfortunately, eggs that have been out for a week are not safe.",
        "Ask your boss whether she is able to help with the visa.",
    ],
    "ru": [
        "Мне жаль, что вы не можете уснуть. Выпейте тёплого чая.",
        "Жаль, что не получается уснуть, попробуйте почитать.",
        "К сожалению, врачи не могут назначить это без анализов.",
        "К сожалению, такие телефоны не имеют сменной батареи.",
        "К сожалению, щенки не умеют сидеть тихо.",
        "Он не может помочь бабушке до пятницы.",
        "Говорящий извиняется, потому что не может прийти.",
        "Как ищут янтарь? Обычно после шторма, прямо на берегу.",
        "Как языковая школа она хороша, а цены разумные.",
        "У меня нет сомнений, что всё получится!",
        "Без духовки его не испечь, но можно взять сковороду.",
        "Простите их: они не знали, что вы спите.",
        "Я бы взял зонт: утром обещают дождь.",
    ],
    "pt": [
        "Sinto muito que você não consiga dormir; tente um chá.",
        "Que pena! Se não consegue dormir, leia um pouco.",
        "Como ia dizendo o seu avô, o melhor é esperar a chuva passar.",
        "Ela não pode ajudar a avó antes de sexta-feira.",
        "Infelizmente, o tomate não tem época o ano todo.",
        "Desculpas sinceras costumam bastar: diga que sente falta dela.",
        "Não posso concordar mais: viajar de trem é uma delícia!",
        "A pessoa pede desculpas porque não pode ir à festa.",
        "Pode estender a roupa: não vai chover hoje.",
        "Não tenho dúvida de que você vai conseguir!",
        "A inteligência artificial ajuda, mas o treino é seu.",
        "Lamento pela sua planta; regue menos.",
    ],
}


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, found in DECLINED.items() for r in found])
def test_declined(language: str, reply: str) -> None:
    assert verdict(Refusal(), written(QUESTION[language], reply, language)) == "reply_refused"


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, found in ANSWERED.items() for r in found])
def test_answered(language: str, reply: str) -> None:
    assert verdict(Refusal(), written(QUESTION[language], reply, language)) is None


@pytest.mark.parametrize(
    ("language", "transcript", "reply"),
    [
        ("en", "My cousin gets married on Saturday.", "I'm sorry I can't be there, but my sister brings the cake."),
        ("en", "He rang me twice while I was on the motorway.", "I can't answer the phone when I drive, so I let it."),
        ("en", "I have worked without a day off since May.", "I can't continue like this, I need a holiday."),
        ("ru", "Мы хотели поехать на море всей семьёй.", "К сожалению, я не могу взять отпуск раньше августа."),
        ("ru", "Алло, это вы насчёт велосипеда?", "Извините, я не могу сейчас говорить, перезвоню вечером."),
        ("pt", "Alô, é você que vende a bicicleta?", "Desculpe, não posso falar agora, estou dirigindo."),
        ("pt", "Já é a terceira vez que o elevador para.", "Não posso continuar assim, vou pela escada."),
    ],
)
def test_the_speaker_may_be_unable(language: str, transcript: str, reply: str) -> None:
    """A continuation is in the speaker's words."""
    assert verdict(Refusal(), written(transcript, reply, language, task="continuation")) is None


@pytest.mark.parametrize(
    ("language", "reply"),
    [
        ("en", "I'm sorry, but I can't continue this text."),
        ("en", "I cannot help with that."),
        ("en", "As an AI, I would rather not."),
        ("ru", "Извините, я не могу продолжить этот текст."),
        ("ru", "Я не могу помочь с этим запросом."),
        ("pt", "Desculpe, não posso ajudar com isso."),
        ("pt", "Não consigo continuar este texto."),
    ],
)
@pytest.mark.parametrize("task", ["continuation", "translation"])
def test_the_work_is_declined(task: str, language: str, reply: str) -> None:
    other = {"en": "ru", "ru": "pt", "pt": "en"}[language]
    transcript = QUESTION[other if task == "translation" else language]
    sample = written(transcript, reply, other if task == "translation" else language, task=task, into=language)
    assert verdict(Refusal(), sample) == "reply_refused"


@pytest.mark.parametrize(
    ("transcript", "language", "reply", "into"),
    [
        ("Извините, я не могу вам с этим помочь.", "ru", "I'm sorry, I can't help you with that.", "en"),
        ("Извините, но я завтра не приду.", "ru", "I'm sorry, but I can't come tomorrow.", "en"),
        ("Desculpe, não posso ajudar com isso agora.", "pt", "Sorry, I can't help with that right now.", "en"),
        ("I'm sorry, I can't continue with this project.", "en", "Извините, я не могу продолжить этот проект.", "ru"),
        ("I'm afraid I can't do Monday.", "en", "Desculpe, mas não posso na segunda-feira.", "pt"),
        ("Sorry you can't sleep.", "en", "Tut mir leid, dass du nicht schlafen kannst.", "de"),
        ("Sorry, I can't come.", "en", "Désolé, je ne peux pas venir.", "fr"),
        ("Sorry, I can't come.", "en", "Lo siento, no puedo ir.", "es"),
    ],
)
def test_a_translation_of_regrets(transcript: str, language: str, reply: str, into: str) -> None:
    assert verdict(Refusal(), written(transcript, reply, language, task="translation", into=into)) is None


@pytest.mark.parametrize(
    ("reply", "language"),
    [
        ("Lo siento, pero no puedo ayudar con eso.", "es"),
        ("Como modelo de lenguaje, no tengo opiniones.", "es"),
        ("Désolé, mais je ne peux pas répondre à cette question.", "fr"),
        ("En tant qu'IA, je ne mange pas.", "fr"),
        ("Es tut mir leid, aber dabei kann ich leider nicht helfen.", "de"),
        ("Als KI habe ich keine Großmutter.", "de"),
    ],
)
def test_other_languages(reply: str, language: str) -> None:
    assert verdict(Refusal(), written("Hallo, hola, salut.", reply, language)) == "reply_refused"


def test_it_is_looked_for_at_the_beginning() -> None:
    long = "The weather will be fine and warm, with a little wind from the west in the late afternoon. " * 5
    assert verdict(Refusal(), written(QUESTION["en"], long + "I cannot help with that.")) is None
    assert verdict(Refusal(), written(QUESTION["en"], long[:300] + ". I cannot help with that.")) == "reply_refused"


def test_only_what_an_llm_wrote_is_judged() -> None:
    computed = make(Transcription(), draft("I'm sorry, I can't help you with that."))
    assert untouched(Refusal(), [computed])


def test_what_is_rejected_is_not_judged_again() -> None:
    sample = written(QUESTION["en"], "I'm sorry, but I can't assist with that.").reject("reply_too_long")
    assert untouched(Refusal(), [sample])
