"""Each file of the prompts: enough paraphrases, all different, in its language, about what is heard."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from ruamel.yaml import YAML

from pipeline import plugins
from pipeline.prompting import PromptError, Prompts, PromptSet, check
from pipeline.tasks.base import Task
from pipeline.text import detect_language, normalise, words
from tests.examples import LANGUAGES, ROOT

FILES = sorted((ROOT / "prompts").glob("*/*.yaml"))
EVERY = [(task, language) for task in plugins.names("tasks") for language in LANGUAGES]
of_each_file = pytest.mark.parametrize(("task", "language"), EVERY)
VALUES: dict[str, dict[str, Any]] = {
    "en": {"word": "harbour", "keyword": "harbour", "question": "Why is she late?", "target": "German", "field": "age"},
    "ru": {
        "word": "гавань",
        "keyword": "гавань",
        "question": "Почему она опоздала?",
        "target": "немецкий",
        "field": "возраст",
    },
    "pt": {
        "word": "porto",
        "keyword": "porto",
        "question": "Por que ela se atrasou?",
        "target": "alemão",
        "field": "idade",
    },
}
COMMON: dict[str, Any] = {
    "n": 3, "most": 4, "most_words": 50, "pairs": 2, "choices": "1, 2", "label": "1", "labels": "", "options": "A. 1\nB. 2",
    "transcript": "…", "date": "1", "weekday": "1", "year": "1", "iso": "1", "value": "1", "first": "1", "second": "1",
    "situation": "one_call", "speech_language": "1", "about": "1", "tools": "1", "calls": "1", "lacking": "1",
    "wrong": "1", "topic": "1", "persona": "1", "style": "1", "said": "1",
}  # fmt: skip
NEEDED = {
    "keyword_spotting": {"default": "keyword"},
    "word_question": {"nth": "n", "after": "word", "before": "word", "often": "word"},
    "spell": {"nth": "n"},
    "repeat": {"first_words": "n", "last_words": "n"},
    "question_answer": {"default": "question"},
    "multiple_choice": {"default": "question options"},
    "translation": {"default": "target"},
    "label": {"open": "field", "closed": "field choices"},
    "accent": {"closed": "choices"},
    "emotion": {"closed": "choices"},
    "gender": {"closed": "choices"},
    "intent": {"closed": "choices"},
}
"""What a question of a kind cannot do without."""
READ = {
    "en": r"\b(texts?|transcripts?|transcriptions?|passages?|paragraphs?|excerpts?|articles?|documents?|the sentence|you read|reading)\b",
    "ru": r"\b(текст\w*|транскри\w*|расшифровк\w*|отрыв\w*|абзац\w*|стать[яею]\w*|прочит\w+|прочт\w+|читай\w*|в предложении)\b",
    "pt": r"\b(textos?|transcriç\w+|trechos?|parágrafos?|artigos?|documentos?|leia|lido|leitura|na frase)\b",
}
"""What a listener does not have before them."""


def made(task: str) -> Task:
    loaded: Task = plugins.load("tasks", task)(**({"name": "age"} if task == "label" else {}))
    return loaded


def prompts(task: str, language: str) -> PromptSet:
    return Prompts().get(task, language)


def rendered(found: PromptSet, template: str) -> str:
    return found.render(template, COMMON | VALUES[found.language])


def instructions(found: PromptSet) -> list[tuple[str, str, str]]:
    """Group, kind and text of each instruction."""
    return [
        (group, kind, template)
        for group in ("instructions", "held_out")
        for kind, templates in getattr(found.content, group).items()
        for template in templates
    ]


def test_each_task_has_a_file_in_each_language_and_no_other_is_there() -> None:
    assert {(path.parent.name, path.stem) for path in FILES} == set(EVERY)
    assert [p for p in (ROOT / "prompts").rglob("*") if p.is_file() and p.suffix not in (".yaml", ".py", ".pyc")] == []


@of_each_file
def test_a_file_has_what_its_task_needs(task: str, language: str) -> None:
    set_, used = prompts(task, language), made(task)
    check(set_, kinds=used.kinds, outcomes=used.outcomes, variables=used.variables, llm=used.uses_llm)
    assert set(set_.content.instructions) == set(set_.content.held_out) == set(used.kinds)
    assert set(set_.content.responses) == set(used.outcomes)
    assert bool(set_.content.user) == used.uses_llm
    assert bool(set_.content.system) == used.uses_llm


@of_each_file
def test_there_are_enough_paraphrases_and_some_are_held_out(task: str, language: str) -> None:
    content = prompts(task, language).content
    assert sum(map(len, content.instructions.values())) >= 15
    assert sum(map(len, content.held_out.values())) >= 4
    assert all(len(texts) >= 5 for texts in content.instructions.values())
    assert all(len(texts) >= 2 for texts in content.held_out.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_paraphrase_comes_twice_in_a_language(language: str) -> None:
    """Not for one task, and not for two: one instruction must not have two meanings."""
    seen: Counter[str] = Counter()
    for task in plugins.names("tasks"):
        set_ = prompts(task, language)
        if task == "tool_call":  # who writes the query makes no difference to what the assistant is told
            assert instructions(set_) == instructions(prompts("tool_grammar", language))
            continue
        seen.update(normalise(re.sub(r"\{\{.*?\}\}", "X", text)) for _, _, text in instructions(set_))
    assert {text: count for text, count in seen.items() if count > 1} == {}


@of_each_file
def test_every_template_renders(task: str, language: str) -> None:
    set_, used = prompts(task, language), made(task)
    strict = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    values = {name: value for name, value in (COMMON | VALUES[language]).items() if name in used.variables}
    for key, template in set_.templates:
        text = strict.from_string(template).render(values)
        assert not re.search(r"[{}]{2}|\{%", text), key
        assert "<|audio|>" not in text, key
        assert "  " not in re.sub(r"\n *", "\n", text), key
        if key not in ("system", "user", "check"):
            assert text == text.strip(), key
            assert text, key


@of_each_file
def test_instructions_name_what_is_asked_about(task: str, language: str) -> None:
    for group, kind, template in instructions(prompts(task, language)):
        named = set(re.findall(r"\{\{[^}]*?\b([a-z_]+)\b", template))
        assert set(NEEDED.get(task, {}).get(kind, "").split()) <= named, (group, kind, template)


@of_each_file
def test_instructions_are_about_what_is_heard(task: str, language: str) -> None:
    """Whoever answers has the audio, and neither a text nor a transcript of it."""
    set_ = prompts(task, language)
    for _, _, template in instructions(set_):
        text = rendered(set_, template)
        assert not re.search(READ[language], text, re.IGNORECASE), text
    for texts in set_.content.responses.values():
        assert not any(re.search(READ[language], rendered(set_, t), re.IGNORECASE) for t in texts)


@of_each_file
def test_texts_are_in_their_language(task: str, language: str) -> None:
    set_ = prompts(task, language)
    for kind in set_.content.instructions:
        texts = [rendered(set_, t) for _, k, t in instructions(set_) if k == kind]
        cyrillic = [len(re.findall(r"[а-яё]", t.lower())) / max(1, len(re.findall(r"[^\W\d_]", t))) for t in texts]
        assert all(share > 0.75 if language == "ru" else share == 0 for share in cyrillic), kind
        found = detect_language(" ".join(texts)[:600])
        assert max(LANGUAGES, key=lambda name: found.get(name, 0.0)) == language, (kind, found)
        assert found[language] > 0.3
    for text in (set_.content.system, set_.content.user):
        plain = re.sub(r"<[^>]*>|\{[^}]*\}+|\"[a-z_]+\"", " ", text)
        if len(plain) > 80:
            found = detect_language(plain[:600])
            assert max(found, key=found.__getitem__) == language, found


STOPWORDS = {
    "en": "the is of to what this in please you and it that which word words".split(),
    "pt": "o os de que é em um uma se só da na qual por você e diga com quem".split(),
}


@pytest.mark.parametrize("language", ["en", "pt"])
def test_no_instruction_is_in_another_language(language: str) -> None:
    """English and Portuguese share their letters, so each instruction is judged by its small words."""
    other = next(name for name in STOPWORDS if name != language)
    for task in plugins.names("tasks"):
        set_ = prompts(task, language)
        for _, _, template in instructions(set_):
            said = Counter(words(rendered(set_, template)))
            own, foreign = (sum(said[w] for w in STOPWORDS[name]) for name in (language, other))
            assert own >= foreign, template


@of_each_file
def test_an_answer_is_known_by_its_first_word_or_by_its_name(task: str, language: str) -> None:
    """As the scores know it."""
    set_ = prompts(task, language)
    if task in ("keyword_spotting", "speech_detection"):
        for outcome, texts in set_.content.responses.items():
            assert {words(rendered(set_, t))[0] for t in texts} == {words(set_.name(outcome))[0]}
    if task == "sentiment":
        names = {label: normalise(set_.name(label)) for label in made(task).outcomes}
        for label, texts in set_.content.responses.items():
            for text in map(normalise, texts):
                assert [name for name in names.values() if name in text.split()] == [names[label]], text


@pytest.mark.parametrize("task", [name for name in plugins.names("tasks") if made(name).uses_llm])
def test_the_llm_is_told_the_same_in_every_language(task: str) -> None:
    used = made(task)
    for language in LANGUAGES:
        content = prompts(task, language).content
        assert used.writes_queries or re.search(r"\{\{ *transcript *\}\}", content.user)
        assert not re.search(r"\{\{ *transcript *\}\}", content.system), "speech must not stand among the rules"
        reply = getattr(used, "reply", None)
        if reply is not None:
            schema = json.dumps(reply.response_format("json_schema"))
            for key in set(re.findall(r'"([a-z]+)": \{"(?:type|items|enum|maxItems|minItems)"', schema)):
                assert f'"{key}"' in content.system, (language, key)
            assert "JSON" in content.system
        if task != "reply" and not used.writes_queries:
            assert "<transcript>" in content.user
            assert "</transcript>" in content.user


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_words_that_are_probably_not_said(language: str) -> None:
    found = prompts("keyword_spotting", language).content.words
    assert len(found) >= 50
    assert len(set(found)) == len(found)
    assert all(len(word) >= 4 and word.isalpha() and word == word.lower() for word in found)


def test_counting_words_agree_with_their_number_in_russian() -> None:
    set_ = prompts("repeat", "ru")
    for _, kind, template in instructions(set_):
        if kind == "all":
            continue
        for n, form in ((2, "слова"), (3, "слова"), (4, "слова"), (5, "слов"), (6, "слов")):
            text = set_.render(template, {"n": n})
            assert not (found := re.findall(rf"\b{n} (\w+ )?(слов\w*)", text)) or all(
                w in (form, "слов") for _, w in found
            ), text
            if re.search(rf"\b{n} слов\w*", text):
                assert re.search(rf"\b{n} {form}\b", text), text


def test_own_prompts_go_before_the_shipped_ones(tmp_path: Path) -> None:
    own = tmp_path / "transcription"
    own.mkdir()
    (own / "de.yaml").write_text("instructions: {default: [Schreib auf.]}\nheld_out: {default: [Notiere.]}\n")
    (own / "en.yaml").write_text("instructions: {default: [Type it.]}\nheld_out: {default: [Note it.]}\n")
    found = Prompts(tmp_path)
    assert found.languages("transcription") == ["de", "en", "pt", "ru"]
    assert found.get("transcription", "en").content.instructions == {"default": ["Type it."]}
    assert found.get("transcription", "ru").path == ROOT / "prompts/transcription/ru.yaml"
    with pytest.raises(PromptError, match="no prompts in 'fr'; there are: de, en, pt, ru"):
        found.get("transcription", "fr")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "valid dictionary"),
        ("instructions: {default: [a]}", "held_out: Field required"),
        ("instructions: {default: [a]}\nheld_out: {default: [b]}\nwords: yes", "words"),
        ("instructions: {default: [a]}\nheld_out: {default: [b]}\nnotes: x", "notes: Extra inputs"),
        ("instructions: {default: [1]}\nheld_out: {default: [b]}", "instructions.default.0"),
        ("instructions: {default: [a]\nheld_out: {}", "expected"),
    ],
)
def test_a_file_that_is_not_as_it_should_be(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "spell").mkdir()
    (tmp_path / "spell" / "en.yaml").write_text(content)
    with pytest.raises(PromptError, match=re.escape(told)) as caught:
        Prompts(tmp_path).get("spell", "en")
    assert str(tmp_path / "spell" / "en.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"instructions": {}}, "instructions.default is missing or empty"),
        ({"held_out": {"default": []}}, "held_out.default is missing or empty"),
        ({"held_out": {"default": ["a"]}}, "held_out.default repeats 'a' of instructions.default"),
        ({"instructions": {"default": ["{{ nothing }}"]}}, "instructions.default[0]: the template names 'nothing'"),
        ({"instructions": {"default": ["{{ n "]}}, "instructions.default[0]"),
        ({"responses": {}}, "responses.fine is missing or empty"),
        ({"user": ""}, "user is missing"),
        ({"system": "{{ other }}"}, "system: the template names 'other'; the task spell gives: n"),
    ],
)
def test_a_file_that_does_not_serve_its_task(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    good = {
        "instructions": {"default": ["a"]},
        "held_out": {"default": ["b {{ n }}"]},
        "responses": {"fine": ["c"]},
        "user": "d",
    }
    (tmp_path / "spell").mkdir()
    for content in (good, good | change):
        with open(tmp_path / "spell" / "en.yaml", "w") as stream:
            YAML().dump(content, stream)
        found = Prompts(tmp_path).get("spell", "en")
        wanted = {"kinds": ["default"], "outcomes": ["fine"], "variables": ["n"], "llm": True}
        if content is good:
            check(found, **wanted)  # type: ignore[arg-type]
        else:
            with pytest.raises(PromptError, match=re.escape(told)):
                check(found, **wanted)  # type: ignore[arg-type]


def test_a_value_is_never_a_template(tmp_path: Path) -> None:
    set_ = prompts("reply", "en")
    assert set_.render("{{ transcript }}", {"transcript": "{{ 7 * 7 }} {% raw %}"}) == "{{ 7 * 7 }} {% raw %}"
    for escape in ("{{ transcript.__class__.__mro__ }}", "{{ self._TemplateReference__context }}", "{{ unknown }}"):
        with pytest.raises(PromptError):
            set_.render(escape, {"transcript": "x"})


def test_a_paraphrase_is_trained_on_or_held_out_whatever_its_kind(tmp_path: Path) -> None:
    content = {"instructions": {"one": ["a"], "other": ["b"]}, "held_out": {"one": ["c", "b"], "other": ["d"]}}
    (tmp_path / "spell").mkdir()
    with open(tmp_path / "spell" / "en.yaml", "w") as stream:
        YAML().dump(content, stream)
    with pytest.raises(PromptError, match=re.escape("held_out.one repeats 'b' of instructions.other")):
        check(Prompts(tmp_path).get("spell", "en"), kinds=["one", "other"], outcomes=[], variables=[], llm=False)
