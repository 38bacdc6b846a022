"""Ready audio LLMs of random weights, of transformers' own classes, with templates in the manner of each family.

Their weights are spread wider than usual, or greedy decoding would repeat one token. Gemma 3n has a stand-in for its
eyes, which are timm's and are not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel, Gemma3nVisionConfig, PreTrainedModel

from pipeline.audio import Samples, samples_of
from pipeline.model import tiny
from schemas.sample import Sample
from tests.examples import sentences

AF3 = """\
{%- if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% if tools %}<|im_start|>tools
{{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
GRANITE = """\
{%- for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>
{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"""
GEMMA = """\
{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
VOXTRAL = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}
{%- if tools and loop.revindex <= 2 %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST]{{ m.content }}[/INST]{% elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]
{%- else %}{{ m.content }}{% for call in m.tool_calls or [] %}
{%- if call.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif -%}
[TOOL_CALLS]{{ call.function.name }}[CALL_ID]{{ call.id }}[ARGS]
{%- set given = call.function.arguments %}{{ given if given is string else given | tojson }}
{%- endfor %}{{ eos_token }}{% endif %}{% endfor %}"""

LLM = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
    "bos_token_id": None,
}
EAR = {
    "num_mel_bins": 80,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.3,
    "max_source_positions": 200,
}
WINDOW = 4  # seconds, in place of 30, of those that have Whisper's encoder


def tokenizer(template: str | None, special: list[str], end: str, begin: str | None = None) -> Any:
    """A byte-level BPE tokenizer with these special tokens."""
    made = tiny.tokenizer(sentences("en"), 400)
    made.add_special_tokens({"additional_special_tokens": [*special, end, *([begin] if begin else [])]})
    made.eos_token, made.chat_template = end, template
    if begin:
        made.bos_token = begin
    return made


def saved(folder: Path, model: Any, made: Any, extractor: Any, stops: list[int] | None = None) -> Path:
    """All of it in a folder, as on the hub."""
    model.generation_config.eos_token_id = stops or [made.eos_token_id]
    model.generation_config.pad_token_id = made.pad_token_id
    model.save_pretrained(str(folder))
    made.save_pretrained(folder)
    if extractor is not None:
        extractor.save_pretrained(folder)
    return folder


def llm(made: Any, kind: str, **changes: Any) -> dict[str, Any]:
    """The configuration of the LLM part."""
    own = {"model_type": kind, "vocab_size": len(made), "eos_token_id": made.eos_token_id}
    return LLM | own | {"pad_token_id": made.pad_token_id} | changes


def audio_flamingo3(folder: Path) -> Path:
    made = tokenizer(AF3, ["<sound>"], "<|im_end|>")
    config = transformers.AudioFlamingo3Config(
        audio_config=EAR | {"model_type": "audioflamingo3_encoder"},
        text_config=llm(made, "qwen2"),
        audio_token_id=made.convert_tokens_to_ids("<sound>"),
    )
    model = transformers.AudioFlamingo3ForConditionalGeneration(config)
    return saved(
        folder, model, made, transformers.WhisperFeatureExtractor(chunk_length=WINDOW, return_attention_mask=True)
    )


def qwen2_audio(folder: Path) -> Path:
    """Its template is the processor's own, as for older files."""
    made = tokenizer(None, ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"], "<|im_end|>")
    names = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
    config = transformers.Qwen2AudioConfig(
        audio_config=names
        | {
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 80,
            "initializer_range": 0.3,
            "max_source_positions": 200,
        },
        text_config=llm(made, "qwen2"),
        audio_token_index=made.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = transformers.Qwen2AudioForConditionalGeneration(config)
    return saved(folder, model, made, transformers.WhisperFeatureExtractor(chunk_length=WINDOW))


def voxtral(folder: Path) -> Path:
    names = ("INST", "SYSTEM_PROMPT", "AVAILABLE_TOOLS", "TOOL_CALLS", "CALL_ID", "ARGS", "AUDIO", "BEGIN_AUDIO")
    special = [f"[{name}]" for name in names] + [f"[/{name}]" for name in names[:3]]
    made = tokenizer(VOXTRAL, special, "</s>", "<s>")
    config = transformers.VoxtralConfig(
        audio_config=EAR | {"model_type": "voxtral_encoder"},
        text_config=llm(made, "llama"),
        audio_token_id=made.convert_tokens_to_ids("[AUDIO]"),
    )
    model = transformers.VoxtralForConditionalGeneration(config)
    return saved(folder, model, made, transformers.WhisperFeatureExtractor(chunk_length=WINDOW))


def granite_speech(folder: Path, own_lora: bool = False) -> Path:
    made = tokenizer(GRANITE, ["<|audio|>", "<|start_of_role|>", "<|end_of_role|>"], "<|end_of_text|>")
    former = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.GraniteSpeechConfig(
        encoder_config={"num_layers": 2, "hidden_dim": 32, "num_heads": 4, "context_size": 50, "max_pos_emb": 64},
        projector_config=former
        | {"model_type": "blip_2_qformer", "encoder_hidden_size": 32, "cross_attention_frequency": 1},
        text_config=llm(made, "granite"),
        audio_token_index=made.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=own_lora,
        initializer_range=0.3,
    )
    model = transformers.GraniteSpeechForConditionalGeneration(config)
    mel = {"sample_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80}
    settings = {"feature_extractor_type": "GraniteSpeechFeatureExtractor", "melspec_kwargs": mel}
    saved(folder, model, made, None)
    if own_lora:
        from peft import LoraConfig

        model.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        PreTrainedModel.save_pretrained(model, str(folder))  # the class's own would write the rest again, misnamed
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


class Eyes(PreTrainedModel):
    """A stand-in for timm's vision tower."""

    config_class = Gemma3nVisionConfig
    _supports_sdpa = True

    def __init__(self, config: Gemma3nVisionConfig) -> None:
        super().__init__(config)
        self.lens = torch.nn.Linear(2, 2)
        self.post_init()


def gemma3n(folder: Path) -> Path:
    AutoModel.register(Gemma3nVisionConfig, Eyes, exist_ok=True)
    names = ["<start_of_turn>", "<image>", "<boi>", "<eoi>", "<audio_soft_token>", "<boa>", "<eoa>"]
    made = tokenizer(GEMMA, names, "<end_of_turn>", "<bos>")
    token = made.convert_tokens_to_ids
    eyes, ears = len(made), len(made) + 8  # ids beyond the tokenizer's are of soft tokens
    text = llm(
        made,
        "gemma3n_text",
        vocab_size=len(made) + 16,
        vocab_size_per_layer_input=len(made),
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        altup_num_inputs=2,
        sliding_window=64,
        final_logit_softcapping=3.0,
    )
    config = transformers.Gemma3nConfig(
        text_config=text,
        audio_config={
            "vocab_size": 8,
            "vocab_offset": ears,
            "hidden_size": 32,
            "conf_num_attention_heads": 4,
            "conf_num_hidden_layers": 2,
            "sscp_conv_channel_size": (8, 4),
            "initializer_range": 0.3,
        },
        vision_config=Gemma3nVisionConfig(vocab_size=8, vocab_offset=eyes, hidden_size=16),
        image_token_id=token("<image>"),
        audio_token_id=token("<audio_soft_token>"),
        boi_token_id=token("<boi>"),
        eoi_token_id=token("<eoi>"),
        boa_token_id=token("<boa>"),
        eoa_token_id=token("<eoa>"),
    )
    model = transformers.Gemma3nForConditionalGeneration(config)
    return saved(folder, model, made, transformers.Gemma3nAudioFeatureExtractor())


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "audio_flamingo3": audio_flamingo3,
    "qwen2_audio": qwen2_audio,
    "voxtral": voxtral,
    "granite_speech": granite_speech,
    "gemma3n": gemma3n,
}


def heard(sample: Sample) -> Samples:
    """The one sound of a sample."""
    audio = sample.utterances[0].audio
    assert audio is not None
    return samples_of(audio)
