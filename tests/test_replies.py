"""Whatever an LLM sends, samples come of it: valid ones, or ones with a reason. Never an exception.

All replies go the true way: over HTTP, through the client, the parser, the task and the filters,
and into Arrow.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline import plugins, replies
from pipeline.endpoint import PLAIN
from pipeline.llm.openai import OpenAI
from pipeline.memo import Memo
from pipeline.prompting import Prompts
from pipeline.stage import Stage, chain
from pipeline.stages.generate import Generate
from pipeline.tasks.base import Briefing, LLMTask
from pipeline.text import clean, words
from schemas.arrow import from_batch, to_batch
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.replies import QuestionAnswers, Sentiment
from schemas.sample import Rejection, Sample
from tests.examples import ROOT, draft, sentences
from tests.test_endpoint import Server

TASKS: list[LLMTask] = [
    loaded()
    for loaded in map(plugins.load, ["tasks"] * 99, plugins.names("tasks"))
    if loaded.uses_llm and not loaded.writes_queries  # of these see tests/tasks/test_tool_queries.py
]
REASON = re.compile(r"[a-z]+(_[a-z]+)*")


class Sent(NamedTuple):
    """What an LLM sent, and to what."""

    task: str
    language: str
    transcript: str
    text: str
    finish: str = "stop"
    body: str | None = None
    """The whole body of the response, where it is not as it should be."""

    @property
    def http(self) -> str:
        if self.body is not None:
            return self.body
        choice = {"message": {"role": "assistant", "content": self.text}, "finish_reason": self.finish}
        return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


REAL = [
    Sent(row["task"], row["language"], row["transcript"], row["reply"])
    for row in map(json.loads, (ROOT / "tests" / "data" / "replies.jsonl").read_text(encoding="utf-8").splitlines())
]


class Deaf(Server):
    """Sends what it is given, one after another, whatever it is asked; something sound to who asks again, or plainly."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self.send
        self.bodies: Iterator[str] = iter(())
        self.asked = b""

    async def send(self, request: web.Request) -> web.StreamResponse:
        asked = await request.read()
        if PLAIN.encode() in asked:
            return web.json_response({"choices": [{"message": {"content": "Hello."}}]})
        before, self.asked = self.asked, asked
        if before == self.asked:
            return web.json_response({"choices": [{"message": {"content": "Fine."}}]})
        return web.Response(body=next(self.bodies).encode("utf-8", "surrogatepass"))


Through = Callable[[list[Sent]], list[list[Sample]]]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    """The samples that come of each reply, in the end."""
    server, folder = Deaf(), tmp_path_factory.mktemp("memo")
    llm = OpenAI(model="m", base_url=server.url, concurrency=1, attempts=1, retries=0, patience=9.0)
    tasks = {task.key: task for task in TASKS}
    filters = [plugins.load("filters", name)() for name in plugins.names("filters") if name != "duplicates"]
    after: list[tuple[str, Stage]] = [(type(f).__name__, f) for f in filters if not f.before_tasks]
    after.sort(key=lambda pair: pair[1].order)  # type: ignore[attr-defined]
    runs = 0

    def run(sent: list[Sent]) -> list[list[Sample]]:
        nonlocal runs
        runs += 1
        server.bodies = iter([s.http for s in sent])
        server.seen.clear()
        with Memo(folder / f"{runs}.sqlite") as memo:
            generate = Generate(tasks, Briefing(Prompts(), 0, []), llm, [server.url], memo, 0)
            drafts = [
                replace(draft(s.transcript, s.language, id=f"c/{number}"), id=f"c/{number}:{s.task}", task=s.task)
                for number, s in enumerate(sent)
            ]
            rows = list(chain(drafts, [("generate", generate), *after]))
        found: list[list[Sample]] = [[] for _ in sent]
        for row in rows:
            found[int(row.utterances[0].id.removeprefix("c/"))].append(row)
        stored = list(from_batch(to_batch(rows)))
        assert [(s.id, s.messages, s.provenance) for s in stored] == [(r.id, r.messages, r.provenance) for r in rows]
        return found

    yield run
    server.stop()


