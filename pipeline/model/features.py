"""Features of sound, computed in torch where the waveforms lie: a batch at a time, in fp32.

They equal those of transformers' feature extractors. Windows and filter banks are made once a device.
Shapes: A clips, S samples, F frames, M bands, all at 16 kHz.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank, window_function

from schemas.arrow import SAMPLING_RATE

KALDI_WINDOW, KALDI_HOP = 400, 160  # samples: 25 and 10 ms
_KALDI_FLOOR = 1.192092955078125e-07  # of a band's energy
_PARAKEET_GUARD = 2**-24  # is added to a band's energy
_CLAP_TIMES = 3  # CLAP hears 48 kHz
_CLAP_REACH = 64  # samples at 16 kHz before and behind, from which those between are computed


def valid(lengths: Tensor, size: int) -> Tensor:
    """A, size bool: which places of each row lie within its length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def fitted(waveforms: Tensor, lengths: Tensor, size: int) -> Tensor:
    """A, size fp32: the clips cut or padded to so many samples, with silence behind each one's own."""
    sound = waveforms[:, :size].float()
    sound = sound.masked_fill(~valid(lengths, sound.shape[1]), 0.0)
    return F.pad(sound, (0, size - sound.shape[1]))


def standardised(values: Tensor, lengths: Tensor, *, spare: int, inside: float = 0.0, outside: float = 0.0) -> Tensor:
    """Values with a mean of 0 and a variance of 1 over each clip's own; 0 behind them.

    Args:
        values: A, S or A, F, M; of the latter each band for itself.
        lengths: A: how many along the second axis are the clip's own.
        spare: Degrees of freedom that the variance lacks.
        inside: Is added to the variance, against division by 0.
        outside: Is added to its root.
    """
    behind = ~valid(lengths, values.shape[1])
    count = lengths.float()[:, None]
    if values.dim() == 3:
        behind, count = behind[..., None], count[..., None]
    mean = values.masked_fill(behind, 0.0).sum(1, keepdim=True) / count
    values = (values - mean).masked_fill(behind, 0.0)
    variance = values.square().sum(1, keepdim=True) / (count - spare)
    return values / ((variance + inside).sqrt() + outside)


@lru_cache(maxsize=32)
def _window(kind: str, size: int, periodic: bool, device: torch.device) -> Tensor:
    return torch.from_numpy(window_function(size, kind, periodic=periodic)).to(device, torch.float32)


