"""Grammars: what answers are valid, of one model: a closed answer, or calls that fit the tools' JSON Schemas.

Where tools are offered an answer is either calls that fit their schemas or a text that begins none: whether to call is
the model's to decide. Arguments come in the order in which the schema names them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluate.call_schema import schema_of
from pipeline.evaluate.decoding import Constraint, Flags, State, Trie, stops_of
from pipeline.model.base import SpeechLM
from pipeline.model.tool_format import ID, ID_PATTERN, ToolFormat, probe, response_ids
from pipeline.plugins import require
from schemas.conversation import Message, ToolSpec

log = logging.getLogger("earwitness")

_MOST_CALLS = 8
_STEPS = 2000  # tokens after which the shortest call that there is counts as having no end
_TEXT_RESERVE = 4  # tokens
# What `pipeline.tools.calls` would take for calls, or for calls that it cannot read.
_NAME = r"[^\W\d]\w*(\.\w+)*"
_TEXT = (
    r"TEXT: /[^\s](.|\n)*/ & ~/(.|\n)*<tool_call>(.|\n)*/ & ~/([\[{`]|<[|]|<\/?(think|thinking|reasoning)>)(.|\n)*/"
    rf" & ~/{_NAME}\s*\((.|\n)*[)\]]\s*/ & ~/{_NAME}\((\s*\w+\s*=|\s*\))(.|\n)*/"
    r" & ~/(.|\n)*<\/(think|thinking|reasoning)>(.|\n)*/"
)


class Grammar(Constraint):
    """What a grammar of llguidance derives."""

    def __init__(self, matcher: Any, begin: str, library: Tokens) -> None:
        self._matcher, self.begin, self.library = matcher, begin, library

    def start(self) -> State:
        """Before the first token."""
        return _InGrammar(self)

    def matcher(self) -> Any:
        """A matcher of its own."""
        return self._matcher.deep_copy()

    @cached_property
    def reserve(self) -> int:
        """Tokens in which any call can be brought to its end, roughly: what the longest one takes when hurried."""
        if not self.begin:
            return _TEXT_RESERVE
        matcher = self.matcher()
        matcher.consume_tokens(self.library.ids(self.begin))
        for step in range(_STEPS):
            if matcher.is_error() or matcher.is_accepting():
                return step + _TEXT_RESERVE
            matcher.consume_token(int(np.flatnonzero(self.library.hurried(self.library.mask(matcher)))[0]))
        return _STEPS


class _InGrammar(State):
    def __init__(self, grammar: Grammar) -> None:
        self._grammar, self._library = grammar, grammar.library
        self._matcher = grammar.matcher()
        self._text = ""
        self._over = False

    def allowed(self, left: int) -> Collection[int] | Flags:
        if self._over or self._matcher.is_error():
            return self._library.stops
        calls = bool(self._grammar.begin) and self._text.startswith(self._grammar.begin)
        accepts = self._matcher.is_accepting()
        short = left <= (self._grammar.reserve if calls else _TEXT_RESERVE)
        if accepts and short:
            return self._library.stops
        mask = self._library.mask(self._matcher)
        if short:
            return self._library.hurried(mask)
        mask[list(self._library.stops)] = accepts
        return mask

    def take(self, token: int) -> None:
        if token in self._library.stops:
            self._over = True
        elif not self._over:
            self._matcher.consume_token(token)
            if len(self._text) < len(self._grammar.begin):
                self._text += self._library.text(token)


class Tokens:
    """A model's tokens as llguidance knows them."""

    def __init__(self, lm: SpeechLM, stops: Collection[int]) -> None:
        library = require("llguidance", extra="train", what="constrained decoding of tool calls")
        hf = require("llguidance.hf", extra="train", what="constrained decoding of tool calls")
        self._library, self._tokenizer = library, lm.tokenizer
        self.stops = frozenset(stops)
        self._special = {t.content: i for i, t in lm.tokenizer.added_tokens_decoder.items() if t.special}
        marks = sorted((*self._special, ID), key=len, reverse=True)
        self._between = re.compile(f"({'|'.join(map(re.escape, marks))})")
        self._known = hf.from_tokenizer(lm.tokenizer, eos_token=sorted(stops))
        self.size = int(self._known.vocab_size)

    def matcher(self, grammar: str) -> Any:
        """A matcher; see its `is_error`."""
        return self._library.LLMatcher(self._known, self._library.LLMatcher.grammar_from_lark(grammar), log_level=0)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, special ones included."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def text(self, token: int) -> str:
        """What a token writes."""
        return str(self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def mask(self, matcher: Any) -> Flags:
        """V; the tokens that a matcher takes, but for those that end the turn."""
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        found = np.zeros(self.size, np.bool_)
        found[: len(bits)] = bits[: self.size]
        found[list(self.stops)] = False
        return found

    @cached_property
    def _ranks(self) -> npt.NDArray[np.int8]:
        """V; how surely a token brings what was begun nearer to its end, 0 most."""
        texts = (self._known.decode_bytes([i]).decode("utf-8", "replace") for i in range(self.size))
        return np.array([_rank(text) for text in texts], np.int8)

    def hurried(self, mask: Flags) -> Flags:
        """Those of some tokens that end an answer soonest."""
        if not mask.any():
            mask = mask.copy()
            mask[list(self.stops)] = True
            return mask
        found: Flags = mask & (self._ranks == self._ranks[mask].min())
        return found

    def literal(self, text: str) -> str:
        """A text as a grammar has it: special tokens by their numbers, and any id where one stands."""
        parts = []
        for piece in self._between.split(text):
            if piece in self._special:
                parts.append(f"<[{self._special[piece]}]>")
            elif piece == ID:
                parts.append(f"/{ID_PATTERN}/")
            elif piece:
                parts.append(json.dumps(piece, ensure_ascii=False))
        return " ".join(parts) or '""'


def _rank(text: str) -> int:
    # A quotation mark first: it ends a text, in which brackets are mere characters.
    closes = bool(text) and not text.strip('"}]')
    if closes:
        return 0 if text[0] == '"' else 1
    if text[:1] in ('"', "}", "]"):
        return 2
    return 3 if text[:1] == "," else 4 if text[:1].isalnum() else 5


class Constraints:
    """What the answers of one model may be.

    Args:
        lm: The model.
    """

    def __init__(self, lm: SpeechLM) -> None:
        self._lm = lm
        self.stops = stops_of(lm)
        self._tries: dict[tuple[str, ...], Trie] = {}
        self._grammars: dict[tuple[ToolSpec, ...], Grammar] = {}
        self._schemas: dict[ToolSpec, str] = {}

    @cached_property
    def form(self) -> ToolFormat:
        """How the model writes calls."""
        return probe(self._lm)

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens(self._lm, self.stops)

    def one_of(self, answers: Sequence[str]) -> Trie:
        """One of some texts, and nothing else."""
        key = tuple(dict.fromkeys(answers))
        if key not in self._tries:
            self._tries[key] = Trie([response_ids(self._lm, Message("assistant", a)) for a in key], self.stops)
        return self._tries[key]

    def tools(self, offered: Sequence[ToolSpec]) -> Grammar:
        """Calls of some tools, or a text that begins no call; a text where there are no tools."""
        key = tuple(offered)
        if key not in self._grammars:
            self._grammars[key] = self._grammar(key)
        return self._grammars[key]

    def _grammar(self, offered: tuple[ToolSpec, ...]) -> Grammar:
        if not offered:
            return Grammar(self._checked(f"start: TEXT\n{_TEXT}"), "", self._tokens)
        form, literal = self.form, self._tokens.literal
        begin, middle, end = map(literal, (form.begin, form.middle, form.end))
        more = f"({literal(form.between)} call){{0,{_MOST_CALLS - 1}}}" if form.several else ""
        rules = [f"start: TEXT | {begin} call {more} {end}"]
        rules += [f"call: {' | '.join(f'call_{n}' for n in range(len(offered)))}"]
        for number, tool in enumerate(offered):
            if tool not in self._schemas:
                self._schemas[tool] = self._schema(tool)
            rules.append(f"call_{number}: {literal(tool.name)} {middle} %json {self._schemas[tool]}")
        return Grammar(self._checked("\n".join([*rules, _TEXT])), form.begin.partition(ID)[0], self._tokens)

    def _schema(self, tool: ToolSpec) -> str:
        """The arguments' schema, as strict as llguidance can keep it."""
        schema = schema_of(tool, self.form)
        for lenient in (False, True):
            text = json.dumps(schema | {"x-guidance": schema["x-guidance"] | ({"lenient": True} if lenient else {})})
            matcher = self._tokens.matcher(f"start: %json {text}")
            if not matcher.is_error():
                break
            why = matcher.get_error().strip().splitlines()[0]
            log.warning("%s: the schema is not kept in full in constrained decoding: %s", tool.name, why)
        else:
            text = json.dumps({"type": "object", "x-guidance": schema["x-guidance"]})
        return text

    def _checked(self, grammar: str) -> Any:
        matcher = self._tokens.matcher(grammar)
        assert not matcher.is_error(), matcher.get_error()
        return matcher
