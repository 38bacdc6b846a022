"""Tiny bases: encoders and LLMs of random weights, made on the spot, of the real classes.

The overfit gate, the tests and the closed world begin with them. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.plugins import require

CHAT_TEMPLATE = """\
{%- set first = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{%- if first or tools -%}
<|im_start|>system
{{ first }}
{%- if tools -%}
{{ '\\n' if first }}{{ 'Tools:\\n' }}
{%- for tool in tools -%}
{{ tool | tojson }}{{ '\\n' }}
{%- endfor -%}
Call one as <tool_call>{"name": ..., "arguments": {...}}</tool_call>.
{%- endif -%}
<|im_end|>
{% endif -%}
{%- for message in messages[1 if messages and messages[0].role == 'system' else 0:] -%}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
{%- set given = call.function.arguments -%}
{{ '\\n' if message.content or not loop.first }}<tool_call>{"name": "{{ call.function.name }}", "arguments": {# -#}
{{ given if given is string else given | tojson }}}</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""
END_OF_TURN = "<|im_end|>"
_SPECIAL = ["<|endoftext|>", "<|im_start|>", END_OF_TURN]
ENCODERS = ("whisper", "wav2vec2", "wavlm", "hubert", "wav2vec2_bert", "parakeet", "ast", "clap")


def _library() -> Any:
    return require("transformers", extra="train", what="making a tiny model")


def tokenizer(texts: Iterable[str], vocabulary: int = 512) -> Any:
    """A byte-level BPE tokenizer with ChatML, trained on texts. Digits stand alone."""
    tokenizers = require("tokenizers", extra="train", what="making a tiny model")
    split = tokenizers.pre_tokenizers
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL,
        initial_alphabet=split.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return _library().PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=_SPECIAL[0],
        eos_token=END_OF_TURN,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def llm(
    folder: Path,
    texts: Iterable[str],
    *,
    vocabulary: int = 512,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    longest: int = 4096,
    seed: int = 0,
    kind: str = "qwen2",
) -> Path:
    """A causal LM of random weights with its tokenizer, in a folder.

    Args:
        folder: Where it is written.
        texts: The tokenizer is trained on them.
        kind: `qwen2`, `llama` or `qwen3`: a model type of transformers with such a configuration.
    """
    torch, library = require("torch", extra="train", what="making a tiny model"), _library()
    made = tokenizer(texts, vocabulary)
    config = library.AutoConfig.for_model(
        kind,
        vocab_size=len(made),
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=hidden // heads,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        # Wider than usual: with the usual spread greedy decoding repeats one token, and proves nothing.
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=made.convert_tokens_to_ids(END_OF_TURN),
        pad_token_id=made.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = library.AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def encoder(
    folder: Path, kind: str = "whisper", *, hidden: int = 64, layers: int = 2, heads: int = 4, seed: int = 0
) -> Path:
    """An audio encoder of random weights with its feature extractor, in a folder; `kind` is one of `ENCODERS`."""
    torch, library = require("torch", extra="train", what="making a tiny model"), _library()
    usual = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": hidden * 2,
    }
    waves = usual | {
        "conv_dim": (32,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "layerdrop": 0.0,
    }
    if kind == "whisper":
        config = library.WhisperConfig(
            d_model=hidden,
            encoder_layers=layers,
            encoder_attention_heads=heads,
            encoder_ffn_dim=hidden * 2,
            decoder_layers=1,
            decoder_attention_heads=heads,
            decoder_ffn_dim=hidden * 2,
            vocab_size=64,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
        )
        extractor, model = library.WhisperFeatureExtractor(), library.WhisperModel
    elif kind in ("wav2vec2", "wavlm", "hubert"):
        name = {"wav2vec2": "Wav2Vec2", "wavlm": "WavLM", "hubert": "Hubert"}[kind]
        config = getattr(library, f"{name}Config")(**waves)
        extractor, model = (
            library.Wav2Vec2FeatureExtractor(return_attention_mask=False),
            getattr(library, f"{name}Model"),
        )
    elif kind == "wav2vec2_bert":
        config = library.Wav2Vec2BertConfig(**usual, feature_projection_input_dim=160, layerdrop=0.0)
        extractor, model = library.SeamlessM4TFeatureExtractor(), library.Wav2Vec2BertModel
    elif kind == "parakeet":
        config = library.ParakeetEncoderConfig(**usual, subsampling_conv_channels=16, layerdrop=0.0)
        extractor, model = library.ParakeetFeatureExtractor(), library.ParakeetEncoder
    elif kind == "ast":
        config = library.ASTConfig(**usual)
        extractor, model = library.ASTFeatureExtractor(), library.ASTModel
    elif kind == "clap":
        config = library.ClapAudioConfig(
            patch_embeds_hidden_size=16,
            depths=[2, 2],
            num_attention_heads=[2, 2],
            hidden_size=32,
            projection_dim=32,
            enable_fusion=False,
        )
        extractor, model = library.ClapFeatureExtractor(), library.ClapAudioModel
    else:
        raise ValueError(f"no tiny encoder {kind!r}: there are {', '.join(ENCODERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = model(config)
    made.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