@lru_cache(maxsize=32)
def _bank(
    fft: int,
    bands: int,
    device: torch.device,
    *,
    scale: Literal["slaney", "htk", "kaldi"] = "slaney",
    low: float = 0.0,
    high: float = SAMPLING_RATE / 2,
    rate: int = SAMPLING_RATE,
) -> Tensor:
    """M, fft // 2 + 1: triangles on a mel scale; of equal area on Slaney's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # AST's lowest triangles lie between two frequencies
        bank = mel_filter_bank(
            num_frequency_bins=1 + fft // 2,
            num_mel_filters=bands,
            min_frequency=low,
            max_frequency=high,
            sampling_rate=rate,
            norm="slaney" if scale == "slaney" else None,
            mel_scale=scale,
            triangularize_in_mel_space=scale == "kaldi",
        )
    return torch.from_numpy(bank.T.copy()).to(device, torch.float32)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def whisper(waveforms: Tensor, lengths: Tensor, frames: int, *, bands: int, fft: int, hop: int) -> Tensor:
    """A, M, F: Whisper's log-mel (arXiv 2212.04356, section 2.2), as of each clip with silence behind it.

    The largest value of a clip bounds its smallest, so frames of silence are the same for any amount of it.
    """
    sound = fitted(waveforms, lengths, frames * hop)
    window = _window("hann", fft, True, sound.device)
    power = _power(torch.stft(sound, fft, hop, window=window, return_complex=True)[..., :-1])
    mel = (_bank(fft, bands, sound.device) @ power).clamp(min=1e-10).log10()
    mel = torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0)
    return (mel + 4.0) / 4.0


def kaldi_frames(samples: int) -> int:
    """How many whole windows a clip of at least one window holds."""
    return 1 + (samples - KALDI_WINDOW) // KALDI_HOP


def kaldi(waveforms: Tensor, lengths: Tensor, frames: int, *, bands: int, window: str) -> Tensor:
    """A, F, M: Kaldi's log filter bank energies (`compute-fbank-feats`), without dither.

    Each window loses its mean and is pre-emphasised by itself. There is no padding at the edges.
    """
    sound = fitted(waveforms, lengths, KALDI_WINDOW + (frames - 1) * KALDI_HOP)
    cut = sound.unfold(1, KALDI_WINDOW, KALDI_HOP)  # A, F, 400
    cut = cut - cut.mean(-1, keepdim=True)
    cut = cut - 0.97 * torch.cat([cut[..., :1], cut[..., :-1]], -1)
    power = _power(torch.fft.rfft(cut * _window(window, KALDI_WINDOW, False, sound.device), n=512))
    bank = _bank(512, bands, sound.device, scale="kaldi", low=20.0)
    return (power @ bank.T).clamp(min=_KALDI_FLOOR).log()


def parakeet(
    waveforms: Tensor, lengths: Tensor, frames: int, *, bands: int, fft: int, size: int, hop: int, emphasis: float
) -> Tensor:
    """A, F, M: NeMo's log-mel, each band of a clip standardised over its `lengths // hop` frames; 0 behind them."""
    sound = fitted(waveforms, lengths, max(waveforms.shape[1], frames * hop))
    sound = torch.cat([sound[:, :1], sound[:, 1:] - emphasis * sound[:, :-1]], 1)
    sound = sound.masked_fill(~valid(lengths, sound.shape[1]), 0.0)
    window = _window("hann", size, False, sound.device)
    spectrum = torch.stft(
        sound, fft, hop, win_length=size, window=window, return_complex=True, pad_mode="constant"
    )  # A, fft // 2 + 1, F + 1
    mel = (_bank(fft, bands, sound.device) @ _power(spectrum[..., :frames])).add(_PARAKEET_GUARD).log()
    return standardised(mel.transpose(1, 2), lengths // hop, spare=1, outside=1e-5)


@lru_cache(maxsize=8)
def _between(device: torch.device) -> Tensor:
    """3, 1, taps: what gives the samples at 48 kHz of those at 16 kHz."""
    reach = torch.arange(-_CLAP_REACH, _CLAP_REACH + 1, dtype=torch.float64)
    places = torch.stack([reach - phase / _CLAP_TIMES for phase in range(_CLAP_TIMES)])
    taper = torch.i0(12.0 * (1 - (places / (_CLAP_REACH + 1)).square()).sqrt()) / torch.i0(torch.tensor(12.0))
    kernel = torch.sinc(places) * taper  # Kaiser's window: what is left above 8 kHz is 120 dB below
    return kernel.to(device, torch.float32)[:, None]


def at_48_khz(sound: Tensor) -> Tensor:
    """A, 3 * S: the same sound at 48 kHz; there is nothing above 8 kHz in it."""
    threefold = F.conv1d(sound[:, None], _between(sound.device), padding=_CLAP_REACH)  # A, 3, S
    return threefold.transpose(1, 2).flatten(1)


def clap(
    waveforms: Tensor,
    lengths: Tensor,
    *,
    most: int,
    bands: int,
    fft: int,
    hop: int,
    low: float,
    high: float,
    scale: Literal["slaney", "htk"],
    filling: str,
) -> Tensor:
    """A, F, M: CLAP's log-mel in decibels (arXiv 2211.06687, section 3), of always the same length.

    Args:
        most: Samples at 48 kHz that a clip is filled up to.
        filling: `repeatpad`: the clip as often as it fits, then silence; `repeat`: over and over; `pad`: silence.
    """
    sound = at_48_khz(fitted(waveforms, lengths, waveforms.shape[1]))
    lengths = _CLAP_TIMES * lengths.clamp(min=1)[:, None]
    copies = {"repeatpad": most // lengths, "repeat": most // lengths + 1}.get(filling, torch.ones_like(lengths))
    places = torch.arange(most, device=sound.device)
    filled = sound.gather(1, places % lengths).masked_fill(places >= copies * lengths, 0.0)
    window = _window("hann", fft, True, sound.device)
    power = _power(torch.stft(filled, fft, hop, window=window, return_complex=True))
    bank = _bank(fft, bands, sound.device, scale=scale, low=low, high=high, rate=_CLAP_TIMES * SAMPLING_RATE)
    return 10.0 * (bank @ power).clamp(min=1e-10).log10().transpose(1, 2)
