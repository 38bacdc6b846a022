"""Values: what an argument may be, how it is written in a call, and how people say it.

A catalogue says under `values` where the values of an argument come from; what it leaves out follows
from the argument's JSON Schema. A drawn value knows the JSON that stands in the call, what else would
be right there, and its words in all the forms that a language needs.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
import re
import string
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator, model_validator

from pipeline.tools import calendar
from pipeline.tools.matching import OneOf
from pipeline.tools.patterns import Patterns, Slot, render
from schemas.recipe import Options

Forms = dict[str, str]
_AND = {"en": "and", "ru": "и", "pt": "e"}
_LONGEST = 50  # values of a list
_FARTHEST = 36_500  # days from today: a hundred years
_DEEPEST = 4  # schemas within schemas of which values are drawn
_MOST_ACCEPTED = 16  # lists that are right where several of their values may be put in several ways
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"  # I, O and Q look like others
_DECIMAL_COMMA = frozenset({"ru", "pt"})
_UNITS = {
    "minutes": (
        {"one": "minute", "other": "minutes"},
        {"one": "минуту", "few": "минуты", "many": "минут"},
        {"one": "minuto", "other": "minutos"},
    ),
    "hours": (
        {"one": "hour", "other": "hours"},
        {"one": "час", "few": "часа", "many": "часов"},
        {"one": "hora", "other": "horas"},
    ),
    "seconds": (
        {"one": "second", "other": "seconds"},
        {"one": "секунду", "few": "секунды", "many": "секунд"},
        {"one": "segundo", "other": "segundos"},
    ),
    "days": (
        {"one": "day", "other": "days"},
        {"one": "день", "few": "дня", "many": "дней"},
        {"one": "dia", "other": "dias"},
    ),
    "nights": (
        {"one": "night", "other": "nights"},
        {"one": "ночь", "few": "ночи", "many": "ночей"},
        {"one": "noite", "other": "noites"},
    ),
    "weeks": (
        {"one": "week", "other": "weeks"},
        {"one": "неделю", "few": "недели", "many": "недель"},
        {"one": "semana", "other": "semanas"},
    ),
    "people": (
        {"one": "person", "other": "people"},
        {"one": "человека", "few": "человек", "many": "человек"},
        {"one": "pessoa", "other": "pessoas"},
    ),
}
_SYMBOLS_RU = dict(
    zip(
        "mg g kg ml l mm cm m km GB MB Mbit/s km/h V W bar N·m".split(),
        "мг г кг мл л мм см м км ГБ МБ Мбит/с км/ч В Вт бар Н·м".split(),
        strict=True,
    )
)
_PLURALS = {"en": {"one", "other"}, "ru": {"one", "few", "many"}, "pt": {"one", "other"}}
_CURRENCIES = {"en": "${}", "ru": "{} ₽", "pt": "{} €"}


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and when something is said."""

    language: str
    """Without region: `en`, `ru`, `pt`."""
    today: dt.date
    rng: random.Random


@dataclass(frozen=True)
class Value:
    """One drawn value."""

    argument: Any
    """As the call has it: JSON."""
    accepted: tuple[Any, ...]
    """All that would be right there; the first is `argument`."""
    forms: Forms
    """Its words; `~` stands before those that carry it, if a preposition goes with them."""
    parts: tuple[tuple[str, Value], ...] = ()
    """Of lists and objects: what they are made of, by their names."""

    def say(self, form: str = "") -> str:
        """The words in a form."""
        return self.marked(form).replace("~", "")

    def mentions(self, name: str, form: str = "") -> Iterator[tuple[str, str]]:
        """Names of arguments, each with the words that carry it."""
        if not self.parts:
            yield name, self.marked(form).rpartition("~")[2]
        for part, value in self.parts:
            yield from value.mentions(f"{name}.{part}" if part else name, form if form in value.forms else "")

    def marked(self, form: str = "") -> str:
        """The words in a form, with `~` where those that carry the value begin."""
        found = self.forms.get(form)
        return self.forms[""] if found is None else found


def plural(number: int | float, language: str) -> str:
    """The CLDR plural category of a number: one, few, many or other."""
    if language == "ru":
        if number != int(number):
            return "few"
        tens, ones = int(number) % 100, int(number) % 10
        if ones == 1 and tens != 11:
            return "one"
        return "few" if 2 <= ones <= 4 and not 12 <= tens <= 14 else "many"
    return "one" if number == 1 else "other"


