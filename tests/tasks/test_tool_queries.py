"""Queries for tools: whatever is said is what is called, in every catalogue and language."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from aiohttp import web
from msgspec.structs import replace

from pipeline import replies as read
from pipeline.llm.openai import OpenAI
from pipeline.memo import Memo
from pipeline.prompting import Prompts
from pipeline.stages.generate import Generate
from pipeline.tasks._queries import MIX
from pipeline.tasks.base import Briefing
from pipeline.tasks.tool_call import ToolCall
from pipeline.tasks.tool_grammar import ToolGrammar
from pipeline.text import contains, normalise, words
from pipeline.tools import matching, validation
from pipeline.tools.catalogue import canonical, files, load
from pipeline.tools.dialogue import OUTCOMES
from schemas import replies
from schemas.arrow import from_batch, to_batch
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Rejection, Sample
from schemas.utterance import Utterance
from tests.examples import LANGUAGES, ROOT
from tests.test_endpoint import Server
from tests.test_replies import MUTATIONS

CATALOGUES = [path.stem for path in files(ROOT / "data" / "tools")]
EVERY = [(name, language) for name in CATALOGUES for language in LANGUAGES]
of_each = pytest.mark.parametrize(("name", "language"), EVERY)
COUNT = 500
TEST = 0.1


def path_of(name: str) -> Path:
    return ROOT / "data" / "tools" / f"{name}.json"


def seat(name: str, language: str, number: int, split: str) -> Sample:
    made = Utterance(f"t/{name}/{language}/{number}", "t", language=language, catalogue=name)
    return Sample(made.id, (made,), split)


def briefing(name: str, test: float = TEST, seed: int = 0) -> Briefing:
    return Briefing(Prompts(), seed, [], test, {f"t/{name}": load(path_of(name))})


@lru_cache(maxsize=len(EVERY))
def written(name: str, language: str) -> list[Sample]:
    """500 samples of the grammar, a tenth of them for test."""
    task, briefed = ToolGrammar(), briefing(name)
    made = []
    for number in range(COUNT):
        draft = seat(name, language, number, "test" if number % 10 == 0 else "train")
        made += task.make(draft, briefed(task, draft.utterances[0], draft.split))
    return made


def kept(name: str, language: str) -> list[Sample]:
    return [sample for sample in written(name, language) if sample.rejected is None]


def calls(sample: Sample) -> list[matching.Call]:
    return [matching.Call(c.name, json.loads(c.arguments)) for m in sample.messages for c in m.tool_calls]


@of_each
def test_each_call_is_valid_and_found_again_by_matching(name: str, language: str) -> None:
    for sample in kept(name, language):
        schemas = {tool.name: json.loads(tool.parameters) for tool in sample.tools}
        assert len(schemas) == len(sample.tools)
        for message in sample.messages:
            for call in message.tool_calls:
                assert validation.problem(call, sample.tools) is None, call
        accepted = matching.from_json(sample.answer)
        assert matching.mismatch(accepted, calls(sample), schemas) is None, sample.messages
        assert bool(accepted) == (sample.outcome in ("tool_call", "request_for_info"))


@of_each
def test_dialogues_are_whole(name: str, language: str) -> None:
    for sample in kept(name, language):
        system, *turns = sample.messages
        assert system.role == "system"
        spoken = [m for m in turns if m.role == "user"]
        assert [m.content for m in spoken] == [AUDIO_PLACEHOLDER] * len(sample.utterances)
        assert len(sample.utterances) == (2 if sample.situation == "missing_argument" else 1)
        assert all(u.transcript and u.catalogue is None and u.language == language for u in sample.utterances)
        assert len({u.id for u in sample.utterances}) == len(sample.utterances)
        assert turns[-1].role == "assistant"
        assert turns[-1].content
        assert sample.outcome == OUTCOMES[sample.situation]
        made = [c.id for m in turns for c in m.tool_calls]
        assert made == [m.tool_call_id for m in turns if m.role == "tool"]
        assert len(set(made)) == len(made)
        for message in turns:
            assert not any(mark in message.content for mark in ("{", "}", "  ", "~")) or message.role == "tool"
        for said in (u.transcript for u in sample.utterances):
            assert not any(mark in said for mark in "{}[]()<>|~"), said
            assert "  " not in said
            assert ",," not in said
            assert " ," not in said


@of_each
def test_arguments_are_said_where_it_is_told(name: str, language: str) -> None:
    for sample in kept(name, language):
        for mention in sample.mentions:
            said = sample.utterances[mention.utterance].transcript
            assert contains(words(said), words(mention.words)), (said, mention)
        if sample.situation in ("one_call", "parallel", "correction", "hesitation", "missing_argument"):
            named = {m.argument.split(".")[1] for m in sample.mentions}
            assert named == {argument for call in calls(sample) for argument in call.arguments}


@of_each
def test_no_query_and_no_call_is_in_both_splits(name: str, language: str) -> None:
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for sample in kept(name, language):
        seen[sample.split] |= {normalise(u.transcript) for u in sample.utterances}
        seen[sample.split] |= {f"{c.name}{canonical(c.arguments)}" for c in calls(sample)}
    assert seen["test"]
    assert not seen["train"] & seen["test"]


@of_each
def test_the_mix_is_the_recipes(name: str, language: str) -> None:
    made = kept(name, language)
    count = Counter(sample.situation for sample in made)
    for situation, share in MIX.items():
        assert abs(count[situation] / len(made) - share) <= 0.02, situation
    assert len(made) >= 0.98 * COUNT, Counter(s.detail for s in written(name, language) if s.rejected)


@of_each
def test_there_is_enough_to_say(name: str, language: str) -> None:
    grammar = load(path_of(name)).grammars[language]
    assert grammar.size >= 300
    said = Counter(normalise(sample.utterances[0].transcript) for sample in kept(name, language))
    assert len(said) >= 0.75 * COUNT


def test_eight_domains_and_forty_tools() -> None:
    loaded = [load(path_of(name)) for name in CATALOGUES]
    assert len(loaded) >= 8
    assert sum(len(one.tools) for one in loaded) >= 40
    for one in loaded:
        assert set(one.grammars) == set(LANGUAGES)
        for language in LANGUAGES:
            specs = one.specs(language)
            assert one.about(language) != one.about("en") or language == "en"
            if language != "en":
                untold = [n for n, spec in specs.items() if spec.description == one.tools[n].spec.description]
                assert untold == [], (one.name, language)


def test_equal_seeds_give_equal_dialogues_and_others_others() -> None:
    task, draft = ToolGrammar(), seat("home", "en", 3, "train")

    def of_seed(seed: int) -> list[Sample]:
        return list(task.make(draft, briefing("home", seed=seed)(task, draft.utterances[0], "train")))

    assert of_seed(0) == of_seed(0)
    assert len({of_seed(seed)[0].messages for seed in range(20)}) > 15
    assert list(from_batch(to_batch(of_seed(0)))) == of_seed(0)


def test_the_mix_can_be_changed() -> None:
    task = ToolGrammar(mix={"parallel": 1, "mention": 3})
    draw = briefing("home")
    made = Counter()
    for number in range(200):
        draft = seat("home", "en", number, "train")
        made.update(s.situation for s in task.make(draft, draw(task, draft.utterances[0], "train")))
    assert abs(made["parallel"] / 200 - 0.25) <= 0.02
    assert made["parallel"] + made["mention"] == 200
    with pytest.raises(ValueError, match="no situation 'paralel'"):
        ToolGrammar(mix={"paralel": 1})


def test_a_mix_that_a_catalogue_has_nothing_for_is_set_aside_and_says_so(tmp_path: Path) -> None:
    for file in ("home.json", "home.en.yaml"):
        text = (ROOT / "data" / "tools" / file).read_text(encoding="utf-8")
        (tmp_path / file).write_text(
            text.partition("\nchains:")[0] if file.endswith("yaml") else text, encoding="utf-8"
        )
    task, draft = ToolGrammar(mix={"dependent": 1, "one_call": 0}), seat("home", "en", 0, "train")
    draw = Briefing(Prompts(), 0, [], TEST, {"t/home": load(tmp_path / "home.json")})
    (sample,) = task.make(draft, draw(task, draft.utterances[0], "train"))
    assert sample.rejected == "nothing_to_ask"
    assert sample.detail.endswith("has nothing for the situations of `mix`: dependent")


def test_a_right_and_a_wrong_answer_are_scored() -> None:
    task = ToolGrammar()
    for sample in kept("home", "en")[:120]:
        made = [{"name": c.name, "arguments": c.arguments} for c in calls(sample)]
        assert task.score(sample, json.dumps(made) if made else sample.response) == {"correct": 1.0}
        wrong = (
            [{"name": "set_light", "arguments": {"room": "cellar"}}] if made != [] else [{"name": "x", "arguments": {}}]
        )
        assert task.score(sample, json.dumps(wrong)) == {"correct": 0.0}


# What an LLM writes.


def mutated_replies(valid: str, rng: random.Random) -> Iterator[str]:
    for number in range(40):
        mutate = list(MUTATIONS.values())[number % len(MUTATIONS)]
        yield mutate(valid, rng)


def test_whatever_the_llm_writes_or_finds_a_sample_comes_of_it() -> None:
    """Mutated replies to both requests: never an exception, and each sample valid or with a reason."""
    task, draw, rng = ToolCall(), briefing("home"), random.Random(3)
    outcomes: Counter[str | None] = Counter()
    for number in range(60):
        draft = seat("home", "en", number, "train")
        briefed = draw(task, draft.utterances[0], "train")
        for text in mutated_replies(reply().model_dump_json(), rng):
            found = read.structure(text, replies.ToolQuery)
            if isinstance(found, Rejection):
                outcomes[found.reason] += 1
                continue
            (sample,) = task.answer(draft, briefed, found)
            assert list(from_batch(to_batch([sample]))) == [sample]
            outcomes[sample.rejected] += 1
            made = [{"name": c.name, "arguments": json.dumps(c.arguments)} for c in calls(sample)]
            for other in mutated_replies(json.dumps({"calls": made}), rng):
                recovered = read.structure(other, replies.RecoveredCalls)
                if isinstance(recovered, Rejection):
                    outcomes[recovered.reason] += 1
                else:
                    outcomes[task.checked(sample, briefed, recovered).rejected] += 1
    assert outcomes.total() > 5000
    assert outcomes[None] > 500
    assert set(outcomes) >= {None, "not_recoverable", "reply_not_json", "reply_breaks_schema"}


def reply() -> replies.ToolQuery:
    return replies.ToolQuery(utterance="Do it at once!", question="When?", second_utterance="Now.", answer="Done.")


@pytest.mark.parametrize("language", [*LANGUAGES, "de"])
def test_the_llm_is_asked_for_what_is_then_checked(language: str) -> None:
    task, draw = ToolCall(), briefing("home")
    seen = set()
    for number in range(120):
        draft = seat("home", language, number, "train")
        briefed = draw(task, draft.utterances[0], "train")
        question = task.ask(draft, briefed)
        (sample,) = task.answer(draft, briefed, reply())
        seen.add(sample.situation)
        asked = question.messages[-1].content
        for call in calls(sample):
            assert call.name in asked
        assert sample.outcome == OUTCOMES[sample.situation]
        check = task.check(sample, briefed)
        assert (check is None) == (sample.situation == "no_tools")
        if check is None:
            continue
        assert "Do it at once!" in check.messages[-1].content
        for call in calls(sample):
            hidden = f'"arguments": {json.dumps(call.arguments, ensure_ascii=False)}'
            assert hidden not in check.messages[-1].content, "the calls would be told"
        found = [replies.RecoveredCall(name=c.name, arguments=json.dumps(c.arguments)) for c in calls(sample)]
        agreed = task.checked(sample, briefed, replies.RecoveredCalls(calls=found))
        assert agreed.rejected is None, agreed.detail
        found = [*found, replies.RecoveredCall(name="set_light", arguments="{}")]
        judged = task.checked(sample, briefed, replies.RecoveredCalls(calls=found))
        assert judged.rejected == "not_recoverable"
        assert "wrong number of calls" in judged.detail
    assert seen == set(OUTCOMES)


class Understanding(Server):
    """Plays the LLM: says what is asked for by its number, and understands what it has said, but for some."""

    def __init__(self, deaf_to: int) -> None:
        super().__init__()
        self.answer, self._deaf_to = self.reply, deaf_to
        self._said: list[list[dict[str, str]]] = []

    async def reply(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())["messages"][-1]["content"]
        if (found := re.search(r"request number (\d+)x", asked)) is not None:
            number = int(found[1])
            calls = [] if number % self._deaf_to == 0 else self._said[number]
            content = json.dumps({"calls": calls})
        else:
            lines = [json.loads(line) for line in asked.splitlines() if line.startswith("{")]
            calls = [{"name": c["name"], "arguments": json.dumps(c["arguments"])} for c in lines if "result" in c]
            self._said.append(calls)
            said = f"Do request number {len(self._said) - 1}x."
            content = json.dumps(
                {"utterance": said, "question": "When?", "second_utterance": "Now.", "answer": "Done."}
            )
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})


def test_two_requests_over_http_and_none_is_sent_again(tmp_path: Path) -> None:
    server, task, draw = Understanding(deaf_to=4), ToolCall(), briefing("home")
    llm = OpenAI(model="m", base_url=server.url, concurrency=1)
    drafts = []
    for number in range(60):
        draft = seat("home", "en", number, "train")
        drafts.append(replace(draft, id=f"{draft.id}:tool_call", task="tool_call"))

    def run() -> list[Sample]:
        with Memo(tmp_path / "memo.sqlite") as memo:
            return list(Generate({"tool_call": task}, draw, llm, [server.url], memo, 0)(drafts))

    try:
        rows = run()
        sent = server.seen.total()
        assert [row.utterances[0].id for row in rows] == [draft.utterances[0].id for draft in drafts]
        assert set(server.seen.values()) == {1}
        assert sent == 60 + sum(row.situation != "no_tools" for row in rows)
        calling = [row for row in rows if row.outcome in ("tool_call", "request_for_info")]
        lost = {row.id for row in rows if row.rejected == "not_recoverable"}
        assert 0 < len(lost) < len(calling) / 2
        assert lost <= {row.id for row in calling}, "where nothing is called, nothing is to be found"
        for row in rows:
            times = 1 if row.situation == "no_tools" else 2
            assert row.provenance.attempts == times
            assert (row.provenance.prompt_tokens, row.provenance.completion_tokens) == (10 * times, 5 * times)
            assert "Do request number" in row.provenance.reply
        assert run() == rows
        assert server.seen.total() == sent, "all was remembered"
    finally:
        server.stop()
