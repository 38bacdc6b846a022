"""Patterns: many phrasings in one line.

    (book|make) [me] an appointment with {doctor} {date:on}<please>

`(a|b)` is one of several, `[a]` may be left out, `{slot:form}` is a value in one of its forms, and
`<piece>` is a list of patterns that the file names. All of them nest. Nothing is ever executed.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

_MARK = re.compile(r"[()\[\]|]|\{[^{}]*\}|<[^<>]*>|[^()\[\]|{}<>]+|.")
_SLOT = re.compile(r"([A-Za-z_][\w.]*)(?::([\w#.]+))?")
_QUOTES = tuple("«“„\"'")
_SPACE_BEFORE = re.compile(r"\s+([,.;:!?])")
_CHOSEN = 60  # phrasings of each list of patterns that are looked at
_ASKING = re.compile(
    r"(?:[^,.?!:]{1,30}, ){0,2}"  # a greeting, a hesitation
    r"(?:(?:can|could|would|will) (?:you|we|I)|можешь|можете|не мог(?:л[аи])? бы"
    r"|pode|podes|poderia|consegue|consegues)\b",
    re.I,
)
_DEEPEST = 40  # brackets within brackets
_LONGEST = 500  # parts of a phrasing: pieces within pieces would else grow without bounds


class PatternError(ValueError):
    """A pattern that cannot be read; the message quotes it and says what is wrong."""


class Slot(NamedTuple):
    """A place for a value."""

    name: str
    """An argument, `tool.argument` or `result.field`."""
    form: str = ""
    """Of the value's words: a case, a preposition with it, or `#argument` for the plural that goes with a number."""


class Piece(NamedTuple):
    """A place for one of the patterns that have a name."""

    name: str


@dataclass(frozen=True)
class Choice:
    """One of several sequences."""

    options: tuple[Sequence_, ...]
    weights: tuple[float, ...] | None = None


Node = str | Slot | Piece | Choice
Sequence_ = tuple[Node, ...]
Words = list["str | Slot"]
"""What is left when everything is chosen but the values."""


def parse(text: str) -> Sequence_:
    """A pattern's text as a tree.

    Raises:
        PatternError: A bracket is open, or a slot's name is none.
    """
    marks = _MARK.findall(text)
    nodes, rest = _options(marks, 0, text, 0)
    if rest != len(marks):
        raise PatternError(f"{text!r}: {marks[rest]!r} closes nothing")
    return nodes[0] if len(nodes) == 1 else (Choice(tuple(nodes)),)


def _options(marks: Sequence[str], at: int, text: str, depth: int) -> tuple[list[Sequence_], int]:
    if depth > _DEEPEST:
        raise PatternError(f"{text[:60]!r}...: brackets are nested too deep: {_DEEPEST} are allowed")
    options: list[list[Node]] = [[]]
    while at < len(marks):
        mark = marks[at]
        if mark in ")]":
            break
        at += 1
        if mark == "|":
            options.append([])
        elif mark in "([":
            inner, at = _options(marks, at, text, depth + 1)
            if at >= len(marks) or marks[at] != {"(": ")", "[": "]"}[mark]:
                raise PatternError(f"{text!r}: {mark!r} is not closed")
            at += 1
            options[-1].append(Choice(tuple(inner) if mark == "(" else ((), *inner)))
        elif mark[0] == "{":
            found = _SLOT.fullmatch(mark[1:-1].strip()) if len(mark) > 1 else None
            if found is None:
                raise PatternError(f"{text!r}: {mark!r} is no slot: {{name}} or {{name:form}} is expected")
            options[-1].append(Slot(found[1], found[2] or ""))
        elif mark[0] == "<":
            if len(mark) < 3:
                raise PatternError(f"{text!r}: {mark!r} is no piece: <name> is expected")
            options[-1].append(Piece(mark[1:-1].strip()))
        elif mark in ("}", ">"):
            raise PatternError(f"{text!r}: {mark!r} closes nothing")
        else:
            options[-1].append(mark)
    return [tuple(option) for option in options], at


