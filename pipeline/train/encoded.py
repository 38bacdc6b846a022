"""Encoded: what a frozen encoder says of each sound, kept on disk and heard from there in later epochs.

Sounds are known by the digests of their samples, so that rows with the same sound share its frames. They lie in chunks
of about an hour, each with a list of what is in it, written last: a chunk without one does not exist, and a run that
was killed goes on with the next. Chunks are mapped into memory. The cache is the encoder's: its key is a digest of the
encoder's weights and settings, so another adapter, LLM or recipe finds it ready.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers
import xxhash
from torch import Tensor

from pipeline import shards
from pipeline.audio import samples_of
from pipeline.model.base import Encoded, ModelError, Samples, SpeechLM
from pipeline.train.index import Ints, user_cache
from pipeline.train.indexing import pieces
from pipeline.train.rows import Rows
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Sample

_VERSION = 1  # raised when the project's encoders say something else of the same sound
_CHUNK = 3600.0  # seconds of sound
_PASS = 300.0  # seconds of sound that are encoded at once, padding included
_HALF = (torch.float16, torch.bfloat16)
_MISSING = "frames of a sound are not there: delete {folder}, it is made again"


@dataclass(frozen=True)
class Form:
    """What an encoder's frames look like."""

    layers: dict[str, int]
    """By the names in `Batch.sounds`; 0 where frames are A, T, D, else the first size of depth, A, T, D."""
    widths: dict[str, int]
    """D by name."""
    given: torch.dtype
    """As the encoder says them, and as they are given back."""

    @property
    def kept(self) -> torch.dtype:
        """As they lie on disk: 16 bits."""
        return self.given if self.given in _HALF else torch.float16

    @property
    def width(self) -> int:
        """Numbers of a frame, all layers and encoders together."""
        return sum(max(1, self.layers[name]) * self.widths[name] for name in self.layers)

    @classmethod
    def of(cls, heard: dict[str, Tensor]) -> Form:
        """Of what `listen` returned."""
        frames = {name: tensor for name, tensor in heard.items() if name != "frame_lengths"}
        layers = {name: len(tensor) if tensor.ndim == 4 else 0 for name, tensor in frames.items()}
        return cls(layers, {name: tensor.shape[-1] for name, tensor in frames.items()}, heard["frames"].dtype)

    def flat(self, heard: dict[str, Tensor]) -> Tensor:
        """A, T, width in the kept type, on the CPU.

        Raises:
            ModelError: A value does not fit into 16 bits.
        """
        parts = [heard[name] if not count else _beside(heard[name]) for name, count in self.layers.items()]
        flat = torch.cat(parts, -1).to(self.kept)
        if not torch.isfinite(flat).all():
            raise ModelError("the encoder says numbers that 16 bits do not hold: set `batches.cache_encoder: false`")
        return flat.cpu()

    def restored(self, flat: Tensor) -> dict[str, Tensor]:
        """As the encoder said it, of A, T, width."""
        sizes = [max(1, self.layers[name]) * self.widths[name] for name in self.layers]
        parts = dict(zip(self.layers, torch.split(flat.to(self.given), sizes, -1), strict=True))
        return {name: _apart(part, self.layers[name]) for name, part in parts.items()}


def _beside(layers: Tensor) -> Tensor:
    """depth, A, T, D -> A, T, depth * D."""
    return layers.permute(1, 2, 0, 3).flatten(2)


def _apart(flat: Tensor, layers: int) -> Tensor:
    """A, T, depth * D -> depth, A, T, D; or as it is."""
    return flat.reshape(*flat.shape[:2], layers, -1).permute(2, 0, 1, 3).contiguous() if layers else flat.contiguous()


