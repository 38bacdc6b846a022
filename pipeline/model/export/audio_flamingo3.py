"""Audio Flamingo 3 as transformers has it, which vLLM serves, too (arXiv 2507.08128).

What fits: one encoder of Whisper's kind, the adapter `pool`, and Qwen2 as LLM; vLLM makes nothing else of it. A Llama
is a Qwen2 whose biases are zero. All has its place there: the encoder's last norm follows the mean, as in `pool`. Sound
is padded to 30 s by the format, masked, and not by us; what the last frames hear beyond the end is silence in both, so
the same tokens come out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from pipeline.model.base import ModelError
from pipeline.model.export.base import Format
from pipeline.model.speech_lm import Composed
from schemas.arrow import SAMPLING_RATE
from schemas.conversation import AUDIO_PLACEHOLDER

_library: Any = transformers  # its functions have no types
_PER_SECOND = 25  # positions
_TEXT = 512  # positions that are left for text beside the longest sound
_LONGEST = 600  # seconds, as Audio Flamingo 3 has it
# What Qwen2's configuration has under its own defaults, or is said anew.
_NOT_READ = (
    *("_name_or_path", "architectures", "dtype", "model_type", "transformers_version", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias", "pretraining_tp", "head_dim"),
)

# Messages come as parts, or as text. The LLM's template takes text.
_PARTS = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string or not message['content'] -%}
{%- set flat.messages = flat.messages + [message] -%}
{%- else -%}
{%- set said = namespace(text='') -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{%- set said.text = said.text + part['text'] -%}
{%- elif part['type'] == 'audio' -%}
{%- set said.text = said.text + 'AUDIO' -%}
{%- else -%}
{{- raise_exception('only text and audio are taken, not ' ~ part['type']) -}}
{%- endif -%}
{%- endfor -%}
{%- set flat.messages = flat.messages + [dict(message, content=said.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


class AudioFlamingo3(Format):
    """`AudioFlamingo3ForConditionalGeneration`."""

    is_plugin = True
    title = "Audio Flamingo 3"
    use = """\
## Use

With vLLM, no code of ours and no `trust_remote_code`:

```bash
vllm serve {name} --enable-auto-tool-choice --tool-call-parser hermes
```

An OpenAI chat request holds the sound as a part `input_audio` (base64) or `audio_url` beside `text`. With
transformers:

```python
from transformers import AudioFlamingo3ForConditionalGeneration, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}")
model = AudioFlamingo3ForConditionalGeneration.from_pretrained("{name}")
parts = [{"type": "audio", "path": "question.wav"}, {"type": "text", "text": "Answer the question."}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True
)
made = model.generate(**inputs, max_new_tokens=256)
print(processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```

