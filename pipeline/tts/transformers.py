"""Hugging Face transformers: VITS and MMS, SpeechT5, Bark, CSM, Dia and others that speak, on a GPU or not.

Source: huggingface.co/docs/transformers. The licence is that of the model which the recipe names: nobody can be
asked for it offline. Of `facebook/mms-tts-*` it is CC-BY-NC-4.0. No code of a model's repository is run.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import soxr
from pydantic import PositiveInt

from pipeline.audio import Samples
from pipeline.plugins import require
from pipeline.text import language_tag
from pipeline.tts._presets import Preset, Presets
from pipeline.tts.base import FAILED, Heard, Line, SpeechError, ignore
from pipeline.weights import content_of
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection

log = logging.getLogger("earwitness")

_WHAT = "the TTS engine transformers"
_MMS = "facebook/mms-tts"
_MMS_LICENCE = "CC-BY-NC-4.0"
_BARK = ("en", "de", "es", "fr", "hi", "it", "ja", "ko", "pl", "pt", "ru", "tr", "zh")
_BARK_SPEAKERS = 10  # of each language
_PREFIXES = {"csm": "[{voice}]{text}", "dia": "[S1] {text}"}


class Transformers(Presets):
    """In the process."""

    is_plugin: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Of the weights; `auto` is what they were saved in on a GPU, and float32 elsewhere."""
    batch: PositiveInt = 1
    """Lines of one voice that VITS, Bark and CSM speak together: quicker on a GPU. What a line sounds like then
    depends on those beside it, and a run that was killed goes on with other batches."""
    folder: str | None = None
    """For SpeechT5: speakers' embeddings, `NAME.npy` of 512 numbers each; their names are the voices."""
    vocoder: str = "microsoft/speecht5_hifigan"
    """For SpeechT5 and FastSpeech 2: what makes sound of their spectrograms."""
    generation: dict[str, Any] = {}
    """Given to models that generate, e.g. `{max_new_tokens: 1000, temperature: 0.7}`."""

    @cached_property
    def identity(self) -> bytes:
        together = (self.batch, self.at_once if self.batch > 1 else 1)  # who is beside whom
        vocoder = [Path(self.vocoder).name, content_of(self.vocoder)]
        shaping = [
            content_of(self.model),
            self.dtype,
            together,
            content_of(self.folder or ""),
            vocoder,
            self.generation,
        ]
        return super().identity + json.dumps(shaping, sort_keys=True).encode()

    @property
    def shaping(self) -> dict[str, Any]:
        for name in ("torch", "transformers"):
            require(name, extra="speech", what=_WHAT)
        return super().shaping | {"libraries": [f"{n} {version(n)}" for n in ("torch", "transformers")]}

    @property
    def model_licence(self) -> str | None:
        return self.licence or (_MMS_LICENCE if self.model.startswith(_MMS) else None)

    def check(self) -> None:
        if self.model_licence is None:
            raise SpeechError(f"licence: say which licence {self.model} has, as SPDX writes it: no one can be asked")
        super().check()

    def all_presets(self) -> list[Preset]:
        if self.presets:
            return self.presets
        if self.folder:
            return [Preset(name=path.stem) for path in sorted(Path(self.folder).glob("*.npy"))]
        known = _config(self.model)
        if known.get("model_type") == "bark" or self.model.startswith("suno/bark"):
            speakers = [(tongue, n) for tongue in _BARK for n in range(_BARK_SPEAKERS)]
            return [Preset(name=f"v2/{tongue}_speaker_{n}", languages=[tongue]) for tongue, n in speakers]
        if known.get("model_type") == "vits" and known.get("num_speakers", 1) > 1:
            return [Preset(name=str(n)) for n in range(known["num_speakers"])]
        tongue = language_tag(self.model.rpartition("-")[2]) if self.model.startswith(_MMS) else None
        name = "0" if "csm" in self.model.lower() else self.model_name.rpartition("/")[2]
        return [Preset(name=name, languages=[tongue] if tongue else [])]

    def speak(self, lines: Sequence[Line], workers: int = 1, heard: Heard = ignore) -> list[Samples | Rejection]:
        model = _load(self.model, self.revision, self.device, self.dtype, self.vocoder)
        by_voice: dict[str, list[int]] = defaultdict(list)
        for number, line in enumerate(lines):
            by_voice[line.voice].append(number)
        found: dict[int, Samples | Rejection] = {}
        together = self.batch if model.kind in ("vits", "bark", "csm") else 1
        for numbers in by_voice.values():
            for begin in range(0, len(numbers), together):
                some = numbers[begin : begin + together]
                said = self._by_halves(model, [lines[number] for number in some])
                for number, answer in zip(some, said, strict=True):
                    found[number] = answer
                    if not isinstance(answer, Rejection):
                        heard(number, answer)
        return [found[number] for number in range(len(lines))]

    def _by_halves(self, model: _Model, lines: Sequence[Line]) -> list[Samples | Rejection]:
        """A batch; where that does not fit, or one line breaks it, each half of it."""
        torch = _torch()
        torch.manual_seed(lines[0].seed)
        try:
            with torch.inference_mode():
                return [_resampled(sound, model.sampling_rate) for sound in self._said(model, lines)]
        except SpeechError:
            raise
        except (RuntimeError, ValueError, IndexError, KeyError, OSError) as error:
            if len(lines) == 1:
                return [Rejection(FAILED, f"{type(error).__name__}: {str(error)[:300]}")]
            log.info("a batch of %d lines is halved: %s", len(lines), str(error)[:200])
        half = len(lines) // 2
        return self._by_halves(model, lines[:half]) + self._by_halves(model, lines[half:])

    def _said(self, model: _Model, lines: Sequence[Line]) -> list[Any]:
        """Sounds at the model's own rate, as tensors of shape T."""
        form = _PREFIXES.get(model.kind, "{text}")
        texts = [form.format(voice=line.voice, text=line.text) for line in lines]
        voice = lines[0].voice
        if model.kind == "vits":
            speaker = {"speaker_id": _number(voice)} if model.model.config.num_speakers > 1 else {}
            made = model.model(**model.inputs(texts), **speaker)
            return [w[: int(n)] for w, n in zip(made.waveform, made.sequence_lengths, strict=True)]
        if model.kind == "speecht5":
            inputs = model.inputs(texts)
            return [
                model.model.generate_speech(inputs["input_ids"], self._embedding(voice, model), vocoder=model.vocoder)
            ]
        if model.kind == "bark":
            # Names of voices are paths in the model's folder; a single model without any speaks at random.
            known = {"voice_preset": voice} if "speaker" in voice else {}
            inputs = model.inputs(texts, **known)
            sounds, lengths = model.model.generate(**inputs, **self.generation, return_output_lengths=True)
            return [sound[: int(length)] for sound, length in zip(sounds, lengths, strict=True)]
        if model.kind == "csm":
            return list(model.model.generate(**model.inputs(texts), **self.generation, output_audio=True))
        if model.kind == "dia":
            made = model.model.generate(**model.inputs(texts), **self.generation)
            return [np.asarray(sound) for sound in model.processor.batch_decode(made)]
        options = {"generate_kwargs": self.generation} if self.generation else {}
        return [model.pipeline(texts[0], **options)["audio"]]

    def _embedding(self, voice: str, model: _Model) -> Any:
        if self.folder is None:
            raise SpeechError(f"{self.model} needs speakers' embeddings: set `folder` to one with NAME.npy files")
        vector = np.load(Path(self.folder) / f"{voice}.npy", allow_pickle=False)
        return _torch().from_numpy(vector.reshape(1, -1)).to(model.model.device, model.model.dtype)


