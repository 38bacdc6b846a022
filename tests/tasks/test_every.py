"""What holds for every task: well-formed samples, equal for equal seeds, apart for train and test."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline import plugins
from pipeline.audio import samples_of
from pipeline.prompting import Prompts
from pipeline.tasks.base import LLMTask, Task
from schemas import replies
from schemas.arrow import from_batch, to_batch
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample
from schemas.utterance import Utterance
from tests.examples import LANGUAGES, brief, companions, draft, sentences, sound, utterance

OPTIONS: dict[str, dict[str, Any]] = {
    "label": {"name": "age", "choices": ["twenties", "thirties"]},
    "gender": {"choices": ["male", "female"]},
    "accent": {"choices": ["scottish", "irish"]},
    "emotion": {"choices": ["joy", "anger", "neutral"]},
    "intent": {"choices": ["play_music", "set_alarm"]},
    "reply": {"describe": ["gender", "emotion"]},
}
EVERY: dict[str, Task] = {name: plugins.load("tasks", name)(**OPTIONS.get(name, {})) for name in plugins.names("tasks")}
TASKS = {name: task for name, task in EVERY.items() if not task.writes_queries}
"""Those that are set for speech; tests/tasks/test_tool_queries.py has the others."""
SAID = {
    "en": "Twenty people waited three hours for the delayed night train to the harbour and then it came.",
    "ru": "Двадцать человек прождали три дня ночной поезд до большой гавани у моря, и потом он всё же пришёл.",
    "pt": "Vinte pessoas esperaram três dias pelo trem noturno atrasado para o grande porto, e ele chegou.",
}
LABELS = {
    "accent": "scottish",
    "emotion": "joy",
    "gender": "female",
    "intent": "play_music",
    "age": "thirties",
    "slots": '{"date": "tomorrow", "place": "paris"}',
}
FREE = {"en": "It was worth the wait.", "ru": "Ждать стоило того.", "pt": "Valeu a pena esperar."}


def given_draft(language: str = "en", *, split: str = "train", number: int = 1, **fields: Any) -> Sample:
    """A draft that every task fits."""
    fields = {"id": f"c/{number}", "audio": sound(2.0), "labels": LABELS} | fields
    return companions(
        draft(SAID[language], language, split=split, **fields),
        *(
            utterance(
                sentences(language)[n], language, id=f"c/o{n}", speaker=f"c/s{n + 2}", audio=sound(1.5, 300 + 90 * n)
            )
            for n in range(3)
        ),
    )


def reply_to(task: LLMTask, language: str) -> Any:
    """A reply as an LLM gives it."""
    evidence, free = " ".join(SAID[language].split()[:3]), FREE[language]
    if task.reply is replies.QuestionAnswers:
        pairs = [replies.QuestionAnswer(question=f"{q}?", evidence=evidence, answer=free) for q in ("Who", "What")]
        return replies.QuestionAnswers(pairs=pairs)
    if task.reply is replies.MultipleChoice:
        return replies.MultipleChoice(question="Who?", evidence=evidence, correct="a", wrong=["b", "c", "d"])
    if task.reply is replies.Keywords:
        return replies.Keywords(keywords=SAID[language].rstrip(".").split()[-2:])
    return replies.Sentiment(sentiment="neutral") if task.reply is replies.Sentiment else free


def samples(task: Task, given: Sample, *, seed: int = 0, language: str | None = None) -> list[Sample]:
    """What a task makes of a draft, whether it asks an LLM or not."""
    briefed = brief(task, given, seed=seed, language=language)
    if isinstance(task, LLMTask):
        reply = reply_to(task, given.utterances[0].language or "en")
        return list(task.answer(given, briefed, reply))
    return list(task.make(given, briefed))


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("language", LANGUAGES)
def test_samples_are_whole(name: str, language: str) -> None:
    task, given = TASKS[name], given_draft(language)
    assert task.fits(given.utterances[0])
    for into in LANGUAGES:
        for seed in range(12):
            made = samples(task, given, seed=seed, language=into)
            assert [s.id for s in made] == [f"c/1:{name}:{n}" for n in range(len(made))]
            for sample in made:
                assert (sample.task, sample.split, sample.rejected) == (name, "train", None)
                *system, user, assistant = sample.messages
                assert [m.role for m in system] == ["system"] * (name == "reply")
                assert (user.role, assistant.role) == ("user", "assistant")
                assert user.content.count(AUDIO_PLACEHOLDER) == len(sample.utterances) == 1
                assert user.content.strip() == user.content
                assert "{{" not in user.content + assistant.content
                assert assistant.content == sample.response != ""
                assert sample.answer
                assert sample.utterances[0].audio is not None
                assert sample.provenance.prompt == Prompts().get(name, into).digest
                asked = sample.provenance.instruction
                assert asked.startswith(f"{name}/{into}/") if name != "reply" else asked == ""
                if name == "intent" and into != "en":
                    assert sample.language is None, "the prompts name no intents"
                else:
                    assert sample.language in LANGUAGES or name == "translation"
            stored = from_batch(to_batch(made))
            assert [s.messages for s in stored] == [s.messages for s in made]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_seed_decides(name: str) -> None:
    task = TASKS[name]
    of_seed = [samples(task, given_draft(), seed=seed) for seed in range(30)]
    assert of_seed == [samples(task, given_draft(), seed=seed) for seed in range(30)]
    if name == "reply":  # leaves nothing to chance
        return
    assert len({made[0].messages for made in of_seed}) > 4
    assert len({samples(task, given_draft(number=n))[0].messages for n in range(30)}) > 4


@pytest.mark.parametrize("name", sorted(TASKS))
def test_paraphrases_of_train_and_test_are_apart(name: str) -> None:
    options = OPTIONS.get(name, {}) | ({"instructed": 1.0} if name == "reply" else {})
    task = plugins.load("tasks", name)(**options)
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, found in seen.items():
        for language in LANGUAGES:
            for number in range(80):
                found |= {
                    s.provenance.instruction for s in samples(task, given_draft(language, split=split, number=number))
                }
    assert not seen["train"] & seen["test"]
    assert len(seen["test"]) >= 3 * 2
    assert len(seen["train"]) >= 3 * 10


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_speech_gives_the_language_where_none_is_set(name: str) -> None:
    task = TASKS[name]
    for language in LANGUAGES:
        assert brief(task, given_draft(language)).language == language
    assert brief(task, draft("Guten Morgen zusammen", "de")).language == "en"
    assert brief(task, draft("Quem sabe", "pt-BR")).language == "pt"
    assert brief(task, draft("Who knows", None)).language == "en"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_any_output_is_scored(name: str) -> None:
    task, given = TASKS[name], given_draft()
    for seed in range(6):
        for sample in samples(task, given, seed=seed):
            for right in {sample.response, sample.response.upper(), f"  {sample.response}\n"}:
                scores = task.score(sample, right)
                perfect = {"wer": 0.0, "cer": 0.0}
                assert scores == {figure: perfect.get(figure, 1.0) for figure in scores}, (right, sample.answer)
            for odd in ("", " ", "?!", "\x00", "ÄÖ 中文 " * 50, "A B C D", "yes no", ";:,", "I don't know"):
                assert all(0 <= value <= 200 for value in task.score(sample, odd).values())


texts = st.text(max_size=60) | st.lists(
    st.sampled_from(
        [
            *"one two-three 25 & <NOISE> [x] well-known don't ÇA ёлка I ß ﬁ <|audio|> 今天 हिन्दी ' A. 7% twenty".split(),
            "\x00",
            "\ud800",
        ]
    ),
    max_size=14,
).map(" ".join)


@lru_cache(maxsize=1)
def tone() -> Any:
    return sound(1.5)


@settings(max_examples=150, deadline=None)
@given(texts, st.sampled_from(["en", "ru", "pt", "zh", "de", None]), st.lists(texts, max_size=3), st.dictionaries(
    st.sampled_from(["gender", "emotion", "slots", "entities", "speech", "age"]), texts | st.just("no"), max_size=3
))  # fmt: skip
def test_any_transcript(text: str, language: str | None, others: Iterable[str], labels: dict[str, str]) -> None:
    """A task fits or not; where it fits, it makes samples."""
    given = draft(text, language, audio=tone(), labels=labels)
    given = companions(
        given, *(Utterance(f"c/o{n}", "c", t, language, f"c/s{n}", audio=tone()) for n, t in enumerate(others))
    )
    for name, task in TASKS.items():
        if not task.fits(given.utterances[0]):
            continue
        if isinstance(task, LLMTask):
            question = task.ask(given, brief(task, given))
            assert AUDIO_PLACEHOLDER not in question.messages[-1].content
            "".join(m.content for m in question.messages).encode()
            continue
        for sample in task.make(given, brief(task, given)):
            assert sample.messages[0].content.count(AUDIO_PLACEHOLDER) == 1, name
            assert sample.response, name
            sample.messages[0].content.encode()
            sample.response.encode()


def test_companions_are_left_behind() -> None:
    for name, task in TASKS.items():
        for sample in samples(task, given_draft()):
            assert len(sample.utterances) == 1, name
            if not sample.utterances[0].parts:
                assert sample.utterances == given_draft().utterances[:1], name


def test_what_is_no_speech_fits_no_task_but_one() -> None:
    noise = replace(given_draft().utterances[0], labels=LABELS | {"speech": "no"})
    assert [name for name, task in TASKS.items() if task.fits(noise)] == ["speech_detection"]
    assert samples_of(noise.audio).size  # type: ignore[arg-type]


def test_empty_speech_fits_only_what_needs_no_words() -> None:
    empty = replace(given_draft().utterances[0], transcript="<NOISE>")
    assert {name for name, task in TASKS.items() if task.fits(empty)} == {
        "accent", "emotion", "gender", "intent", "label", "speaker_count", "speech_detection"
    }  # fmt: skip
