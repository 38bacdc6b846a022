"""AudioLM as the trainer and the evaluation see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig

from pipeline.audio import samples_of
from pipeline.model import lora
from pipeline.model.audio_lm import AudioLM
from pipeline.model.base import Batch, Encoded, ModelError, RowError, Samples, SpeechLM
from pipeline.model.chat import Chat, expand
from pipeline.model.collate import collate
from pipeline.model.processing import AudioLMProcessor
from pipeline.model.quiet import quiet
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Sample
from schemas.training import Part

_ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention", "sparse", "dense"})
_UNLIMITED = 2**20  # positions of an LLM that names no limit


class Composed(SpeechLM):
    """An AudioLM with its tokenizer."""

    model: Any  # an AudioLM, whose `generate` has types that no call fits

    def __init__(self, model: AudioLM, tokenizer: Any, *, name: str = "", seed: int = 0, apart: bool = True) -> None:
        """Puts them together.

        Args:
            model: Its `config.audio_token_id` is the tokenizer's.
            tokenizer: With chat template and audio token.
            name: For errors.
            seed: LoRA begins with weights drawn from it.
            apart: Whether the LLM was seen to keep packed examples apart.
        """
        self.model, self.tokenizer, self._seed = model, tokenizer, seed
        self.chat = Chat(tokenizer, stops=_stops(model) | _stops(model.language_model), name=name)
        if self.chat.audio_id != model.config.audio_token_id:
            raise ModelError(
                f"the audio token of {self.chat.name} is {model.config.audio_token_id} in its configuration and "
                f"{self.chat.audio_id} in its tokenizer: one of them is another model's"
            )
        text = model.language_model.config.get_text_config()
        self.longest = int(getattr(text, "max_position_embeddings", None) or _UNLIMITED)
        self.spans = model.spans
        self._packs = apart and packs(text)
        self._padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.chat.stops)
        # Greedy, to the end of a turn. An audio token within the LLM's vocabulary is never written.
        told: dict[str, Any] = {"do_sample": False, "pad_token_id": self._padding}
        if self.chat.audio_id < text.vocab_size:
            told["suppress_tokens"] = [self.chat.audio_id]
        model.generation_config = GenerationConfig(eos_token_id=sorted(self.chat.stops), **told)  # type: ignore[no-untyped-call]

    def tokens(self, samples: int) -> int:
        return self.spans.tokens(samples)

    def pieces(self, samples: int) -> list[int]:
        """The samples of each piece that AudioLM hears of a sound; `listen` gives frames a piece."""
        return self.spans.pieces(samples)

    def encode(self, sample: Sample, *, hear: bool = True, answer: bool = True, sounds: bool = True) -> Encoded:
        chat = self.chat.encode(sample, hear=hear, answer=answer)
        if not hear:
            return expand(sample.id, chat, self.chat.audio_id, (), self.longest)
        sizes = [size_of(sample, number) for number in range(len(sample.utterances))]
        encoded = expand(sample.id, chat, self.chat.audio_id, [self.tokens(size) for size in sizes], self.longest)
        if not sounds:
            return encoded
        return replace(encoded, sounds=tuple(sound_of(sample, number, size) for number, size in enumerate(sizes)))

    def collate(self, examples: Sequence[Encoded], *, pack: bool = False, left: bool = False) -> Batch:
        if pack and not self._packs:
            raise ModelError(
                f"{self.model.config.text_config.model_type} does not keep packed examples apart: set `packing: false`"
            )
        batch = collate(examples, self._padding, pack=pack, left=left)
        return replace(batch, sounds=self.spans.cut(sound for example in examples for sound in example.sounds))

    def listen(self, sounds: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the frozen encoders hear: it may stand in `Batch.sounds` in place of the waveforms.

        Args:
            sounds: `waveforms` (A, S) and `lengths` (A), as `collate` makes them.

        Returns:
            As `AudioLM.listen`: A is one piece each.
        """
        with torch.no_grad():
            heard: dict[str, Tensor] = self.model.listen(**sounds)
        return heard

    def states(self, batch: Batch) -> Tensor:
        packed = batch.examples > len(batch.ids)
        found: Tensor = self.model.language_model.get_decoder()(
            inputs_embeds=self.model.embed(batch.ids, **batch.sounds),
            # Without a mask, positions that begin anew keep attention within each example.
            attention_mask=None if packed else batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        return found

    def head(self) -> Callable[[Tensor], Tensor]:
        return head(self.model.language_model)

    def named(self, part: Part) -> Iterator[tuple[str, nn.Parameter]]:
        prefix = {"adapter": "adapter.", "lora": "language_model.", "llm": "language_model."}.get(part, "encoders.")
        for name, parameter in self.model.named_parameters():
            if name.startswith(prefix) and (part == "adapter" or (lora.MARK in name) == ("lora" in part)):
                yield name, parameter

    def add_lora(
        self, rank: int, alpha: float, dropout: float, targets: Sequence[str], *, encoder: bool = False
    ) -> None:
        part = self.model.encoders if encoder else self.model.language_model
        lora.place(part, "the encoder" if encoder else "the LLM", rank, alpha, dropout, targets, seed=self._seed)

    def without_lora(self) -> AbstractContextManager[None]:
        return lora.off(self.model.language_model)

    def changed(self) -> bool:
        """Whether LoRA changes anything."""
        return any(lora.changed(part) for _, part in self.model.parts())

    def merge(self) -> None:
        """Adds LoRA to the weights that it stands beside, for export."""
        for _, part in self.model.parts():
            lora.merge(part)

    def blocks(self) -> list[nn.Module]:
        """The LLM's layers: what is compiled, and sharded, one by one."""
        decoder = self.model.language_model.get_decoder()
        return list(getattr(decoder, "layers", None) or getattr(decoder, "h", None) or [])

    def generate(self, batch: Batch, *, most_tokens: int, **options: Any) -> list[list[int]]:
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask.long(),
                max_new_tokens=most_tokens,
                **batch.sounds,
                **options,
            )
        return [self._until_stop(row) for row in made[:, batch.ids.shape[1] :].tolist()]

    def _until_stop(self, ids: list[int]) -> list[int]:
        return ids[: next((n for n, i in enumerate(ids) if i in self.chat.stops), len(ids))]

    def save(self, folder: Path) -> None:
        with quiet():
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)

    @property
    def processor(self) -> AudioLMProcessor:
        """What makes inputs of text and sound outside of training."""
        return AudioLMProcessor(self.tokenizer, AudioLMProcessor.settings(self.model.config))


