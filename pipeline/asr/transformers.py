"""Hugging Face transformers: Whisper and its kind, and CTC models, in batches, on a GPU or not.

Source: huggingface.co/docs/transformers. The licence is that of the model which the recipe names: MIT for
OpenAI's Whisper, Apache-2.0 for Facebook's wav2vec 2.0, others differ. No code of a model's repository is run.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from pipeline.asr.base import ASR, FAILED, ASRError, Clip, Heard, content_of, ignore
from pipeline.audio import Samples
from pipeline.plugins import require
from pipeline.text import base, clean
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection

log = logging.getLogger("earwitness")

_WHAT = "the ASR engine transformers"
_QUIET = 1600  # samples, 100 ms: long speech is cut at its quietest


class Transformers(ASR):
    """In the process."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Of the weights; `auto` is float16 on a GPU and float32 elsewhere."""
    beams: PositiveInt = 1
    longest: PositiveFloat = 30.0
    """Seconds that a CTC model hears at once; longer speech is cut at a quiet place. Whisper has its own 30."""
    threads: PositiveInt = 1
    """CPU threads of each worker, where there is no GPU: several workers with several each wait for each other."""

    @cached_property
    def identity(self) -> bytes:
        return super().identity + f" {content_of(self.model)} {self.dtype} {self.beams} {self.longest:g}".encode()

    @property
    def shaping(self) -> dict[str, Any]:
        for name in ("torch", "transformers"):
            require(name, extra="speech", what=_WHAT)
        return super().shaping | {"libraries": [f"{n} {version(n)}" for n in ("torch", "transformers")]}

    def check(self) -> None:
        _kind(self.model, self.revision)  # the weights are for the workers to load

    def transcribe(self, clips: Sequence[Clip], workers: int = 1, heard: Heard = ignore) -> list[str | Rejection]:
        model = self._model()
        if model.device == "cpu":
            _torch().set_num_threads(self.threads)
        found: dict[int, str | Rejection] = {}
        listen = _write if model.writes else _spell
        groups: dict[object, list[int]] = defaultdict(list)
        for number, clip in enumerate(clips):
            problem = model.problem(clip)
            if problem is not None:
                found[number] = Rejection(FAILED, problem)
            else:
                groups[model.group(clip)].append(number)
        for numbers in groups.values():
            some = [clips[number] for number in numbers]
            found |= zip(numbers, _by_halves(lambda part: listen(model, part, self), some), strict=True)
        return [found[number] for number in range(len(clips))]

    def _model(self) -> _Model:
        return _load(self.model, self.revision, self.device, self.dtype)


class _Model(NamedTuple):
    """A model with what goes before and after it."""

    name: str
    model: Any
    processor: Any
    device: str
    dtype: Any
    writes: bool
    """Whether it writes text token by token; else it is a CTC model, and spells."""
    languages: frozenset[str]
    """Those that it must be told; empty for a model of one language."""

    def problem(self, clip: Clip) -> str | None:
        """Why it cannot listen to a clip."""
        language = base(clip.language)
        if self.languages and language and language not in self.languages:
            return f"{self.name} does not know the language {clip.language}"
        return None

    def group(self, clip: Clip) -> object:
        """Clips of equal groups go into one batch."""
        if self.writes:
            return clip.audio.seconds > self.window, bool(clip.language)
        # A model that was trained without a mask takes padding for sound.
        return None if self.processor.feature_extractor.return_attention_mask else len(clip.samples)

    @property
    def window(self) -> float:
        """Seconds that a model of Whisper's kind hears at once."""
        return float(getattr(self.processor.feature_extractor, "chunk_length", float("inf")))

    def inputs(self, sounds: Sequence[Samples], **options: Any) -> dict[str, Any]:
        """What the model is given."""
        made = self.processor.feature_extractor(
            list(sounds), sampling_rate=SAMPLING_RATE, return_tensors="pt", **options
        )
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in made.items()
        }


def _write(model: _Model, clips: Sequence[Clip], options: Transformers) -> list[str]:
    """What a model writes that makes text token by token."""
    torch = _torch()
    told: dict[str, Any] = {"num_beams": options.beams, "do_sample": False}
    if model.languages:
        told["task"] = "transcribe"
        if clips[0].language:  # or it detects the language itself
            told["language"] = [base(clip.language) for clip in clips]
    form: dict[str, Any] = {"return_attention_mask": True}
    if clips[0].audio.seconds > model.window:
        form |= {"truncation": False, "padding": "longest"}
        told["return_timestamps"] = True  # by which it goes on to the next window
    elif model.window == float("inf"):
        form["padding"] = True
    with torch.inference_mode():
        tokens = model.model.generate(**model.inputs([c.samples for c in clips], **form), **told)
    texts = model.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [clean(text) for text in texts]


