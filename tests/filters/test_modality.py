"""Replies that speak of a text are set aside, unless the speaker does."""

from __future__ import annotations

import pytest

from pipeline.filters.modality import Modality
from pipeline.tasks.transcription import Transcription
from tests.examples import asked, chosen, draft, make, untouched, verdict, written

SAID = {
    "en": "The old bridge is closed for repairs, so drivers should take the road along the river.",
    "ru": "В этом году зима пришла рано, и озеро за нашим домом уже покрылось льдом.",
    "pt": "O festival deste ano teve dezoito bandas e oitenta barracas de comida.",
}
GIVEN_AWAY = {
    "en": [
        "The text says that the bridge is closed.",
        "According to the passage, drivers should take the river road.",
        "In the given text, a bridge is closed for repairs.",
        "The transcript does not say when it opens again.",
        "Based on the transcription, the bridge is being repaired.",
        "The provided sentence is about a bridge.",
        "As you wrote, the bridge is closed.",
        "You've written that drivers should take another road.",
        "I can't listen to audio, but the bridge seems to be closed.",
        "I don't have the ability to hear the recording.",
        "As a text-based assistant I cannot see the bridge.",
        "The above paragraph describes a closed bridge.",
        "This excerpt is about road works.",
        "I cannot process audio files directly.",
        "It is said in the sentence that the bridge is closed.",
        "The author states that repairs are under way.",
        "I can't hear you, but it seems that the bridge is closed.",
        "This article describes how drivers can reach the town.",
    ],
    "ru": [
        "В тексте говорится о зиме и озере.",
        "Согласно тексту, озеро замёрзло.",
        "В этом отрывке рассказывается о ранней зиме.",
        "В данном предложении речь идёт об озере.",
        "Транскрипт не содержит такой информации.",
        "Судя по тексту, зима пришла рано.",
        "Из текста ясно, что озеро замёрзло.",
        "По расшифровке понятно, что наступила зима.",
        "Вы написали, что озеро покрылось льдом.",
        "Автор пишет, что зима пришла рано.",
        "Я не могу прослушать аудио, но озеро, видимо, замёрзло.",
        "Предоставленный текст описывает зиму.",
        "Текст сообщает о льде на озере.",
        "В этом предложении упоминается озеро.",
    ],
    "pt": [
        "O texto fala de um festival com dezoito bandas.",
        "Segundo o texto, houve oitenta barracas.",
        "No texto, são mencionadas dezoito bandas.",
        "A transcrição menciona um festival.",
        "Neste trecho, fala-se de comida.",
        "Nesta frase, contam-se as bandas.",
        "A frase descreve um festival.",
        "A passagem menciona oitenta barracas.",
        "Você escreveu que o festival teve dezoito bandas.",
        "Não consigo ouvir áudios, mas parece um festival.",
        "O artigo informa o número de bandas.",
        "De acordo com o que diz no parágrafo, foram dezoito.",
        "O trecho fornecido trata de um festival.",
    ],
}
NOT_GIVEN_AWAY = {
    "en": [
        "Thanks for telling me. I'd take the river road, then.",
        "Bring the original document and a photo to the office.",
        "With the passage of time, even bridges wear out.",
        "The judge read out the sentence and everybody was silent.",
        "Send her a text and ask which road she takes.",
        "The speaker says that the bridge is closed.",
        "You will need your academic transcript and two letters.",
        "I read an article about bridges once: they last a century.",
        "The recording mentions a road along the river.",
        "I can't hear enough of that song.",
        "The passage along the river is narrow, so drive slowly.",
        "Don't write while you are driving.",
        "It is closed for repairs; the text on the sign is small.",
    ],
    "ru": [
        "Спасибо, что предупредили. Оденусь теплее.",
        "В текстильной промышленности зима — время заказов.",
        "Учёные расшифровали геном рыбы из этого озера.",
        "В предложении магазина есть тёплые сапоги.",
        "Не выходите на лёд в отрыве от группы.",
        "Напишите мне, когда лёд станет крепким.",
        "Говорящий рассказывает, что озеро замёрзло.",
        "По вашему предложению поедем на озеро в субботу.",
        "В тексте песни поётся о зиме, а она и правда пришла рано.",
        "Я прочитал статью о ранних зимах.",
        "На записи говорят о зиме.",
        "Озеро за домом говорящего покрылось льдом.",
    ],
    "pt": [
        "Que festa! Qual das bandas foi a melhor?",
        "Compre a passagem com antecedência, porque o ônibus lota.",
        "O trecho da estrada até lá está em obras.",
        "Leve o artigo de limpeza que está na pia.",
        "A mesma frase se ouve em todo festival: nunca mais!",
        "Escreva para a organização e peça a lista das bandas.",
        "A pessoa conta que houve oitenta barracas de comida.",
        "Na gravação fala-se de um festival.",
        "Não consigo ouvir essa banda sem dançar.",
        "A passagem de som começa às cinco.",
        "Quem fala diz que o festival teve dezoito bandas.",
        "Mande uma mensagem e combine o ponto de encontro.",
    ],
}


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, found in GIVEN_AWAY.items() for r in found])
def test_given_away(language: str, reply: str) -> None:
    assert verdict(Modality(), written(SAID[language], reply, language)) == "mentions_transcript"


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, found in NOT_GIVEN_AWAY.items() for r in found])
def test_not_given_away(language: str, reply: str) -> None:
    assert verdict(Modality(), written(SAID[language], reply, language)) is None