class Kind(Options):
    """A source of values."""

    @model_validator(mode="after")
    def _has_range(self) -> Kind:
        least, most = getattr(self, "least", None), getattr(self, "most", None)
        if least is not None and most is not None and least > most and not getattr(self, "values", None):
            raise ValueError(f"least is {least}, which is more than most, {most}")
        return self

    @abstractmethod
    def draw(self, at: Setting) -> Value:
        """One value."""

    def forms(self, language: str) -> frozenset[str] | None:
        """The forms that all its values have in a language; None where any form will do."""
        return None

    def languages(self) -> frozenset[str] | None:
        """The languages in which it can be said; None where it can in all."""
        return None


def draw(kind: Kind, at: Setting) -> Value:
    """A value in the setting's language, or in one that it has words in: an LLM will find others."""
    languages = kind.languages()
    if languages is not None and at.language not in languages:
        at = replace(at, language="en" if "en" in languages else min(languages))
    return kind.draw(at)


class _Entry(Options):
    """A value of a pool, with its words by language."""

    value: Any
    accept: list[Any] = []
    words: dict[str, str | Forms | list[str | Forms]] = {}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return {"value": content}
        if "value" not in content:
            return content
        words = {key: value for key, value in content.items() if key not in ("value", "accept", "words")}
        return {key: content[key] for key in ("value", "accept", "words") if key in content} | (
            {"words": words} if words else {}
        )

    @field_validator("words")
    @classmethod
    def _named(cls, words: dict[str, Any]) -> dict[str, Any]:
        for name, said in words.items():
            ways = said if isinstance(said, list) else [said]
            texts = [text for way in ways for text in (way.values() if isinstance(way, dict) else [way])]
            if not ways or not all(ways) or not all(text.strip(" ~") for text in texts):
                raise ValueError(f"{name}: no words are given")
        return words

    def of(self, language: str) -> list[Forms | str]:
        """Ways to say it in a language."""
        found = self.words.get(language)
        if found is None:
            return [str(self.value)]
        return list(found) if isinstance(found, list) else [found]


class Pool(Kind):
    """Values that are listed, the same for all languages or for each its own."""

    kind: Literal["pool"] = "pool"
    entries: list[_Entry] | dict[str, list[_Entry]]

    @field_validator("entries")
    @classmethod
    def _are_some(cls, entries: Any) -> Any:
        if not entries or (isinstance(entries, dict) and not all(entries.values())):
            raise ValueError("the pool is empty")
        return entries

    def listed(self) -> Iterator[Any]:
        """All JSON values that a call may have of it."""
        for entry in itertools.chain(*self.entries.values()) if isinstance(self.entries, dict) else self.entries:
            yield from (entry.value, *entry.accept)

    def _of(self, language: str) -> list[_Entry]:
        return self.entries.get(language, []) if isinstance(self.entries, dict) else self.entries

    def draw(self, at: Setting) -> Value:
        entry = at.rng.choice(self._of(at.language))
        words = at.rng.choice(entry.of(at.language))
        forms = _complete(words)
        return Value(entry.value, (entry.value, *entry.accept), forms)

    def forms(self, language: str) -> frozenset[str] | None:
        found: frozenset[str] | None = None
        for entry in self._of(language):
            for words in entry.of(language):
                if isinstance(words, dict):
                    found = frozenset(words) if found is None else found & frozenset(words)
        return None if found is None else found | {""}

    def languages(self) -> frozenset[str] | None:
        return frozenset(self.entries) if isinstance(self.entries, dict) else None


def _complete(words: Forms | str) -> Forms:
    """With the form that has no name: the first, where it is not given."""
    if isinstance(words, str):
        return {"": words}
    return words if "" in words else {"": next(iter(words.values())), **words}


class Integer(Kind):
    """A whole number."""

    kind: Literal["integer"] = "integer"
    least: int = 1
    most: int = 10
    step: Annotated[int, Field(ge=1)] = 1

    def draw(self, at: Setting) -> Value:
        number = at.rng.randrange(self.least, self.most + 1, self.step)
        return Value(number, (number,), {"": str(number)})


class Number(Kind):
    """A number with decimals."""

    kind: Literal["number"] = "number"
    least: float = 0.0
    most: float = 10.0
    decimals: Annotated[int, Field(ge=0, le=4)] = 1

    def draw(self, at: Setting) -> Value:
        number = round(at.rng.uniform(self.least, self.most), self.decimals)
        return Value(number, (number,), {"": _decimal(number, at.language)})


