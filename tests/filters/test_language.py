"""Responses in another language are set aside; foreign names and words in the right one are not."""

from __future__ import annotations

import pytest

from pipeline.filters.language import Language
from pipeline.tasks.transcription import Transcription
from tests.examples import LANGUAGES, asked, chosen, draft, make, sentences, untouched, verdict, written

RIGHT = {
    "en": [
        "Ivan Ivanovich Ivanov lives on Nevsky Prospekt in Saint Petersburg.",
        "Andrei Tarkovsky, Mikhail Bulgakov and Sergei Prokofiev were all born in Russia.",
        "The word «хлеб» means bread, and you say it with a soft end.",
        "Café au lait and croissants for breakfast, please.",
        "Yes.",
        "OK!",
        "No.",
        "In 1999.",
        "Tokyo, Osaka, Kyoto, Nagoya, Sapporo, Fukuoka",
        "Sounds good.",
        "Sorry to hear that.",
        "weather, umbrella, tomorrow afternoon",
        "Bon voyage, mon ami, is what he always said when we left.",
        "42",
        "🙂",
        "Müller",
    ],
    "ru": [
        "Bluetooth и Wi-Fi лучше выключить, если они не нужны.",
        "Слушайте группу Pink Floyd, особенно альбом The Wall.",
        "Да.",
        "Нет, спасибо!",
        "картошка, грибы, сметана, ужин",
        "Стоит взять с собой зонт.",
        "Его зовут Джон Смит, и он живёт в Нью-Йорке.",
        "По-английски это «bread», а по-португальски «pão».",
        "В 1999 году.",
        "Ёлка, ёжик, щётка, объём",
        "Жаль это слышать.",
        "Понедельник",
        "OK",
    ],
    "pt": [
        "Sim.",
        "Não!",
        "batata, ovo, espinafre, jantar",
        "Ele mora em New York e trabalha na Microsoft.",
        "A palavra russa «хлеб» quer dizer pão, e é fácil de dizer.",
        "O Bluetooth e o Wi-Fi gastam bateria; desligue os dois.",
        "Que pena ouvir isso.",
        "João, Conceição, Guimarães",
        "Leve um guarda-chuva, por via das dúvidas.",
        "Às nove e meia.",
        "Pois é, que coisa!",
        "Vou de trem, obrigado.",
        "iPhone",
    ],
}
WRONG = {
    "en": [
        "Да, завтра после обеда возьмите зонт.",
        "Зонт",
        "Sim, leve um guarda-chuva, porque deve chover amanhã à tarde.",
        "Ja, nimm lieber einen Regenschirm mit, morgen Nachmittag soll es regnen.",
        "Oui, prenez un parapluie, car il va pleuvoir demain après-midi.",
        "Sí, lleva un paraguas, porque mañana por la tarde va a llover.",
        "明天下午会下雨，请带伞。",
        "はい、傘を持っていってください。",
        "네, 내일 오후에는 우산이 필요합니다.",
        "نعم، خذ معك مظلة غدا بعد الظهر.",
        "Tak, weź parasol, bo jutro po południu będzie padać.",
        "हाँ, कल दोपहर छाता ले जाइए।",
        "Ναι, πάρε ομπρέλα αύριο το απόγευμα.",
    ],
    "ru": [
        "Yes, take an umbrella with you tomorrow.",
        "Umbrella",
        "Sim, leve um guarda-chuva amanhã de manhã.",
        "Ja, nimm morgen früh einen Regenschirm mit.",
        "Так, візьміть із собою парасольку, бо завтра вранці обіцяють дощ.",
        "Да, вземете си чадър, защото утре сутринта се очаква да вали дъжд.",
        "明天早上要带伞。",
        "Oui.. bien sûr!",
        "Sí, claro que sí, lleva un paraguas.",
        "Tak, weź parasol.",
        "Evet, yarın sabah şemsiye alın.",
        "نعم، خذ معك مظلة.",
    ],
    "pt": [
        "Yes, it will rain this afternoon, so don't hang out the washing.",
        "Да, сегодня будет дождь.",
        "Дождь",
        "Ja, heute Nachmittag wird es wahrscheinlich regnen.",
        "Oui, il va pleuvoir cet après-midi, ne sortez pas le linge.",
        "Sì, oggi pomeriggio dovrebbe piovere, meglio stendere i panni in casa.",
        "Sí, va a llover esta tarde, así que es mejor que tiendas la ropa dentro de la casa.",
        "今天下午会下雨。",
        "はい、雨が降ります。",
        "Tak, po południu będzie padać deszcz, lepiej zostaw pranie w domu.",
        "Evet, bugün öğleden sonra yağmur yağacak gibi görünüyor.",
        "Ja, het gaat vanmiddag waarschijnlijk regenen, dus hang de was binnen.",
    ],
}


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, found in RIGHT.items() for r in found])
def test_right(language: str, reply: str) -> None:
    assert verdict(Language(), written("Hm?", reply, language)) is None


@pytest.mark.parametrize(("language", "reply"), [(lang, r) for lang, found in WRONG.items() for r in found])
def test_wrong(language: str, reply: str) -> None:
    assert verdict(Language(), written("Hm?", reply, language)) == "reply_wrong_language"