@dataclass(frozen=True)
class Sounds:
    """The distinct sounds of some rows, the longest last."""

    digests: npt.NDArray[np.uint64]
    rows: Ints
    """A row that each is in."""
    utterances: Ints
    """Which of its utterances it is."""
    samples: Ints

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def seconds(self) -> float:
        """Of all of them, each once."""
        return float(self.samples.sum()) / SAMPLING_RATE

    @classmethod
    def of(cls, rows: Rows, chosen: Ints | None = None) -> Sounds:
        """Of the chosen rows, or of all. No audio is read."""
        parts: list[tuple[Any, Any, Any, Any]] = []
        for number, shard in enumerate(rows.shards):
            first = shard.first
            for batch in rows.batches(number):
                column = batch["utterances"]
                utterances = column.flatten()
                row = first + pc.list_parent_indices(column).to_numpy().astype(np.int64)
                begins = column.offsets.to_numpy().astype(np.int64)
                place = np.arange(len(row)) - (begins - begins[0])[row - first]
                hashes = [_hash(digest) for digest in pc.struct_field(utterances, "digest").to_pylist()]
                sizes = pc.struct_field(utterances, "seconds").to_numpy(zero_copy_only=False) * SAMPLING_RATE
                parts.append((np.array(hashes, np.uint64), row, place, np.round(sizes).astype(np.int64)))
                first += batch.num_rows
        digests, row, place, samples = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if chosen is not None:
            kept = np.isin(row, chosen)
            digests, row, place, samples = digests[kept], row[kept], place[kept], samples[kept]
        _, once = np.unique(digests, return_index=True)
        once = once[np.lexsort((digests[once], samples[once]))]
        return cls(digests[once], row[once], place[once], samples[once])


def _hash(digest: str) -> int:
    return xxhash.xxh3_64_intdigest(digest.encode())