def _stops(model: Any) -> set[int]:
    """Of a saved AudioLM it has them all, and its LLM, whose own is not saved, what the LLM's configuration says."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    return {ids} if isinstance(ids, int) else set(ids or ())


def head(language_model: Any) -> Callable[[Tensor], Tensor]:
    """From states (N, H) to logits (N, V), as a causal LM of transformers computes them."""
    config = language_model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    factor = getattr(config, "logit_scale", None) or 1 / (
        getattr(config, "logits_scaling", None) or 1
    )  # Cohere; Granite

    def logits(states: Tensor) -> Tensor:
        found: Tensor = language_model.get_output_embeddings()(states)
        if factor != 1:
            found = found * factor
        return found if cap is None else torch.tanh(found / cap) * cap

    return logits


def packs(text_config: Any) -> bool:
    """Whether attention alone joins positions of an LLM, so that it can be kept within an example."""
    causal = AutoModelForCausalLM._model_mapping.get(type(text_config), None)
    kinds = getattr(text_config, "layer_types", None) or ()
    return not getattr(causal, "_is_stateful", False) and _ATTENTION.issuperset(kinds)


def size_of(sample: Sample, number: int) -> int:
    """Samples of an utterance's audio, as the row says.

    Raises:
        RowError: There is none.
    """
    audio = sample.utterances[number].audio
    if audio is None:
        raise RowError(f"row {sample.id} has no audio for its utterance {number + 1}: build the shard again")
    return round(audio.seconds * SAMPLING_RATE)


def sound_of(sample: Sample, number: int, size: int) -> Samples:
    """An utterance's audio, decoded.

    Raises:
        RowError: It does not decode, or is not of the size that the row says.
    """
    audio = sample.utterances[number].audio
    assert audio is not None
    try:
        samples = samples_of(audio)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise RowError(
            f"the audio {number + 1} of row {sample.id} does not decode ({error}): the shard is damaged, build it again"
        ) from error
    if samples.ndim != 1 or len(samples) != size:
        raise RowError(
            f"the audio {number + 1} of row {sample.id} has {len(samples)} samples, its row says {size}: the shard "
            "is damaged, build it again"
        )
    return samples