def test_real_sentences() -> None:
    """All pass in their own language, and all but a few that could be either fail in another."""
    for language in LANGUAGES:
        for sentence in sentences(language):
            assert verdict(Language(), written("Hm?", sentence, language)) is None, sentence
    for language, other in (("en", "pt"), ("pt", "en"), ("en", "ru"), ("ru", "en"), ("pt", "ru"), ("ru", "pt")):
        missed = [s for s in sentences(language) if verdict(Language(), written("Hm?", s, other)) is None]
        assert len(missed) <= 2, missed


@pytest.mark.parametrize(
    ("into", "reply", "reason"),
    [
        ("de", "Wie weit ist der Mond entfernt, und wie lange würde man dorthin gehen?", None),
        ("de", "How far away is the moon, and how long would it take to walk there?", "reply_wrong_language"),
        ("pt-BR", "A que distância fica a Lua, e quanto tempo levaria para caminhar até lá?", None),
        ("fr", "À quelle distance se trouve la Lune ?", None),
        ("es", "¿A qué distancia está la Luna?", None),
        ("es", "A que distância fica a Lua, e quanto tempo levaria para caminhar até lá?", "reply_wrong_language"),
        ("zh", "月亮有多远？走到那里要多久？", None),
        ("zh-Hant", "月亮有多遠？走到那裡要多久？", None),
        ("ja", "月はどのくらい遠いですか。歩いたらどのくらいかかりますか。", None),
        ("ja", "月亮有多远？走到那里要多久呢？请告诉我，我想知道答案，因为我很好奇。", "reply_wrong_language"),
        ("ko", "달은 얼마나 멀리 있나요?", None),
        ("th", "ดวงจันทร์อยู่ไกลแค่ไหน", None),
        ("ta", "நிலவு எவ்வளவு தொலைவில் உள்ளது? Apollo 11 மூன்று நாட்களில் சென்றது.", None),
        ("hy", "Որքա՞ն հեռու է լուսինը", None),
        ("sr-Latn", "Koliko je mesec daleko i koliko bi trajalo da se do njega dođe peške?", None),
        ("sr", "Колико је месец далеко и колико би трајало да се до њега дође пешке?", None),
        ("nb", "Hvor langt unna er månen, og hvor lang tid ville det ta å gå dit?", None),
    ],
)
def test_targets_of_translation(into: str, reply: str, reason: str | None) -> None:
    said = sentences("en")[8]
    assert verdict(Language(), written(said, reply, task="translation", into=into)) == reason


def test_a_reply_is_asked_for_in_the_language_of_the_speech() -> None:
    reply = "Да, завтра будет дождь."
    assert verdict(Language(), written("Will it rain tomorrow?", reply, "en")) == "reply_wrong_language"
    assert verdict(Language(), written("Завтра будет дождь?", reply, "ru")) is None


def test_without_a_language_nothing_is_judged() -> None:
    assert verdict(Language(), written("Hm?", "Что угодно.", language=None)) is None


@pytest.mark.parametrize(("letters", "reason"), [(23, None), (24, "reply_wrong_language")])
def test_short_texts_are_judged_by_their_script_alone(letters: int, reason: str | None) -> None:
    portuguese = "Não estou com vontade de sair de casa"
    text = ""
    for char in portuguese:
        if sum(c.isalpha() for c in text) == letters:
            break
        text += char
    assert verdict(Language(), written("Hm?", text, "en")) == reason
    assert verdict(Language(letters=letters), written("Hm?", text, "en")) == "reply_wrong_language"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [("вот six", "reply_wrong_language"), ("город six", None), ("six", None), ("sixt", "reply_wrong_language")],
)
def test_the_share_of_letters(reply: str, reason: str | None) -> None:
    """Six of ten must be of the right script; three letters are no text."""
    assert verdict(Language(), written("Hm?", reply, "ru")) == reason


def test_questions() -> None:
    said, evidence = sentences("ru")[17], "зима пришла рано"
    right = ("Какая выдалась зима в этом году?", "Ранняя.", ["Тёплая.", "Поздняя.", "Короткая."])
    wrong = ("What was the winter like this year, according to the speaker?", "Early.", ["Warm.", "Late.", "Short."])
    assert verdict(Language(), asked(said, right[0], right[1], evidence, "ru")) is None
    assert verdict(Language(), asked(said, wrong[0], wrong[1], evidence, "ru")) == "reply_wrong_language"
    assert verdict(Language(), asked(said, wrong[0], wrong[1], evidence, "ru", into="en")) is None
    assert verdict(Language(), chosen(said, *right, evidence, "ru")) is None
    assert verdict(Language(), chosen(said, *wrong, evidence, "ru")) == "reply_wrong_language"
    assert verdict(Language(), chosen(said, *wrong, evidence, "ru", into="en")) is None


def test_only_what_an_llm_wrote_is_judged() -> None:
    assert untouched(Language(), [make(Transcription(), draft("Привет, как дела?", "en"))])


def test_what_is_rejected_is_not_judged_again() -> None:
    assert untouched(Language(), [written("Hm?", "Привет, как дела?", "en").reject("reply_refused")])
