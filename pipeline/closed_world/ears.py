"""Ears: a CTC encoder of letters, trained from scratch on what eSpeak says in hundreds of voices.

A FastConformer (Rekesh et al. 2023, arXiv:2305.05084) of transformers' Parakeet class at 25 frames a second. Speech is
made as it is needed, a thousand times quicker than it lasts, so that no text is heard twice in the same voice.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.audio import Samples
from pipeline.closed_world import voices
from pipeline.closed_world.ahead import chunks
from pipeline.closed_world.learning import Learning, quick
from pipeline.closed_world.texts import WILD, World, babble, general, generator, plain
from pipeline.plugins import require
from schemas.arrow import SAMPLING_RATE

LETTERS = ("<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz")
SUBSAMPLING = 4
_BLANK = 0
_CHUNK = 1024  # clips that are spoken together, and put into batches by their lengths


@dataclass(frozen=True)
class EarsSize:
    """How large the encoder is, and how long it learns."""

    hidden: int = 144
    layers: int = 6
    channels: int = 32
    """Of the convolutions that bring 100 frames a second to 25."""
    steps: int = 1400
    frames: int = 3000
    """Of mel, 100 a second, in a batch."""
    learning_rate: float = 3e-3
    masks: bool = False


Told = Callable[[str], None]


@dataclass(frozen=True)
class Heard:
    """Clips as the encoder takes them. B clips, T frames of mel, 100 a second."""

    features: npt.NDArray[np.float32]
    """B, T, 80; normalised."""
    lengths: npt.NDArray[np.int64]
    """B."""
    texts: list[str]
    """What is said."""


def train(
    folder: Path,
    catalogues: Path,
    size: EarsSize,
    device: str = "cpu",
    tell: Told = print,
    every: int = 100,
    workers: int = 0,
) -> None:
    """Trains the encoder and writes it, with its processor, as `AutoModelForCTC` loads it.

    Args:
        folder: Where it is written.
        catalogues: Of the closed world.
        size: Of the encoder.
        device: As torch names it.
        tell: Is told how far it is.
        every: Steps between two tellings.
        workers: Processes that speak ahead.
    """
    torch.manual_seed(0)
    library = require("transformers", extra="train", what="the closed world")
    model = _model(library, size).to(device)
    learning = Learning(model, size.learning_rate, size.steps, warmup=0.08)
    began, losses, test = time.monotonic(), [], _test(catalogues)
    rng = generator("ears", "masks")
    model.train()
    made = chunks(partial(_chunk, catalogues, size.frames), lambda: 0.0, workers)
    heard = chain.from_iterable(made)
    for step, batch in zip(range(1, size.steps + 1), heard, strict=False):
        inputs = _inputs(batch, device)
        if size.masks:
            inputs["input_features"] = _masked(inputs["input_features"], rng)
        with quick(device):
            loss = _ctc(model, inputs, batch.texts)
        losses.append(learning.step(loss))
        if step % every == 0 or step == size.steps:
            told = f"loss {np.mean(losses[-every:]):.3f}, WER on unseen voices {_wer(model, test, device):.1%}"
            tell(f"ears: step {step}/{size.steps}, {told}, {time.monotonic() - began:.0f} s")
    made.close()
    model.eval().cpu().save_pretrained(folder)
    _processor(library, folder)


def _model(library: Any, size: EarsSize) -> Any:
    encoder = library.ParakeetEncoderConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        intermediate_size=size.hidden * 3,
        subsampling_factor=SUBSAMPLING,
        subsampling_conv_channels=size.channels,
        scale_input=False,
        dropout=0.0,
        layerdrop=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
    )
    config = library.ParakeetCTCConfig(vocab_size=len(LETTERS), pad_token_id=_BLANK, encoder_config=encoder)
    model = library.ParakeetForCTC(config)
    model.set_attn_implementation("eager")  # the quickest for short clips on a CPU in bf16
    return model


@lru_cache(maxsize=1)
def _extractor() -> Any:
    return require("transformers", extra="train", what="the closed world").ParakeetFeatureExtractor(feature_size=80)


def _processor(library: Any, folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}))
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "word_delimiter_token": "|"}
    tokenizer = library.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None, **names)
    library.ParakeetProcessor(_extractor(), tokenizer, decoder_type="ctc").save_pretrained(folder)


def _spoken(texts: Sequence[str], seed: object, speakers: Sequence[str]) -> list[tuple[Samples, str]]:
    """Clips with their texts; those that are too quick for the frames are left out."""
    made = zip(voices.speak(texts, seed, speakers), texts, strict=True)
    step = SAMPLING_RATE // 100 * SUBSAMPLING
    return [(clip, text) for clip, text in made if clip is not None and len(clip) // step > len(text) + 2]


@lru_cache(maxsize=1)
def _world(catalogues: Path) -> World:
    return World(catalogues)


def _chunk(catalogues: Path, frames: int, number: int, _done: float) -> list[Heard]:
    """Batches of clips of like length. Most of what is said are requests, the rest other sentences and loose words."""
    world, rng = _world(catalogues), generator("ears", number)
    texts = [
        *(plain(text) for text in world.requests(f"ears/{number}", _CHUNK * 6 // 10)),
        *(plain(text) for text in world.requests(f"ears/wild/{number}", _CHUNK // 10, WILD)),
        *(rng.choice(general()) for _ in range(_CHUNK // 10)),
        *(babble(rng) for _ in range(_CHUNK // 5)),
    ]
    clips = sorted(_spoken(texts, number, voices.training_voices()), key=lambda pair: len(pair[0]))
    batches: list[list[tuple[Samples, str]]] = [[]]
    for pair in clips:
        length = len(pair[0]) * 100 // SAMPLING_RATE
        if batches[-1] and (len(batches[-1]) + 1) * length > frames:
            batches.append([])
        batches[-1].append(pair)
    rng.shuffle(batches)
    return [_heard(batch) for batch in batches]


def _heard(clips: Sequence[tuple[Samples, str]]) -> Heard:
    made = _extractor()([clip for clip, _ in clips], sampling_rate=SAMPLING_RATE, return_tensors="pt")
    lengths = made["attention_mask"].sum(-1)
    return Heard(made["input_features"].numpy(), lengths.numpy(), [text for _, text in clips])


def _inputs(heard: Heard, device: str) -> dict[str, Tensor]:
    features = torch.from_numpy(heard.features).to(device)
    lengths = torch.from_numpy(heard.lengths).to(device)
    mask = torch.arange(features.shape[1], device=device)[None] < lengths[:, None]
    return {"input_features": features, "attention_mask": mask}


def _masked(features: Tensor, rng: random.Random) -> Tensor:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): bands of 10 mels, and of 60 ms to 0.2 s, are silent."""
    features = features.clone()
    rows, length, mels = features.shape
    for row in range(rows):
        for _ in range(2):
            width = rng.randint(0, 12)
            start = rng.randrange(mels - width)
            features[row, :, start : start + width] = 0.0
        for _ in range(max(1, length // 120)):
            width = rng.randint(0, 12)
            start = rng.randrange(max(1, length - width))
            features[row, start : start + width] = 0.0
    return features


def _ctc(model: Any, inputs: dict[str, Tensor], texts: Sequence[str]) -> Tensor:
    """CTC per letter, so that long sentences do not outweigh short ones."""
    heard = model.encoder(**inputs, output_attention_mask=True)
    scores = model.ctc_head(heard.last_hidden_state).float().log_softmax(-1).transpose(0, 1)  # T, B, letters
    spelled = [[LETTERS.index("|" if c == " " else c) for c in text] for text in texts]
    targets = torch.tensor([letter for word in spelled for letter in word], device=scores.device)
    lengths = torch.tensor([len(word) for word in spelled], device=scores.device)
    heard_lengths = heard.attention_mask.sum(-1)
    return (
        torch.nn.functional.ctc_loss(
            scores, targets, heard_lengths, lengths, _BLANK, reduction="sum", zero_infinity=True
        )
        / lengths.sum()
    )


def _test(catalogues: Path) -> list[Heard]:
    texts = [plain(text) for text in _world(catalogues).requests("ears/test", 100, test=True)]
    clips = sorted(_spoken(texts, "test", voices.unseen_voices()), key=lambda pair: len(pair[0]))
    return [_heard(clips[start : start + 25]) for start in range(0, len(clips), 25)]


@torch.inference_mode()
def _wer(model: Any, test: Sequence[Heard], device: str) -> float:
    model.eval()
    said: list[str] = []
    for heard in test:
        made = model.encoder(**_inputs(heard, device), output_attention_mask=True)
        letters = model.ctc_head(made.last_hidden_state).argmax(-1)
        said += [_read(row[: int(n)].tolist()) for row, n in zip(letters, made.attention_mask.sum(-1), strict=True)]
    model.train()
    return float(jiwer.wer([text for heard in test for text in heard.texts], said))


def _read(letters: Sequence[int]) -> str:
    kept = [a for a, b in zip(letters, [-1, *letters], strict=False) if a not in (b, _BLANK)]
    return " ".join("".join(LETTERS[letter] for letter in kept).replace("|", " ").split())