def _spell(model: _Model, clips: Sequence[Clip], options: Transformers) -> list[str]:
    """What a CTC model spells."""
    torch = _torch()
    pieces = [_pieces(clip.samples, options.longest) for clip in clips]
    texts: list[list[str]] = [[] for _ in clips]
    for place in range(max(map(len, pieces))):
        some = [n for n, own in enumerate(pieces) if place < len(own)]
        inputs = model.inputs([pieces[n][place] for n in some], padding=True)
        with torch.inference_mode():
            logits = model.model(**inputs).logits  # B, T, V
        letters = logits.argmax(-1).cpu().numpy()  # B, T
        rows = [row[:length] for row, length in zip(letters, _lengths(model, inputs, letters.shape[1]), strict=True)]
        # Blanks are special tokens: left out before equal letters are joined, `hello` would be `helo`.
        spelled = model.processor.tokenizer.batch_decode(rows, skip_special_tokens=False)
        for number, text in zip(some, spelled, strict=True):
            texts[number].append(text)
    return [clean(" ".join(parts)) for parts in texts]


def _lengths(model: _Model, inputs: dict[str, Any], most: int) -> list[int]:
    """How many of T frames of each row are of its sound: what is heard in the padding is not said."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return [most] * len(next(iter(inputs.values())))
    lengths = mask.sum(-1)
    if hasattr(model.model, "_get_feat_extract_output_lengths"):
        return [int(n) for n in model.model._get_feat_extract_output_lengths(lengths)]
    return [-(-most * int(n) // mask.shape[-1]) for n in lengths]


def _pieces(samples: Samples, longest: float) -> list[Samples]:
    """Speech cut into pieces that are short enough, each at the quietest place of the second half."""
    most = round(longest * SAMPLING_RATE)
    pieces = []
    while len(samples) > most:
        half = samples[most // 2 : most]
        frames = half[: len(half) // _QUIET * _QUIET].reshape(-1, _QUIET)
        cut = most // 2 + int(np.square(frames).sum(1).argmin()) * _QUIET + _QUIET // 2 if len(frames) else most
        pieces.append(samples[:cut])
        samples = samples[cut:]
    return [*pieces, samples]


def _by_halves(listen: Callable[[Sequence[Clip]], list[str]], clips: Sequence[Clip]) -> list[str | Rejection]:
    """A batch; where that does not fit, or one clip breaks it, each half of it."""
    torch = _torch()
    try:
        return list(listen(clips))
    except (RuntimeError, ValueError, IndexError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if len(clips) == 1:
            return [Rejection(FAILED, f"{type(error).__name__}: {str(error)[:300]}")]
        log.info("a batch of %d utterances is halved: %s", len(clips), str(error)[:200])
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(clips) // 2
    return _by_halves(listen, clips[:half]) + _by_halves(listen, clips[half:])


def _kind(name: str, revision: str) -> Any:
    """The class of a model: one that writes text, or one for CTC."""
    _torch()
    library = require("transformers", extra="speech", what=_WHAT)
    try:
        known = {"revision": revision} if revision else {}
        config = library.AutoConfig.from_pretrained(name, trust_remote_code=False, **known)
    except (OSError, ValueError, KeyError) as error:
        raise ASRError(f"transformers cannot load {name!r}: {error}") from error
    for kind in (library.AutoModelForSpeechSeq2Seq, library.AutoModelForCTC):
        if type(config) in kind._model_mapping:
            return kind
    raise ASRError(f"{name} is a {config.model_type}: neither of Whisper's kind nor a CTC model")


@lru_cache(maxsize=1)
def _load(name: str, revision: str, device: str, dtype: str) -> _Model:
    torch = _torch()
    library = require("transformers", extra="speech", what=_WHAT)
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()  # else it warns of options that it sets itself
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    known = {"revision": revision} if revision else {}
    kind = _kind(name, revision)
    try:
        model = (
            kind.from_pretrained(name, dtype=getattr(torch, dtype), trust_remote_code=False, **known).to(device).eval()
        )
        processor = library.AutoProcessor.from_pretrained(name, trust_remote_code=False, **known)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ASRError(f"transformers cannot load {name!r} on {device}: {error}") from error
    generation = getattr(model, "generation_config", None)
    tokens = getattr(generation, "lang_to_id", None) or {}
    return _Model(
        name,
        model,
        processor,
        device,
        getattr(torch, dtype),
        kind is library.AutoModelForSpeechSeq2Seq,
        frozenset(token.strip("<|>") for token in tokens),
    )


def _torch() -> Any:
    return require("torch", extra="speech", what=_WHAT)
