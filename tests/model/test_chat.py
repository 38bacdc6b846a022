"""Chat: what is learnt, what is given, and what is said where a template cannot do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("transformers")

from transformers import AddedToken, AutoTokenizer

from pipeline.model.base import ModelError, RowError
from pipeline.model.chat import Chat, expand
from schemas.conversation import AUDIO_PLACEHOLDER, Message
from tests.model.rows import called, heard

# As Qwen 3: the last response begins with an empty thought, and earlier ones have lost theirs.
THINKS = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif -%}
"""
# As DeepSeek: arguments are text, and joined to text.
TEXTUAL = """\
{%- for tool in tools or [] -%}{{ tool.function.name }} {% endfor -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}:{{ message.content }}
{%- for call in message.tool_calls or [] -%}{{ call.function.name + call.function.arguments }}{%- endfor -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant:{% endif -%}
"""


@pytest.fixture
def tokenizer(tiny_llm: Path) -> Any:
    made = AutoTokenizer.from_pretrained(tiny_llm)
    made.add_tokens([AddedToken(AUDIO_PLACEHOLDER, special=True, normalized=False)], special_tokens=True)
    return made


def learnt(chat: Chat, sample: Any, **how: Any) -> str:
    """The targets as text."""
    ids, targets, _ = chat.encode(sample, **how)
    return str(chat.tokenizer.decode(ids[targets]))


def test_a_response_and_its_end_are_learnt_and_nothing_else(tokenizer: Any) -> None:
    chat = Chat(tokenizer)
    ids, targets, ends = chat.encode(heard(1.0))
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\n<|audio|>\nWhat is said?<|im_end|>\n<|im_start|>assistant\nHello there.<|im_end|>"
    )
    assert tokenizer.decode(ids[targets]) == "Hello there.<|im_end|>"
    assert ends.tolist() == [False] * (len(ids) - 1) + [True]
    assert chat.stops == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


@pytest.mark.parametrize("make", [lambda: heard(1.0), lambda: heard(1.0, 2.0), called, heard])
def test_without_the_answer_the_same_row_ends_where_it_begins(tokenizer: Any, make: Any) -> None:
    chat, sample = Chat(tokenizer), make()
    whole, targets, _ = chat.encode(sample)
    asked, none, _ = chat.encode(sample, answer=False)
    assert (whole[: len(asked)] == asked).all()
    last = len(whole) - len(asked)
    assert targets[-last:].all()
    assert not targets[len(asked) - 1]
    assert (targets[: len(asked)] == none).all()


@pytest.mark.parametrize("make", [lambda: heard(1.0), lambda: heard(1.0, 2.0), called])
def test_the_teacher_reads_the_transcript_and_is_to_say_the_same(tokenizer: Any, make: Any) -> None:
    chat, sample = Chat(tokenizer), make()
    ids, targets, ends = chat.encode(sample)
    read, read_targets, read_ends = chat.encode(sample, hear=False)
    assert (ids[targets] == read[read_targets]).all()
    assert (ends[targets] == read_ends[read_targets]).all()
    text = tokenizer.decode(read)
    assert AUDIO_PLACEHOLDER not in text
    assert "<noise>" not in text
    assert "HELLO" not in text  # presentable, as in prompts


def test_all_turns_of_the_assistant_are_learnt_with_tool_calls_as_json(tokenizer: Any) -> None:
    chat = Chat(tokenizer)
    assert learnt(chat, called()) == (
        '<tool_call>{"name": "set_timer", "arguments": {"minutes": 5, "label": "té"}}</tool_call><|im_end|>'
        "Your timer runs.<|im_end|>"
    )
    ids, targets, ends = chat.encode(called())
    assert ends.sum() == 2
    assert targets[ends].all()
    text = tokenizer.decode(ids)
    assert all(part in text for part in ("Starts a timer.", "You help.", '{"ok": true}'))