class Quantity(Kind):
    """A number of units; the call has the number alone."""

    kind: Literal["quantity"] = "quantity"
    unit: str | dict[str, Forms]
    """`minutes`, `hours`, `days`, ...; a symbol such as `mg`; or the plural forms of a noun by language."""
    least: float = 1
    most: float = 10
    step: Annotated[float, Field(gt=0)] = 1
    values: list[float] = []
    """Instead of a range."""

    def draw(self, at: Setting) -> Value:
        steps = int((self.most - self.least) / self.step + 1e-9)
        number = at.rng.choice(self.values) if self.values else self.least + self.step * at.rng.randint(0, steps)
        number = int(number) if float(number).is_integer() else round(number, 6)
        return Value(number, (number,), {"": f"{_decimal(number, at.language)} {self._unit(number, at.language)}"})

    def _unit(self, number: float, language: str) -> str:
        if isinstance(self.unit, dict):
            forms = self.unit[language]
        elif self.unit in _UNITS:
            forms = dict(zip(_AND, _UNITS[self.unit], strict=True))[language]
        else:
            return _SYMBOLS_RU.get(self.unit, self.unit) if language == "ru" else self.unit
        return forms[plural(number, language)]

    def languages(self) -> frozenset[str] | None:
        if isinstance(self.unit, dict):
            return frozenset(self.unit)
        return frozenset(_AND) if self.unit in _UNITS else None

    @field_validator("unit")
    @classmethod
    def _has_plurals(cls, unit: str | dict[str, Forms]) -> str | dict[str, Forms]:
        for language, forms in unit.items() if isinstance(unit, dict) else ():
            wanted = _PLURALS.get(language, _PLURALS["en"])
            if wanted - set(forms):
                raise ValueError(f"{language}: the plural forms {', '.join(sorted(wanted))} are expected")
        return unit


class Money(Kind):
    """An amount of dollars, roubles or euros, as the language goes; the call has the number alone."""

    kind: Literal["money"] = "money"
    least: int = 5
    most: int = 200
    step: Annotated[int, Field(ge=1)] = 5

    def draw(self, at: Setting) -> Value:
        number = at.rng.randrange(self.least, self.most + 1, self.step)
        if at.language == "ru":
            number *= 100
        return Value(number, (number,), {"": _CURRENCIES.get(at.language, "{}").format(number)})


class Date(Kind):
    """A day; the call has it as YYYY-MM-DD. Forms: on, by, from."""

    kind: Literal["date"] = "date"
    least: Annotated[int, Field(ge=-_FARTHEST, le=_FARTHEST)] = 1
    """Days from today."""
    most: Annotated[int, Field(ge=-_FARTHEST, le=_FARTHEST)] = 30

    def draw(self, at: Setting) -> Value:
        day = at.today + dt.timedelta(days=at.rng.randint(self.least, self.most))
        forms = calendar.date_forms(day, at.today, at.language, at.rng)
        return Value(day.isoformat(), (day.isoformat(),), forms)

    def forms(self, language: str) -> frozenset[str] | None:
        return frozenset(calendar.DATE_FORMS)

    def languages(self) -> frozenset[str] | None:
        return frozenset(calendar.LANGUAGES)


