"""SpeechLM: what the trainer and the evaluation need of a model, be it AudioLM or a ready one of transformers.

Shapes: B rows of a batch, L positions, A sounds, S samples, H the LLM's width, V its vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from schemas.sample import Sample
from schemas.training import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Samples = npt.NDArray[np.float32]


class ModelError(ValueError):
    """A model cannot be made, loaded or used so; the message names it and says what to do."""


class RowError(ValueError):
    """A row cannot be trained on or asked; the message names the row and the cure."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as token ids, before it is put into a batch."""

    id: str
    """The sample's."""
    ids: npt.NDArray[np.int64]
    """L. Each audio is there as often as it takes positions."""
    targets: npt.NDArray[np.bool_]
    """L. True at the tokens of responses, and at those that end their turns."""
    ends: npt.NDArray[np.bool_]
    """L. True at the tokens that end a response's turn; these are targets, too."""
    sounds: tuple[Samples, ...]
    """16 kHz mono, in the order of their placeholders."""


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together. Padding is at the right, or at the left for generation."""

    examples: int
    ids: Tensor
    """B, L int64. Packed examples lie end to end in one row."""
    mask: Tensor
    """B, L bool; False is padding."""
    positions: Tensor
    """B, L int64, from 0 in each example."""
    targets: Tensor
    """B, L bool."""
    ends: Tensor
    """B, L bool."""
    sounds: dict[str, Tensor] = field(default_factory=dict)
    """What the model's class takes for audio, by its own names; of AudioLM `waveforms` (A, S) and `lengths` (A)."""

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device, without waiting for it."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return replace(self, sounds={k: v.to(device, non_blocking=True) for k, v in self.sounds.items()}, **moved)


_TENSORS = ("ids", "mask", "positions", "targets", "ends")


class SpeechLM(ABC):
    """A model with its tokenizer. It is no module: the trainer wraps what it wants of `model`."""

    model: Any
    """The transformers model: a `PreTrainedModel`."""
    tokenizer: Any
    longest: int
    """Positions that the LLM allows."""

    @abstractmethod
    def tokens(self, samples: int) -> int:
        """How many positions an audio of so many samples (16 kHz) takes. Exact, and cheap: rows are planned by it."""

    @abstractmethod
    def encode(self, sample: Sample, *, hear: bool = True, answer: bool = True, sounds: bool = True) -> Encoded:
        """A sample as token ids.

        Args:
            sample: With its messages; `<|audio|>` stands for its utterances.
            hear: False puts the transcripts in the places of the audio: what a text LLM reads, and the teacher.
            answer: Whether the responses are there to be learnt; False ends where the last response would begin.
            sounds: Whether audio is decoded; without, `sounds` is empty and all else the same.

        Raises:
            RowError: It is longer than the model allows, audio does not decode, placeholders do not match.
            ModelError: The tokenizer has no chat template or no audio token.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Encoded], *, pack: bool = False, left: bool = False) -> Batch:
        """Examples as a batch on the CPU; picklable without the model's weights is not asked for."""

    @abstractmethod
    def states(self, batch: Batch) -> Tensor:
        """B, L, H: what the LLM's head would be given at each position, after the last norm."""

    @abstractmethod
    def head(self) -> Callable[[Tensor], Tensor]:
        """From states (N, H) to logits (N, V) in the states' dtype; soft-capping and the like included."""

    @abstractmethod
    def named(self, part: Part) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of a part by their names in `model`; nothing where the model has no such part."""

    @abstractmethod
    def add_lora(
        self, rank: int, alpha: float, dropout: float, targets: Sequence[str], *, encoder: bool = False
    ) -> None:
        """Places LoRA on named linear modules of the LLM, or of the encoder. It changes nothing at the start.

        Raises:
            ModelError: There is no module of one of these names; the message lists those that there are.
        """

    @abstractmethod
    def without_lora(self) -> AbstractContextManager[None]:
        """Within, the LLM is as it was before LoRA; for the teacher."""

    @abstractmethod
    def generate(self, batch: Batch, *, most_tokens: int, **options: Any) -> list[list[int]]:
        """New token ids of each row, without the end of turn; greedy unless `options` of transformers say else.

        Args:
            batch: Of `collate(..., left=True)`.
            most_tokens: Of each row.
            options: Of transformers' `generate`, such as `logits_processor`.
        """

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text: special tokens of the chat gone, those of tool calls kept where they are text."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes all of it, LoRA apart from the LLM, so that `pipeline.model.load` gives it back."""
