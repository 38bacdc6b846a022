"""Tongue: a small causal LM, trained from scratch on the text of the project's own recipes.

It reads conversations as its chat template renders them, with the transcript in the place of the audio, and learns
the responses alone. The transcript comes as it is written, as it is heard, and spelled badly: cut into pieces of one
to three letters (as by dropout of BPE, Provilkov et al. 2020, arXiv:1910.13267), held and broken off, as a recogniser's
letters would come. Whoever has read such text finds it easier to read sound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.closed_world.ahead import chunks
from pipeline.closed_world.learning import Learning, quick
from pipeline.closed_world.reading import CALL_TOKENS, CHAT_TEMPLATE, Reader, Row
from pipeline.closed_world.texts import World, babble, general, generator, plain
from pipeline.model import tiny
from pipeline.plugins import require
from schemas.conversation import AUDIO_PLACEHOLDER

_CHUNK = 512  # rows that are put into batches by their lengths


@dataclass(frozen=True)
class TongueSize:
    """How large the LLM is, and how long it learns."""

    hidden: int = 160
    layers: int = 4
    heads: int = 5
    vocabulary: int = 1024
    steps: int = 2200
    tokens: int = 2000
    """Of a batch, padding included."""
    learning_rate: float = 5e-3


Told = Callable[[str], None]


def train(
    folder: Path,
    catalogues: Path,
    size: TongueSize,
    device: str = "cpu",
    tell: Told = print,
    every: int = 200,
    workers: int = 0,
) -> None:
    """Trains the LLM and writes it, with its tokenizer.

    Args:
        folder: Where it is written.
        catalogues: Of the closed world.
        size: Of the LLM.
        device: As torch names it.
        tell: Is told how far it is.
        every: Steps between two tellings.
        workers: Processes that draw rows ahead.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(World(catalogues), size)
    tokenizer.save_pretrained(folder)
    model = _model(tokenizer, size).to(device)
    learning = Learning(model, size.learning_rate, size.steps)
    began = time.monotonic()
    losses: list[float] = []
    made = chunks(partial(_chunk, folder, catalogues, size.tokens), lambda: len(losses) / size.steps, workers)
    for step, batch in zip(range(1, size.steps + 1), chain.from_iterable(made), strict=False):
        with quick(device):
            loss = _loss(model, batch, device)
        losses.append(learning.step(loss))
        if step % every == 0 or step == size.steps:
            spent = time.monotonic() - began
            tell(f"tongue: step {step}/{size.steps}, loss {np.mean(losses[-every:]):.4f}, {spent:.0f} s")
    made.close()
    model.eval().cpu().save_pretrained(folder)


@lru_cache(maxsize=1)
def _reader(folder: Path, catalogues: Path) -> Reader:
    library = require("transformers", extra="train", what="the closed world")
    return Reader(library.AutoTokenizer.from_pretrained(folder, trust_remote_code=False), World(catalogues))


def _chunk(folder: Path, catalogues: Path, tokens: int, number: int, done: float) -> list[list[Row]]:
    """Batches of rows of like length."""
    rows = sorted(_reader(folder, catalogues).rows(str(number), _CHUNK, done), key=lambda row: len(row[0]))
    batches: list[list[Row]] = [[]]
    for row in rows:
        if batches[-1] and (len(batches[-1]) + 1) * len(row[0]) > tokens:
            batches.append([])
        batches[-1].append(row)
    generator("tongue/order", number).shuffle(batches)
    return batches


def _tokenizer(world: World, size: TongueSize) -> Any:
    """Its vocabulary is learnt from conversations as they are rendered."""
    plainest = tiny.tokenizer([], 300)
    plainest.chat_template = CHAT_TEMPLATE
    reader = Reader(plainest, world)
    rng = generator("tokenizer")
    texts = [
        reader.render(s).replace(AUDIO_PLACEHOLDER, rng.choice([said, plain(said)]))
        for s in world.conversations("tokenizer", 2000)
        for said in [s.utterances[0].transcript]
    ]
    texts += [*general(), *(babble(rng) for _ in range(1000))]
    made = tiny.tokenizer(texts, size.vocabulary - len(CALL_TOKENS))
    made.add_tokens(CALL_TOKENS)
    made.chat_template = CHAT_TEMPLATE
    return made


def _model(tokenizer: Any, size: TongueSize) -> Any:
    library = require("transformers", extra="train", what="the closed world")
    config = library.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Torch's own attention is five times slower on a CPU in bf16; short rows need none that saves memory.
    model = library.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model


def _loss(model: Any, rows: Sequence[Row], device: str) -> Tensor:
    """Cross-entropy of the responses; padding stands at the right, where no token sees it."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    responds = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (some, response) in enumerate(rows):
        ids[row, : len(some)] = torch.tensor(some)
        responds[row, : len(some)] = torch.tensor(response)
    ids, responds = ids.to(device), responds.to(device)
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][responds[:, 1:]]
    return F.cross_entropy(model.lm_head(states).float(), ids[:, 1:][responds[:, 1:]])
