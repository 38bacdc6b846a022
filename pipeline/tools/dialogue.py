"""Dialogue: what is said to an assistant that has tools, what it does, and how it answers.

Ten situations, of When2Call's four outcomes (arXiv:2504.18851): a call, a direct answer, a question
for what is lacking, and saying that nothing fits.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.text import normalise
from pipeline.tools import calendar
from pipeline.tools.catalogue import Catalogue, call, canonical
from pipeline.tools.grammar import Chain, Exchange, Grammar, Short
from pipeline.tools.matching import Accepted
from pipeline.tools.patterns import Patterns, Slot, Words, render, sentence
from pipeline.tools.results import Result, simulate
from pipeline.tools.values import Setting, Value, say
from schemas.conversation import AUDIO_PLACEHOLDER, Message, ToolSpec
from schemas.sample import Mention

OUTCOMES = {
    "one_call": "tool_call",
    "parallel": "tool_call",
    "dependent": "tool_call",
    "correction": "tool_call",
    "hesitation": "tool_call",
    "missing_argument": "request_for_info",
    "no_fitting_tool": "cannot_answer",
    "not_needed": "direct",
    "no_tools": "direct",
    "mention": "direct",
}
"""By situation, which of When2Call's outcomes is right."""
_FIRST_DAY = dt.date(2026, 1, 1)
_DAYS = 730
_TRIES = 4000  # drawings until one belongs to the split; in a split of 5 % one in 400 does
_ADDRESS = 3  # words that a greeting or "if you please" has at most
_REDRAWN = 20  # times, where two slots draw the same
Admits = Callable[[str, str], bool]
"""Whether something of a kind (`call`, `said`) may appear in the split that is written for."""


class NothingLeft(Exception):
    """No request could be drawn that the split may have."""


@dataclass
class Dialogue:
    """A conversation in which each user's turn is speech."""

    situation: str
    said: list[str] = field(default_factory=list)
    """What the user says, turn by turn."""
    messages: list[Message] = field(default_factory=list)
    offered: list[ToolSpec] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """Which of When2Call's four it is."""
        return OUTCOMES[self.situation]

    def user(self, text: str, mentions: Sequence[tuple[str, str]] = ()) -> None:
        """A spoken turn."""
        self.mentions += [Mention(len(self.said), name, words) for name, words in mentions]
        self.said.append(text)
        self.messages.append(Message("user", AUDIO_PLACEHOLDER))

    def assistant(self, text: str) -> None:
        """An answer that is said."""
        self.messages.append(Message("assistant", text))

    def calls(self, calls: Sequence[tuple[str, Mapping[str, Any], Result]]) -> None:
        """Calls made together, and their results."""
        first = sum(len(m.tool_calls) for m in self.messages) + 1
        made = [call(first + i, name, arguments) for i, (name, arguments, _) in enumerate(calls)]
        self.messages.append(Message("assistant", "", tuple(made)))
        for one, (_, _, result) in zip(made, calls, strict=True):
            self.messages.append(Message("tool", result.text, (), one.id))


@dataclass(frozen=True)
class Request:
    """A call with the values that it is made of."""

    tool: str
    values: dict[str, Value]

    @property
    def arguments(self) -> dict[str, Any]:
        """As the call has them."""
        return {name: value.argument for name, value in self.values.items()}

    @property
    def key(self) -> str:
        """Equal for equal calls."""
        return f"{self.tool}{canonical(self.arguments)}"

    def contradicts(self, other: Request) -> bool:
        """Whether both ask the same of a tool, if only in part: the kitchen cannot be at 20 and at 22 degrees."""
        mine, its = self.arguments, other.arguments
        return self.tool == other.tool and (not mine or any(its.get(name) == mine[name] for name in mine))


