"""Templates: a sample as text, by the tokenizer's own chat template, responses apart from what precedes them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jinja2

from pipeline.model.base import ModelError, RowError
from pipeline.text import presentable
from schemas.conversation import AUDIO_PLACEHOLDER, Message, ToolSpec
from schemas.sample import Sample

log = logging.getLogger(__name__)

WORD = "earwitness"  # stands for what is said where a template is tried out
FAILURES = (jinja2.TemplateError, TypeError, AttributeError, KeyError)
"""What a template raises where a conversation is not as it expects."""
# A template that prints the day would make other tokens of a row tomorrow.
_SAME_DAY = "{%- macro strftime_now(format) -%}01 Jan 2026{%- endmacro -%}"
_PLAIN = {"enable_thinking": False, "thinking": False, "date_string": "01 Jan 2026"}
"""What templates are told: that the response comes at once, and which day it is."""

_ID = re.compile("[a-zA-Z0-9]{9}")  # ids of tool calls as Mistral's templates want them; others take any


class Template:
    """Renders conversations for one model."""

    def __init__(self, tokenizer: Any, audio_text: str, name: str) -> None:
        """Looks whether there is a template.

        Args:
            tokenizer: With a chat template.
            audio_text: What stands for an audio.
            name: Of the model, for errors.

        Raises:
            ModelError: There is none.
        """
        self.tokenizer, self.audio_text = tokenizer, audio_text
        self.name = name or str(getattr(tokenizer, "name_or_path", "")) or "the model"
        self._told = False
        if not tokenizer.chat_template:
            raise ModelError(
                f"{self.name} has no chat template: take a model that was tuned to chat, or put a "
                "`chat_template.jinja` into its folder"
            )

    def messages(self, sample: Sample, *, hear: bool) -> list[dict[str, Any]]:
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
        ids = {name: name if _ID.fullmatch(name) else f"{number:09d}" for number, name in enumerate(names, 1)}
        said = iter(heard)
        made = []
        for message in sample.messages:
            pieces = message.content.split(AUDIO_PLACEHOLDER)
            content = "".join(text + (next(said) if n < len(pieces) - 1 else "") for n, text in enumerate(pieces))
            made.append(self._message(message, content, names, ids, sample.id))
        return made

    def _message(
        self, message: Message, content: str, names: dict[str, str], ids: dict[str, str], row: str
    ) -> dict[str, Any]:
        made: dict[str, Any] = {"role": message.role, "content": content}
        if message.tool_calls:
            made["tool_calls"] = [
                {
                    "id": ids[call.id],
                    "type": "function",
                    "function": {"name": call.name, "arguments": self._arguments(call.arguments, row)},
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            made["tool_call_id"] = ids.get(message.tool_call_id, message.tool_call_id)
            made["name"] = names.get(message.tool_call_id, "")
        return made

    def _arguments(self, text: str, row: str) -> Any:
        try:
            arguments = json.loads(text)
        except ValueError as error:
            raise RowError(f"row {row}: the arguments of a tool call are no JSON: {error}") from error
        return arguments if self._takes_objects else text

    def segments(self, sample: Sample, messages: list[dict[str, Any]], *, answer: bool) -> list[tuple[str, bool]]:
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
                f"trained would not be what is generated (row {sample.id}): mend the `chat_template.jinja` in its "
                "folder, or take another LLM"
            )
        response = whole[len(prompt) :]
        for call in sample.messages[-1].tool_calls:
            if call.name not in response:
                raise ModelError(f"the chat template of {self.name} leaves out tool calls (row {sample.id})")
        return [*earlier, (response, True)]

    def _earlier(
        self, prompt: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], spoken: list[int]
    ) -> list[tuple[str, bool]]:
        """The prompt in pieces; earlier responses are targets, each behind what it was generated behind.

        Some templates begin a response with an empty thought, and drop it from earlier turns (Qwen 3). It is put back,
        or no call that is followed by its result would ever be learnt. What is rewritten otherwise is no target.
        """
        pieces = []
        begin = kept = 0
        for number in spoken:
            before = self.render(messages[:number], tools, ask=True)
            behind = self.render(messages[: number + 1], tools, ask=False)
            if not behind.startswith(before):
                continue
            response = behind[len(before) :]
            place = len(before)
            if not prompt.startswith(behind):
                asked = self.render(messages[:number], tools, ask=False)
                place = prompt.rfind(response, max(begin, len(asked)), len(behind))
                if place < 0 or prompt[:place] != before[:place]:
                    continue
            pieces += [(prompt[begin:place] + before[place:], False), (response, True)]
            begin = place + len(response)
            kept += 1
        if kept < len(spoken) and not self._told:
            self._told = True
            log.warning("the chat template of %s rewrites earlier responses: only later ones are learnt", self.name)
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

    @cached_property
    def _takes_objects(self) -> bool:
        """Whether arguments of tool calls go into the template as objects; a few templates want their text."""
        function = {"name": "f", "arguments": {WORD: True}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": WORD},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "000000001", "type": "function", "function": function}],
            },
        ]
        tools = _tools((ToolSpec("f", WORD, '{"type": "object", "properties": {}}'),))
        try:
            rendered = self.render(messages, tools, ask=False)
        except FAILURES:
            return False
        return f"{{'{WORD}'" not in rendered  # Python's way of writing it is no JSON


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
