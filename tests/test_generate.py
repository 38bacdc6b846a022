"""The stage that asks the LLM: in order, bounded, and never twice for the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.endpoint import EndpointError
from pipeline.llm.openai import OpenAI
from pipeline.memo import Memo
from pipeline.prompting import Prompts
from pipeline.stages.generate import Generate
from pipeline.tasks.base import Briefing, LLMTask
from pipeline.tasks.question_answer import QuestionAnswer
from pipeline.tasks.reply import Reply
from pipeline.tasks.sentiment import Sentiment
from schemas.sample import Sample
from schemas.utterance import Utterance
from tests.test_endpoint import Server

Answer = Callable[[dict[str, Any]], Awaitable[tuple[str, str]] | tuple[str, str]]
TASKS: list[LLMTask] = [Reply(), QuestionAnswer(), Sentiment()]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo(tmp_path / "memo.sqlite") as opened:
        yield opened


def answering(server: Server, answer: Answer) -> None:
    """Lets a server answer chats."""

    async def handle(request: web.Request) -> web.StreamResponse:
        made = answer(await request.json())
        text, finish = await made if isinstance(made, Awaitable) else made
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})

    server.answer = handle


def stage(server: Server, memo: Memo, window: int = 4, **options: Any) -> Generate:
    llm = OpenAI(**({"model": "m", "base_url": server.url, "concurrency": 8, "patience": 2.0, "retries": 2} | options))
    briefing = Briefing(Prompts(), 0, ["en"])
    return Generate({t.key: t for t in TASKS}, briefing, llm, [server.url], memo, 0, window=window)


def asked(number: int, task: str = "reply") -> Sample:
    text = f"this is what speaker number {number} has to say about it all, today and tomorrow"
    return Sample(f"c/{number}:{task}", (Utterance(f"c/{number}", "c", text, "en"),), "train", task)


def echo(body: dict[str, Any]) -> tuple[str, str]:
    return "You said: " + body["messages"][-1]["content"], "stop"


def test_all_are_answered_in_their_order(server: Server, memo: Memo) -> None:
    async def unevenly(body: dict[str, Any]) -> tuple[str, str]:
        await asyncio.sleep(body["seed"] % 7 / 200)
        return echo(body)

    answering(server, unevenly)
    made = stage(server, memo)
    rows = list(made(asked(n) for n in range(100)))
    assert [r.utterances[0].id for r in rows] == [f"c/{n}" for n in range(100)]
    assert all(r.response == f"You said: {r.transcript[:1].lower()}{r.transcript[1:]}" for r in rows)
    assert all(r.messages[1].content == "<|audio|>" for r in rows)
    assert {
        (p.engine, p.model, p.attempts, p.prompt_tokens, p.completion_tokens) for p in (r.provenance for r in rows)
    } == {("openai", "m", 1, 7, 3)}
    assert len({r.provenance.seed for r in rows}) == 100
    assert (made.asked, made.remembered) == (100, 0)
    assert server.most_in_flight == 8


def test_samples_that_need_no_reply_pass_in_between(server: Server, memo: Memo) -> None:
    answering(server, echo)
    rows = [asked(0), asked(1).reject("silent"), asked(2, "transcription"), asked(3)]
    out = list(stage(server, memo)(rows))
    assert [r.utterances[0].id for r in out] == ["c/0", "c/1", "c/2", "c/3"]
    assert out[1] == rows[1]
    assert out[2] == rows[2]
    assert server.seen.total() == 2


def test_the_second_time_everything_is_remembered(server: Server, memo: Memo) -> None:
    answering(server, echo)
    first = list(stage(server, memo)(asked(n) for n in range(20)))
    server.stop()
    again = stage(server, memo)
    assert list(again(asked(n) for n in range(20))) == first
    assert (again.asked, again.remembered) == (0, 20)
    server.start_again()


@pytest.mark.parametrize("options", [{"seeded": False}, {"extra": {"seed": 5}}])
def test_a_bad_reply_is_asked_again_also_where_requests_do_not_differ(
    server: Server, memo: Memo, options: dict[str, Any]
) -> None:
    times = 0

    def better(body: dict[str, Any]) -> tuple[str, str]:
        nonlocal times
        times += 1
        return ("", "stop") if times < 3 else echo(body)

    answering(server, better)
    made = stage(server, memo, **options)
    (row,) = made([asked(0)])
    assert row.rejected is None
    assert (row.provenance.attempts, made.asked, made.remembered) == (3, 3, 0)
    again = stage(server, memo, **options)
    assert list(again([asked(0)])) == [row]
    assert (again.asked, again.remembered) == (0, 3)


def test_memory_is_bounded_by_the_window(server: Server, memo: Memo) -> None:
    """A stream of any length is read only as far ahead as the window goes."""
    answering(server, echo)
    read = 0

    def endless() -> Iterator[Sample]:
        nonlocal read
        while True:
            yield asked(read)
            read += 1

    out = stage(server, memo, window=4)(endless())
    for taken in range(1, 200):
        next(out)
        assert read - taken <= 8 * 4 + 8
    out.close()  # type: ignore[attr-defined]


def test_a_straggler_holds_up_nobody_within_the_window(server: Server, memo: Memo) -> None:
    async def first_slowly(body: dict[str, Any]) -> tuple[str, str]:
        await asyncio.sleep(0.5 if "number 0 " in body["messages"][-1]["content"] else 0.005)
        return echo(body)

    answering(server, first_slowly)
    began = time.monotonic()
    assert len(list(stage(server, memo, window=40)(asked(n) for n in range(200)))) == 200
    assert time.monotonic() - began < 1.5


def test_a_reply_that_breaks_its_schema_is_asked_again_with_another_seed(server: Server, memo: Memo) -> None:
    seeds: dict[str, list[int]] = {}

    def third_time_lucky(body: dict[str, Any]) -> tuple[str, str]:
        tried = seeds.setdefault(body["messages"][-1]["content"], [])
        tried.append(body["seed"])
        replies = ["no JSON at all", '{"sentiment": "angry"}', '{"sentiment": "positive"}']
        return replies[len(tried) - 1], "stop"

    answering(server, third_time_lucky)
    rows = list(stage(server, memo)(asked(n, "sentiment") for n in range(10)))
    assert [r.rejected for r in rows] == [None] * 10
    assert {r.provenance.attempts for r in rows} == {3}
    assert {(r.provenance.prompt_tokens, r.provenance.completion_tokens) for r in rows} == {(21, 9)}
    assert all(len(set(tried)) == 3 for tried in seeds.values())
    assert {r.provenance.seed % 2**31 for r in rows} == {tried[2] for tried in seeds.values()}
    server.stop()
    assert list(stage(server, memo)(asked(n, "sentiment") for n in range(10))) == rows, "the same way from memory"
    server.start_again()


@pytest.mark.parametrize(
    ("reply", "finish", "reason", "requests"),
    [
        ("nothing useful", "stop", "reply_not_json", 3),
        ('{"sentiment": 1}', "stop", "reply_breaks_schema", 3),
        ("", "stop", "reply_empty", 3),
        ('{"sentiment": "posi', "length", "reply_truncated", 1),
    ],
)
def test_after_some_attempts_it_is_set_aside(
    server: Server, memo: Memo, reply: str, finish: str, reason: str, requests: int
) -> None:
    answering(server, lambda _: (reply, finish))
    (row,) = stage(server, memo)([asked(0, "sentiment")])
    assert row.rejected == reason
    assert row.provenance.reply == reply
    assert server.seen.total() == requests


def test_several_samples_of_one_reply_count_its_tokens_once(server: Server, memo: Memo) -> None:
    def two(body: dict[str, Any]) -> tuple[str, str]:
        pair = {"question": "Who?", "evidence": "speaker number", "answer": "A speaker."}
        return json.dumps({"pairs": [pair, pair | {"question": "About what?"}]}), "stop"

    answering(server, two)
    rows = list(stage(server, memo)([asked(0, "question_answer")]))
    assert [r.id for r in rows] == ["c/0:question_answer:0", "c/0:question_answer:1"]
    assert [r.provenance.prompt_tokens for r in rows] == [7, 0]
    assert [r.provenance.attempts for r in rows] == [1, 0]


def test_one_bad_row_does_not_stop_a_run(server: Server, memo: Memo) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if "number 3 " in body["messages"][-1]["content"]:
            return web.json_response({"error": {"message": "too long"}}, status=400)
        if "number 5 " in body["messages"][-1]["content"]:
            return web.Response(body=b'{"choices": []}')
        return web.json_response({"choices": [{"message": {"content": "Fine."}, "finish_reason": "stop"}]})

    server.answer = handle
    rows = list(stage(server, memo)(asked(n) for n in range(8)))
    assert Counter(r.rejected for r in rows) == {None: 6, "request_refused": 2}
    assert "too long" in rows[3].detail
    assert "there is no choice in the answer" in rows[5].detail


@pytest.mark.parametrize("body", [b"<html>gateway</html>", b'{"choices": [{"mess', b"null", b'{"choices": []}'])
def test_what_is_no_answer_is_asked_for_again(server: Server, memo: Memo, body: bytes) -> None:
    """A gateway's page with status 200 says nothing about the sample."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if server.seen[(await request.read()).decode()] <= 2:
            return web.Response(body=body)
        return web.json_response({"choices": [{"message": {"content": "Fine."}, "finish_reason": "stop"}]})

    server.answer = handle
    (row,) = stage(server, memo, patience=20.0)([asked(0)])
    assert row.rejected is None
    assert row.provenance.attempts == 1


