"""The training step: how much of the machine's arithmetic it uses, and how it compares with transformers' `Trainer`.

Where there is a GPU, models of random weights and real shapes are trained: Whisper-large-v3's encoder with LLMs of 1B
and 8B. FLOPs are those that are useful: 4N for each of the LLM's tokens, padding not counted (forward, and backward to
the activations; its weights are frozen beside LoRA), 2N for each frame of the frozen encoder, and the head only where
a token is predicted. The floor is the bf16 matrix product of 8192 x 8192, measured in the same run. Without a GPU the
same is done with tiny shapes in fp32, to see that it runs; the figures then say nothing of a GPU.

The second table is of the CPU: our step beside the same model in transformers' `Trainer` that pads all audio to 30 s,
on the same rows of 3 to 8 s, at equal rows a step.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoConfig, Trainer, TrainingArguments, WhisperConfig, WhisperFeatureExtractor

from bench import corpus
from bench.measure import console, in_turn, machine, ratios, report, spread, timed
from pipeline.model import tiny
from pipeline.model.audio_lm import AudioLM
from pipeline.model.configuration import AudioLMConfig
from pipeline.model.speech_lm import Composed
from pipeline.prompting import SHIPPED
from pipeline.train import batches
from pipeline.train.engine import Engine
from pipeline.train.index import Index
from pipeline.train.loader import Loader, Pass
from pipeline.train.rows import Rows
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.training import TrainingRecipe

STEPS, WARM = 8, 3
ROWS = 256
SAMPLES_30 = 30 * 16_000
LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8, "tie_word_embeddings": False, "rope_theta": 5e5}


class Shape(NamedTuple):
    """A model to train, of random weights."""

    name: str
    encoder: Mapping[str, int]
    llm: Mapping[str, Any]
    tokens: int
    """Positions in one pass."""


LARGE_V3 = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
}
GPU = (
    Shape(
        "1B",
        LARGE_V3,
        LLAMA | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192},
        16_384,
    ),
    Shape(
        "8B",
        LARGE_V3,
        LLAMA | {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14_336},
        16_384,
    ),
)
SMALL = {"d_model": 256, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 1024, "num_mel_bins": 80}
TINY = Shape(
    "tiny",
    SMALL,
    {
        "vocab_size": 2048,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 768,
    },
    1024,
)


def dataset(folder: Path) -> Path:
    """Rows of 3 to 8 s, written by the flow."""
    recipe = corpus.recipe(folder, corpus.make(folder, ROWS, longest=8.0), unit=128)
    command = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(folder / "dataset")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "dataset"


def recipe_of(data: Path, shape: Shape, bf16: bool, **batch: Any) -> TrainingRecipe:
    """LoRA and adapter train, by cross-entropy."""
    stage = {"name": "all", "trains": ["adapter", "lora"], "steps": 10_000, "warmup": 10}
    return TrainingRecipe.model_validate(
        {
            "name": "bench",
            "data": [{"path": str(data)}],
            "model": {"encoders": ["random"], "adapter": {"kind": "stack"}, "llm": "random"},
            "stages": [stage],
            "batches": {"tokens": shape.tokens, "seconds": 1e6, "workers": 2} | batch,
            "precision": "bf16" if bf16 else "fp32",
            "gradient_checkpointing": False,
        }
    )


def model(shape: Shape, device: torch.device, bf16: bool) -> Composed:
    """Random weights, made on the device."""
    # A real LLM takes some four letters at a time: the tokenizer knows what is said and asked.
    asked = (SHIPPED / "transcription" / "en.yaml").read_text().splitlines()
    tokenizer = tiny.tokenizer([*asked, *(f" {word}" for word in corpus.WORDS)] * 4, vocabulary=2048)
    tokenizer.add_tokens([AUDIO_PLACEHOLDER], special_tokens=True)
    dtype = torch.bfloat16 if bf16 else torch.float32
    text = AutoConfig.for_model("llama", **shape.llm, max_position_embeddings=8192, dtype=dtype)
    text.eos_token_id, text.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    ears = WhisperConfig(**shape.encoder, decoder_layers=1, dtype=dtype)
    extractor = WhisperFeatureExtractor(feature_size=shape.encoder["num_mel_bins"]).to_dict()
    audio = tokenizer.convert_tokens_to_ids(AUDIO_PLACEHOLDER)
    config = AudioLMConfig(
        encoder_config=ears, text_config=text, extractors=[extractor], adapter={"kind": "stack"}, audio_token_id=audio
    )
    config._attn_implementation = "sdpa"
    with torch.device(device):
        made = AudioLM(config).to(dtype)
    made.adapter.float()
    made.requires_grad_(False)
    return Composed(made, tokenizer, name=shape.name)


class Setting:
    """A model with its data, ready for steps."""

    def __init__(self, data: Path, cache: Path, shape: Shape, state: PartialState, bf16: bool, **batch: Any) -> None:
        self.recipe = recipe_of(data, shape, bf16, **batch)
        self.speech = model(shape, state.device, bf16)
        self.rows = Rows(self.recipe.data)
        self.index = Index.of(self.rows, self.speech, cache=cache)
        self.engine = Engine(self.speech, self.recipe, state)
        self.engine.begin(0, 10_000)

    def plan(self, epoch: int) -> batches.Plan:
        """An epoch."""
        return batches.plan(self.index, self.recipe.batches, seed=0, stage="all", epoch=epoch)

    def passes(self, workers: int) -> Iterator[tuple[list[Pass], batches.Facts]]:
        """Steps without end."""
        for epoch in range(10_000):
            for step in Loader(self.rows, self.plan(epoch), self.speech, workers=workers):
                yield list(step.passes), step.facts


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a plain matrix product: the floor that everything else is a share of."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        wait(device)
        best = min(best, timed(lambda: (a @ b, wait(device))))
    return 2 * size**3 / best


def wait(device: torch.device) -> None:
    """For all that was begun on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def useful(setting: Setting, one: Pass) -> dict[str, float]:
    """FLOPs of a pass by part, padding left out."""
    assert one.batch is not None
    language, ears = setting.speech.model.language_model, setting.speech.model.encoders
    head = language.get_output_embeddings().weight.numel()
    own = sum(p.numel() for n, p in language.named_parameters() if "lora_" not in n)
    body = own - head - (0 if language.config.tie_word_embeddings else language.get_input_embeddings().weight.numel())
    frames = sum(ear.frames(int(n)) for ear in ears for n in one.batch.sounds["lengths"])
    return {
        "encoder": 2.0 * sum(p.numel() for p in ears.parameters()) * frames,
        "LLM": 4.0 * body * int(one.batch.mask.sum()),
        "head": 4.0 * head * int(one.batch.targets.sum()),
    }