class Scene:
    """Where a dialogue is drawn: catalogue, language, day, and the split that it is for.

    Args:
        catalogue: Has the tools.
        language: Of the speech, without region.
        rng: Draws everything.
        admits: Whether a call or a text may appear in the split.
        told_in: The language of the tools' descriptions.
    """

    def __init__(self, catalogue: Catalogue, language: str, rng: random.Random, admits: Admits, told_in: str) -> None:
        self.catalogue, self.language, self.rng, self._admits = catalogue, language, rng, admits
        self.today = _FIRST_DAY + dt.timedelta(days=rng.randrange(_DAYS))
        self.setting = Setting(language, self.today, rng)
        self._specs = catalogue.specs(told_in)

    def date(self) -> dict[str, str]:
        """For templates: today, as people write it."""
        known = self.language if self.language in calendar.LANGUAGES else "en"
        return {
            "date": calendar.day_and_month(self.today, known),
            "weekday": calendar.weekday(self.today, known),
            "year": str(self.today.year),
            "iso": self.today.isoformat(),
        }

    def admits_call(self, request: Request) -> bool:
        """Whether a call may appear in the split."""
        return self._admits("call", request.key)

    def admits_text(self, text: str) -> bool:
        """Whether something said may."""
        return self._admits("said", normalise(text))

    def request(self, tool: str | None = None) -> Request:
        """A call that may appear in the split, drawn from the schema.

        Raises:
            NothingLeft: There is none.
        """
        for _ in range(_TRIES):
            name = tool or self.rng.choice(list(self.catalogue.tools))
            made = Request(name, self.catalogue.arguments_of(name, self.setting))
            if self.admits_call(made):
                return made
        raise NothingLeft(f"no call of {tool or self.catalogue.name} belongs to this split")

    def offer(self, wanted: Sequence[str], most: int, without: str | None = None) -> list[ToolSpec]:
        """The wanted tools among others, in no order."""
        others = [name for name in self._specs if name not in wanted and name != without]
        room = max(0, self.rng.randint(max(1, len(wanted)), max(most, len(wanted))) - len(wanted))
        names = [*dict.fromkeys(wanted), *self.rng.sample(others, min(room, len(others)))]
        self.rng.shuffle(names)
        return [self._specs[name] for name in names]

    def accepted(self, request: Request) -> Accepted:
        """What a right call for a request is: also with the defaults that it leaves out."""
        tool = self.catalogue.tools[request.tool]
        defaults = {
            a.name: (a.schema["default"],)
            for a in tool.arguments.values()
            if a.name not in request.values and "default" in a.schema
        }
        said = {name: value.accepted for name, value in request.values.items()}
        return Accepted(request.tool, said | defaults, frozenset(defaults))

    def result(self, request: Request, variant: str | None = None) -> Result:
        """What the tool gives back."""
        return simulate(self.catalogue, request.tool, request.arguments, self.setting, variant)