class Time(Kind):
    """A time of day; the call has it as HH:MM. Forms: at, by."""

    kind: Literal["time"] = "time"
    least: str = "08:00"
    most: str = "20:00"
    step: Annotated[int, Field(ge=1)] = 15
    """Minutes."""

    @field_validator("least", "most")
    @classmethod
    def _is_time(cls, value: str) -> str:
        if re.fullmatch(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]", value) is None:
            raise ValueError("a time such as 08:30 is expected")
        return value

    def draw(self, at: Setting) -> Value:
        least, most = (60 * t.hour + t.minute for t in map(dt.time.fromisoformat, (self.least, self.most)))
        minutes = at.rng.randrange(least, most + 1, self.step)
        time = dt.time(minutes // 60, minutes % 60)
        named = f"{time.hour:02}:{time.minute:02}"
        return Value(named, (named,), calendar.time_forms(time, at.language))

    def forms(self, language: str) -> frozenset[str] | None:
        return frozenset(calendar.TIME_FORMS)

    def languages(self) -> frozenset[str] | None:
        return frozenset(calendar.LANGUAGES)


class Code(Kind):
    """Part numbers, host names and the like.

    `A` is any letter, `a` any small one, `9` any digit, `#` one from 1 to 9, and what stands in quotes
    stays as it is: `'BX'-999-9`.
    """

    kind: Literal["code"] = "code"
    shape: Annotated[str, Field(min_length=1)]

    def draw(self, at: Setting) -> Value:
        text = "".join(self._drawn(piece, at.rng) for piece in re.findall(r"'[^']*'|.", self.shape))
        return Value(text, (text,), {"": text})

    def _drawn(self, piece: str, rng: random.Random) -> str:
        if piece == "A":
            return rng.choice(_LETTERS)
        if piece == "a":
            return rng.choice(_LETTERS).lower()
        if piece == "#":
            return rng.choice("123456789")
        return rng.choice(string.digits) if piece == "9" else piece.strip("'")


class Listing(Kind):
    """Several different values."""

    kind: Literal["list"] = "list"
    of: AnyKind
    least: Annotated[int, Field(ge=1, le=_LONGEST)] = 1
    most: Annotated[int, Field(ge=1, le=_LONGEST)] = 3
    distinct: str | None = None
    """The field in which objects must differ; all of the value if omitted."""

    @model_validator(mode="after")
    def _differs_in_a_field(self) -> Listing:
        if self.distinct is not None and not (isinstance(self.of, Object) and self.distinct in self.of.fields):
            raise ValueError(f"distinct: the values have no field {self.distinct!r}")
        return self

    def draw(self, at: Setting) -> Value:
        wanted = at.rng.randint(self.least, self.most)
        drawn: dict[str, Value] = {}
        for _ in range(20 * wanted):
            value = self.of.draw(at)
            told = value.argument.get(self.distinct) if self.distinct else value.argument
            drawn.setdefault(repr(told), value)
            if len(drawn) == wanted:
                break
        values = list(drawn.values())
        names = {name for value in values for name in value.forms}
        forms = {name: _enumerated([value.say(name) for value in values], at.language) for name in names}
        argument = [value.argument for value in values]
        parts = tuple((str(number), value) for number, value in enumerate(values))
        # The first way of each is what `argument` has; more than a few combinations nobody needs.
        ways = itertools.islice(itertools.product(*(value.accepted for value in values)), _MOST_ACCEPTED)
        return Value(argument, tuple(map(list, ways)), forms, parts)

    def forms(self, language: str) -> frozenset[str] | None:
        return self.of.forms(language)

    def languages(self) -> frozenset[str] | None:
        return self.of.languages()


class Object(Kind):
    """Values together, said by a pattern whose slots are the fields: `{quantity} {dish:#quantity}`."""

    kind: Literal["object"] = "object"
    fields: Annotated[dict[str, AnyKind], Field(min_length=1)]
    words: Annotated[dict[str, str], Field(min_length=1)]
    """By language."""

    @field_validator("words")
    @classmethod
    def _are_patterns(cls, words: dict[str, str]) -> dict[str, str]:
        for text in words.values():
            Patterns([(text, 1.0)], {}).check()
        return words

    @model_validator(mode="after")
    def _names_its_fields(self) -> Object:
        for language, text in self.words.items():
            for slot in Patterns([(text, 1.0)], {}).slots():
                if slot.name not in self.fields:
                    raise ValueError(f"{language}: {text!r} names {slot.name!r}, which is no field")
                if slot.form[:1] == "#" and slot.form[1:] not in self.fields:
                    raise ValueError(f"{language}: {text!r} names {slot.form[1:]!r}, which is no field")
                forms = self.fields[slot.name].forms(language)
                wanted = _PLURALS.get(language, _PLURALS["en"]) if slot.form[:1] == "#" else {slot.form}
                if forms is not None and wanted - forms:
                    raise ValueError(f"{language}: not all values of {slot.name!r} have the form {sorted(wanted)}")
        return self

    def draw(self, at: Setting) -> Value:
        values = {name: kind.draw(at) for name, kind in self.fields.items()}
        words = Patterns([(self.words[at.language], 1.0)], {}).choose(at.rng)
        said = {word.name for word in words if isinstance(word, Slot)}
        text = render(words, lambda slot: say(values[slot.name], slot, values, at.language))
        argument = {name: values[name].argument for name in values if name in said}
        accepted = {name: _one_of(values[name].accepted) for name in argument}
        parts = tuple((word.name, _as_said(values, word, at.language)) for word in words if isinstance(word, Slot))
        return Value(argument, (accepted,), {"": text}, parts)

    def languages(self) -> frozenset[str] | None:
        return frozenset(self.words)


def _as_said(values: Mapping[str, Value], slot: Slot, language: str) -> Value:
    """A field's value with the words that the object's have for it."""
    value = values[slot.name]
    form = plural(values[slot.form[1:]].argument, language) if slot.form.startswith("#") else slot.form
    return Value(value.argument, value.accepted, {"": value.marked(form)}, value.parts)


def _one_of(accepted: tuple[Any, ...]) -> Any:
    return OneOf(accepted) if len(accepted) > 1 else accepted[0]


def say(value: Value, slot: Slot, others: Mapping[str, Value], language: str) -> str:
    """The words of a value in a slot's form; `#name` takes the plural that goes with another value."""
    if slot.form.startswith("#"):
        return value.say(plural(others[slot.form[1:]].argument, language))
    return value.say(slot.form)


def _decimal(number: float, language: str) -> str:
    text = f"{number:g}" if isinstance(number, float) else str(number)
    return text.replace(".", ",") if language in _DECIMAL_COMMA else text


def _enumerated(texts: list[str], language: str) -> str:
    if len(texts) == 1:
        return texts[0]
    return f"{', '.join(texts[:-1])} {_AND.get(language, ',')} {texts[-1]}"


AnyKind = Annotated[
    Pool | Integer | Number | Quantity | Money | Date | Time | Code | Listing | Object, Field(discriminator="kind")
]
Listing.model_rebuild()
Object.model_rebuild()
KIND: TypeAdapter[Any] = TypeAdapter(AnyKind)


def from_schema(schema: Any, root: Any = None, depth: int = 0) -> AnyKind | None:
    """The values that a JSON Schema alone allows to be drawn, or None.

    Args:
        schema: Of the value.
        root: The schema that it is in, to which `$ref` leads.
        depth: How many schemas it is within.

    Raises:
        ValueError: Its bounds leave nothing.
    """
    schema = _resolved(schema, schema if root is None else root)
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    if "const" in schema:
        return Pool(entries=[_Entry(value=schema["const"])])
    choices = schema.get("enum") or schema.get("examples")
    if choices:
        return Pool(entries=[_Entry(value=choice) for choice in choices])
    for key in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(key, ())
        for branch in branches if key != "allOf" or len(branches) == 1 else ():
            if (found := from_schema(branch, root, depth + 1)) is not None:
                return found
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), None)
    if kind == "integer" and ("maximum" in schema or "exclusiveMaximum" in schema):
        return _whole(schema)
    if kind == "number" and "maximum" in schema:
        return Number(least=float(schema.get("minimum", 0)), most=float(schema["maximum"]))
    if kind == "boolean":
        return Pool(entries=[_Entry(value=True), _Entry(value=False)])
    if kind == "string" and schema.get("format") in ("date", "time"):
        return Date() if schema["format"] == "date" else Time()
    if kind == "array" and (of := from_schema(schema.get("items"), root, depth + 1)) is not None:
        least = max(1, int(schema.get("minItems", 1)))
        return Listing(of=of, least=least, most=max(least, min(3, int(schema.get("maxItems", 3)))))
    return None


def _whole(schema: Mapping[str, Any]) -> Integer:
    """The integers that a schema with an upper bound allows."""
    highest = [math.floor(schema["maximum"])] if "maximum" in schema else []
    highest += [math.ceil(schema["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in schema else []
    lowest = [math.ceil(schema["minimum"])] if "minimum" in schema else []
    lowest += [math.floor(schema["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in schema else []
    step = schema.get("multipleOf", 1)
    step = int(step) if step >= 1 and float(step).is_integer() else 1
    most = min(highest)
    least = max(lowest) if lowest else min(0, most - 100 * step)
    return Integer(least=-(-least // step) * step, most=most, step=step)


def _resolved(schema: Any, root: Any) -> Any:
    """A schema with what its `$ref` leads to, as far as it leads into the schema that it is in."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping) or not str(schema.get("$ref", "")).startswith("#/"):
            return schema
        found = root
        for key in str(schema["$ref"])[2:].split("/"):
            found = found.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return schema
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    return None