class _Model(NamedTuple):
    """A model with what goes before and after it."""

    kind: str
    model: Any
    processor: Any
    vocoder: Any
    pipeline: Any
    """For models of no kind that is known here."""
    sampling_rate: int

    def inputs(self, texts: Sequence[str], **options: Any) -> Any:
        """What the model is given for texts."""
        many = {"padding": True} if len(texts) > 1 and self.kind != "bark" else {}
        return self.processor(text=list(texts), return_tensors="pt", **many, **options).to(self.model.device)


@lru_cache(maxsize=1)
def _load(name: str, revision: str, device: str, dtype: str, vocoder: str) -> _Model:
    torch = _torch()
    library = require("transformers", extra="speech", what=_WHAT)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto" and not device.startswith("cuda"):
        dtype = "float32"
    known = {"revision": revision} if revision else {}
    try:
        kind = library.AutoConfig.from_pretrained(name, trust_remote_code=False, **known).model_type
        given = dtype if dtype == "auto" else getattr(torch, dtype)
        if kind not in ("vits", "speecht5", "bark", "csm", "dia"):
            pipeline = library.pipeline(
                "text-to-audio", name, device=device, dtype=given, trust_remote_code=False, **known
            )
            return _Model(kind, pipeline.model, None, None, pipeline, int(pipeline.sampling_rate))
        kinds = {
            "vits": "VitsModel",
            "speecht5": "SpeechT5ForTextToSpeech",
            "bark": "BarkModel",
            "csm": "CsmForConditionalGeneration",
            "dia": "DiaForConditionalGeneration",
        }
        model = getattr(library, kinds[kind]).from_pretrained(name, dtype=given, **known).to(device).eval()
        first = library.AutoTokenizer if kind == "vits" else library.AutoProcessor
        if kind == "speecht5":
            first = library.SpeechT5Tokenizer
        made = None
        if kind == "speecht5":
            made = library.SpeechT5HifiGan.from_pretrained(vocoder, dtype=model.dtype).to(device).eval()
        processor = first.from_pretrained(name, trust_remote_code=False, **known)
        return _Model(kind, model, processor, made, None, _rate(model, processor, made))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SpeechError(f"transformers cannot load {name!r} on {device}: {error}") from error


def _rate(model: Any, processor: Any, vocoder: Any) -> int:
    """Hz of what is said: each kind of model writes it elsewhere."""
    extractor = getattr(processor, "feature_extractor", None)
    codec = getattr(model.config, "codec_config", None)
    for place in (
        vocoder and vocoder.config,
        model.config,
        getattr(model, "generation_config", None),
        codec,
        extractor,
    ):
        for name in ("sampling_rate", "sample_rate"):
            found = getattr(place, name, None)
            if found:
                return int(found)
    raise ValueError("its configuration does not say at which sampling rate it speaks")


def _resampled(sound: Any, rate: int) -> Samples:
    """16 kHz float32 of shape T."""
    flat = sound.detach().float().cpu().numpy() if hasattr(sound, "detach") else sound
    flat = np.ascontiguousarray(np.asarray(flat, np.float32).reshape(-1))
    resampled: Samples = flat if rate == SAMPLING_RATE else np.asarray(soxr.resample(flat, rate, SAMPLING_RATE, "HQ"))
    return np.clip(resampled, -1.0, 1.0).astype(np.float32)


def _number(voice: str) -> int:
    if not voice.isdecimal():
        raise SpeechError(f"the voices of this model are numbers, not {voice!r}")
    return int(voice)


@lru_cache(maxsize=4)
def _config(model: str) -> dict[str, Any]:
    """What a model's folder says of itself; nothing of names on the Hub."""
    path = Path(model) / "config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _torch() -> Any:
    return require("torch", extra="speech", what=_WHAT)