@pytest.mark.parametrize(
    ("language", "transcript", "reply"),
    [
        ("en", "Send a text to my boss that I am late.", "Sure, what should the text say?"),
        ("en", "Could you read this passage to me?", "Of course. In the passage, the king meets a fox."),
        ("en", "I wrote a poem about the sea.", "How lovely that you wrote it yourself!"),
        ("en", "I have just written my first novel.", "What is the story that you wrote about?"),
        ("en", "Can you transcribe this interview?", "Yes, the transcript will be ready soon."),
        ("en", "The last sentence of the book made me cry.", "What does the sentence say?"),
        ("ru", "Прочитай мне этот текст вслух.", "Хорошо, в тексте три абзаца, начинаю."),
        ("ru", "Я написала сказку про ёжика.", "Вы написали её сами? Прекрасно!"),
        ("ru", "В последнем предложении сказки ёжик засыпает.", "В этом предложении вся суть!"),
        ("pt", "Preciso revisar este texto até amanhã.", "O texto fala de quê?"),
        ("pt", "Essa frase não sai da minha cabeça.", "O que a frase diz?"),
        ("pt", "Escrevi uma carta para o prefeito.", "Você escreveu sobre a ponte?"),
    ],
)
def test_the_speaker_speaks_of_it(language: str, transcript: str, reply: str) -> None:
    assert verdict(Modality(), written(transcript, reply, language)) is None


def test_another_noun_than_the_speakers_gives_it_away() -> None:
    sample = written("I have to sign this document tomorrow.", "The transcript does not say why.")
    assert verdict(Modality(), sample) == "mentions_transcript"


@pytest.mark.parametrize(
    ("transcript", "language", "reply", "into"),
    [
        ("Прочитай, пожалуйста, этот текст.", "ru", "Please read what the text says.", "en"),
        ("В этом предложении есть ошибка.", "ru", "There is a mistake in this sentence.", "en"),
        ("Você escreveu isso?", "pt", "You wrote that?", "en"),
        ("The article says that it will snow.", "en", "O artigo diz que vai nevar.", "pt"),
        ("I can't hear you, the music is too loud.", "en", "Não consigo ouvir, a música está muito alta.", "pt"),
        ("Я ничего не слышу!", "ru", "I can't hear!", "en"),
    ],
)
def test_a_translation(transcript: str, language: str, reply: str, into: str) -> None:
    assert verdict(Modality(), written(transcript, reply, language, task="translation", into=into)) is None


def test_a_translator_who_talks_about_it() -> None:
    sample = written(SAID["ru"], "The provided text means: winter came early.", "ru", task="translation", into="en")
    assert verdict(Modality(), sample) == "mentions_transcript"


@pytest.mark.parametrize(
    ("language", "transcript", "reply"),
    [
        ("en", "He called me from the stadium.", "I can't hear you, I shouted, the band is too loud!"),
        ("en", "My teacher gave the essay back to me.", "There were red marks in the text and on the cover."),
        ("ru", "Опять эта песня по радио.", "Я не могу слушать, выключи её, пожалуйста."),
        ("pt", "O barulho da obra recomeçou às sete.", "Não consigo ouvir, e a reunião já começou."),
    ],
)
def test_a_continuation_is_in_the_speakers_words(language: str, transcript: str, reply: str) -> None:
    assert verdict(Modality(), written(transcript, reply, language, task="continuation")) is None


def test_a_continuation_that_talks_about_it() -> None:
    sample = written(SAID["en"], "The text continues with the story of the bridge.", task="continuation")
    assert verdict(Modality(), sample) == "mentions_transcript"


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("What does the text say about the bridge?", "mentions_transcript"),
        ("What is mentioned in the passage?", "mentions_transcript"),
        ("What does the speaker say about the bridge?", None),
        ("What is said about the road in the recording?", None),
    ],
)
def test_questions(question: str, reason: str | None) -> None:
    evidence = "The old bridge is closed for repairs"
    assert verdict(Modality(), asked(SAID["en"], question, "It is closed.", evidence)) == reason
    wrong = ["It is new.", "It is too low.", "It was sold."]
    assert verdict(Modality(), chosen(SAID["en"], question, "It is closed.", wrong, evidence)) == reason


def test_questions_in_another_language_than_the_speech() -> None:
    question, answer = "What is said about the text?", "The text is long."
    of_a_text = asked(
        "Этот текст слишком длинный для урока.", question, answer, "Этот текст слишком длинный", "ru", into="en"
    )
    assert verdict(Modality(), of_a_text) is None
    of_a_lake = asked(
        SAID["ru"], "What does the text say?", "That winter came early.", "зима пришла рано", "ru", into="en"
    )
    assert verdict(Modality(), of_a_lake) == "mentions_transcript"


def test_only_what_an_llm_wrote_is_judged() -> None:
    assert untouched(Modality(), [make(Transcription(), draft("The text says that you wrote the transcript."))])


def test_what_is_rejected_is_not_judged_again() -> None:
    assert untouched(Modality(), [written(SAID["en"], "The text says it.").reject("reply_refused")])
