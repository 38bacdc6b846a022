"""The loader alone, on two workers: one shuffled epoch, the wait for its first batch, and going on in its middle.

Beside Hugging Face `datasets` with transformers' length-grouped sampler (going on as its Trainer does, by skipping in
the sampler), and lhotse's dynamic bucketing over Shar. All read the same FLAC clips of 3 to 8 s, decode them, compute
80 log mels on the CPU, and pad; batches hold at most 120 s, padding included, which for a fixed number of clips is 15.
`ours, as it trains` reads whole rows of a dataset, tokenises the conversation and leaves mels to the device. Every run
is a process of its own; the time to the first batch begins when all is imported, and the code of the mels, which is the
same for all, has run once.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from bench import corpus
from bench.measure import console, report, spread
from pipeline.audio import samples_of
from pipeline.model.base import Batch, Encoded
from pipeline.train.batches import plan
from pipeline.train.index import Index, Ints
from pipeline.train.loader import Loader
from pipeline.train.rows import Rows
from schemas.sample import Sample
from schemas.training import BatchSpec, ModelSpec

CLIPS, LONGEST = 4_000, 8.0  # seconds
SECONDS = 120.0  # of a batch
WORKERS = 2
BANDS, WINDOW, HOP = 80, 400, 160  # mels; samples at 16 kHz
OURS, TRAINS, GROUPED, BUCKETED = "ours", "ours, as it trains", "datasets, length-grouped", "lhotse, bucketed"


class Got(NamedTuple):
    """A batch as all candidates give it."""

    ids: list[str]
    samples: list[int]


@cache
def _filters() -> tuple[torch.Tensor, torch.Tensor]:
    """Triangles on the mel scale (HTK), and the window."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 8000 / 700), BANDS + 2) / 2595) - 1)
    bins = np.linspace(0, 8000, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return torch.from_numpy(triangles), torch.hann_window(WINDOW)


def mels(samples: np.ndarray) -> torch.Tensor:
    """T, 80."""
    triangles, window = _filters()
    spectrum = torch.stft(torch.from_numpy(samples), WINDOW, HOP, window=window, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    found = (triangles @ power).clamp_min_(1e-10).log10_()
    return torch.maximum(found, found.max() - 8).T


def padded(found: Sequence[torch.Tensor]) -> torch.Tensor:
    """A, T, 80."""
    return torch.nn.utils.rnn.pad_sequence(list(found), batch_first=True)


def decoded(flac: bytes) -> np.ndarray:
    """T."""
    return soundfile.read(io.BytesIO(flac), dtype="float32")[0]


# Ours.


class Mels:
    """Encodes and collates as the peers do: no text, mels on the CPU."""

    def encode(self, sample: Sample, **_: Any) -> Encoded:
        """Of one position."""
        audio = sample.utterances[0].audio
        assert audio is not None
        nothing = np.zeros(1, np.bool_)
        return Encoded(sample.id, np.zeros(1, np.int64), nothing, nothing, (samples_of(audio),))

    def collate(self, examples: Sequence[Encoded], **_: Any) -> Batch:
        """Padded mels."""
        sounds = {"mels": padded([mels(example.sounds[0]) for example in examples])}
        one = torch.zeros(len(examples), 1)
        return Batch(len(examples), one.long(), one.bool(), one.long(), one.bool(), one.bool(), sounds)


def _ours(folder: Path, start: int, trains: bool) -> Iterator[Got]:
    from pipeline.model import load

    model: Any = load(str(folder / "model")) if trains else Mels()
    begin = time.perf_counter()
    rows = Rows([folder / "dataset"])
    index = Index.of(rows, model, cache=folder / "index") if trains else _index(rows)
    spec = BatchSpec(tokens=10**9, seconds=SECONDS, packing=not trains)
    planned = plan(index, spec, seed=1, stage="bench", epoch=0)
    yield Got([], [begin])  # type: ignore[list-item]
    for step in Loader(rows, planned, model, start_step=start, workers=WORKERS):
        (one,) = step.passes
        yield Got([rows.identity(row).id for row in one.rows.tolist()], index.samples[one.rows].tolist())


def _index(rows: Rows) -> Index:
    """Of sound alone: every row takes one position."""
    seconds = [
        second
        for number in range(len(rows.shards))
        for batch in rows.batches(number)
        for second in batch["utterances"].flatten().field("seconds").to_pylist()  # `to_numpy` would load pandas
    ]
    samples: Ints = np.round(np.array(seconds) * 16_000).astype(np.int64)
    ones, zeros = np.ones(len(rows), np.int32), np.zeros(len(rows), np.int16)
    nobody: Any = np.zeros(0, np.uint64)
    return Index(ones, ones, ones, samples, samples, zeros, zeros, nobody, nobody, nobody, nobody, ("bench",))


# Hugging Face.


def _mel_batch(items: list[dict[str, Any]]) -> tuple[torch.Tensor, Got]:
    sounds = [decoded(item["audio"]["bytes"]) for item in items]
    return padded([mels(sound) for sound in sounds]), Got([i["id"] for i in items], [len(sound) for sound in sounds])


def _grouped(folder: Path, start: int) -> Iterator[Got]:
    import datasets
    from accelerate import skip_first_batches
    from torch.utils.data import DataLoader
    from transformers.trainer_pt_utils import LengthGroupedSampler

    begin = time.perf_counter()
    rows = datasets.load_from_disk(str(folder / "hugging_face"))
    size = int(SECONDS // LONGEST)
    lengths = [int(second * 100) for second in rows["seconds"]]
    sampler = LengthGroupedSampler(size, lengths=lengths, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(rows, size, sampler=sampler, num_workers=WORKERS, collate_fn=_mel_batch)  # type: ignore[arg-type]
    yield Got([], [begin])  # type: ignore[list-item]
    for _, got in skip_first_batches(loader, start) if start else loader:
        yield got


# lhotse.


class _Cuts(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __getitem__(self, cuts: Any) -> tuple[torch.Tensor, Got]:
        sounds = [cut.load_audio()[0] for cut in cuts]
        return padded([mels(sound) for sound in sounds]), Got(
            [cut.id for cut in cuts], [len(sound) for sound in sounds]
        )


def _sampler(folder: Path, in_workers: bool) -> Any:
    from lhotse import CutSet
    from lhotse.dataset import DynamicBucketingSampler

    shar = str(folder / "shar")
    cuts = CutSet.from_shar(in_dir=shar, split_for_dataloading=in_workers, shuffle_shards=True, seed=1)
    return DynamicBucketingSampler(cuts, max_duration=SECONDS, shuffle=True, seed=1, num_buckets=10)


def _bucketed(folder: Path, start: int, state: Any = None) -> Iterator[Got]:
    """Whole epochs sample in the workers, which is faster; a sampler that is to go on is in the main process."""
    from lhotse.dataset.iterable_dataset import IterableDatasetWrapper
    from torch.utils.data import DataLoader

    begin = time.perf_counter()
    if start == 0 and state is None:
        data: Any = IterableDatasetWrapper(_Cuts(), _sampler(folder, True))
        loader = DataLoader(data, batch_size=None, num_workers=WORKERS)
    else:
        sampler = _sampler(folder, False)
        if state is not None:
            sampler.load_state_dict(state)
        loader = DataLoader(_Cuts(), batch_size=None, sampler=sampler, num_workers=WORKERS)
    yield Got([], [begin])  # type: ignore[list-item]
    for _, got in loader:
        yield got


CANDIDATES: dict[str, Callable[[Path, int], Iterator[Got]]] = {
    OURS: partial(_ours, trains=False),
    TRAINS: partial(_ours, trains=True),
    GROUPED: _grouped,
    BUCKETED: _bucketed,
}


def _epoch(name: str, folder: Path) -> dict[str, float]:
    """Speed, padding, and the wait for the first batch."""
    steps = CANDIDATES[name](folder, 0)
    begin = float(next(steps).samples[0])
    first, real, whole, seen, cpu = 0.0, 0, 0, [], _cpu()
    for got in steps:
        first = first or time.perf_counter() - begin
        seen += got.ids
        real += sum(got.samples)
        whole += len(got.samples) * max(got.samples)
    taken = time.perf_counter() - begin
    hours = real / 16_000 / 3600
    clips, cpu = len(set(seen)), (_cpu() - cpu) / hours
    return {
        "cpu": cpu,
        "hours/s": hours / taken,
        "first": first,
        "padding": 100 * (1 - real / whole),
        "seen": len(seen),
        "clips": clips,
    }


def _cpu() -> float:
    """Seconds of processor time, of this process and those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _resume(name: str, folder: Path) -> dict[str, float]:
    """What comes after a stop in the middle, and how soon."""
    half = 100
    if name == BUCKETED:
        whole, state = _bucketed_whole(folder, half)
        steps = _bucketed(folder, half, state)
    else:
        whole = [got.ids for got in CANDIDATES[name](folder, 0) if got.ids]
        steps = CANDIDATES[name](folder, half)
    begin = float(next(steps).samples[0])
    rest = [next(steps).ids]
    taken = time.perf_counter() - begin
    rest += [got.ids for got in steps]
    done = {clip for ids in whole[:half] for clip in ids}
    left = {clip for ids in whole[half:] for clip in ids}
    after = [clip for ids in rest for clip in ids]
    repeated = len(done.intersection(after)) + len(after) - len(set(after))
    return {"resume": taken, "lost": len(left - set(after)), "repeated": repeated, "same": float(rest == whole[half:])}


def _bucketed_whole(folder: Path, half: int) -> tuple[list[list[str]], Any]:
    """An epoch, and the sampler's state after some batches, as one that saves it then would have it."""
    from torch.utils.data import DataLoader

    sampler = _sampler(folder, False)
    whole, state = [], None
    for _, got in DataLoader(_Cuts(), batch_size=None, sampler=sampler, num_workers=WORKERS):
        whole.append(got.ids)
        if len(whole) == half:
            state = sampler.state_dict()
    return whole, state


def _prepare(folder: Path) -> None:
    """The same clips for all: our dataset, one of `datasets`, and Shar; and a model of random weights."""
    if (folder / "ready").exists():
        return
    recipe = corpus.recipe(folder, corpus.make(folder, CLIPS, LONGEST), unit=500)
    recipe.write_text(recipe.read_text() + "split: {test: 0.0}\n")
    build = [sys.executable, "-m", "pipeline.cli", "build", str(recipe), "--out", str(folder / "dataset")]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "bench.loader", "prepare", "", str(folder)], check=True)
    (folder / "ready").touch()


def _prepare_peers(folder: Path) -> None:
    import datasets
    from lhotse import CutSet, MonoCut, Recording
    from lhotse.audio import AudioSource

    from pipeline.model import compose, tiny

    rows = Rows([folder / "dataset"])

    def items() -> Iterator[dict[str, Any]]:
        for row in rows:
            audio = row.utterances[0].audio
            assert audio is not None
            yield {"id": row.id, "audio": {"bytes": audio.flac, "path": None}, "seconds": audio.seconds}

    def cuts() -> Iterator[Any]:
        for item in items():
            count, name = round(item["seconds"] * 16_000), item["id"]
            source = AudioSource("memory", [0], item["audio"]["bytes"])
            recording = Recording(name, [source], 16_000, count, item["seconds"], channel_ids=[0])
            yield MonoCut(name, 0.0, item["seconds"], 0, recording=recording)

    # As `Audio(decode=False)` stores and gives it, which cannot be written without torchcodec.
    audio = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"id": datasets.Value("string"), "audio": audio, "seconds": datasets.Value("float64")})
    cache_dir = str(folder / "cache")
    made = datasets.Dataset.from_generator(items, features=features, cache_dir=cache_dir)
    made.save_to_disk(str(folder / "hugging_face"), num_shards=8)
    (folder / "shar").mkdir(exist_ok=True)
    CutSet.from_items(cuts()).to_shar(str(folder / "shar"), {"recording": "flac"}, shard_size=500)
    tiny.encoder(folder / "whisper")
    tiny.llm(folder / "llm", corpus.WORDS)
    spec = ModelSpec(encoders=[str(folder / "whisper")], adapter={"kind": "stack"}, llm=str(folder / "llm"))
    compose(spec).save(folder / "model")


def main(out: Path, runs: int = 5) -> None:
    """Epochs and stops, in turn."""
    folder = out / "loader"
    _prepare(folder)
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in CANDIDATES}
    for turn in range(runs + 1):
        for name in CANDIDATES:
            for mode in ("epoch", "resume") if turn else ("epoch",):  # the first fills caches
                for key, value in _child(name, mode, folder).items():
                    if turn:
                        found[name][key].append(value)
    table = []
    for name, values in found.items():
        ratio = [a / b for a, b in zip(values["hours/s"], found[OURS]["hours/s"], strict=True)]
        counts = (f"{max(values[key]):.0f}" for key in ("lost", "repeated"))
        exact = "yes" if all(values["same"]) else "no"
        speed = (spread(values["hours/s"], 2), spread(ratio, 2), spread(values["cpu"], 2), spread(values["padding"], 2))
        table.append((name, *speed, spread(values["first"], 3), spread(values["resume"], 3), *counts, exact))
    header = (
        "loader",
        "audio-hours/s",
        "by ours",
        "CPU s/audio-hour",
        "padding, %",
        "first batch, s",
        "going on, s",
        "lost",
        "repeated",
        "exact",
    )
    report(
        f"Loading {CLIPS} clips of 3-{LONGEST:g} s, {WORKERS} workers, {runs} runs: median (least-most)",
        header,
        table,
        out,
    )
    console.print("lost, repeated: the most clips of a run, after a stop at batch 100. exact: the same batches follow.")


def _child(name: str, mode: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.loader", mode, name, str(folder)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_quiet())
    return json.loads(told.stdout.splitlines()[-1])


def _quiet() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "prepare":
        _prepare_peers(Path(sys.argv[3]))
    else:
        work = {"epoch": _epoch, "resume": _resume}[sys.argv[1]]
        mels(np.zeros(16_000, np.float32))
        print(json.dumps(work(sys.argv[2], Path(sys.argv[3]))))
