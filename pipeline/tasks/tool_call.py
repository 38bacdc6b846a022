"""Requests for tools that a text LLM writes, for calls that are drawn beforehand.

The LLM is given the calls, a persona and a way of speaking, and writes what is said and answered. A
second, independent request then gets the tools and what is said, and must find exactly the same calls,
or the sample is set aside as `not_recoverable`.

A row: `Hi, it's Ana, could I see the cardiologist on Friday?` -> `book_appointment(doctor="cardiologist", ...)`
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import langcodes
import orjson

from pipeline.tasks._queries import Queries
from pipeline.tasks.base import Brief, LLMTask, Question
from pipeline.text import contains, words
from pipeline.tools import matching
from pipeline.tools.dialogue import Dialogue, NothingLeft, Request, Scene
from pipeline.tools.results import Result
from pipeline.tools.values import Value
from schemas import replies
from schemas.conversation import Message
from schemas.sample import Sample
from schemas.utterance import Utterance


@dataclass
class Plan:
    """What the LLM is to put into words."""

    situation: str
    requests: list[Request] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    lacking: str = ""
    """The argument that is named only when the assistant has asked for it, or that another call gives."""
    wrong: str = ""
    """The value that is named first, by mistake: `minutes=20`."""
    topic: str = ""
    """What is talked about where nothing is called."""


class ToolCall(Queries, LLMTask):
    """Dialogues of ten situations, in any language that the LLM writes."""

    is_plugin: ClassVar[bool] = True
    reply: ClassVar[type[replies.Reply]] = replies.ToolQuery
    checks: ClassVar[bool] = True
    outcomes: ClassVar[tuple[str, ...]] = ("persona", "style")
    variables: ClassVar[frozenset[str]] = frozenset(
        {"weekday", "date", "year", "iso", "situation", "speech_language", "about", "tools", "calls", "lacking"}
        | {"wrong", "topic", "persona", "style", "said"}
    )

    most_tokens: int = 768

    def fits(self, utterance: Utterance) -> bool:
        return utterance.catalogue is not None

    def ask(self, draft: Sample, brief: Brief) -> Question:
        scene, plan = self._planned(draft, brief)
        values = self._told(draft, brief, scene) | {
            "situation": plan.situation,
            "calls": _shown(plan),
            "lacking": plan.lacking,
            "wrong": plan.wrong,
            "topic": plan.topic,
            "persona": brief.prompts.response(scene.rng, "persona"),
            "style": brief.prompts.response(scene.rng, "style"),
            "tools": "",
            "said": "",
        }
        system = brief.prompts.render(brief.prompts.content.system, values)
        user = brief.prompts.render(brief.prompts.content.user, values)
        return Question((Message("system", system), Message("user", user)), self.reply, self.most_tokens)

    def answer(self, draft: Sample, brief: Brief, reply: replies.ToolQuery) -> Iterable[Sample]:
        scene, plan = self._planned(draft, brief)
        dialogue = Dialogue(plan.situation)
        called = plan.requests if dialogue.outcome in ("tool_call", "request_for_info") else []
        dialogue.user(reply.utterance, _found(called, reply.utterance))
        if plan.situation == "missing_argument":
            dialogue.assistant(reply.question)
            dialogue.user(reply.second_utterance, _found(called, reply.second_utterance))
        wanted = [request.tool for request in plan.requests]
        if called:
            dialogue.accepted = [scene.accepted(request) for request in called]
            calls = [(r.tool, r.arguments, result) for r, result in zip(called, plan.results, strict=True)]
            for together in [[c] for c in calls] if plan.situation == "dependent" else [calls]:
                dialogue.calls(together)
        if plan.situation == "no_fitting_tool":
            dialogue.offered = scene.offer([], self.most_tools, without=wanted[0])
        elif plan.situation != "no_tools":
            dialogue.offered = scene.offer(wanted, self.most_tools)
        dialogue.assistant(reply.answer)
        sample = self.finished(draft, brief, scene, dialogue)
        if plan.situation == "missing_argument" and not (reply.question.strip() and reply.second_utterance.strip()):
            sample = sample.reject("reply_breaks_schema", "question and second_utterance are empty")
        yield sample

    def check(self, sample: Sample, brief: Brief) -> Question | None:
        if not sample.tools:
            return None
        scene = self.scene(sample, brief, self._catalogue(sample, brief))
        values = self._told(sample, brief, scene) | {"tools": _listed(sample), "said": _transcript(sample)}
        content = brief.prompts.render(
            brief.prompts.content.check, values | dict.fromkeys(self.variables - set(values))
        )
        return Question((Message("user", content),), replies.RecoveredCalls, self.most_tokens)

    def checked(self, sample: Sample, brief: Brief, reply: replies.RecoveredCalls) -> Sample:
        calls = [matching.Call(one.name, _loaded(one.arguments)) for one in reply.calls]
        schemas: dict[str, Any] = {tool.name: orjson.loads(tool.parameters) for tool in sample.tools}
        why = matching.mismatch(matching.from_json(sample.answer), calls, schemas)
        return sample if why is None else sample.reject("not_recoverable", why)

    def _catalogue(self, sample: Sample, brief: Brief) -> Any:
        seat = sample.utterances[0]
        name = seat.catalogue or seat.id.removeprefix(f"{seat.corpus}/").partition("/")[0]
        return brief.catalogues[f"{seat.corpus}/{name}"]

    def _told(self, sample: Sample, brief: Brief, scene: Scene) -> dict[str, Any]:
        language = langcodes.Language.get(scene.language).display_name(brief.language)
        return scene.date() | {"speech_language": language, "about": scene.catalogue.about(brief.language)}

    def _planned(self, draft: Sample, brief: Brief) -> tuple[Scene, Plan]:
        """The same whenever it is asked for: all is drawn from the draft's seed."""
        scene = self.scene(draft, brief, self._catalogue(draft, brief))
        try:
            situation = self.situation(draft, brief, self._possible(scene))
            plan = Plan(situation)
            getattr(self, f"_plan_{situation}", self._plan_talk)(scene, plan)
        except NothingLeft:
            plan = Plan("no_tools")
            self._plan_talk(scene, plan)
        return scene, plan

    def _possible(self, scene: Scene) -> list[str]:
        tools = scene.catalogue.tools.values()
        chains = any(grammar.chains for grammar in scene.catalogue.grammars.values())
        lacking = any(tool.required for tool in tools)
        out = set() if chains else {"dependent"}
        out |= set() if lacking else {"missing_argument", "correction"}
        return [name for name in self.mix if name not in out]

    def _plan_one_call(self, scene: Scene, plan: Plan) -> None:
        self._plan_request(scene, plan, scene.request())

    _plan_hesitation = _plan_one_call

    def _plan_request(self, scene: Scene, plan: Plan, request: Request) -> None:
        plan.requests.append(request)
        plan.results.append(scene.result(request))

    def _plan_parallel(self, scene: Scene, plan: Plan) -> None:
        first = scene.request()
        second = next((r for r in (scene.request() for _ in range(50)) if not first.contradicts(r)), None)
        if second is None:
            raise NothingLeft("there is only one call")
        for request in (first, second):
            self._plan_request(scene, plan, request)

    def _plan_dependent(self, scene: Scene, plan: Plan) -> None:
        chain = scene.rng.choice([c for g in scene.catalogue.grammars.values() for c in g.chains])
        variants = scene.catalogue.results.get(chain.first)
        for _ in range(200):
            first = scene.request(chain.first)
            result = scene.result(first, variants[0].name if variants else None)
            found = {name: result.at(path) for name, path in chain.links.items()}
            linked = {name: Value(content, (content,), {"": str(content)}) for name, content in found.items()}
            second = Request(chain.second, scene.request(chain.second).values | linked)
            if scene.admits_call(second):
                break
        else:
            raise NothingLeft("no chain of calls belongs to this split")
        plan.lacking = ", ".join(chain.links)
        plan.requests, plan.results = [first], [result]
        self._plan_request(scene, plan, second)

    def _plan_correction(self, scene: Scene, plan: Plan) -> None:
        for _ in range(200):
            request = scene.request()
            other = scene.catalogue.arguments_of(request.tool, scene.setting, optional=1.0)
            changed = [n for n, v in request.values.items() if n in other and other[n].argument != v.argument]
            if changed:
                name = scene.rng.choice(changed)
                plan.wrong = f"{name}={json.dumps(other[name].argument, ensure_ascii=False)} ({other[name].say()})"
                self._plan_request(scene, plan, request)
                return
        raise NothingLeft("no argument has two values")

    def _plan_missing_argument(self, scene: Scene, plan: Plan) -> None:
        tools = sorted(name for name, tool in scene.catalogue.tools.items() if tool.required)
        request = scene.request(scene.rng.choice(tools))
        plan.lacking = scene.rng.choice(sorted(scene.catalogue.tools[request.tool].required & set(request.values)))
        self._plan_request(scene, plan, request)

    def _plan_no_fitting_tool(self, scene: Scene, plan: Plan) -> None:
        plan.requests.append(scene.request())

    def _plan_talk(self, scene: Scene, plan: Plan) -> None:
        told = scene.catalogue.specs(scene.language)
        plan.topic = told[scene.rng.choice(sorted(told))].description


