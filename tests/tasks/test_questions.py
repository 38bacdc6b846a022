"""Questions about words and numbers: each computed answer is computed here once more, in another way."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from num2words import num2words

from pipeline.prompting import Prompts
from pipeline.tasks.number_question import NumberQuestion
from pipeline.tasks.word_question import WordQuestion
from schemas.sample import Sample
from tests.examples import LANGUAGES, draft, make, sentences, utterance


def written(text: str) -> list[str]:
    """The words of a sentence, by splitting at blanks."""
    return [w for token in text.lower().split() if (w := token.strip(".,!?;:…—–-\"'«»“”()"))]


def quoted(sample: Sample) -> str | None:
    found = re.search(r"[\"“«]([^\"”»]+)[\"”»]", sample.messages[0].content)
    return found[1] if found else None


def right(sample: Sample, said: list[str]) -> set[str]:
    """The answers that an instruction may have, by what is in it: a quoted word, a number, or neither."""
    text, word = sample.messages[0].content, quoted(sample)
    number = re.search(r"\d+", text.replace("counts as 1", ""))
    if word is not None:
        place = said.index(word)
        neighbours = said[max(0, place - 1) : place] + said[place + 1 : place + 2]
        return {str(said.count(word)), *(neighbours if said.count(word) == 1 else ())}
    if number is not None:
        return {said[int(number[0]) - 1]}
    return {str(len(said)), said[0], said[-1]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_word_questions(language: str) -> None:
    answers: Counter[str] = Counter()
    for number, sentence in enumerate(sentences(language)):
        given = draft(sentence, language, id=f"c/{number}")
        assert WordQuestion().fits(given.utterances[0])
        said = written(sentence)
        for seed in range(25):
            sample = make(WordQuestion(), given, seed=seed)
            assert sample.response in right(sample, said), sample.messages
            answers["digits" if sample.response.isdigit() else "word"] += 1
    assert answers["digits"] > answers.total() / 5
    assert answers["word"] > answers.total() / 3


PLACED = "one red fish two red fish blue fish"


@pytest.mark.parametrize(
    ("told", "answers"),
    [
        ("count", {"8"}),
        ("first", {"one"}),
        ("last", {"fish"}),
        ("nth", {f"{n}:{w}" for n, w in enumerate(PLACED.split(), 1) if 1 < n < 8}),
        ("after", {"one:red", "two:red", "blue:fish"}),
        ("before", {"two:fish", "blue:fish"}),
        ("often", {"one:1", "red:2", "fish:3", "two:1", "blue:1"}),
    ],
)
def test_each_kind_has_its_answers(told: str, answers: set[str]) -> None:
    """The kind is known by the paraphrase: it stands under it in the file of the prompts."""
    content = Prompts().get("word_question", "en").content
    seen = set()
    for seed in range(1200):
        sample = make(WordQuestion(), draft(PLACED), seed=seed)
        text = sample.messages[0].content.replace("<|audio|>", "").strip()
        word = quoted(sample)
        number = re.search(r"\d+", text.replace("counts as 1", ""))
        asked = word or (number[0] if number else "")
        if any(t.replace("{{ word }}", asked).replace("{{ n }}", asked) == text for t in content.instructions[told]):
            seen.add(f"{asked}:{sample.response}" if asked else sample.response)
    assert seen == answers


def test_a_word_within_another_is_not_asked_for() -> None:
    given = draft("the well is a well-known place and it's where it stands")
    for seed in range(300):
        assert quoted(make(WordQuestion(), given, seed=seed)) not in ("well", "it")


@pytest.mark.parametrize(
    ("text", "language", "fits"),
    [
        ("three small words", "en", True),
        ("two words", "en", False),
        ("", "en", False),
        ("it rained for 25 days", "en", False),
        ("salt & pepper are here", "en", False),
        ("she gave one hundred % of it", "en", False),
        ("今天 天气 很好", "zh", False),
        ("[laughter] <NOISE> well", "en", False),
        ("THREE LOUD WORDS", "en", True),
        ("кто-то из-за леса вышел", "ru", True),
    ],
)
def test_what_word_questions_fit(text: str, language: str, fits: bool) -> None:
    """Words are not counted where one that is written is several that are said."""
    assert WordQuestion().fits(utterance(text, language)) is fits


def listed(text: str, language: str) -> list[int] | None:
    """The numbers that a task finds in a transcript; None where it asks no question."""
    if not NumberQuestion().fits(utterance(text, language)):
        return None
    found = set()
    for seed in range(40):
        sample = make(NumberQuestion(), draft(text, language), seed=seed)
        found.add(sample.response)
    (whole,) = [f for f in found if "," in f] or [max(found, key=len)]
    numbers = [int(n) for n in whole.split(", ")]
    assert found == ({whole, str(max(numbers)), str(sum(numbers))} if len(numbers) > 1 else {whole})
    return numbers


SENTENCES = {
    "en": "I have {} books and {} pens",
    "ru": "я насчитал {} и ещё потом {} всего",
    "pt": "contei {} livros e depois {} canetas",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_number_is_known_by_its_words(language: str) -> None:
    task = NumberQuestion()
    for n in [*range(2, 130), *range(130, 10_000, 37)]:
        other = (n * 7 + 11) % 9000 + 2
        spoken = SENTENCES[language].format(num2words(n, lang=language), num2words(other, lang=language))
        sample = make(task, draft(spoken, language), seed=n)
        assert sample.response in {f"{n}, {other}", str(max(n, other)), str(n + other)}, spoken


@pytest.mark.parametrize(
    ("text", "language", "numbers"),
    [
        ("There are twenty-five apples.", "en", [25]),
        ("He counted one, two, three.", "en", [1, 2, 3]),
        ("TWO HUNDRED AND FIVE SHIPS", "en", [205]),
        ("two hundred five ships", "en", [205]),
        ("one thousand nine hundred and fifty metres", "en", [1950]),
        ("Take 2 eggs and 300 grams of flour.", "en", [2, 300]),
        ("zero or nine", "en", [0, 9]),
        ("the hut is three hours from the two lakes", "en", [3, 2]),
        ("the first of twelve", "en", [12]),
        ("vinte e uma pessoas", "pt", [21]),
        ("duas maçãs e catorze peras", "pt", [2, 14]),
        ("duas maçãs e quatorze peras", "pt", [2, 14]),
        ("dois mil e setecentos metros", "pt", [2700]),
        ("duzentas e trinta páginas", "pt", [230]),
        ("dezesseis anos e dezasseis dias", "pt", [16, 16]),
        ("две тысячи пять человек", "ru", [2005]),
        ("тысяча девятьсот метров", "ru", [1900]),
        ("двадцать одна берёза и две сосны", "ru", [21, 2]),
        ("сто сорок рублей", "ru", [140]),
    ],
)
def test_numbers_that_are_meant_as_they_are_said(text: str, language: str, numbers: list[int]) -> None:
    assert listed(text, language) == numbers


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("no number here", "en"),
        ("one of us", "en"),
        ("born in nineteen eighty four", "en"),
        ("it is ten thirty", "en"),
        ("in the nineteen fifties", "en"),
        ("on the twenty-first of May", "en"),
        ("the hundred and first guest", "en"),
        ("the one hundred and first guest", "en"),
        ("two thirds of it", "en"),
        ("two and a half", "en"),
        ("three point five", "en"),
        ("minus five degrees", "en"),
        ("a hundred people", "en"),
        ("two million people", "en"),
        ("ten thousand people", "en"),
        ("half past six", "en"),
        ("it costs 2.50", "en"),
        ("1,000 ships", "en"),
        ("on the 3rd of May", "en"),
        ("room A4", "en"),
        ("the year 2 000", "en"),
        ("$5 each", "en"),
        ("um dos três", "pt"),
        ("às três e meia", "pt"),
        ("dois terços", "pt"),
        ("menos cinco graus", "pt"),
        ("dois milhões", "pt"),
        ("trinta por cento", "pt"),
        ("dezenas de pessoas em dois dias", "pt"),
        ("один из трёх", "ru"),
        ("в пять часов", "ru"),
        ("минус пять градусов", "ru"),
        ("двадцать первое мая", "ru"),
        ("двух человек и пять собак", "ru"),
        ("их было четверо и пять собак", "ru"),
        ("полтора года и два дня", "ru"),
        ("сотни людей и пять машин", "ru"),
        ("пять градусов ниже нуля", "ru"),
        ("два миллиона", "ru"),
        ("fünf Äpfel", "de"),
        ("五个苹果", "zh"),
    ],
)
def test_numbers_in_doubt_are_not_asked_for(text: str, language: str) -> None:
    assert listed(text, language) is None


def test_one_number_is_only_listed() -> None:
    assert {make(NumberQuestion(), draft("seven cats"), seed=seed).response for seed in range(30)} == {"7"}


def test_a_list_is_scored_by_its_numbers() -> None:
    sample = next(
        s for n in range(30) if "," in (s := make(NumberQuestion(), draft("five cats, six dogs"), seed=n)).response
    )
    task = NumberQuestion()
    assert [task.score(sample, out)["correct"] for out in ("5, 6", "5,6", "5 6.", "6, 5", "11")] == [1, 1, 1, 0, 0]