def test_a_template_that_wants_arguments_as_text_gets_them(tokenizer: Any) -> None:
    tokenizer.chat_template = TEXTUAL
    assert learnt(Chat(tokenizer), called()) == (
        'set_timer{"minutes": 5, "label": "té"}<|im_end|>Your timer runs.<|im_end|>'
    )


def again(sample: Any, *said: Message) -> Any:
    """A row that goes on."""
    return replace(sample, messages=(*sample.messages, Message("user", "Again?"), *said))


def test_an_empty_thought_that_earlier_turns_lose_stands_where_it_did(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKS
    chat = Chat(tokenizer)
    assert learnt(chat, heard(1.0)) == "Hello there.<|im_end|>"  # the empty thought belongs to the prompt
    two = again(heard(1.0), Message("assistant", "Once more."))
    assert learnt(chat, two) == "Hello there.<|im_end|>Once more.<|im_end|>"
    ids, targets, ends = chat.encode(two)
    assert ends.sum() == 2
    thought = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    text = tokenizer.decode(ids)
    assert text.count(thought) == 2
    assert text.startswith(tokenizer.decode(chat.encode(heard(1.0))[0]))  # as the first turn alone
    asked, none, _ = chat.encode(two, answer=False)
    assert tokenizer.decode(asked).endswith(thought)
    assert (ids[: len(asked)] == asked).all()
    assert (targets[: len(asked)] == none).all()


def test_calls_before_their_results_are_learnt_where_thoughts_are_dropped(tokenizer: Any) -> None:
    calls = "{% for c in message.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    tokenizer.chat_template = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + THINKS.replace(
        "{{ message.content }}", "{{ message.content }}" + calls
    )
    made = learnt(Chat(tokenizer), called())
    call = '{"name": "set_timer", "arguments": {"minutes": 5, "label": "té"}}'
    assert made == f"{call}<|im_end|>Your timer runs.<|im_end|>"


def test_responses_that_are_rewritten_later_are_not_learnt_and_it_is_told_once(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.chat_template = THINKS.replace(
        "{{ message.content }}",
        "{{ message.content | upper if message.role == 'assistant' and not loop.last else message.content }}",
    )
    chat = Chat(tokenizer, name="M")
    two = again(heard(1.0), Message("assistant", "Once more."))
    assert [learnt(chat, two) for _ in range(2)] == ["Once more.<|im_end|>"] * 2
    assert [r.getMessage() for r in caplog.records] == [
        "the chat template of M rewrites earlier responses: only later ones are learnt"
    ]


def test_calls_have_ids_of_nine_characters_which_mistral_wants(tokenizer: Any) -> None:
    tokenizer.chat_template = """\
{%- for tool in tools or [] -%}{{ tool | tojson }}{% endfor -%}
{%- for message in messages -%}
{%- if message.role == 'user' %}[INST]{{ message.content }}[/INST]
{%- elif message.role == 'tool' %}
{%- if message.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif -%}
[TOOL_RESULTS]{{ message.tool_call_id }}{{ message.content }}[/TOOL_RESULTS]
{%- elif message.tool_calls is defined -%}
{%- for call in message.tool_calls -%}
{%- if call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif -%}
{{ call.function | tojson }}{{ call.id }}{% endfor %}<|im_end|>
{%- else %}{{ message.content }}<|im_end|>{% endif -%}
{%- endfor -%}"""
    call = '{"name": "set_timer", "arguments": {"minutes": 5, "label": "té"}}'  # an object, and no string of JSON
    chat = Chat(tokenizer)
    assert learnt(chat, called()) == f"{call}000000001<|im_end|>Your timer runs.<|im_end|>"
    assert "[TOOL_RESULTS]000000001{" in tokenizer.decode(chat.encode(called())[0])


def test_long_pieces_are_remembered_and_tokens_stay_those_of_the_whole_text(tokenizer: Any) -> None:
    chat = Chat(tokenizer)
    text = tokenizer.decode(chat.encode(called())[0])
    for _ in range(2):
        assert chat.ids(text) == tokenizer.encode(text, add_special_tokens=False)
    assert chat._remembers
    assert chat._memory


def test_a_tokenizer_that_begins_texts_with_a_space_puts_none_before_responses(tokenizer: Any) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "</s>",
        "[INST]",
        "[/INST]",
        AUDIO_PLACEHOLDER,
        "▁",
        *"▁Hi Hi ▁yes yes ▁earwitness earwitness".split(),
    ]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    spaced = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    spaced.add_tokens([AddedToken(t, special=True, normalized=False) for t in words[2:5]], special_tokens=True)
    spaced.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    sample = heard(1.0, answer="yes")
    sample = replace(sample, messages=(Message("user", AUDIO_PLACEHOLDER), *sample.messages[1:]))
    ids, targets, _ = Chat(spaced).encode(sample)
    assert spaced.convert_ids_to_tokens(ids) == ["[INST]", AUDIO_PLACEHOLDER, "[/INST]", "yes", "</s>"]
    assert targets.tolist() == [False, False, False, True, True]