def check(sent: Sent, rows: list[Sample]) -> None:
    """Whether what came of a reply can be trained on, or says why not."""
    assert rows, sent
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert row.task == sent.task
        assert row.provenance.engine == "openai"
        assert len(row.provenance.reply) <= replies.LARGEST
        if row.rejected is not None:
            assert REASON.fullmatch(row.rejected), row.rejected
            assert row.detail or not clean(sent.text), row.rejected
            assert len(row.detail) < 2000
        else:
            trainable(sent, row)


def trainable(sent: Sent, row: Sample) -> None:
    contents = [m.content for m in row.messages]
    assert [m.role for m in row.messages if m.role != "system"] == ["user", "assistant"]
    assert "".join(contents).count(AUDIO_PLACEHOLDER) == 1
    assert AUDIO_PLACEHOLDER in contents[-2]
    assert any(map(str.isalnum, row.response)), sent
    assert row.answer
    assert len(row.response) <= 1500
    for text in contents:
        assert text == text.strip()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]|</?think>", text), text
    if sent.task == "multiple_choice":
        assert row.response in tuple("ABCD")
        assert len(set(row.choices)) == 4
        assert all(f"{letter}. {text}" in contents[-2] for letter, text in zip("ABCD", row.choices, strict=True))
    if sent.task in ("multiple_choice", "question_answer"):
        assert words(row.evidence)[0] in words(row.transcript)
    if sent.task == "sentiment":
        assert row.answer in row.choices
    if sent.task == "keywords":
        assert all(w in words(row.transcript) for w in words(row.response)), row.response


def outcome(rows: list[Sample]) -> list[tuple[Any, ...]]:
    """What is the same where two replies mean the same."""
    return [(r.rejected, r.response, r.evidence, sorted(r.choices)) for r in rows]


def test_real_replies_are_nearly_all_kept(through: Through) -> None:
    found = through(REAL)
    for sent, rows in zip(REAL, found, strict=True):
        check(sent, rows)
    kept = [row for rows in found for row in rows if row.rejected is None]
    rejected = Counter(row.rejected for rows in found for row in rows if row.rejected)
    assert rejected.total() <= 0.12 * len(kept), rejected
    assert {row.task for row in kept} == {task.key for task in TASKS}


HARMLESS: dict[str, Callable[[str], str]] = {
    "blanks": lambda text: f"\n  {text}\n\n",
    "fenced": lambda text: f"```json\n{text}\n```" if "{" in text[:9] else f"```\n{text}\n```",
    "fence not closed": lambda text: text if "{" not in text[:9] else f"```json\n{text}",
    "thoughts": lambda text: f"<think>\nThe user wants {{'this': \"...\"}} of me.\n</think>\n\n{text}",
    "thoughts in the prompt": lambda text: f"So {{what}} shall I say?\n</think>\n{text}",
    "other thoughts": lambda text: f"<reasoning>hm</reasoning>{text}",
    "byte order mark": lambda text: f"\ufeff{text}",
    "introduced": lambda text: f"Sure! Here it is:\n\n{text}" if "{" in text[:9] else text,
    "commented": lambda text: f"{text}\n\nI hope that {{this}} helps." if "{" in text[:9] else text,
    "quoted": lambda text: text if "{" in text[:9] or '"' in text else f'"{text}"',
    "audio": lambda text: text if "{" in text[:9] else f"{AUDIO_PLACEHOLDER} {text}{AUDIO_PLACEHOLDER}",
    "control characters": lambda text: text if "{" in text[:9] else f"\x00{text[:9]}\x1b{text[9:]}\x7f",
}