def test_a_server_that_answers_nonsense_for_long_ends_the_run(server: Server, memo: Memo) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"<html>please log in</html>")

    server.answer = handle
    with pytest.raises(EndpointError, match=r"HTTP 200: not the answer of a chat completions endpoint.*log in"):
        list(stage(server, memo, patience=0.5)([asked(0)]))


def test_a_wrong_key_stops_a_run_at_once(server: Server, memo: Memo) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    server.answer = handle
    with pytest.raises(EndpointError, match="401"):
        list(stage(server, memo)(asked(n) for n in range(1000)))
    assert server.seen.total() < 100


def test_what_was_under_way_when_it_stopped_is_remembered(server: Server, memo: Memo) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if "number 0 " in body["messages"][-1]["content"]:
            return web.Response(status=403)
        await asyncio.sleep(0.3)
        return web.json_response({"choices": [{"message": {"content": "Fine."}, "finish_reason": "stop"}]})

    server.answer = handle
    with pytest.raises(EndpointError):
        list(stage(server, memo)(asked(n) for n in range(8)))
    assert len(memo) == 7


def test_what_is_sent(server: Server, memo: Memo) -> None:
    bodies: list[dict[str, Any]] = []

    def keep(body: dict[str, Any]) -> tuple[str, str]:
        bodies.append(body)
        return '{"sentiment": "neutral"}', "stop"

    answering(server, keep)
    options = {"temperature": 0.2, "top_p": 0.9, "extra": {"top_k": 5}, "limit_key": "max_completion_tokens"}
    list(stage(server, memo, **options)([asked(0, "sentiment")]))
    (body,) = bodies
    assert body["model"] == "m"
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_completion_tokens"]) == (0.2, 0.9, 5, 512)
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["sentiment"]["enum"] == ["positive", "neutral", "negative"]
    assert schema["schema"]["additionalProperties"] is False
    bodies.clear()
    list(stage(server, memo, structured="none", seeded=False)([asked(1, "sentiment")]))
    assert "response_format" not in bodies[0]
    assert "seed" not in bodies[0]


def test_the_key_comes_from_the_environment(server: Server, memo: Memo, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(server, echo)
    with pytest.raises(EndpointError, match="THE_KEY, which is to hold the API key, is not set"):
        list(stage(server, memo, api_key_env="THE_KEY")([asked(0)]))
    monkeypatch.setenv("THE_KEY", "hunter2")
    (row,) = stage(server, memo, api_key_env="THE_KEY")([asked(0)])
    assert server.keys == {"Bearer hunter2"}
    assert "hunter2" not in repr(row)


def test_a_question_that_the_server_cannot_answer_costs_only_its_row(server: Server, memo: Memo) -> None:
    """Nothing else is asked meanwhile, as in a run that goes on for the sake of this one."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if "speaker number 3" in await request.text():
            return web.Response(body=b"<html>500</html>")
        return web.json_response({"choices": [{"message": {"content": "Good."}, "finish_reason": "stop"}]})

    server.answer = handle
    (row,) = stage(server, memo, patience=30.0, retries=1)([asked(3)])
    assert row.rejected == "request_refused"
    assert "while a plain request was answered: not the answer of a chat" in row.detail
