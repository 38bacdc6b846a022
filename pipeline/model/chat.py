"""Chat: a sample as token ids, by the tokenizer's own chat template.

What the model is to learn and what it is given are tokenised apart, each as it is when the model generates:
first the prompt, then, token by token, the response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from pipeline.model.base import Encoded, ModelError, RowError, Samples
from pipeline.text import presentable
from schemas.conversation import AUDIO_PLACEHOLDER, Message, ToolSpec
from schemas.sample import Sample

_WORD = "earwitness"  # stands for what is said where a template is tried out
# A template that prints the day would make other tokens of a row tomorrow.
_SAME_DAY = "{%- macro strftime_now(format) -%}01 Jan 2026{%- endmacro -%}"
_PLAIN = {"enable_thinking": False, "thinking": False, "date_string": "01 Jan 2026"}
"""What templates are told: that the response comes at once, and which day it is."""
_KEPT = 4096  # pieces of text whose tokens are remembered
_LONG = 48  # characters; shorter pieces are tokenised as quickly as remembered

_Ids = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


class Chat:
    """Renders and tokenises the conversations of samples for one model."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        audio_token: str = AUDIO_PLACEHOLDER,
        audio_text: str = "",
        stops: Collection[int] = (),
        name: str = "",
    ) -> None:
        """Tries the template.

        Args:
            tokenizer: With a chat template.
            audio_token: Stands once for each audio until `expand` repeats it.
            audio_text: What stands for an audio in a prompt, where it is more than its token.
            stops: Ids that end a turn, as the model's generation configuration says.
            name: Of the model, for errors.

        Raises:
            ModelError: There is no chat template or no audio token, or no token ends a turn.
        """
        self.tokenizer = tokenizer
        self.name = name or str(getattr(tokenizer, "name_or_path", "")) or "the model"
        self.audio_text = audio_text or audio_token
        if not tokenizer.chat_template:
            raise ModelError(
                f"{self.name} has no chat template: take a model that was tuned to chat, or put a "
                "`chat_template.jinja` into its folder"
            )
        vocabulary = tokenizer.get_vocab()
        if audio_token not in vocabulary:
            raise ModelError(
                f"the tokenizer of {self.name} has no audio token {audio_token!r}: load the model with "
                "`pipeline.model.compose`, which adds it, or save the tokenizer again with it"
            )
        self.audio_id = int(vocabulary[audio_token])
        added = tokenizer.added_tokens_decoder
        self._special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self._known = {token.content: i for i, token in added.items()}
        self._between = re.compile("(" + "|".join(map(re.escape, sorted(self._known, key=len, reverse=True))) + ")")
        self._memory: dict[str, list[int]] = {}
        self._remembers = self._is_safe_to_split()
        self.stops = frozenset(stops) | {self._end_of_turn()}

    # What the model reads and writes.

    def encode(self, sample: Sample, *, hear: bool = True, answer: bool = True) -> tuple[_Ids, _Flags, _Flags]:
        """Ids, targets and ends, as in `Encoded`; each audio is there once.

        Raises:
            RowError: There is no response, or placeholders do not match the utterances.
            ModelError: The template cannot write the conversation.
        """
        messages = self._messages(sample, hear=hear)
        ids: list[int] = []
        targets: list[bool] = []
        ends: list[bool] = []
        try:
            segments = self._segments(sample, messages, answer=answer)
        except (jinja2.TemplateError, TypeError, AttributeError, KeyError) as error:
            raise ModelError(
                f"the chat template of {self.name} cannot write row {sample.id}: {error or type(error).__name__}"
            ) from error
        for text, is_response in segments:
            found = self.ids(text)
            if not is_response:
                ids += found
                targets += [False] * len(found)
                ends += [False] * len(found)
                continue
            end = self._last_special(found, sample.id)
            ids += found
            targets += [n <= end for n in range(len(found))]
            ends += [n == end for n in range(len(found))]
        if answer and segments:  # what stands behind the last end of turn is never read
            last = len(ends) - ends[::-1].index(True)
            ids, targets, ends = ids[:last], targets[:last], ends[:last]
        as_ids = np.array(ids, np.int64)
        heard = int((as_ids == self.audio_id).sum())
        expected = len(sample.utterances) if hear else 0
        if heard != expected:
            raise RowError(
                f"row {sample.id} has {heard} audio tokens for {expected} utterances: its messages do not match "
                "its audio, or the chat template leaves a turn out"
            )
        return as_ids, np.array(targets, np.bool_), np.array(ends, np.bool_)

    def _messages(self, sample: Sample, *, hear: bool) -> list[dict[str, Any]]:
        """The messages as templates take them, with what stands for the audio."""
        count = sum(m.content.count(AUDIO_PLACEHOLDER) for m in sample.messages)
        if count != len(sample.utterances):
            raise RowError(
                f"row {sample.id} has {count} placeholders {AUDIO_PLACEHOLDER} for {len(sample.utterances)} utterances"
            )
        if hear:
            heard = [self.audio_text] * count
        else:
            heard = [presentable(u.transcript, u.language) for u in sample.utterances]
        names = {call.id: call.name for m in sample.messages for call in m.tool_calls}
        said = iter(heard)
        made = []
        for message in sample.messages:
            pieces = message.content.split(AUDIO_PLACEHOLDER)
            content = "".join(text + (next(said) if n < len(pieces) - 1 else "") for n, text in enumerate(pieces))
            made.append(self._message(message, content, names, sample.id))
        return made

    def _message(self, message: Message, content: str, names: dict[str, str], row: str) -> dict[str, Any]:
        made: dict[str, Any] = {"role": message.role, "content": content}
        if message.tool_calls:
            made["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": self._arguments(call.arguments, row)},
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            made["tool_call_id"] = message.tool_call_id
            made["name"] = names.get(message.tool_call_id, "")
        return made

    def _arguments(self, text: str, row: str) -> Any:
        try:
            arguments = json.loads(text)
        except ValueError as error:
            raise RowError(f"row {row}: the arguments of a tool call are no JSON: {error}") from error
        return arguments if self._takes_objects else text

    def _segments(self, sample: Sample, messages: list[dict[str, Any]], *, answer: bool) -> list[tuple[str, bool]]:
        """The rendered conversation in pieces; True marks responses."""
        tools = _tools(sample.tools)
        spoken = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        asked = len(messages)  # messages before the response that is looked for
        if spoken and spoken[-1] == len(messages) - 1:
            asked = spoken.pop()
        elif answer:
            raise RowError(f"row {sample.id} does not end with a response, so there is nothing to learn")
        prompt = self.render(messages[:asked], tools, ask=True)
        if tools and not all(tool.name in prompt for tool in sample.tools):
            raise ModelError(f"the chat template of {self.name} leaves out tools: take a model that knows tools")
        earlier = self._earlier(prompt, messages, tools, spoken)
        if not answer:
            return earlier
        whole = self.render(messages, tools, ask=False)
        if not whole.startswith(prompt):
            raise ModelError(
                f"the chat template of {self.name} does not go on from its own generation prompt, so what is "
                f"trained would not be what is generated (row {sample.id})"
            )
        response = whole[len(prompt) :]
        for call in sample.messages[-1].tool_calls:
            if call.name not in response:
                raise ModelError(f"the chat template of {self.name} leaves out tool calls (row {sample.id})")
        return [*earlier, (response, True)]

    def _earlier(
        self, prompt: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], spoken: list[int]
    ) -> list[tuple[str, bool]]:
        """The prompt in pieces. Earlier responses are targets if the template writes them as they were generated."""
        pieces = []
        begin = 0
        for number in spoken:
            before = self.render(messages[:number], tools, ask=True)
            behind = self.render(messages[: number + 1], tools, ask=False)
            if not (behind.startswith(before) and prompt.startswith(behind)):
                return [(prompt, False)]
            pieces += [(prompt[begin : len(before)], False), (prompt[len(before) : len(behind)], True)]
            begin = len(behind)
        return [*pieces, (prompt[begin:], False)]

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), *, ask: bool) -> str:
        """The conversation as text; `ask` adds the beginning of a response."""
        rendered = self.tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=self._template(bool(tools)),
            add_generation_prompt=ask,
            tokenize=False,
            **_PLAIN,
        )
        return str(rendered)

    def _template(self, tools: bool) -> str:
        template = str(self.tokenizer.get_chat_template(None, [{}] if tools else None))
        return _SAME_DAY + template if "strftime_now" in template else template

    # Token ids.

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, none added. Long pieces, such as tools, are remembered."""
        if not self._remembers:
            return self._encode(text)
        found: list[int] = []
        for piece in self._between.split(text):
            if (special := self._known.get(piece)) is not None:
                found.append(special)
            elif len(piece) < _LONG:
                found += self._encode(piece) if piece else []
            else:
                if piece not in self._memory:
                    if len(self._memory) >= _KEPT:
                        self._memory.clear()
                    self._memory[piece] = self._encode(piece)
                found += self._memory[piece]
        return found

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _is_safe_to_split(self) -> bool:
        """Whether the tokens of a text are those of its pieces between added tokens: so unless these eat spaces."""
        self._remembers = True
        parts = ["The quick brown", " fox, 42 jumps.\n\nOver", "  the\n", " lazy dog\n\n", "\n"]
        for token in self._known:
            text = token.join(parts)
            if self.ids(text) != self._encode(text):
                return False
        return self.ids("".join(parts)) == self._encode("".join(parts))

    def _last_special(self, ids: Sequence[int], row: str) -> int:
        """Where in a response the token is that ends it."""
        for place in range(len(ids) - 1, -1, -1):
            if ids[place] in self._special:
                if self.tokenizer.decode(list(ids[place + 1 :])).strip():
                    break
                return place
        raise ModelError(
            f"the chat template of {self.name} ends a response without a special token, so generation would not "
            f"stop (row {row})"
        )

    def _end_of_turn(self) -> int:
        messages = [{"role": "user", "content": _WORD}]
        try:
            prompt = self.render(messages, ask=True)
            whole = self.render([*messages, {"role": "assistant", "content": _WORD}], ask=False)
        except (jinja2.TemplateError, TypeError, AttributeError, KeyError) as error:
            raise ModelError(f"the chat template of {self.name} cannot write a plain question: {error}") from error
        found = self.ids(whole[len(prompt) :] if whole.startswith(prompt) else whole)
        return int(found[self._last_special(found, "of a trial")])

    @cached_property
    def _takes_objects(self) -> bool:
        """Whether arguments of tool calls go into the template as objects; a few templates want their text."""
        function = {"name": "f", "arguments": {_WORD: True}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": _WORD},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        ]
        tools = _tools((ToolSpec("f", _WORD, '{"type": "object", "properties": {}}'),))
        try:
            rendered = self.render(messages, tools, ask=False)
        except (jinja2.TemplateError, TypeError, AttributeError, KeyError):
            return False
        return f"{{'{_WORD}'" not in rendered  # Python's way of writing it is no JSON


def _tools(specs: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": spec.name,
                "description": spec.description,
                "parameters": json.loads(spec.parameters),
            },
        }
        for spec in specs
    ]


def expand(
    row: str,
    chat: tuple[_Ids, _Flags, _Flags],
    audio_id: int,
    counts: Sequence[int],
    longest: int,
    sounds: tuple[Samples, ...] = (),
) -> Encoded:
    """The audio tokens repeated, each as often as its sound takes positions.

    Args:
        row: The sample's id.
        chat: Of `Chat.encode`.
        audio_id: Each is there once.
        counts: Of each audio in turn.
        longest: Positions that the model allows.
        sounds: They go with it.

    Raises:
        RowError: The row is longer than that.
    """
    ids, targets, ends = chat
    if counts:
        times = np.ones(len(ids), np.int64)
        times[ids == audio_id] = counts
        ids, targets, ends = np.repeat(ids, times), np.repeat(targets, times), np.repeat(ends, times)
    if len(ids) > longest:
        raise RowError(
            f"row {row} has {len(ids)} positions ({sum(counts)} of audio), the model allows {longest}: take it out "
            "of the data, or take an adapter with fewer tokens a second"
        )
    return Encoded(row, ids, targets, ends, sounds)