@pytest.mark.parametrize("how", list(HARMLESS))
def test_what_stands_around_a_reply_changes_nothing(through: Through, how: str) -> None:
    changed = [s._replace(text=HARMLESS[how](s.text)) for s in REAL]
    for sent, before, after in zip(REAL, through(REAL), through(changed), strict=True):
        assert outcome(after) == outcome(before), sent.text


OTHER = [*(sentences(name)[5] for name in ("en", "ru", "pt")), "今天天气很好。", "مرحبا بالعالم", "हैलो दुनिया", "שלום עולם"]  # fmt: skip
ODD = ["\x00", "\x1b[31m", "\u202e", "\ufeff", "\ud800", "\udfff", "\u2028", "\u0301", "\U0001f600", "\\ud83d", "\\u0000"]  # fmt: skip
TYPES: list[Any] = [None, 7, -1, 1.5, True, [], {}, "", " ", [None], {"a": 1}, [[]], "x" * 5000, 10**400, "<|audio|>"]
TEXTS = ["I'm sorry, but I can't help with that.", "The transcript says so.", "not mentioned", "!!!", "...", "<|audio|>"]  # fmt: skip


def some_value(value: Any, by: Any, rng: random.Random) -> Any:
    """A structure with one of its values replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return {**value, key: some_value(value[key], by, rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [some_value(v, by, rng) if i == place else v for i, v in enumerate(value)]
    return by


def some_keys(value: Any, rng: random.Random) -> Any:
    """A structure with a key too few, too many, or called something else."""
    if isinstance(value, list) and value:
        return [some_keys(value[0], rng), *value[1:]]
    if not isinstance(value, dict) or not value:
        return value
    key = rng.choice(sorted(value))
    changed = [
        {k: v for k, v in value.items() if k != key},
        {**value, rng.choice(["note", "", "__class__", "id"]): rng.choice(["x", 1, None])},
        {(k.upper() if k == key else k): v for k, v in value.items()},
        {**value, key: some_keys(value[key], rng)},
        {**value, key: value[key] * 9 if isinstance(value[key], list) else [value[key]]},
    ]
    return rng.choice(changed)


def structured(change: Callable[[Any, random.Random], Any]) -> Callable[[str, random.Random], str]:
    def mutate(text: str, rng: random.Random) -> str:
        found = re.search(r"\{.*\}", text, re.DOTALL)
        if found is None:
            return json.dumps(change({"pairs": [text]}, rng), ensure_ascii=rng.random() < 0.5)
        return json.dumps(change(json.loads(found[0]), rng), ensure_ascii=rng.random() < 0.5)

    return mutate


def inserted(text: str, rng: random.Random, *pieces: str) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(pieces) + text[place:]


def garbled(text: str, rng: random.Random) -> str:
    chars = list(text)
    for _ in range(rng.randint(1, 12)):
        place = rng.randrange(len(chars) + 1)
        chars[place : place + rng.randrange(3)] = rng.choices(list('{}[]",:\\\n`<>aя0') + ODD, k=rng.randrange(3))
    return "".join(chars)


MUTATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "cut": lambda text, rng: text[: rng.randrange(len(text) + 1)],
    "begins late": lambda text, rng: text[rng.randrange(len(text) + 1) :],
    "garbled": garbled,
    "odd characters": lambda text, rng: inserted(text, rng, *ODD),
    "a piece inside": lambda text, rng: inserted(text, rng, "```", "</think>", "<think>", "<|audio|>", "NaN", "\n\n"),
    "harmless": lambda text, rng: rng.choice(list(HARMLESS.values()))(text),
    "harmless and cut": lambda text, rng: (t := rng.choice(list(HARMLESS.values()))(text))[: rng.randrange(len(t))],
    "wrong types": structured(lambda value, rng: some_value(value, rng.choice(TYPES), rng)),
    "other texts": structured(lambda value, rng: some_value(value, rng.choice(TEXTS), rng)),
    "other languages": structured(lambda value, rng: some_value(value, rng.choice(OTHER), rng)),
    "other keys": structured(some_keys),
    "alike": structured(lambda value, _: {**value, "wrong": [value["correct"]] * 3} if "wrong" in value else value),
    "in a list": structured(lambda value, rng: [value] * rng.randint(1, 3)),
    "encoded twice": lambda text, _: json.dumps(text),
    "not a number": lambda text, rng: re.sub(r'"[^"]*"(?=\s*[,\]}])', rng.choice(["NaN", "-Infinity", "1e999"]), text, count=1),
    "a key twice": lambda text, _: re.sub(r"\{", '{"pairs": 1, "keywords": [], "sentiment": "x", ', text, count=1),
    "single quotes": lambda text, _: text.replace('"', "'"),
    "comma at the end": lambda text, _: re.sub(r"(?=[\]}])", ",", text),
    "comments": lambda text, _: text.replace("{", "{ // it begins\n"),
    "twice": lambda text, rng: text + rng.choice(["", "\n", " and "]) + text,
    "of another": lambda _, rng: rng.choice(REAL).text,
    "another language": lambda _, rng: rng.choice(OTHER) * rng.randint(1, 9),
    "refused": lambda _, rng: rng.choice(TEXTS),
    "mostly nothing": lambda _, rng: rng.choice(["", " ", "\n", "null", "{}", "[]", '""', "0", "```\n```", "<think>", ODD[0]]),
    "thinks for ever": lambda text, rng: "<think>" + text * rng.randint(1, 5),
    "nested": lambda text, rng: rng.choice(['{"pairs": ', "[", "{", '{"a": [']) * rng.choice([5, 20, 3000]) + text,
    "nested and closed": lambda _, rng: '{"pairs":' * (n := rng.choice([5, 15, 40])) + "1" + "}" * n,
}  # fmt: skip
HUGE: list[Callable[[str], str]] = [
    lambda text: text * (replies.LARGEST // len(text) + 1),
    lambda text: text + " " * replies.LARGEST,
    lambda text: text[:-1] + "," * 100_000,
    lambda _: "{" * (replies.LARGEST - 1),
    lambda text: '{"' * 60_000 + text,
    lambda text: "<think>" * 20_000 + text,
    lambda text: "```" * 40_000 + text,
    lambda _: '{"keywords": ["' + "и" * 150_000 + '"]}',
    lambda _: '{"pairs": [' + '{"question": "a", "evidence": "a", "answer": "a"},' * 2000 + "{}]}",
]
BODIES = [
    "", "null", "[]", "{}", '"fine"', "<html>busy</html>", '{"choices": []}', '{"choices": null}', '{"choices": [{}]}',
    '{"choices": [{"message": null}]}', '{"choices": [{"message": {}}]}', '{"choices": [{"message": {"content": null}}]}',
    '{"choices": [{"message": {"content": 7}}]}', '{"choices": [{"message": {"content": ["a"]}}]}',
    '{"choices": [{"message": {"content": {"text": "a"}}}]}', '{"choices": [{"message": {"content": "\\ud800"}}]}',
    '{"choices": [{"message": {"content": "Fine."}, "finish_reason": null}]}',
    '{"choices": [{"message": {"content": "Fine."}, "finish_reason": {"a": 1}}]}',
    '{"choices": [{"message": {"content": "Fine."}}], "usage": null}',
    '{"choices": [{"message": {"content": "Fine."}}], "usage": 5}',
    '{"choices": [{"message": {"content": "Fine."}}], "usage": {"prompt_tokens": "many"}}',
    '{"choices": [{"message": {"content": "Fine."}}], "usage": {"prompt_tokens": null, "completion_tokens": 2.7}}',
    '{"choices": [{"message": {"content": "Fine."', "\x00\x01", "\ufeff{}", '{"choices": ' * 3000,
]  # fmt: skip


def mutated(each: int) -> Iterator[tuple[str, Sent]]:
    rng = random.Random(20)
    for name, mutate in MUTATIONS.items():
        for number in range(each):
            sent = REAL[number % len(REAL)] if number < 2 * len(REAL) else rng.choice(REAL)
            yield name, sent._replace(text=mutate(sent.text, rng), finish="length" if rng.random() < 0.05 else "stop")
    for sent in REAL:
        yield "copied", sent._replace(text=sent.transcript)
    for number, enlarge in enumerate(HUGE):
        for sent in (REAL[7 * number], REAL[7 * number + 1], REAL[3], REAL[4]):
            yield "huge", sent._replace(text=enlarge(sent.text))
    for body in BODIES:
        yield "no completion", REAL[2]._replace(body=body)


@pytest.mark.long
def test_thousands_of_mutated_replies(through: Through) -> None:
    given_ = list(mutated(220))
    assert len(given_) > 5000
    found = through([sent for _, sent in given_])
    reasons: dict[str, Counter[str | None]] = {}
    for (name, sent), rows in zip(given_, found, strict=True):
        check(sent, rows)
        reasons.setdefault(name, Counter()).update(row.rejected for row in rows)
    for name in MUTATIONS.keys() - {"harmless", "odd characters", "a piece inside", "twice", "alike"}:
        assert reasons[name].total() > reasons[name][None], f"{name} is never noticed"
    every = sum(reasons.values(), Counter())
    assert set(every) >= {
        None, "reply_not_json", "reply_breaks_schema", "reply_empty", "reply_truncated", "reply_too_long",
        "reply_refused", "reply_wrong_language", "mentions_transcript", "not_answerable", "keyword_not_said",
        "options_not_distinct", "copies_transcript", "request_refused",
    }, sorted(map(str, every))  # fmt: skip


@pytest.mark.parametrize("text", ['{"sentiment": "positive"}', '{"reply": "Bom dia."}', '[{"a": 1}]', "null"])
def test_json_is_nothing_to_be_said(through: Through, text: str) -> None:
    for sent in [s for s in REAL if s.task in ("reply", "summary", "continuation") and s.language == "pt"]:
        (rows,) = through([sent._replace(text=text)])
        assert rows[0].rejected is not None


def test_a_server_that_cannot_count(through: Through) -> None:
    body = '{"choices": [{"message": {"content": "Fine."}}], "usage": {"prompt_tokens": 1e22}}'
    through([REAL[2]._replace(body=body)])


anything = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(list('{}[]":,\\`<>/|think audio\n') + ODD), max_size=40).map("".join),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(OTHER),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from("pairs question evidence answer correct wrong keywords sentiment".split())
                | st.text(max_size=3),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(json.dumps),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(REAL), anything, st.sampled_from(["stop", "length", ""])), min_size=1, max_size=8
    )
)
def test_anything_at_all(through: Through, chosen: list[tuple[Sent, str, str]]) -> None:
    given_ = [sent._replace(text=text, finish=finish) for sent, text, finish in chosen]
    for sent, rows in zip(given_, through(given_), strict=True):
        check(sent, rows)


@settings(max_examples=300, deadline=None)
@given(anything)
def test_the_parser_takes_anything(text: str) -> None:
    for model in (QuestionAnswers, Sentiment):
        assert isinstance(replies.structure(text, model), model | Rejection)
    said = replies.plain_text(text)
    assert isinstance(said, Rejection) or any(map(str.isalnum, said))


def test_what_is_wrong_is_told_in_the_detail() -> None:
    found = replies.structure('{"pairs": [{"question": "Who?", "evidence": "him", "answer": 7}]}', QuestionAnswers)
    assert isinstance(found, Rejection)
    assert found.reason == "reply_breaks_schema"
    assert found.detail.startswith("pairs.0.answer: Input should be a valid string")
    found = replies.structure("I would rather not.", QuestionAnswers)
    assert found == Rejection("reply_not_json", "I would rather not.")