def _shown(plan: Plan) -> str:
    """The calls for the prompt: name, arguments, how people say the values, and what comes back."""
    shown = []
    for number, request in enumerate(plan.requests):
        linked = plan.lacking.split(", ") if plan.situation == "dependent" and number else ()
        said = {name: value.say() for name, value in request.values.items() if name not in linked}
        entry: dict[str, Any] = {"name": request.tool, "arguments": request.arguments, "said": said}
        if number < len(plan.results):
            entry["result"] = plan.results[number].content
        shown.append(entry)
    return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in shown)


def _found(requests: Sequence[Request], text: str) -> list[tuple[str, str]]:
    """Where values stand in a text, as far as they do so in one of their forms."""
    there = words(text)
    found = []
    for request in requests:
        for name, value in request.values.items():
            for argument, part in _leaves(f"{request.tool}.{name}", value):
                forms = {form.rpartition("~")[2] for form in part.forms.values()} | {str(part.argument)}
                said = next((f for f in sorted(forms, key=len, reverse=True) if contains(there, words(f))), None)
                if said:
                    found.append((argument, said))
    return found


def _leaves(name: str, value: Value) -> Iterable[tuple[str, Value]]:
    if not value.parts:
        yield name, value
    for part, inner in value.parts:
        yield from _leaves(f"{name}.{part}" if part else name, inner)


def _listed(sample: Sample) -> str:
    """The tools for the prompt, one a line."""
    return "\n".join(
        json.dumps(
            {"name": t.name, "description": t.description, "parameters": orjson.loads(t.parameters)},
            ensure_ascii=False,
        )
        for t in sample.tools
    )


def _transcript(sample: Sample) -> str:
    """The dialogue up to its last answer, in words: calls are not shown, but for the results of a first one."""
    spoken = iter(sample.utterances)
    lines, calls = [], 0
    for message in sample.messages:
        if message.role == "user":
            lines.append(f"user: {next(spoken).transcript}")
        elif message.role == "assistant" and message.tool_calls:
            calls += 1
        elif message.role == "assistant" and not calls:
            lines.append(f"assistant: {message.content}")
    batches = [m for m in sample.messages if m.tool_calls]
    if len(batches) > 1:
        first = next(m for m in sample.messages if m.tool_call_id == batches[0].tool_calls[0].id)
        lines.append(f"result of the first call: {first.content}")
    elif not batches:  # its answer would tell
        lines = lines[:1]
    return "\n".join(lines)


def _loaded(arguments: str) -> dict[str, Any]:
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {"": arguments}
    return value if isinstance(value, dict) else {"": value}