class Heard:
    """The frames of all sounds of some rows, mapped into memory."""

    def __init__(self, folder: Path, form: Form, chunks: Iterable[str]) -> None:
        self._folder, self._form = folder, form
        self._chunks: list[npt.NDArray[np.uint16]] = []
        self._counts: list[list[int]] = []
        digests: list[int] = []
        places: list[tuple[int, int, int]] = []
        for number, name in enumerate(chunks):
            known = json.loads((folder / f"{name}.json").read_bytes())
            with pa.memory_map(str(folder / f"{name}.frames")) as file:  # the mapping outlives the handle
                self._chunks.append(np.frombuffer(file.read_buffer(), np.uint16).reshape(-1, form.width))
            at = 0
            for digest, counts in known["sounds"]:
                digests.append(digest)
                places.append((number, at, len(self._counts)))
                self._counts.append(counts)
                at += sum(counts)
        order = np.argsort(np.array(digests, np.uint64), kind="stable")
        self._digests = np.array(digests, np.uint64)[order]
        self._places = np.array(places, np.int64).reshape(-1, 3)[order]

    def sounds(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """What stands in `Batch.sounds` in place of the audio of a batch; nothing where there is none.

        Raises:
            ModelError: A sound is not in the cache.
        """
        wanted = np.array([_hash(u.audio.digest) for s in samples for u in s.utterances if u.audio], np.uint64)
        if not len(wanted):
            return {}
        found = np.searchsorted(self._digests, wanted)
        if (found == len(self._digests)).any() or (self._digests[found] != wanted).any():
            raise ModelError(_MISSING.format(folder=self._folder))
        parts: list[npt.NDArray[np.uint16]] = []
        for chunk, at, place in self._places[found].tolist():
            for count in self._counts[place]:
                parts.append(self._chunks[chunk][at : at + count])
                at += count
        flat = np.zeros((len(parts), max(map(len, parts)), self._form.width), np.uint16)
        for row, part in zip(flat, parts, strict=True):
            row[: len(part)] = part
        restored = self._form.restored(torch.from_numpy(flat).view(self._form.kept))
        return restored | {"frame_lengths": torch.tensor([len(part) for part in parts])}


def listens(speech_lm: SpeechLM) -> bool:
    """Whether a model can tell apart what its encoder says."""
    return hasattr(speech_lm, "listen")


def keep(
    rows: Rows,
    sounds: Sounds,
    speech_lm: SpeechLM,
    *,
    cache: Path | None = None,
    rank: int = 0,
    world: int = 1,
    told: Callable[[float, float], None] | None = None,
) -> Callable[[], Heard]:
    """Lets the encoder hear all sounds that it has not heard yet, this process its share of them.

    Call it before the model is sharded, and with the autocast that it is trained with.

    Args:
        rows: What the sounds are in.
        sounds: Of them.
        speech_lm: On its device. Its encoder must not be trained any more.
        cache: A folder for all encoders; the user's own if omitted.
        rank: Of this process.
        world: How many processes share the work.
        told: Is told how many seconds of sound are done, of how many.

    Returns:
        Opens the cache. Call it when all processes are done.

    Raises:
        ModelError: The frames do not fit into 16 bits.
        DiskError: The disk is full.
    """
    form, key = _identity(speech_lm)
    folder = (cache or user_cache() / "encoded") / key
    folder.mkdir(parents=True, exist_ok=True)
    chunks = _chunks(sounds)
    names = [xxhash.xxh3_128_hexdigest(sounds.digests[chunk].tobytes()) for chunk in chunks]
    own = list(zip(chunks, names, strict=True))[rank::world]
    done, whole = 0, sum(int(sounds.samples[chunk].sum()) for chunk, _ in own)
    for chunk, name in own:
        if not (folder / f"{name}.json").exists():
            _write(folder / name, rows, sounds, chunk, speech_lm, form)
        done += int(sounds.samples[chunk].sum())
        if told is not None:
            told(done / SAMPLING_RATE, whole / SAMPLING_RATE)
    return lambda: Heard(folder, form, names)


def _identity(speech_lm: SpeechLM) -> tuple[Form, str]:
    """What frames look like, and a digest of all that they follow from."""
    form = Form.of(listened(speech_lm, [np.zeros(SAMPLING_RATE, np.float32)]))
    config = speech_lm.model.config.to_dict()
    settings = {name: value for name, value in config.items() if "encoder" in name or "extractor" in name}
    device = next(speech_lm.model.parameters()).device.type
    made_by = [_VERSION, transformers.__version__, torch.is_autocast_enabled(device)]
    state = xxhash.xxh3_128(json.dumps([made_by, settings, str(form)], sort_keys=True, default=str).encode())
    names = [name.replace(".", "/") for name, _ in speech_lm.named("encoder")]
    prefix = os.path.commonpath(names).replace("/", ".")
    for name, tensor in sorted(speech_lm.model.state_dict().items()):
        if name.startswith(prefix) and "lora_" not in name:  # LoRA that is on would have forbidden a cache
            state.update(name.encode())
            state.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return form, state.hexdigest()


def listened(speech_lm: SpeechLM, sounds: Sequence[Samples]) -> dict[str, Tensor]:
    """What the encoder says of some sounds, on the model's device."""
    nothing = np.zeros(1, np.bool_)
    batch = speech_lm.collate([Encoded("", np.zeros(1, np.int64), nothing, nothing, tuple(sounds))])
    device = next(speech_lm.model.parameters()).device
    listen: Callable[[dict[str, Tensor]], dict[str, Tensor]] = getattr(speech_lm, "listen")  # noqa: B009
    return listen(batch.to(device).sounds)


def _chunks(sounds: Sounds) -> list[Ints]:
    """Places of the sounds of each chunk."""
    seconds = np.cumsum(sounds.samples) / SAMPLING_RATE
    return [c for c in np.split(np.arange(len(sounds)), np.flatnonzero(np.diff(seconds // _CHUNK)) + 1) if len(c)]


def _passes(sounds: Sounds, chunk: Ints) -> list[Ints]:
    """Places of the sounds that are encoded together; they are sorted by length."""
    passes, begin = [], 0
    for end in range(1, len(chunk) + 1):
        if end == len(chunk) or sounds.samples[chunk[end]] * (end + 1 - begin) > _PASS * SAMPLING_RATE:
            passes.append(chunk[begin:end])
            begin = end
    return passes


def decoded(rows: Rows, sounds: Sounds, places: Ints) -> list[Samples]:
    """The samples of sounds at these places."""
    found = []
    for place in places.tolist():
        audio = rows.brief(int(sounds.rows[place])).utterances[int(sounds.utterances[place])].audio
        assert audio is not None
        found.append(samples_of(audio))
    return found


def _write(target: Path, rows: Rows, sounds: Sounds, chunk: Ints, speech_lm: SpeechLM, form: Form) -> None:
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    passes = _passes(sounds, chunk)
    listed: list[tuple[int, list[int]]] = []
    with shards.explained(target), open(scratch, "wb") as file, ThreadPoolExecutor(1) as ahead:
        waiting = iter([ahead.submit(decoded, rows, sounds, places) for places in passes])
        for places, ready in zip(passes, waiting, strict=True):
            heard = listened(speech_lm, ready.result())
            flat = form.flat(heard)
            counts = iter(enumerate(heard["frame_lengths"].tolist()))
            for place in places.tolist():
                own = list(islice(counts, len(pieces(speech_lm, int(sounds.samples[place])))))
                listed.append((int(sounds.digests[place]), [count for _, count in own]))
                for piece, count in own:
                    file.write(flat[piece, :count].contiguous().view(torch.uint16).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, target.with_name(f"{target.name}.frames"))
    shards.write_atomically(target.with_name(f"{target.name}.json"), json.dumps({"sounds": listed}).encode())