The format takes one sound a request. It has no place for one under 20 ms, nor for less than that beyond whole windows
of 30 s.
"""

    def check(self, speech: Any) -> None:
        config = speech.model.config
        if config.model_type == "audioflamingo3":
            return
        if not isinstance(speech, Composed):
            raise ModelError(f"a {config.model_type} has a format of its own, no other: export it with `--format own`")
        adapter, text = config.adapter, config.text_config
        own_width = text.hidden_size // text.num_attention_heads
        wanted = {
            "one encoder": (len(config.encoder_configs) == 1, f"{len(config.encoder_configs)}"),
            "an encoder of Whisper's kind": (
                config.encoder_configs[0].model_type in ("whisper", "voxtral_encoder"),
                config.encoder_configs[0].model_type,
            ),
            "the adapter `pool`": (adapter["kind"] == "pool", adapter["kind"]),
            "frames pooled by 2": (adapter.get("factor", 2) == 2, f"by {adapter.get('factor')}"),
            "no weighted layers": (not config.weighted_layers, "weighted layers"),
            "Qwen2 or Llama as LLM": (text.model_type in ("qwen2", "llama"), text.model_type),
            "an LLM without further biases": (
                not (getattr(text, "attention_bias", False) or getattr(text, "mlp_bias", False)),
                "biases in its layers",
            ),
            "heads as wide as the LLM's width allows": (
                (getattr(text, "head_dim", None) or own_width) == own_width,
                f"heads of {getattr(text, 'head_dim', None)}",
            ),
        }
        for what, (fits, found) in wanted.items():
            if not fits:
                raise ModelError(f"the format of {self.title} takes {what}; this model has {found}")

    def write(self, speech: Any, folder: Path) -> None:
        model = speech.model
        if isinstance(speech, Composed):
            config, state = _config(model.config), dict(_composed(model.state_dict()))
            _widen(state, config.text_config.vocab_size, config.audio_token_id)
            _add_biases(state)
            _processor(speech, config).save_pretrained(folder)
        else:
            config, state = model.config, dict(_ready(model.state_dict()))
            speech.copy_reading(folder)
        kind = speech.model.dtype
        config.architectures, config.dtype = ["AudioFlamingo3ForConditionalGeneration"], kind
        config.save_pretrained(folder)
        state = {name: value.to(kind).contiguous() for name, value in state.items()}
        save_torch_state_dict(state, folder, max_shard_size="5GB", metadata={"format": "pt"})
        _library.GenerationConfig(
            eos_token_id=sorted(speech.chat.stops), pad_token_id=speech.tokenizer.pad_token_id
        ).save_pretrained(folder)


def _config(own: Any) -> Any:
    """Audio Flamingo 3's configuration of an AudioLM."""
    ear, text = own.encoder_configs[0], own.text_config.to_dict()
    vocabulary = max(text.pop("vocab_size"), own.audio_token_id + 1)
    audio = _library.AudioFlamingo3EncoderConfig(
        num_mel_bins=ear.num_mel_bins,
        hidden_size=ear.d_model,
        num_hidden_layers=ear.encoder_layers,
        num_attention_heads=ear.encoder_attention_heads,
        intermediate_size=ear.encoder_ffn_dim,
        activation_function=ear.activation_function,
        max_source_positions=ear.max_source_positions,
    )
    return _library.AudioFlamingo3Config(
        audio_config=audio,
        # The head has rows of its own for the audio token, so it is not tied.
        text_config=_library.Qwen2Config(
            vocab_size=vocabulary,
            tie_word_embeddings=False,
            **{key: value for key, value in text.items() if key not in _NOT_READ},
        ),
        audio_token_id=own.audio_token_id,
        projector_hidden_act="gelu",
        projector_bias=True,
    )


def _composed(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights of an AudioLM by the names of the format's files."""
    names = {
        "encoders.0.module.": "audio_tower.",
        "adapter.norm.": "audio_tower.layer_norm.",
        "adapter.": "multi_modal_projector.",
        "language_model.": "language_model.",
    }
    for name, value in state.items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        yield names[prefix] + name.removeprefix(prefix), value


def _ready(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights of transformers' class by the names of the format's files, which vLLM expects."""
    for name, value in state.items():
        if name.startswith("lm_head."):
            yield f"language_model.{name}", value
        elif name.startswith("model.language_model."):
            yield name.replace("model.language_model.", "language_model.model.", 1), value
        else:
            yield name.removeprefix("model."), value


@torch.no_grad()
def _widen(state: dict[str, Tensor], vocabulary: int, audio: int) -> None:
    """Gives the audio token rows in embeddings and head.

    It must be looked up, and never be written: its logit is the mean of all, below the largest.
    """
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        old = state[name]
        row = old.float().mean(0).to(old.dtype)
        new = torch.cat([old, row.expand(vocabulary - len(old), -1)]) if vocabulary > len(old) else old.clone()
        if "lm_head" in name:
            new[audio] = row
        state[name] = new


def _add_biases(state: dict[str, Tensor]) -> None:
    """Zeros where Qwen2 has biases and the LLM has none."""
    for name, weight in list(state.items()):
        layer = name.rpartition(".")[0]
        if name.startswith("language_model.model.layers.") and layer.endswith(("q_proj", "k_proj", "v_proj")):
            state.setdefault(f"{layer}.bias", weight.new_zeros(len(weight)))


def _processor(speech: Composed, config: Any) -> Any:
    own = speech.model.config
    hop = int((own.extractors[0] or {}).get("hop_length", 160))
    window = 2 * config.audio_config.max_source_positions * hop / SAMPLING_RATE  # s
    extractor = _library.WhisperFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins,
        hop_length=hop,
        n_fft=int((own.extractors[0] or {}).get("n_fft", 400)),
        chunk_length=round(window),
        return_attention_mask=True,
    )
    room = (config.text_config.max_position_embeddings - _TEXT) / _PER_SECOND
    longest = max(1, min(int(room // window), int(_LONGEST // window))) * round(window)
    return _library.AudioFlamingo3Processor(
        feature_extractor=extractor,
        tokenizer=speech.tokenizer,
        chat_template=_PARTS.replace("AUDIO", AUDIO_PLACEHOLDER) + speech.tokenizer.chat_template,
        audio_token=AUDIO_PLACEHOLDER,
        max_audio_len=longest,
    )