class Speaker:
    """Writes dialogues from a catalogue's grammar.

    Args:
        scene: Where they are drawn.
        phrases: By outcome (`correction`, `filler`, `joint`, `cannot`): phrasings of the language, each a
            template in which `{{ value }}`, `{{ first }}` and `{{ second }}` stand for what was said.
        most_tools: How many tools are offered at most.
    """

    def __init__(self, scene: Scene, phrases: Callable[..., str], most_tools: int = 8) -> None:
        self._scene, self._phrases, self._most = scene, phrases, most_tools
        self._rng = scene.rng
        self._grammar: Grammar = scene.catalogue.grammars[scene.language]

    def write(self, situation: str) -> Dialogue:
        """A dialogue of a situation.

        Raises:
            NothingLeft: The grammar has none that the split may have.
        """
        dialogue = Dialogue(situation)
        getattr(self, f"_{situation}")(dialogue)
        return dialogue

    def can(self, situation: str) -> bool:
        """Whether the grammar has all that a situation needs."""
        grammar = self._grammar
        needed = {
            "dependent": grammar.chains,
            "missing_argument": [s for t in grammar.tools.values() for s in t.short],
            "not_needed": grammar.chat,
            "no_tools": grammar.chat,
            "mention": [m for t in grammar.tools.values() for m in t.mention],
        }
        return bool(needed.get(situation, True))

    def ask(self, tool: str) -> str:
        """A plain request for a tool."""
        words = self._grammar.tools[tool].ask.choose(self._rng)
        return sentence(self._said(words, self._values(words, lambda _: self._scene.catalogue.tools[tool])))

    # Situations.

    def _one_call(self, dialogue: Dialogue) -> None:
        request, text, mentions = self._asked(self._plain)
        dialogue.user(text, mentions)
        self._served(dialogue, [request])

    def _correction(self, dialogue: Dialogue) -> None:
        request, text, mentions = self._asked(self._corrected)
        dialogue.user(text, mentions)
        self._served(dialogue, [request])

    def _hesitation(self, dialogue: Dialogue) -> None:
        request, text, mentions = self._asked(self._hesitating)
        dialogue.user(text, mentions)
        self._served(dialogue, [request])

    def _parallel(self, dialogue: Dialogue) -> None:
        for attempt in range(_TRIES):
            first, one, heard = self._asked(self._plain, any_text=True)
            second, two, heard_too = self._asked(self._plain, any_text=True)
            if first.contradicts(second) or (attempt < _REDRAWN and _addresses(two)):
                continue
            ending = sentence(one).rstrip(".")
            after = _within(two, [words for _, words in heard_too])
            text = sentence(self._phrases(self._rng, "joint", first=_closed(ending), second=after))
            text = text.replace(",,", ",").replace(",.", ".")
            if "?" not in ending and self._scene.admits_text(text):
                dialogue.user(text, [*heard, *heard_too])
                self._served(dialogue, [first, second])
                return
        raise NothingLeft("no two requests belong to this split")

    def _dependent(self, dialogue: Dialogue) -> None:
        for _ in range(_TRIES):
            chain = self._rng.choice(self._grammar.chains)
            words = chain.ask.choose(self._rng)
            values = self._values(words, lambda slot: self._scene.catalogue.tools[slot.partition(".")[0]])
            first = Request(chain.first, _of(values, chain.first))
            result = self._scene.result(first, self._first_variant(chain.first))
            given = _result_values(result, "", first)
            linked = {name: given.get(path) or _plain_value(result.at(path)) for name, path in chain.links.items()}
            second = Request(chain.second, _of(values, chain.second) | linked)
            text = sentence(self._said(words, values))
            admitted = self._scene.admits_call(first) and self._scene.admits_call(second)
            if admitted and self._scene.admits_text(text):
                self._chained(dialogue, chain, values, text, words, (first, result), second)
                return
        raise NothingLeft("no chain of calls belongs to this split")

    def _chained(
        self,
        dialogue: Dialogue,
        chain: Chain,
        values: dict[str, Value],
        text: str,
        words: Words,
        first: tuple[Request, Result],
        second: Request,
    ) -> None:
        dialogue.user(text, list(_mentions(words, values)))
        dialogue.offered = self._scene.offer([chain.first, chain.second], self._most)
        dialogue.accepted = [self._scene.accepted(first[0]), self._scene.accepted(second)]
        dialogue.calls([(first[0].tool, first[0].arguments, first[1])])
        result = self._scene.result(second, self._first_variant(chain.second))
        dialogue.calls([(second.tool, second.arguments, result)])
        known = dict(values)
        for request, given in ((first[0], first[1]), (second, result)):
            known |= _result_values(given, f"{request.tool}.result.", request)
        dialogue.assistant(sentence(self._said(chain.answer.choose(self._rng), known)))

    def _missing_argument(self, dialogue: Dialogue) -> None:
        # The other split may have all that one way of asking gives: there are others, and other tools.
        ways = [(name, short) for name, tool in self._grammar.tools.items() for short in tool.short]
        self._rng.shuffle(ways)
        for name, short in ways:
            try:
                self._lacking(dialogue, name, short)
            except NothingLeft:
                continue
            return
        raise NothingLeft("no request that lacks something belongs to this split")

    def _lacking(self, dialogue: Dialogue, name: str, short: Short) -> None:
        tool, need = self._scene.catalogue.tools[name], self._grammar.tools[name].need[short.argument]
        words, values, text = self._until_admitted(short.say, lambda _: tool)
        for _ in range(_TRIES):
            reply = need.answer.choose(self._rng)
            more = self._values(reply, lambda _: tool, values)
            request = Request(name, {**values, **more})
            answer = sentence(self._said(reply, more))
            if self._scene.admits_call(request) and self._scene.admits_text(answer):
                break
        else:
            raise NothingLeft(f"no answer to the question for {name}.{short.argument} belongs to this split")
        dialogue.user(text, list(_mentions(words, values, name)))
        dialogue.assistant(sentence(self._said(need.question.choose(self._rng), {})))
        dialogue.user(answer, list(_mentions(reply, more, name)))
        self._served(dialogue, [request])

    def _no_fitting_tool(self, dialogue: Dialogue) -> None:
        if self._grammar.unfit and self._rng.random() < 0.5:
            said, reply = self._exchange(self._grammar.unfit, None)
            dialogue.user(said)
            dialogue.offered = self._scene.offer([], self._most)
        else:  # a tool that would fit is not there: the hardest case
            request, said, _ = self._asked(self._plain)
            dialogue.user(said)
            dialogue.offered = self._scene.offer([], self._most, without=request.tool)
            reply = self._phrases(self._rng, "cannot")
        dialogue.assistant(reply)

    def _not_needed(self, dialogue: Dialogue) -> None:
        said, reply = self._exchange(self._grammar.chat, None)
        dialogue.user(said)
        dialogue.offered = self._scene.offer([], self._most)
        dialogue.assistant(reply)

    def _no_tools(self, dialogue: Dialogue) -> None:
        said, reply = self._exchange(self._grammar.chat, None)
        dialogue.user(said)
        dialogue.assistant(reply)

    def _mention(self, dialogue: Dialogue) -> None:
        name = self._rng.choice([n for n, t in self._grammar.tools.items() if t.mention])
        said, reply = self._exchange(self._grammar.tools[name].mention, name)
        dialogue.user(said)
        dialogue.offered = self._scene.offer([name], self._most)
        dialogue.assistant(reply)

    # Parts.

    def _asked(
        self, phrase: Callable[[Words, dict[str, Value], str], str | None], any_text: bool = False
    ) -> tuple[Request, str, list[tuple[str, str]]]:
        """A request for one tool, what is said, and where its arguments are in it."""
        for _ in range(_TRIES):
            name = self._rng.choice(list(self._grammar.tools))
            words = self._grammar.tools[name].ask.choose(self._rng)
            values = self._values(words, lambda _: self._scene.catalogue.tools[name])  # noqa: B023
            request = Request(name, values)
            if not self._scene.admits_call(request):
                continue
            text = phrase(words, values, name)
            if text is not None and (any_text or self._scene.admits_text(text)):
                return request, text if any_text else sentence(text), list(_mentions(words, values, name))
        raise NothingLeft(f"no request of {self._scene.catalogue.name} belongs to this split")

    def _plain(self, words: Words, values: dict[str, Value], tool: str) -> str | None:
        return self._said(words, values)

    def _corrected(self, words: Words, values: dict[str, Value], tool: str) -> str | None:
        """One value is named wrongly, and at once rightly; None where no value can be."""
        slots = [w for w in words if isinstance(w, Slot) and not w.form.startswith("#")]
        self._rng.shuffle(slots)
        for slot in slots:
            argument = self._scene.catalogue.tools[tool].arguments[slot.name]
            assert argument.kind is not None
            wrong = argument.kind.draw(self._scene.setting)
            form = slot.form
            if wrong.argument == values[slot.name].argument or wrong.say(form) == values[slot.name].say(form):
                continue
            if any(isinstance(v.argument, list) and len(v.argument) > 1 for v in (wrong, values[slot.name])):
                continue  # "ports 1 and 2, no, 3": which of them?
            at = words.index(slot)
            tail = self._phrases(self._rng, "correction", value=values[slot.name].say(form))
            wrongly = f"{wrong.say(form)}{'' if tail[:1] in ',.;' else ' '}{tail}"
            follows = words[at + 1] if at + 1 < len(words) else ""
            comma = "," if isinstance(follows, str) and follows[:1] == " " and follows.strip() else ""
            return self._said([*words[:at], wrongly + comma, *words[at + 1 :]], values)
        return None

    def _hesitating(self, words: Words, values: dict[str, Value], tool: str) -> str | None:
        """Before one of its values, or at the beginning, the speaker looks for words."""
        places = [i for i, word in enumerate(words) if isinstance(word, Slot) and i > 0]
        filler = self._phrases(self._rng, "filler").rstrip(".,")
        if not places or self._rng.random() < 0.3:
            begins = [words[0]] if isinstance(words[0], Slot) else []
            return f"{filler}, {_within(self._said(words, values), [self._said([w], values) for w in begins])}"
        at = self._rng.choice(places)
        before = words[at - 1]
        mark = "" if isinstance(before, str) and before.rstrip().endswith(tuple(",.:;?!")) else ","
        head = [*words[: at - 1], f"{before.rstrip()}{mark} {filler}, "] if isinstance(before, str) else [*words[:at]]
        return self._said([*head, *words[at:]], values)

    def _served(self, dialogue: Dialogue, requests: Sequence[Request]) -> None:
        """The calls, their results and what is said of them."""
        dialogue.offered = self._scene.offer([r.tool for r in requests], self._most)
        dialogue.accepted = [self._scene.accepted(request) for request in requests]
        results = [self._scene.result(request) for request in requests]
        dialogue.calls([(r.tool, r.arguments, result) for r, result in zip(requests, results, strict=True)])
        answers = []
        for request, result in zip(requests, results, strict=True):
            known = request.values | _result_values(result, "result.", request)
            patterns = self._grammar.tools[request.tool].answer[result.variant]
            answers.append(sentence(self._said(patterns.choose(self._rng), known)))
        dialogue.assistant(" ".join(dict.fromkeys(answers)))

    def _exchange(self, exchanges: Sequence[Exchange], tool: str | None) -> tuple[str, str]:
        for _ in range(_TRIES):
            exchange = self._rng.choice(exchanges)
            words = exchange.say.choose(self._rng)
            values = self._values(words, lambda _: self._scene.catalogue.tools[tool or ""])
            text = sentence(self._said(words, values))
            if self._scene.admits_text(text):
                return text, sentence(self._said(exchange.reply.choose(self._rng), values))
        raise NothingLeft("nothing of the kind that may be said belongs to this split")

    def _until_admitted(self, patterns: Patterns, tool: Callable[[str], Any]) -> tuple[Words, dict[str, Value], str]:
        for _ in range(_TRIES):
            words = patterns.choose(self._rng)
            values = self._values(words, tool)
            text = sentence(self._said(words, values))
            if self._scene.admits_text(text):
                return words, values, text
        raise NothingLeft("no phrasing belongs to this split")

    def _values(
        self, words: Words, tool: Callable[[str], Any], known: Mapping[str, Value] | None = None
    ) -> dict[str, Value]:
        """A value for each slot; slots of one pool get different ones: nobody travels from a city to itself.

        Values that are known already, from what was said before, stay as they are.
        """
        known = known or {}
        values: dict[str, Value] = {}
        drawn: dict[int, list[Any]] = {}
        for name, value in known.items():
            drawn.setdefault(id(tool(name).arguments[name.rpartition(".")[2]].kind), []).append(value.argument)
        for word in words:
            if isinstance(word, Slot) and word.name in known:
                values[word.name] = known[word.name]
            elif isinstance(word, Slot) and word.name not in values:
                kind = tool(word.name).arguments[word.name.rpartition(".")[2]].kind
                taken = drawn.setdefault(id(kind), [])
                value = kind.draw(self._scene.setting)
                for _ in range(_REDRAWN):
                    if value.argument not in taken:
                        break
                    value = kind.draw(self._scene.setting)
                taken.append(value.argument)
                values[word.name] = value
        return values

    def _said(self, words: Words, values: Mapping[str, Value]) -> str:
        return render(words, lambda slot: say(values[slot.name], slot, values, self._scene.language))

    def _first_variant(self, tool: str) -> str:
        """Chains go on only when all goes well: with the first of the results that a tool may give."""
        variants = self._scene.catalogue.results.get(tool)
        return variants[0].name if variants else "ok"