class Patterns:
    """Weighted patterns, of which one is chosen.

    Args:
        texts: Each a pattern, or one with a weight.
        pieces: What `<name>` stands for.

    Raises:
        PatternError: One cannot be read, or names a piece that is not there.
    """

    def __init__(self, texts: Sequence[tuple[str, float]], pieces: Mapping[str, Patterns]) -> None:
        self.texts = texts
        self._root = Choice(tuple(parse(text) for text, _ in texts), tuple(weight for _, weight in texts))
        self._pieces = pieces

    def check(self) -> None:
        """Whether all pieces are there, none is within itself, phrasings end, and words keep apart from values.

        Raises:
            PatternError: They do not.
        """
        self._missing(self._root.options, (), set())
        if self.longest > _LONGEST:
            raise PatternError(f"a phrasing would have {self.longest} parts; {_LONGEST} are allowed")
        for words in self.some():
            for left, right in pairwise(words):
                if (isinstance(left, Slot) and _ends_apart(right)) or (
                    isinstance(right, Slot) and _ends_apart(left, -1)
                ):
                    both = "".join(word if isinstance(word, str) else f"{{{word.name}}}" for word in (left, right))
                    raise PatternError(f"{both!r} would stick together: a space is missing, perhaps within brackets")

    def _missing(self, sequences: Sequence[Sequence_], within: tuple[str, ...], seen: set[str]) -> None:
        for sequence in sequences:
            for node in sequence:
                if isinstance(node, Choice):
                    self._missing(node.options, within, seen)
                elif isinstance(node, Piece):
                    if node.name not in self._pieces:
                        known = ", ".join(sorted(self._pieces)) or "none"
                        raise PatternError(f"there is no piece <{node.name}>; there are: {known}")
                    if node.name in within:
                        raise PatternError(f"the piece <{node.name}> is within itself")
                    if len(within) > _DEEPEST:
                        raise PatternError(f"pieces are nested too deep at <{node.name}>: {_DEEPEST} are allowed")
                    if node.name not in seen:
                        self._missing(self._pieces[node.name]._root.options, (*within, node.name), seen)
                        seen.add(node.name)

    def some(self) -> Iterator[Words]:
        """Phrasings to be looked at."""
        return (self.choose(random.Random(number)) for number in range(_CHOSEN))

    def choose(self, rng: random.Random) -> Words:
        """A phrasing with its slots."""
        words: Words = []
        self._walk(self._root, rng, words)
        return words

    def _walk(self, choice: Choice, rng: random.Random, words: Words) -> None:
        options = choice.options
        chosen = rng.choice(options) if choice.weights is None else rng.choices(options, choice.weights)[0]
        for node in chosen:
            if isinstance(node, Choice):
                self._walk(node, rng, words)
            elif isinstance(node, Piece):
                self._walk(self._pieces[node.name]._root, rng, words)
            else:
                words.append(node)

    def slots(self) -> Iterator[Slot]:
        """All that occur."""
        yield from self._slots_of((self._root,))

    def _slots_of(self, sequence: Sequence_) -> Iterator[Slot]:
        for node in sequence:
            if isinstance(node, Slot):
                yield node
            elif isinstance(node, Choice):
                for option in node.options:
                    yield from self._slots_of(option)
            elif isinstance(node, Piece):
                yield from self._pieces[node.name].slots()

    def always(self) -> Iterator[tuple[str, frozenset[str]]]:
        """For each pattern its text and the slots that no choice leaves out."""
        for (text, _), sequence in zip(self.texts, self._root.options, strict=True):
            yield text, self._in_all(sequence)

    def _in_all(self, sequence: Sequence_) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for node in sequence:
            if isinstance(node, Slot):
                found |= {node.name}
            elif isinstance(node, Choice):
                found |= frozenset.intersection(*(self._in_all(option) for option in node.options))
            elif isinstance(node, Piece):
                found |= self._pieces[node.name]._in_all((self._pieces[node.name]._root,))
        return found

    @cached_property
    def longest(self) -> int:
        """Of how many parts, words or values, a phrasing may be."""
        return self._longest(self._root)

    def _longest(self, node: Node) -> int:
        if isinstance(node, Choice):
            return max(sum(self._longest(part) for part in option) for option in node.options)
        return self._pieces[node.name].longest if isinstance(node, Piece) else 1

    @cached_property
    def size(self) -> int:
        """How many phrasings there are, values aside."""
        return self._size(self._root)

    def _size(self, node: Node) -> int:
        if isinstance(node, Choice):
            return sum(math.prod(self._size(part) for part in option) for option in node.options)
        return self._pieces[node.name].size if isinstance(node, Piece) else 1


def _ends_apart(word: str | Slot, at: int = 0) -> bool:
    """Whether no space or mark is between a word and the value beside it."""
    return isinstance(word, Slot) or (bool(word) and word[at].isalnum())


def render(words: Words, say: Callable[[Slot], str]) -> str:
    """A phrasing as text, values filled in, spaces in order."""
    text = "".join(word if isinstance(word, str) else say(word) for word in words)
    return _SPACE_BEFORE.sub(r"\1", " ".join(text.split()))


def sentence(text: str) -> str:
    """With a capital letter and a mark at its end where they are missing."""
    first = text.partition(" ")[0]
    if not any(c.isdigit() for c in first):  # rtr-fra-02 is written so
        begin = 1 if text[:1] in _QUOTES else 0
        text = text[:begin] + text[begin : begin + 1].upper() + text[begin + 1 :]
    if text.endswith((".", "?", "!", "…")):
        return text
    return f"{text}?" if _ASKING.match(text) else f"{text}."
