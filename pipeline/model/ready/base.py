"""Ready: an audio LLM as transformers has it, trained with the same data, trainer and recipe as AudioLM.

The model is of transformers' own class and runs by its own code; LoRA is placed on its parts, and the rest is frozen.
What is added here: how many positions sound takes, what the class takes for sound, and where the parts are.

Shapes: B rows, L positions, A sounds, S samples, H the LLM's width.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from pipeline.model import lora
from pipeline.model.base import Batch, Encoded, ModelError, Samples, SpeechLM
from pipeline.model.chat import Chat, expand
from pipeline.model.collate import collate
from pipeline.model.quiet import quiet
from pipeline.model.speech_lm import head, packs, size_of, sound_of
from pipeline.plugins import MissingExtra
from schemas.sample import Sample
from schemas.training import Part

library: Any = transformers  # its functions have no types
_SHORTEST = 400  # samples, 25 ms: shorter sound is followed by silence, or some of the models have no token for it
_READ = ("*.json", "*.jinja", "*.model", "*.txt")
_NOT_READ = ("config.json", "generation_config.json", "adapter_config.json", "*.index.json", "trainer_state.json")


class Ready(SpeechLM):
    """One file a family of models."""

    is_plugin: ClassVar[bool] = False
    model_types: ClassVar[tuple[str, ...]]
    """Of transformers' configurations."""
    architecture: ClassVar[str]
    """transformers' class, by name."""
    extra: ClassVar[str] = "train"
    """Which of this project's extras brings the packages that transformers needs for it."""
    encoder: ClassVar[str] = "model.audio_tower"
    """Where the parts are in the model."""
    adapter: ClassVar[str] = "model.multi_modal_projector"
    llm: ClassVar[str] = "model.language_model"

    def __init__(self, model: Any, tokenizer: Any, extractor: Any, *, name: str, revision: str = "") -> None:
        """Puts them together.

        Args:
            model: Of `architecture`.
            tokenizer: With the model's chat template.
            extractor: What makes features of sound.
            name: Hub id or folder that the files are from.
            revision: Of a hub id.
        """
        self.model, self.tokenizer, self.extractor = model, tokenizer, extractor
        self.name, self.revision = name, revision
        self._seed = 0
        stops = model.generation_config.eos_token_id if model.generation_config else None
        token = self.audio_token()
        self.chat = _Chat(
            tokenizer,
            audio_token=token,
            shown=self.shown(token),
            stops=[stops] if isinstance(stops, int) else stops or (),
            name=name,
        )
        self.longest = int(model.config.get_text_config().max_position_embeddings)
        self._padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.chat.stops)
        self._marks = sum(i in tokenizer.added_tokens_decoder for i in self.chat.ids(self.shown(token))) - 1

    # What a family says of itself.

    def audio_token(self) -> str:
        """The token whose places sound takes."""
        return str(self.tokenizer.convert_ids_to_tokens(self.model.config.audio_token_id))

    def shown(self, token: str) -> str:
        """What stands in a prompt for an audio, with its token once."""
        return token

    def worded(self, sample: Sample) -> Sample:
        """A sample that is heard, its messages in the manner of the family."""
        return sample

    @abstractmethod
    def places(self, samples: int) -> int:
        """How often the audio token is there for so many samples, which are at least 400."""

    @abstractmethod
    def features(self, sounds: Sequence[Samples]) -> dict[str, Tensor]:
        """What the class takes for these sounds, by its own names."""

    @classmethod
    def read(cls, name: str, known: dict[str, Any]) -> tuple[Any, Any]:
        """The tokenizer and what makes features, from a hub id or folder.

        Args:
            name: Of the model.
            known: The revision, if one is given.
        """
        tokenizer = library.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **known)
        return tokenizer, library.AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False, **known)

    @classmethod
    def load(
        cls, name: str, *, revision: str = "", device: str = "cpu", dtype: str = "float32", attention: str = "sdpa"
    ) -> Self:
        """The model of a hub id or folder, of transformers or saved here.

        Raises:
            MissingExtra: transformers needs a package for it that is not installed.
        """
        known = {"revision": revision} if revision else {}
        try:
            model = getattr(library, cls.architecture).from_pretrained(
                name, dtype=getattr(torch, dtype), attn_implementation={"text_config": attention}, **known
            )
            tokenizer, extractor = cls.read(name, known)
        except ImportError as error:
            why = " ".join(str(error).split())
            raise MissingExtra(f"{name}: {why} Its tested range: pip install 'earwitness[{cls.extra}]'") from error
        settings, _ = library.ProcessorMixin.get_processor_dict(name, **known)
        # The processor's template knows of audio; the tokenizer's, where they differ, does not.
        if isinstance(template := settings.get("chat_template"), str):
            tokenizer.chat_template = template
        made = cls(model.to(device), tokenizer, extractor, name=name, revision=revision)
        made._load_lora(known)
        return made

    def _load_lora(self, known: dict[str, Any]) -> None:
        for title, part in self._parts():
            for file in reversed(lora.FILES):
                found = cached_file(
                    self.name, f"lora/{title}/{file}", _raise_exceptions_for_missing_entries=False, **known
                )
            if found:
                lora.load(part, Path(found).parent)

    # What the trainer and the evaluation ask.

    def tokens(self, samples: int) -> int:
        return self.places(max(samples, _SHORTEST)) + self._marks

    def encode(self, sample: Sample, *, hear: bool = True, answer: bool = True, sounds: bool = True) -> Encoded:
        if not hear:
            chat = self.chat.encode(sample, hear=False, answer=answer)
            return expand(sample.id, chat, self.chat.audio_id, (), self.longest)
        chat = self.chat.encode(self.worded(sample), hear=True, answer=answer)
        sizes = [size_of(sample, number) for number in range(len(sample.utterances))]
        counts = [self.places(max(size, _SHORTEST)) for size in sizes]
        heard = tuple(sound_of(sample, number, size) for number, size in enumerate(sizes)) if sounds else ()
        return expand(sample.id, chat, self.chat.audio_id, counts, self.longest, heard)

    def collate(self, examples: Sequence[Encoded], *, pack: bool = False, left: bool = False) -> Batch:
        if pack and not packs(self.model.config.get_text_config()):
            raise ModelError(f"{self.name} does not keep packed examples apart: set `packing: false`")
        batch = collate(examples, self._padding, pack=pack, left=left)
        sounds = [_padded(sound) for example in examples for sound in example.sounds]
        return replace(batch, sounds=self.features(sounds) if sounds else {})

    def states(self, batch: Batch) -> Tensor:
        self._settle()
        found = self._run(batch)
        if not batch.sounds and self._listening_is_trained():
            # Processes that train together must each have a gradient of every weight, and go through the LLM's layers
            # as often as the others: these are gathered one by one where they lie in shards.
            found = found + 0.0 * self._unheard().to(found.dtype)
        return found

    def _run(self, batch: Batch) -> Tensor:
        packed = batch.examples > len(batch.ids)
        found: Tensor = self.model.model(
            **self.prompt(batch),
            # Without a mask, positions that begin anew keep attention within each example.
            attention_mask=None if packed else batch.mask.long(),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        return found

    def prompt(self, batch: Batch) -> dict[str, Tensor]:
        """What the class reads and hears of a batch, by its own names."""
        return {"input_ids": batch.ids, **self._cast(batch.sounds)}

    def heard(self, sounds: dict[str, Tensor]) -> Tensor:
        """What encoder and adapter say of features."""
        found: Tensor = self.model.model.get_audio_features(**sounds, return_dict=True).pooler_output
        return found

    def _cast(self, sounds: dict[str, Tensor]) -> dict[str, Tensor]:
        kind = next(self._part(self.encoder).parameters()).dtype
        return {name: value.to(kind) if value.is_floating_point() else value for name, value in sounds.items()}

    def head(self) -> Callable[[Tensor], Tensor]:
        return head(self.model)

    def named(self, part: Part) -> Iterator[tuple[str, nn.Parameter]]:
        within = {"adapter": self.adapter, "lora": self.llm, "llm": self.llm}.get(part, self.encoder)
        for name, parameter in self.model.named_parameters():
            belongs = name.startswith(f"{within}.") or (part == "llm" and name.startswith("lm_head."))
            if belongs and (lora.MARK in name) == ("lora" in part):
                yield name, parameter

    def add_lora(
        self, rank: int, alpha: float, dropout: float, targets: Sequence[str], *, encoder: bool = False
    ) -> None:
        part, what = (self.encoder, "the encoder") if encoder else (self.llm, "the LLM")
        lora.place(self._part(part), f"{what} of {self.name}", rank, alpha, dropout, targets, seed=self._seed)

    def without_lora(self) -> AbstractContextManager[None]:
        return lora.off(self._part(self.llm))

    def changed(self) -> bool:
        """Whether LoRA changes anything."""
        return any(lora.changed(part) for _, part in self._parts())

    def merge(self) -> None:
        """Adds LoRA to the weights that it stands beside, for export."""
        for _, part in self._parts():
            lora.merge(part)

    def blocks(self) -> list[nn.Module]:
        """The LLM's layers: what is compiled, and sharded, one by one."""
        return list(self._part(self.llm).layers)  # type: ignore[arg-type]

    def generate(self, batch: Batch, *, most_tokens: int, **options: Any) -> list[list[int]]:
        self._settle()
        several = max(options.get("num_beams", 1), options.get("num_return_sequences", 1)) > 1
        if several and any(len(value) != len(batch.ids) for value in batch.sounds.values()):
            raise ModelError("beams and several answers need one sound of at most 30 s in each row of the batch")
        # What the files say of sampling and penalties is for conversations, not for measurements.
        greedy = library.GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(self.chat.stops),
            pad_token_id=self._padding,
            max_new_tokens=most_tokens,
        )
        others = greedy.update(**options)
        with torch.inference_mode():
            prompt = self.prompt(batch)
            made = self.model.generate(**prompt, attention_mask=batch.mask.long(), generation_config=greedy, **others)
        begin = batch.ids.shape[1] if "input_ids" in prompt else 0
        return [self._until_stop(row) for row in made[:, begin:].tolist()]

    def _until_stop(self, ids: list[int]) -> list[int]:
        return ids[: next((n for n, i in enumerate(ids) if i in self.chat.stops), len(ids))]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict()
        for title, part in self._parts():
            if lora.layers(part):
                prefix = getattr(self, title) + "."
                own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                lora.save(part, own, folder / "lora" / title)
        with quiet():
            self.model.save_pretrained(folder, state_dict=lora.without(state))
        self.copy_reading(folder)

    def copy_reading(self, folder: Path) -> None:
        """Tokenizer, template and settings of features as they came: nothing of them changes in training."""
        source = Path(self.name)
        if not source.is_dir():
            try:
                source = Path(snapshot_download(self.name, revision=self.revision or None, allow_patterns=list(_READ)))
            except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
                raise ModelError(f"the tokenizer's files of {self.name} are gone: {error}") from error
        for pattern in _READ:
            for file in source.glob(pattern):
                if not any(file.match(other) for other in _NOT_READ) and source.resolve() != folder.resolve():
                    shutil.copyfile(file, folder / file.name)

    # The parts.

    def _part(self, path: str) -> nn.Module:
        found: nn.Module = self.model.get_submodule(path)
        return found

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Those that can have LoRA."""
        yield "llm", self._part(self.llm)
        yield "encoder", self._part(self.encoder)

    def _settle(self) -> None:
        """What is frozen says the same each time, whatever mode the whole model is in; so do running means."""
        encoder = self._part(self.encoder)
        if not any(p.requires_grad for p in encoder.parameters()):
            encoder.eval()
        for module in encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _unheard(self) -> Tensor:
        """The sum of what encoder and adapter say of the shortest silence."""
        silence = self.features([np.zeros(_SHORTEST, np.float32)])
        return self.heard(self._cast({name: value.to(self.model.device) for name, value in silence.items()})).sum()

    def _listening_is_trained(self) -> bool:
        parts = (self._part(self.encoder), self._part(self.adapter))
        return torch.is_grad_enabled() and any(p.requires_grad for part in parts for p in part.parameters())


class _Chat(Chat):
    """Renders as the processors do: the template writes the audio token, then it is put between its marks."""

    def __init__(self, tokenizer: Any, *, audio_token: str, shown: str, stops: Collection[int], name: str) -> None:
        self._shown = audio_token, shown
        super().__init__(tokenizer, audio_token=audio_token, stops=stops, name=name)

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), *, ask: bool) -> str:
        return super().render(messages, tools, ask=ask).replace(*self._shown)


def _padded(sound: Samples) -> Samples:
    return np.pad(sound, (0, max(0, _SHORTEST - len(sound)))).astype(np.float32, copy=False)


def windows(sounds: Sequence[Samples], size: int) -> list[Samples]:
    """Each sound in pieces of so many samples, and a rest."""
    return [sound[begin : begin + size] for sound in sounds for begin in range(0, len(sound), size)]


def whisper(extractor: Any, sounds: Sequence[Samples]) -> tuple[Tensor, Tensor]:
    """Whisper's features of sounds in its windows, padded to these: (A, bands, frames) and their mask (A, frames)."""
    made = extractor(
        windows(sounds, extractor.n_samples),
        sampling_rate=extractor.sampling_rate,
        padding="max_length",
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return made["input_features"], made["attention_mask"]


def pooled(extractor: Any, samples: int) -> int:
    """Positions of so many samples behind Whisper's second convolution and a pooling by two."""
    frames = -(-samples // int(extractor.hop_length))
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1
