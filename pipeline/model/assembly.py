"""From pretrained parts, or from a saved folder, to a SpeechLM."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline import plugins, storage
from pipeline.model.audio_lm import AudioLM
from pipeline.model.base import ModelError, SpeechLM
from pipeline.model.configuration import AudioLMConfig
from pipeline.model.encoders import base as encoders
from pipeline.model.quiet import quiet
from pipeline.model.speech_lm import Composed, head
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.training import ModelSpec

_FAILURES = (OSError, ValueError, RuntimeError, KeyError, ImportError)  # of transformers, where something is amiss

_PLAIN: dict[str, Any] = {"use_cache": False, "attention_mask": None}
_SOME = 4096  # tokens whose embeddings tell how large the LLM's are
_NEAR = 0.05  # of the norm: what bfloat16 may round, and one wrong position may not


def load(name: str, *, device: str = "cpu", dtype: str = "float32", attention: str = "sdpa") -> SpeechLM:
    """A saved AudioLM, or a ready audio LLM, of a folder or a hub id.

    Args:
        device: As torch names it.
        dtype: Of encoders and LLM; what was trained beside them stays in fp32.
        attention: The LLM's kind of attention, as transformers names it.

    Raises:
        ModelError: It cannot be loaded; the message says why.
    """
    config = _config(name)
    if not isinstance(config, AudioLMConfig):
        speech = _ready(name, config, "", dtype, attention)
    else:
        with _reported(f"the model {name!r}"):
            model, told = AudioLM.from_pretrained(
                name,
                dtype=getattr(torch, dtype),
                attn_implementation={"": attention, "text_config": attention},
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        if told["missing_keys"]:
            raise ModelError(f"{name!r} lacks weights, such as {min(told['missing_keys'])}: it was not saved whole")
        speech = Composed(model, tokenizer, name=name)
    speech.model.to(device).eval().requires_grad_(False)
    return speech


def compose(spec: ModelSpec, *, seed: int = 0, dtype: str = "float32") -> SpeechLM:
    """The model of a recipe on the CPU, nothing of it trained yet.

    Args:
        spec: The recipe's `model`.
        seed: The adapter's weights, and LoRA's, depend on it alone.
        dtype: Of encoders and LLM; the adapter has fp32.

    Raises:
        ModelError: A part cannot be loaded, or is none that fits.
    """
    if spec.ready:
        config = _config(spec.ready, spec)
        if isinstance(config, AudioLMConfig):
            raise ModelError(
                f"`ready: {spec.ready}` is an AudioLM, and no audio LLM of transformers: give the `encoders`, "
                "`adapter` and `llm` that it was made of"
            )
        speech = _ready(spec.ready, config, spec.revision.get(spec.ready, ""), dtype, spec.attention)
        speech.model.requires_grad_(False)
        return speech
    with quiet():
        ears = [encoders.load(name, spec.revision.get(name, ""), dtype) for name in spec.encoders]
    known = {"revision": spec.revision[spec.llm]} if spec.llm in spec.revision else {}
    if type(_config(spec.llm, spec)) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"`llm: {spec.llm}` is a {_config(spec.llm, spec).model_type}, no causal LM that transformers knows"
        )
    with _reported(f"the LLM {spec.llm!r}"):
        language_model = AutoModelForCausalLM.from_pretrained(
            spec.llm,
            dtype=getattr(torch, dtype),
            attn_implementation=spec.attention,
            trust_remote_code=False,
            **known,
        )
        tokenizer = AutoTokenizer.from_pretrained(spec.llm, trust_remote_code=False, **known)
    if AUDIO_PLACEHOLDER not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(AUDIO_PLACEHOLDER, special=True, normalized=False)], special_tokens=True)
    config = _joined(spec, ears, language_model, tokenizer)
    with torch.device("meta"), quiet():
        model = AudioLM(config)
    model.encoders = torch.nn.ModuleList(ears)
    model.language_model = language_model
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model.adapter = model.new_adapter()
        model.adapter.adopt(ears)
        model.adapter.set_scale(_scale(language_model))  # some draw anew for that
    model.requires_grad_(False).train(False)
    _check_head(spec.llm, language_model)
    return Composed(model, tokenizer, name=spec.llm, seed=seed, apart=_keeps_apart(language_model))


def _joined(spec: ModelSpec, ears: list[encoders.Encoder], language_model: Any, tokenizer: Any) -> AudioLMConfig:
    """The configuration of the whole; where its parts came from is left out."""
    parts = [copy.deepcopy(part.config) for part in (*ears, language_model)]
    kinds = [part._attn_implementation for part in parts]  # the whole one resets them
    for part in parts:
        part._name_or_path = ""
    *hearing, text = parts
    config = AudioLMConfig(
        encoder_config=hearing[0],
        second_encoder_config=hearing[1] if len(hearing) > 1 else None,
        text_config=text,
        extractors=[ear.extractor_config for ear in ears],
        adapter=dict(spec.adapter),
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_PLACEHOLDER),
        dtype=language_model.dtype,
    )
    config._attn_implementation = kinds[-1]
    for part, kind in zip(parts, kinds, strict=True):
        part._attn_implementation = kind
    return config


def _config(name: str, spec: ModelSpec | None = None) -> Any:
    revision = spec.revision.get(name) if spec else None
    place = storage.on_disk(name)
    meant = name.startswith((".", "/", "~")) or name.count("/") > 1 or (place.parent.name and place.parent.is_dir())
    if meant and not place.exists():  # else the Hub is asked for it, half a minute long where there is none
        raise ModelError(f"there is no folder {name!r}: a model lies in `model` of its run's folder")
    with _reported(f"the model {name!r}"):
        known = {"revision": revision} if revision else {}
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **known)


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        with quiet():
            yield
    except _FAILURES as error:
        if isinstance(error, ModelError):
            raise
        cure = " (set `attention: eager`)" if "attention implementation" in str(error) else ""
        raise ModelError(f"{what} cannot be loaded: {error}{cure}") from error


def _ready(name: str, config: Any, revision: str, dtype: str, attention: str) -> SpeechLM:
    """A ready audio LLM, by the plugin that knows its type."""
    known: dict[str, Any] = {}
    for plugin in plugins.names("model.ready"):
        found = plugins.load("model.ready", plugin)
        known |= dict.fromkeys(found.model_types, found)
    if config.model_type not in known:
        raise ModelError(
            f"{name!r} is a {config.model_type}, neither an AudioLM nor an audio LLM that is known: "
            f"{', '.join(sorted(known))}"
        )
    with _reported(f"the model {name!r}"):
        speech: SpeechLM = known[config.model_type].load(name, revision=revision, dtype=dtype, attention=attention)
    return speech


@torch.no_grad()
def _scale(language_model: Any) -> float:
    """The root mean square of what the LLM reads: some multiply what they have looked up."""
    embeddings = language_model.get_input_embeddings()
    some: torch.Tensor = embeddings(torch.arange(min(embeddings.num_embeddings, _SOME)))
    return float(some.float().square().mean().sqrt())


@torch.no_grad()
def _keeps_apart(language_model: Any) -> bool:
    """Whether positions that begin anew keep attention within an example: not every LLM heeds them."""
    decoder = language_model.get_decoder()
    behind = decoder(input_ids=torch.tensor([[4, 5, 1, 2, 3]]), position_ids=torch.tensor([[0, 1, 0, 1, 2]]), **_PLAIN)
    alone = decoder(input_ids=torch.tensor([[1, 2, 3]]), position_ids=torch.tensor([[0, 1, 2]]), **_PLAIN)
    expected = alone.last_hidden_state.float()
    return bool((behind.last_hidden_state[:, 2:].float() - expected).norm() < _NEAR * expected.norm())


@torch.no_grad()
def _check_head(name: str, language_model: Any) -> None:
    """Complains if the head does more to its states than `head` knows: the loss would be another model's."""
    ids = torch.tensor([[1, 2, 3]])
    states = language_model.get_decoder()(input_ids=ids, **_PLAIN).last_hidden_state
    expected = language_model(input_ids=ids, **_PLAIN).logits
    if not torch.allclose(head(language_model)(states).float(), expected.float(), rtol=1e-3, atol=1e-3):
        raise ModelError(
            f"the LLM {name!r} ({language_model.config.model_type}) changes its logits in a way that is not known "
            "here, so it cannot be trained: take another"
        )