def parts(setting: Setting, one: Pass) -> dict[str, float]:
    """Seconds of a pass: the encoder alone, adapter and LLM forward and backward from its frames, and all of it."""
    device = setting.engine.state.device
    assert one.batch is not None
    batch = one.batch.to(device)

    def hear() -> Any:
        with setting.engine.autocast:
            return setting.speech.listen(batch.sounds)

    heard = hear()
    known = replace(one, batch=replace(batch, sounds=heard))
    count = int(batch.targets.sum())

    def learn(given: Pass) -> None:
        setting.engine.gradients([given], count, 0)
        setting.engine.forget()

    found = {}
    work: dict[str, Callable[[], Any]] = {"encoder": hear, "rest": lambda: learn(known), "all": lambda: learn(one)}
    for name, job in work.items():
        job()
        wait(device)
        found[name] = min(timed(lambda j=job: (j(), wait(device))) for _ in range(3))
    return found


def utilisation(data: Path, folder: Path, out: Path) -> None:
    """MFU by shape of the model."""
    state = PartialState()
    gpu = state.device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    rate = matrix_rate(state.device, dtype)
    lines = []
    for shape in GPU if gpu else (TINY,):
        for packing in (False, True):
            setting = Setting(data, folder / "index", shape, state, gpu, packing=packing)
            steps = setting.passes(workers=2)
            times, flops, seconds, waited = [], [], [], []
            for number in range(STEPS):
                begun = time.perf_counter()
                passes, facts = next(steps)
                got = time.perf_counter()
                setting.engine.step(passes, sum(int(p.batch.targets.sum()) for p in passes if p.batch), number)
                wait(state.device)
                if number >= WARM:
                    times.append(time.perf_counter() - begun)
                    waited.append(got - begun)
                    flops.append(sum(sum(useful(setting, p).values()) for p in passes))
                    seconds.append(facts.audio_seconds)
            steps.close()
            shares = parts(setting, passes[0])
            facts = setting.plan(0).facts()
            lines.append(
                (
                    shape.name,
                    "packed" if packing else "padded",
                    f"{sum(flops) / sum(times) / rate:.0%}",
                    f"{sum(seconds) / sum(times):,.0f}",
                    f"{facts.padding:.1%}, {facts.audio_padding:.1%}",
                    f"{setting.engine.peak_memory() / 2**30:.1f}",
                    f"encoder {shares['encoder'] / shares['all']:.0%}, the rest {shares['rest'] / shares['all']:.0%}",
                    f"{sum(waited) / sum(times):.1%}",
                )
            )
            del setting, steps
            if gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    where = torch.cuda.get_device_name() if gpu else f"{machine()}; tiny shapes, to see that it runs"
    header = ("LLM", "batches", "MFU", "audio-h/h", "padding: positions, audio", "GiB", "time", "waiting for data")
    report(f"train: MFU of {rate / 1e9:,.0f} GFLOP/s ({dtype}) on {where}", header, lines, out)