def test_the_day_does_not_change_a_row(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ strftime_now('%d %B') }}{{ strftime_now('%Y') }}" + tokenizer.chat_template
    ids, _, _ = Chat(tokenizer).encode(heard(1.0))
    assert tokenizer.decode(ids).startswith("01 Jan 202601 Jan 2026<|im_start|>user")


def test_an_audio_takes_as_many_positions_as_it_is_said_to(tokenizer: Any) -> None:
    chat = Chat(tokenizer)
    coded = chat.encode(heard(1.0, 2.0))
    row = expand("r", coded, chat.audio_id, [3, 5], longest=100)
    assert (row.ids == chat.audio_id).sum() == 8
    assert (row.ids[row.targets] == coded[0][coded[1]]).all()
    assert np.flatnonzero(row.ids == chat.audio_id).tolist()[:3] == [4, 5, 6]
    with pytest.raises(RowError, match=r"row r has \d+ positions \(80 of audio\), the model allows 60"):
        expand("r", coded, chat.audio_id, [40, 40], longest=60)


def test_what_is_wrong_with_a_model_is_said_before_any_row(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer of M has no audio token '<\|sound\|>'"):
        Chat(tokenizer, audio_token="<|sound|>", name="M")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(ModelError, match="without a special token, so generation would not stop"):
        Chat(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no plain questions') }}"
    with pytest.raises(ModelError, match="cannot write a plain question: no plain questions"):
        Chat(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="M has no chat template: take a model that was tuned to chat"):
        Chat(tokenizer, name="M")


def test_a_template_that_leaves_tools_out_is_an_error(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKS
    with pytest.raises(ModelError, match="leaves out tools"):
        Chat(tokenizer).encode(called())
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    with pytest.raises(ModelError, match="cannot write row c/tool: System role not supported"):
        Chat(tokenizer).encode(called())


def test_a_row_that_does_not_fit_is_named(tokenizer: Any) -> None:
    chat, sample = Chat(tokenizer), heard(1.0)
    two = replace(sample, messages=(Message("user", f"{AUDIO_PLACEHOLDER} {AUDIO_PLACEHOLDER}"), sample.messages[1]))
    with pytest.raises(RowError, match=r"row c/1 has 2 placeholders <\|audio\|> for 1 utterances"):
        chat.encode(two)
    with pytest.raises(RowError, match="row c/1 does not end with a response"):
        chat.encode(replace(sample, messages=sample.messages[:1]))
    broken = called()
    call = replace(broken.messages[2].tool_calls[0], arguments="{minutes: 5}")
    messages = (*broken.messages[:2], replace(broken.messages[2], tool_calls=(call,)), *broken.messages[3:])
    with pytest.raises(RowError, match="row c/tool: the arguments of a tool call are no JSON"):
        chat.encode(replace(broken, messages=messages))