def _within(text: str, values: Sequence[str]) -> str:
    """A sentence as it goes on after other words: small, but for "I", abbreviations, and values as they are written."""
    first = text.partition(" ")[0].rstrip(",.:;!?")
    shouts = first == "I" or first.startswith(("I'", "I’")) or (len(first) > 1 and first.isupper())
    keeps = shouts or text.startswith(tuple(values))
    return text if keeps else text[:1].lower() + text[1:]


def _addresses(text: str) -> bool:
    """Whether a sentence begins by greeting or calling somebody: `Hi, ...` stands in no second sentence."""
    head, comma, _ = text.partition(",")
    return bool(comma) and len(head.split()) <= _ADDRESS


def _closed(text: str) -> str:
    """With a comma after a last part that one has before it: `..., please, and ...`."""
    _, comma, tail = text.rpartition(",")
    return f"{text}," if comma and len(tail.split()) <= _ADDRESS and tail.replace(" ", "").isalpha() else text


def _mentions(words: Words, values: Mapping[str, Value], tool: str | None = None) -> Iterator[tuple[str, str]]:
    for word in words:
        if isinstance(word, Slot):
            name = word.name if tool is None else f"{tool}.{word.name}"
            yield from values[word.name].mentions(name, word.form)


def _of(values: Mapping[str, Value], tool: str) -> dict[str, Value]:
    begin = f"{tool}."
    return {name.removeprefix(begin): value for name, value in values.items() if name.startswith(begin)}


def _plain_value(content: Any) -> Value:
    return Value(content, (content,), {"": str(content)})


def _result_values(result: Result, prefix: str, request: Request) -> dict[str, Value]:
    """All places of a result, with their words: those that repeat an argument as that was said."""
    known = {f"{prefix}{path}": value for path, value in _flat(result.content, "")}
    said = {path: request.values[name] for path, name in result.echoes.items() if name in request.values}
    known |= {f"{prefix}{path}": value for path, value in said.items()}
    return known | {f"{prefix}{path}": value for path, value in result.values.items()}


def _flat(content: Any, path: str) -> Iterator[tuple[str, Value]]:
    if isinstance(content, dict | list):
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in entries:
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, _plain_value(content)