def padded(setting: Setting) -> Callable[[list[int]], dict[str, torch.Tensor]]:
    """A collator as is usual: audio to 30 s, texts to the longest of the batch, labels for all positions."""
    speech = setting.speech
    audio, padding = speech.model.config.audio_token_id, speech.tokenizer.pad_token_id
    places = speech.tokens(SAMPLES_30)

    def collate(numbers: list[int]) -> dict[str, torch.Tensor]:
        rows = [speech.encode(setting.rows[n]) for n in numbers]
        ids, labels = [], []
        for row in rows:
            first = int(np.flatnonzero(row.ids == audio)[0])
            count = int((row.ids == audio).sum())
            before, after = row.ids[:first], row.ids[first + count :]
            ids.append(np.concatenate([before, np.full(places, audio), after]))
            wanted = np.where(row.targets, row.ids, -100)
            labels.append(np.concatenate([wanted[:first], np.full(places, -100), wanted[first + count :]]))
        longest = max(map(len, ids))
        waveforms = [
            torch.nn.functional.pad(torch.from_numpy(s), (0, SAMPLES_30 - len(s))) for row in rows for s in row.sounds
        ]
        return {
            "input_ids": torch.tensor(
                np.stack([np.pad(i, (0, longest - len(i)), constant_values=padding) for i in ids])
            ),
            "attention_mask": torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids]),
            "labels": torch.tensor(np.stack([np.pad(n, (0, longest - len(n)), constant_values=-100) for n in labels])),
            "waveforms": torch.stack(waveforms),
            "lengths": torch.full((len(waveforms),), SAMPLES_30),
        }

    return collate


def beside_trainer(data: Path, folder: Path, out: Path) -> None:
    """Our step, and the same model in transformers' `Trainer` with padding to 30 s."""
    state = PartialState()
    ours = Setting(data, folder / "index", TINY, state, bf16=False)
    plan = ours.plan(0)
    rows_a_step = round(len(plan.rows) / len(plan))
    steps = 6
    rows = plan.rows[: rows_a_step * steps].tolist()
    theirs = Setting(data, folder / "index", TINY, state, bf16=False)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=rows_a_step, max_steps=steps, report_to=[],
        save_strategy="no", logging_strategy="no", use_cpu=state.device.type == "cpu", remove_unused_columns=False,
        disable_tqdm=True, dataloader_num_workers=2, learning_rate=1e-4, seed=0,
    )  # fmt: skip

    def our_rate() -> float:
        stream, heard, begun = ours.passes(workers=2), 0.0, time.perf_counter()
        for number in range(steps):
            passes, facts = next(stream)
            ours.engine.step(passes, sum(int(p.batch.targets.sum()) for p in passes if p.batch), number)
            heard += facts.audio_seconds
        wait(state.device)
        took = time.perf_counter() - begun
        stream.close()
        return heard / took

    def their_rate() -> float:
        theirs.speech.model.train()
        trainer = Trainer(model=theirs.speech.model, args=arguments, train_dataset=rows, data_collator=padded(theirs))
        took = timed(trainer.train)
        return float(ours.index.samples[rows].sum()) / 16_000 / took

    found = in_turn(3, {"ours": our_rate, "Trainer, 30 s": their_rate})
    times = spread(ratios(found["ours"], found["Trainer, 30 s"]), 1)
    lines = [(name, spread(values, 1), times if name == "ours" else "1") for name, values in found.items()]
    report(
        f"train: audio seconds a second, {rows_a_step} rows a step, clips of 3-8 s",
        ("", "audio s/s", "times"),
        lines,
        out,
    )


def main(out: Path) -> None:
    """Runs both."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = dataset(folder)
        if not torch.cuda.is_available():
            console.print("There is no GPU: models of real shapes are left out, tiny ones show that the code runs.")
        utilisation(data, folder, out)
        beside_trainer(data, folder, out)
