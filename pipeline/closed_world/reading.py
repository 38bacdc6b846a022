"""Reading: conversations as token ids, as the tongue learns them: half with tools, half of transcription.

What is heard comes as it is written, as it is spoken, and spelled badly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import orjson
from msgspec.structs import replace

from pipeline.closed_world.texts import PROMPTS, WILD, World, babble, general, generator, plain
from pipeline.prompting import Prompts
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from schemas.sample import Sample

CALL_TOKENS = ["<tool_call>", "</tool_call>"]
CHAT_TEMPLATE = """\
{%- set first = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{%- if first or tools -%}
<|im_start|>system
{{ first }}
{%- for tool in tools or [] -%}
{{ '\\n' }}{{ tool.function.name }}({{ tool.function.parameters.properties | join(', ') }})
{%- endfor -%}
<|im_end|>
{% endif -%}
{%- for message in messages if message.role != 'system' -%}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
{%- set given = call.function.arguments -%}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {# -#}
{{ given if given is string else given | tojson }}}</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""
"""Tools are told by their names and those of their arguments: a tiny LLM on two cores has no time for JSON Schema."""
_BEGIN, _END = "<|im_start|>assistant\n", "<|im_end|>"
_HELD = "~"
"""What stands between the pieces of bad spelling."""
_COPYING = 0.2
"""Share of the training in which tokens in no order give way to text; as long again until all bad spelling is there."""
_NOISE, _SPELLED = 0.08, 0.5
"""Shares of rows at the end."""

Row = tuple[list[int], list[bool]]


class Reader:
    """Turns conversations into token ids.

    Args:
        tokenizer: The LLM's.
        world: Draws what is said.
    """

    def __init__(self, tokenizer: Any, world: World) -> None:
        self._tokenizer, self._world = tokenizer, world
        prompts = Prompts(PROMPTS).get("transcription", "en").content
        self._asked = {False: prompts.instructions["default"], True: prompts.held_out["default"]}
        self._pieces = {text: self.ids(text) for text in self._short_pieces()}
        self._held = self.ids(_HELD)
        special = set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(CALL_TOKENS))
        self._plainest = [i for i in range(len(tokenizer)) if i not in special]

    def ids(self, text: str) -> list[int]:
        """A text's."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def rows(self, name: str, count: int, done: float = 1.0) -> Iterator[Row]:
        """Half conversations with tools, half transcription; at first tokens in no order, to be copied.

        Args:
            name: Of the draw.
            count: How many.
            done: Share of the training that is over: what is hard comes later.
        """
        rng = generator("tongue", name)
        noise = max(_NOISE, 1.0 - done / _COPYING)
        few = round(count * noise)
        yield from (self.noise(rng) for _ in range(few))
        spelled = _SPELLED * min(1.0, max(0.0, (done - _COPYING) / _COPYING))
        some = (count - few) // 2
        wild = some // 3
        conversations = chain(
            self._world.conversations(f"tongue/{name}", some - wild),
            self._world.conversations(f"tongue/wild/{name}", wild, WILD),
        )
        for sample in conversations:
            yield self.row(self.shortened(sample, rng), sample.utterances[0].transcript, rng, spelled)
        for sample in self._world.conversations(f"tongue/copy/{name}", count - few - some):
            kind = rng.random()
            text = sample.utterances[0].transcript
            if kind < 0.4:
                text = babble(rng, 1, 6)
            elif kind < 0.5:
                text = rng.choice(general())
            yield self.row(self.copying(sample, text, rng), text, rng, spelled)

    def noise(self, rng: random.Random) -> Row:
        """Transcription of tokens in no order: nothing but copying gets it right, so copying is learnt at once."""
        ids = [rng.choice(self._plainest) for _ in range(rng.randint(3, 24))]
        asked = f"\n{rng.choice(self._asked[False])}{_END}\n{_BEGIN}"
        before, after = self.ids("<|im_start|>user\n"), self.ids(asked)
        end = self.ids(_END)
        row = [*before, *ids, *after, *ids, *end]
        told = len(ids) + len(end)
        return row, [False] * (len(row) - told) + [True] * told

    def shortened(self, sample: Sample, rng: random.Random) -> Sample:
        """A conversation that mostly ends with its first response: what is said of a call's result is soon learnt."""
        first = next(i for i, m in enumerate(sample.messages) if m.role == "assistant")
        return sample if rng.random() < 0.15 else replace(sample, messages=sample.messages[: first + 1])

    def copying(self, sample: Sample, text: str, rng: random.Random) -> Sample:
        """A row of transcription, as the task asks for it."""
        asked = rng.choice(self._asked[False])
        pair = [AUDIO_PLACEHOLDER, asked]
        rng.shuffle(pair)
        messages = (Message("user", "\n".join(pair)), Message("assistant", text))
        return Sample(sample.id, sample.utterances, sample.split, "transcription", messages=messages)

    def row(self, sample: Sample, text: str, rng: random.Random, spelled: float) -> Row:
        """Ids of a conversation in which a text is heard, in one of the ways in which it may be written."""
        if rng.random() < spelled:
            heard = self.spelled(plain(text), rng)
        else:
            heard = self.ids(text if rng.random() < 0.6 else plain(text))
        return self.encoded(sample, heard)

    def encoded(self, sample: Sample, heard: Sequence[int]) -> Row:
        """Ids of a conversation, and which of them are responses."""
        ids: list[int] = []
        responds: list[bool] = []
        for place, part in enumerate(self.render(sample).split(AUDIO_PLACEHOLDER)):
            if place:
                ids += heard
                responds += [False] * len(heard)
            for piece, response in _turns(part):
                some = self.ids(piece)
                ids += some
                responds += [response] * len(some)
        return ids, responds

    def render(self, sample: Sample, asks: bool = False) -> str:
        """The text of a conversation; with `asks`, up to where the first response begins."""
        messages = [_message(m) for m in sample.messages]
        if asks:
            messages = messages[: next(i for i, m in enumerate(sample.messages) if m.role == "assistant")]
        tools = [
            {"type": "function", "function": {"name": t.name, "parameters": orjson.loads(t.parameters)}}
            for t in sample.tools
        ]
        return str(
            self._tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=asks
            )
        )

    def spelled(self, text: str, rng: random.Random) -> list[int]:
        """A text cut into short pieces, some of them held, with nothing between some."""
        most, broken = rng.choice([1, 2, 3]), rng.uniform(0.0, 0.6)
        ids: list[int] = []
        text, at = f" {text}", 0
        while at < len(text):
            length = rng.randint(1, most)
            while text[at : at + length] not in self._pieces and length > 1:
                length -= 1
            piece = self._pieces[text[at : at + length]]
            if ids[-1:] == piece[:1]:  # else a letter that is held could not be told from two
                ids += self._held
            ids += piece * (2 if rng.random() < 0.15 else 1)
            while rng.random() < broken:
                ids += self._held
            at += length
        return ids

    def _short_pieces(self) -> Iterator[str]:
        """Pieces of up to three letters that are one token, and all letters."""
        for token in self._tokenizer.get_vocab():
            text = self._tokenizer.convert_tokens_to_string([token])
            if len(text) <= 3 and all(c.islower() or c in " '" for c in text):
                yield text
        yield from "abcdefghijklmnopqrstuvwxyz' "


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": orjson.loads(call.arguments)}}
            for call in message.tool_calls
        ]
    return made


def _turns(text: str) -> Iterator[tuple[str, bool]]:
    """Pieces of a rendered conversation, and whether they are responses, each with its end."""
    while _BEGIN in text:
        before, _, text = text.partition(_BEGIN)
        yield before + _BEGIN, False
        answer, end, text = text.partition(_END)
        yield answer + end, True
    if text:
        yield text, False
