"""AudioLM: an audio encoder or two, an adapter and a causal LM, as one model of transformers.

Sound takes the places of the audio token: these positions are not looked up in the LLM's embeddings, but
filled with what the adapter makes of it. The LLM keeps its vocabulary, so it never writes the audio token,
and text alone gives the logits that it always gave.

Shapes: B rows, L positions, A pieces of sound, S samples, T frames, D the encoder's width, H the LLM's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.utils.hub import cached_file

from pipeline.model import lora
from pipeline.model.adapters import base as adapters
from pipeline.model.base import ModelError
from pipeline.model.configuration import AudioLMConfig
from pipeline.model.encoders import base as encoders
from pipeline.model.features import valid
from pipeline.model.lengths import Lengths
from pipeline.model.resample import resample

SOUNDS = ("waveforms", "lengths", "frames", "frame_lengths", "second_frames")
"""What `forward` takes for sound; the last three in place of the first two."""
_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class AudioLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """Listens and writes. `pipeline.model.compose` makes one of pretrained parts."""

    config: AudioLMConfig
    adapter: adapters.Adapter
    language_model: Any
    config_class = AudioLMConfig
    main_input_name = "input_ids"
    input_modalities = ["audio", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["^adapter"]

    def __init__(self, config: AudioLMConfig) -> None:
        super().__init__(config)
        extractors = config.extractors or [{}] * len(config.encoder_configs)
        self.encoders = nn.ModuleList(
            encoders.from_config(*pair) for pair in zip(config.encoder_configs, extractors, strict=True)
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config, trust_remote_code=False)  # type: ignore[no-untyped-call]
        self.adapter = self.new_adapter()
        self.adapter.adopt(self.ears)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: encoders and LLM have their own classes for this, and adapters draw theirs when they are made."""

    @property
    def ears(self) -> list[encoders.Encoder]:
        """The encoders."""
        return list(self.encoders)  # type: ignore[arg-type]

    def new_adapter(self) -> adapters.Adapter:
        """An adapter of random weights, as the configuration describes it."""
        assert self.config.adapter is not None
        ears, width = self.ears, self.language_model.get_input_embeddings().embedding_dim
        return adapters.make(self.config.adapter, sum(e.width for e in ears), width, [e.depth for e in ears])

    @property
    def spans(self) -> Lengths:
        """How sound is cut up, and how many positions it takes."""
        return Lengths(self.ears, self.adapter)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()  # type: ignore[no-any-return]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def listen(self, waveforms: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """What the encoders hear: what `forward` takes in place of the waveforms.

        The frames of a second encoder are brought to the first one's number, clip by clip: each becomes the
        mean of those that it overlaps, weighted by how much.

        Args:
            waveforms: A, S.
            lengths: A, samples.

        Returns:
            `frames` (A, T, D; of every layer depth, A, T, D if the adapter weighs them) and `frame_lengths` (A);
            of two encoders with every layer `second_frames`, too.
        """
        every = self.config.weighted_layers
        heard = []
        for encoder in self.ears:
            trained = torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())
            with torch.set_grad_enabled(trained):
                heard.append(encoder(waveforms, lengths, every_layer=every))
        (frames, counts), *others = heard
        if not others:
            return {"frames": frames, "frame_lengths": counts}
        second = resample(others[0][0], others[0][1], counts, frames.shape[-2])
        if every:
            return {"frames": frames, "frame_lengths": counts, "second_frames": second}
        return {"frames": torch.cat([frames, second], -1), "frame_lengths": counts}

    def bridge(
        self, frames: Tensor, frame_lengths: Tensor, second_frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The adapter's tokens (A, T', H), and how many each piece of sound has (A)."""
        if self.config.weighted_layers:
            mixed = [
                self.adapter.mix(layers, n) for n, layers in enumerate((frames, second_frames)) if layers is not None
            ]
            frames = torch.cat(mixed, -1)
        return self.adapter(frames, frame_lengths)  # type: ignore[no-any-return]

    def embed(self, ids: Tensor, **sounds: Tensor) -> Tensor:
        """What the LLM reads: B, L, H.

        Args:
            ids: B, L.
            sounds: By the names in `SOUNDS`; pieces in the order of their places.

        Raises:
            ModelError: There are more or fewer places for sound than sound takes.
        """
        places = ids == self.config.audio_token_id
        embedded: Tensor = self.get_input_embeddings()(ids.masked_fill(places, 0))
        if not sounds:
            if places.any():
                raise ModelError(f"there are {int(places.sum())} audio tokens, and no sound for them")
            return embedded + self._unheard() if self._listening_is_trained() else embedded
        if "frames" not in sounds:
            sounds = self.listen(**sounds)
        tokens, counts = self.bridge(**sounds)
        spoken = tokens[valid(counts, tokens.shape[1])]  # all of one piece, then the next
        if len(spoken) != (wanted := int(places.sum())):
            raise ModelError(
                f"there are {wanted} audio tokens, but sound for {len(spoken)}: each audio needs as many as "
                "`tokens` says"
            )
        return embedded.masked_scatter(places[..., None], spoken.to(embedded.dtype))

    def _listening_is_trained(self) -> bool:
        listening = [self.encoders, self.adapter]
        return torch.is_grad_enabled() and any(p.requires_grad for part in listening for p in part.parameters())

    def _unheard(self) -> Tensor:
        """Zero, by way of encoders and adapter: a batch without sound gives their weights a gradient of zero.

        Processes that train together must each have a gradient of every weight.
        """
        samples = min(encoder.window for encoder in self.ears)
        silence = torch.zeros(1, min(samples, 1600), device=self.device)
        lengths = torch.full((1,), silence.shape[1], device=self.device)
        tokens, _ = self.bridge(**self.listen(silence, lengths))
        return 0.0 * tokens.sum().to(self.get_input_embeddings().weight.dtype)  # type: ignore[arg-type]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        waveforms: Tensor | None = None,
        lengths: Tensor | None = None,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        second_frames: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> Any:
        """The LLM's own output.

        Args:
            input_ids: B, L, with as many audio tokens as sound takes positions.
            waveforms: A, S at 16 kHz: the sounds of all rows, row by row, cut to the encoder's window.
            lengths: A, samples.
            frames, frame_lengths, second_frames: What `listen` gave of them, in their place.
            labels: B, L; -100 where there is nothing to learn, as at audio tokens.
            attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, options: As the LLM takes them.
        """
        if inputs_embeds is None:
            assert input_ids is not None, "either input_ids or inputs_embeds is needed"
            given = zip(SOUNDS, (waveforms, lengths, frames, frame_lengths, second_frames), strict=True)
            inputs_embeds = self.embed(input_ids, **{name: value for name, value in given if value is not None})
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            **options,
        )

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """The sounds go in once: later steps find them in the cache."""
        whole: Any = super()
        inputs = whole.prepare_inputs_for_generation(*args, **kwargs)
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            inputs = {name: value for name, value in inputs.items() if name not in SOUNDS}
        return inputs

    def _expand_inputs_for_generation(self, expand_size: int = 1, **inputs: Any) -> Any:  # type: ignore[override]
        """Repeats each row, for beams and several answers, and its sounds with it."""
        sounds = {name: value for name in SOUNDS if (value := inputs.pop(name, None)) is not None}
        whole: Any = super()
        ids, expanded = whole._expand_inputs_for_generation(expand_size=expand_size, **inputs)
        if expand_size > 1 and sounds:
            order = self._repeated(inputs["input_ids"], sounds, expand_size)
            for name, value in sounds.items():
                sounds[name] = value.index_select(value.ndim - 3 if name.endswith("frames") else 0, order)
        return ids, expanded | sounds

    def _repeated(self, ids: Tensor, sounds: dict[str, Tensor], times: int) -> Tensor:
        """The numbers of the pieces of sound, those of each row so many times."""
        if "lengths" in sounds:
            counts = [self.adapter.tokens(self.ears[0].frames(length)) for length in sounds["lengths"].tolist()]
        else:
            counts = [self.adapter.tokens(frames) for frames in sounds["frame_lengths"].tolist()]
        order: list[int] = []
        first = 0
        for places in (ids == self.config.audio_token_id).sum(1).tolist():
            last = first
            while places > 0:
                places -= counts[last]
                last += 1
            order += [*range(first, last)] * times
            first = last
        return torch.tensor(order, device=ids.device)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Those that can have LoRA, by their names in the state dict."""
        yield "language_model", self.language_model
        yield "encoders", self.encoders

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, state_dict: dict[str, Tensor] | None = None, **options: Any
    ) -> None:
        """Writes configuration and weights; LoRA in folders of its own, in peft's format."""
        state = self.state_dict() if state_dict is None else state_dict
        placed = {name: part for name, part in self.parts() if lora.layers(part)}
        self.config.lora = sorted(placed)
        if options.get("is_main_process", True):
            for name, part in placed.items():
                own = {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
                lora.save(part, own, Path(save_directory) / lora.folder(name))
        super().save_pretrained(save_directory, state_dict=lora.without(state), **options)

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        """As transformers does; LoRA is put in its places again."""
        found = super().from_pretrained(name, *args, **options)
        model = found[0] if isinstance(found, tuple) else found
        parts = dict(model.parts())
        hub = {key: value for key, value in options.items() if key in _HUB}
        for part in model.config.lora or []:
            files = [cached_file(name, f"{lora.folder(part)}/{file}", **hub) for file in lora.FILES]
            lora.load(parts[part], Path(str(files[0])).parent)
        return found


AutoConfig.register(AudioLMConfig.model_type, AudioLMConfig)
AutoModel.register(AudioLMConfig, AudioLM)
AutoModelForCausalLM.register(AudioLMConfig, AudioLM)
