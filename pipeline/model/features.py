"""Features of sound, computed in torch where the waveforms lie: a batch at a time, in fp32.

They equal those of transformers' feature extractors. Windows and filter banks are made once a device.
Shapes: A clips, S samples, F frames, M bands, all at 16 kHz.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from schemas.arrow import SAMPLING_RATE


def valid(lengths: Tensor, size: int) -> Tensor:
    """A, size bool: which places of each row lie within its length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def fitted(waveforms: Tensor, lengths: Tensor, size: int) -> Tensor:
    """A, size fp32: the clips cut or padded to so many samples, with silence behind each one's own."""
    sound = waveforms[:, :size].float()
    sound = sound.masked_fill(~valid(lengths, sound.shape[1]), 0.0)
    return F.pad(sound, (0, size - sound.shape[1]))


@lru_cache(maxsize=32)
def _hann(size: int, device: torch.device) -> Tensor:
    return torch.hann_window(size, device=device)


@lru_cache(maxsize=32)
def _slaney(fft: int, bands: int, device: torch.device) -> Tensor:
    """M, fft // 2 + 1: triangles of equal area, to the Nyquist frequency."""
    bank = mel_filter_bank(
        num_frequency_bins=1 + fft // 2,
        num_mel_filters=bands,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank.T.copy()).to(device, torch.float32)


def whisper(waveforms: Tensor, lengths: Tensor, frames: int, *, bands: int, fft: int, hop: int) -> Tensor:
    """A, M, F: Whisper's log-mel (arXiv 2212.04356, section 2.2), as of each clip with silence behind it.

    The largest value of a clip bounds its smallest, so frames of silence are the same for any amount of it.
    """
    sound = fitted(waveforms, lengths, frames * hop)
    spectrum = torch.stft(sound, fft, hop, window=_hann(fft, sound.device), return_complex=True)[..., :-1]
    power = spectrum.real.square() + spectrum.imag.square()
    mel = (_slaney(fft, bands, sound.device) @ power).clamp(min=1e-10).log10()
    mel = torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0)
    return (mel + 4.0) / 4.0
