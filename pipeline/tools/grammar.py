"""Grammar: how people ask for the tools of a catalogue in one language, with exact ground truth.

`clinic.en.yaml` beside `clinic.json`. Slots in braces are arguments; whatever a phrasing says is what
the call has, so a phrasing and its call can never disagree. See `pipeline.tools.patterns` for the
brackets.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.tools import validation
from pipeline.tools.errors import CatalogueError
from pipeline.tools.patterns import PatternError, Patterns, Slot
from pipeline.tools.values import Kind, Listing, Object, Setting, draw
from schemas.recipe import Options

if TYPE_CHECKING:
    from pipeline.tools.catalogue import Argument, Tool, Variant

_TRIALS = 12  # values that are drawn to see what a slot may be
_SAMPLE_DAY = dt.date(2026, 3, 14)


class Echo(str):
    """In a result: the call's own argument of this name."""

    __slots__ = ()


class Phrase(Options):
    """A pattern with its weight."""

    say: str
    weight: float = Field(default=1.0, gt=0, lt=1e9)


Phrases = Annotated[list[str | Phrase], Field(min_length=1)]


class ExchangeFile(Options):
    """Something said, and the answer to it."""

    say: Phrases
    reply: Phrases

    @field_validator("say", "reply", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class NeedFile(Options):
    """How the assistant asks for an argument, and how the user then names it."""

    question: Phrases
    answer: Phrases


class ToolFile(Options):
    """What is said about one tool."""

    ask: Phrases
    """Whole requests: each names all required arguments."""
    short: list[str | Phrase] = []
    """Requests that lack exactly one required argument."""
    need: dict[str, NeedFile] = {}
    """By argument that may be lacking."""
    answer: dict[str, Phrases]
    """By the result's name: what the assistant says when it has come."""
    mention: list[ExchangeFile] = []
    """Speech that touches the topic, or is meant for somebody else, and asks for no call."""

    @field_validator("answer", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"ok": value} if isinstance(value, list) else value


class ChainFile(Options):
    """A request whose second call needs the result of the first."""

    tools: list[str] = Field(min_length=2, max_length=2)
    links: dict[str, str] = Field(min_length=1)
    """By argument of the second tool: where it stands in the first one's result, `restaurants.0.name`."""
    ask: Phrases
    """Slots are `tool.argument`."""
    answer: Phrases
    """Slots are `tool.argument` and `tool.result.field`."""


class GrammarFile(Options):
    """What `CATALOGUE.LANGUAGE.yaml` may hold."""

    pieces: dict[str, Phrases] = {}
    tools: dict[str, ToolFile]
    chains: list[ChainFile] = []
    chat: list[ExchangeFile] = []
    """What the assistant answers by itself, tools or not."""
    unfit: list[ExchangeFile] = []
    """Requests that none of the tools serves, and the refusal."""


@dataclass(frozen=True)
class Exchange:
    """Something said, and the answer to it."""

    say: Patterns
    reply: Patterns


@dataclass(frozen=True)
class Short:
    """Requests that lack one argument."""

    say: Patterns
    argument: str


@dataclass(frozen=True)
class Need:
    """How a lacking argument is asked for and named."""

    question: Patterns
    answer: Patterns


@dataclass(frozen=True)
class ToolPhrases:
    """All that is said about a tool."""

    ask: Patterns
    short: list[Short]
    need: dict[str, Need]
    answer: dict[str, Patterns]
    mention: list[Exchange]


@dataclass(frozen=True)
class Chain:
    """Two calls, the second of which depends on the first."""

    first: str
    second: str
    links: dict[str, str]
    ask: Patterns
    answer: Patterns


@dataclass(frozen=True)
class Grammar:
    """All that is said in one language about the tools of a catalogue."""

    path: Path
    language: str
    tools: dict[str, ToolPhrases]
    chains: list[Chain]
    chat: list[Exchange]
    unfit: list[Exchange]

    @property
    def size(self) -> int:
        """How many ways there are to ask for the tools, values aside."""
        asks = sum(t.ask.size + sum(s.say.size for s in t.short) for t in self.tools.values())
        return asks + sum(chain.ask.size for chain in self.chains)


def load(path: Path, language: str, tools: Mapping[str, Tool], results: Mapping[str, Sequence[Variant]]) -> Grammar:
    """A grammar, checked against the tools that it speaks of.

    Raises:
        CatalogueError: Names file, tool and field, and what is expected there.
    """
    try:
        read = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise CatalogueError(f"{path}: an object with `tools` is expected; see docs/tools.md")
        content = GrammarFile.model_validate(read)
    except (YAMLError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: this is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise CatalogueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from error
    return _Builder(path, language, tools, results, content).grammar()


class _Builder:
    def __init__(
        self,
        path: Path,
        language: str,
        tools: Mapping[str, Tool],
        results: Mapping[str, Sequence[Variant]],
        content: GrammarFile,
    ) -> None:
        self._path, self._language, self._tools, self._results = path, language, tools, results
        self._content = content
        self._pieces: dict[str, Patterns] = {}

    def grammar(self) -> Grammar:
        """All of the file."""
        for name, phrases in self._content.pieces.items():
            self._pieces[name] = self._read(phrases, f"pieces.{name}")
        for name, patterns in self._pieces.items():
            self._checked(patterns, f"pieces.{name}")
        missing = set(self._tools) - set(self._content.tools)
        if missing:
            raise self._fail(f"tools.{sorted(missing)[0]}", "this tool of the catalogue is missing: say how to ask it")
        made = {name: self._tool(name, file) for name, file in self._content.tools.items()}
        return Grammar(
            self._path,
            self._language,
            made,
            [self._chain(chain, f"chains[{i}]") for i, chain in enumerate(self._content.chains)],
            [self._exchange(e, f"chat[{i}]", {}) for i, e in enumerate(self._content.chat)],
            [self._exchange(e, f"unfit[{i}]", {}) for i, e in enumerate(self._content.unfit)],
        )

    def _tool(self, name: str, file: ToolFile) -> ToolPhrases:
        where = f"tools.{name}"
        if name not in self._tools:
            raise self._fail(where, f"the catalogue has no such tool; it has: {', '.join(sorted(self._tools))}")
        tool = self._tools[name]
        slots: dict[str, Kind | None] = {a.name: a.kind for a in tool.arguments.values()}
        ask = self._patterns(file.ask, f"{where}.ask", slots)
        for text, said in ask.always():
            if tool.required - said:
                lacking = ", ".join(sorted(tool.required - said))
                raise self._fail(f"{where}.ask", f"{text!r} does not always say {lacking}, which is required")
        need = {
            argument: Need(
                self._patterns(n.question, f"{where}.need.{argument}.question", {}),
                self._answer(n.answer, f"{where}.need.{argument}.answer", slots, argument),
            )
            for argument, n in file.need.items()
        }
        return ToolPhrases(
            ask,
            [self._short(phrase, f"{where}.short", tool, slots, need) for phrase in file.short],
            need,
            self._answers(name, file, f"{where}.answer", slots),
            [self._exchange(e, f"{where}.mention[{i}]", slots) for i, e in enumerate(file.mention)],
        )

    def _answer(self, phrases: Phrases, where: str, slots: Mapping[str, Kind | None], argument: str) -> Patterns:
        patterns = self._patterns(phrases, where, slots)
        for text, said in patterns.always():
            if argument not in said:
                raise self._fail(where, f"{text!r} does not say {{{argument}}}, which was asked for")
        return patterns

    def _short(
        self, phrase: str | Phrase, where: str, tool: Tool, slots: Mapping[str, Kind | None], need: Mapping[str, Need]
    ) -> Short:
        patterns = self._patterns([phrase], where, slots)
        ((text, said),) = patterns.always()
        lacking = tool.required - {slot.name for slot in patterns.slots()}
        if len(lacking) != 1 or tool.required - said != lacking:
            told = ", ".join(sorted(tool.required - said)) or "none"
            raise self._fail(
                where, f"{text!r} must lack exactly one required argument in all its forms; it lacks: {told}"
            )
        (argument,) = lacking
        if argument not in need:
            raise self._fail(where, f"{text!r} lacks {argument}: add need.{argument} with question and answer")
        return Short(patterns, argument)

    def _answers(self, name: str, file: ToolFile, where: str, slots: Mapping[str, Kind | None]) -> dict[str, Patterns]:
        variants = {v.name: v.template for v in self._results.get(name, ())} or {"ok": {}}
        missing, unknown = set(variants) - set(file.answer), set(file.answer) - set(variants)
        if missing or unknown:
            told = f"{sorted(missing)[0]} is missing" if missing else f"no result is called {sorted(unknown)[0]!r}"
            raise self._fail(where, f"{told}; the results of {name} are called: {', '.join(sorted(variants))}")
        tool = self._tools[name]
        sure = {argument: kind for argument, kind in slots.items() if argument in tool.required}
        made = {}
        for variant, phrases in file.answer.items():
            known = sure | _paths(variants[variant], "result", tool, tool.required)
            made[variant] = self._patterns(phrases, where, known, answers=True)
        return made

    def _chain(self, file: ChainFile, where: str) -> Chain:
        first, second = file.tools
        slots: dict[str, Kind | None] = {}
        for name in file.tools:
            if name not in self._tools:
                raise self._fail(f"{where}.tools", f"the catalogue has no tool {name!r}")
            slots |= {f"{name}.{a.name}": a.kind for a in self._tools[name].arguments.values()}
        given = _paths(self._template(first), "", self._tools[first], self._tools[first].required)
        for argument, source in file.links.items():
            if argument not in self._tools[second].arguments:
                raise self._fail(f"{where}.links", f"the tool {second} has no argument {argument!r}")
            if source not in given:
                known = ", ".join(sorted(given)) or "nothing"
                raise self._fail(f"{where}.links.{argument}", f"{first} gives no {source!r}; it gives: {known}")
            self._check_link(self._tools[second].arguments[argument], self._tools[first], source, f"{where}.links")
            del slots[f"{second}.{argument}"]
        ask = self._patterns(file.ask, f"{where}.ask", slots)
        wanted = {f"{first}.{a}" for a in self._tools[first].required}
        wanted |= {f"{second}.{a}" for a in self._tools[second].required - set(file.links)}
        for text, said in ask.always():
            if wanted - said:
                raise self._fail(f"{where}.ask", f"{text!r} does not always say {', '.join(sorted(wanted - said))}")
        always = frozenset.intersection(*(said for _, said in ask.always()))
        sure = {name: slots[name] for name in always}
        for name, linked in ((first, frozenset[str]()), (second, frozenset(file.links))):
            named = {slot.removeprefix(f"{name}.") for slot in always if slot.startswith(f"{name}.")}
            sure |= _paths(self._template(name), f"{name}.result", self._tools[name], linked | named)
        answer = self._patterns(file.answer, f"{where}.answer", sure, answers=True)
        return Chain(first, second, dict(file.links), ask, answer)

    def _check_link(self, argument: Argument, giver: Tool, source: str, where: str) -> None:
        """Whether what the first tool gives is allowed as the second one's argument."""
        for number in range(_TRIALS):
            given = _drawn(_at(self._template(giver.name), source), giver, self._language, number)
            problem = validation.value_problem(given, argument.schema)
            if problem is not None:
                raise self._fail(
                    f"{where}.{argument.name}",
                    f"{giver.name} may give {given!r}, which is not as its schema says: {problem}",
                )

    def _template(self, tool: str) -> Any:
        variants = self._results.get(tool)
        return variants[0].template if variants else {}

    def _exchange(self, file: ExchangeFile, where: str, slots: Mapping[str, Kind | None]) -> Exchange:
        say = self._patterns(file.say, f"{where}.say", slots)
        said = frozenset.intersection(*(found for _, found in say.always()))
        sure = {name: slots[name] for name in said}
        return Exchange(say, self._patterns(file.reply, f"{where}.reply", sure, answers=True))

    def _read(self, phrases: Phrases, where: str) -> Patterns:
        texts = [(p, 1.0) if isinstance(p, str) else (p.say, p.weight) for p in phrases]
        try:
            return Patterns(texts, self._pieces)
        except PatternError as error:
            raise self._fail(where, str(error)) from error

    def _checked(self, patterns: Patterns, where: str) -> Patterns:
        try:
            patterns.check()
        except PatternError as error:
            raise self._fail(where, str(error)) from error
        return patterns

    def _patterns(
        self, phrases: Phrases, where: str, slots: Mapping[str, Kind | None], answers: bool = False
    ) -> Patterns:
        """Patterns that say something, in slots that are there.

        Args:
            phrases: As the file has them.
            where: The place in the file.
            slots: What may be named.
            answers: Whether the values of all slots are known beforehand: else what is not said has none.
        """
        patterns = self._checked(self._read(phrases, where), where)
        for slot in dict.fromkeys(patterns.slots()):
            self._check_slot(slot, where, slots, answers)
        for words in patterns.some():
            said = {word.name for word in words if isinstance(word, Slot)}
            if not said and not any(c.isalnum() for word in words if isinstance(word, str) for c in word):
                raise self._fail(where, "one of these phrasings says nothing")
            for word in words:
                if isinstance(word, Slot) and word.form[:1] == "#" and not answers and word.form[1:] not in said:
                    counted = f"{{{word.name}:{word.form}}}"
                    raise self._fail(where, f"{counted} stands in a phrasing that does not say {{{word.form[1:]}}}")
        return patterns

    def _check_slot(self, slot: Slot, where: str, slots: Mapping[str, Kind | None], answers: bool) -> None:
        if slot.name not in slots:
            known = ", ".join(sorted(slots)) or "none"
            why = " that is always known" if answers else ""
            raise self._fail(where, f"there is no slot {{{slot.name}}}{why}; there are: {known}")
        kind = slots[slot.name]
        if kind is None:
            if slot.form:
                raise self._fail(where, f"{{{slot.name}}} is plain text and has no form {slot.form!r}")
            return
        languages = kind.languages()
        if languages is not None and self._language not in languages:
            raise self._fail(where, f"the values of {{{slot.name}}} have no words in {self._language!r}")
        forms = kind.forms(self._language)
        if slot.form.startswith("#"):
            if slot.form[1:] not in slots:
                raise self._fail(where, f"{{{slot.name}:{slot.form}}} names no other slot")
            counted = slots[slot.form[1:]]
            if counted is None or not all(_counts(counted, self._language, number) for number in range(_TRIALS)):
                raise self._fail(where, f"{{{slot.name}:{slot.form}}} names a slot that is no number")
            wanted = {"one", "few", "many"} if self._language == "ru" else {"one", "other"}
            if forms is not None and wanted - forms:
                raise self._fail(
                    where, f"not all values of {{{slot.name}}} have the plurals {', '.join(sorted(wanted))}"
                )
        elif slot.form and forms is not None and slot.form not in forms:
            known = ", ".join(sorted(f or "(none)" for f in forms))
            raise self._fail(where, f"not all values of {{{slot.name}}} have the form {slot.form!r}; all have: {known}")
        for inner in _objects(kind):
            if self._language not in inner.words:
                raise self._fail(where, f"the values of {{{slot.name}}} have no words in {self._language!r}")

    def _fail(self, where: str, text: str) -> CatalogueError:
        return CatalogueError(f"{self._path}: {where}: {text}")


def _objects(kind: Kind) -> Iterable[Object]:
    if isinstance(kind, Listing):
        yield from _objects(kind.of)
    elif isinstance(kind, Object):
        yield kind


def _counts(kind: Kind, language: str, number: int) -> bool:
    """Whether a value is a number, so that a plural can go with it."""
    value = draw(kind, Setting(language, _SAMPLE_DAY, random.Random(number))).argument
    return isinstance(value, int | float) and not isinstance(value, bool)


def _drawn(template: Any, tool: Tool, language: str, number: int) -> Any:
    """JSON that a place of a result may have."""
    if isinstance(template, Echo):
        kind = tool.arguments[str(template)].kind
        return None if kind is None else _drawn(kind, tool, language, number)
    if isinstance(template, Kind):
        return draw(template, Setting(language, _SAMPLE_DAY, random.Random(number))).argument
    return template


def _at(template: Any, path: str) -> Any:
    for key in path.split("."):
        template = template[int(key)] if isinstance(template, list) else template[key]
    return template


def _paths(template: Any, prefix: str, tool: Tool, sure: frozenset[str]) -> dict[str, Kind | None]:
    """All places of a result that every result has, as slots name them, with the kind of value if it is drawn.

    Args:
        template: Of the result.
        prefix: Stands before each.
        tool: Gives it.
        sure: The arguments that every call has: the place that repeats another may be empty.
    """
    found: dict[str, Kind | None] = {}
    if isinstance(template, Echo):
        return {prefix: tool.arguments[str(template)].kind} if str(template) in sure else {}
    if isinstance(template, Kind):
        return {prefix: template}
    if isinstance(template, dict):
        for key, value in template.items():
            found |= _paths(value, f"{prefix}.{key}" if prefix else key, tool, sure)
    elif isinstance(template, list):
        for number, value in enumerate(template):
            if isinstance(value, Echo) and str(value) not in sure:
                break  # what follows moves up where it is left out
            found |= _paths(value, f"{prefix}.{number}" if prefix else str(number), tool, sure)
    else:
        found[prefix] = None
    return found
