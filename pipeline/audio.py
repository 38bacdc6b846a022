"""Decode, resample, measure, encode: any recording to 16 kHz mono FLAC, once.

libsndfile reads WAV, FLAC, MP3, Ogg (Vorbis, Opus), AIFF, AU, CAF and uncompressed NIST SPHERE;
PyAV, an optional extra, reads M4A, AAC, WMA and WebM. soxr resamples. Nothing needs torch.

A file that ends before its header says so is an error, not a shorter recording: its transcript is
that of the whole.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import xxhash

from pipeline.plugins import require
from schemas.arrow import SAMPLING_RATE
from schemas.utterance import Audio

Samples = npt.NDArray[np.float32]

MAX_SECONDS = 3600.0
"""A longer stretch is not decoded: an utterance is seconds long, so this is a wrong path."""
RATES = 1000, 768_000
"""Hz. A header that claims less or more is damaged."""
MAX_VALUES = 2**29
"""Of one stretch, channels times frames, 2 GiB as they are read: a small file of silence can hold terabytes."""
CUT_OFF = 0.05
"""Seconds that may be missing at the end of a file."""
OVERHANG = 0.5
"""Seconds by which a stretch may reach beyond the end of its file: segment times are rounded."""
BORDER = 0.5
"""Seconds by which a header may be wrong: what is so near to the longest length is decoded, and then measured."""
LOUDEST = 2.0**31
"""Float samples have 1 as full scale; some hold integers. What is above this is no sound."""
_AAC_PADDING = 4096  # samples
_PADDING = {"MPEG_LAYER_III": 2 * 1152}  # samples that encoders add, and that not all headers leave out
_LEAD = {"MPEG_LAYER_III": 4 * 1152}  # samples before a stretch, to which its first frames refer
_BLOCK = 2**22  # values read at a time: what a damaged header promises is not allocated
_PLACEHOLDER = 0x7FFFF000  # bytes; headers written into a pipe claim this or more
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes at most (RFC 3533)
_SHORTER = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""What libsndfile logs of a file that has fewer bytes than its header says."""
_SPHERE_COUNT = re.compile(rb"sample_count -i (\d+)")
FRAME = 400  # samples: 25 ms at 16 kHz
FULL_SCALE = 0.99  # of the largest value; 8-bit PCM ends at 127/128
SILENCE_DBFS = -120.0  # what digital silence is reported as

FINGERPRINT_BINS = 32  # equal parts of the active stretch
FINGERPRINT_HZ = np.geomspace(200.0, 3400.0, 10)  # band edges: what a telephone line keeps
FINGERPRINT_BITS = (FINGERPRINT_BINS - 1) * (len(FINGERPRINT_HZ) - 2)  # 31 * 8 = 248
_WINDOW = np.hanning(512).astype(np.float32)
_BANDS = np.searchsorted(np.fft.rfftfreq(512, 1 / SAMPLING_RATE), FINGERPRINT_HZ)

SUFFIXES = frozenset(
    ".wav .wave .flac .mp3 .ogg .oga .opus .aiff .aif .aifc .sph .wv1 .wv2 .au .snd .caf .w64 .rf64".split()
    + ".m4a .mp4 .aac .wma .webm".split()
)
"""Names that audio goes by. What a file is, is decided by its first bytes."""
HEADERLESS = frozenset({".raw", ".pcm", ".s16", ".s16le"})
_PYAV = {b"ftyp": "MP4/M4A", b"\x1aE\xdf\xa3": "WebM", b"0&\xb2u": "WMA"}
_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b"NIST", b".snd", b"caff", b"riff")


class AudioError(ValueError):
    """A recording that cannot be read; the message says why and what to do."""


class TooLong(AudioError):
    """A recording that is longer than is asked for, and is not decoded."""

    def __init__(self, seconds: float, longest: float) -> None:
        super().__init__(f"{seconds:.6g} s, at most {longest:g} s are asked for")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Samples as they came, before mixing down and resampling."""

    samples: Samples  # T, C
    sampling_rate: int
    format: str


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How to read a file that has no header."""

    sampling_rate: int
    subtype: str = "PCM_16"
    channels: int = 1


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself, without decoding it."""

    sampling_rate: int
    channels: int
    seconds: float
    format: str


def sniff(head: bytes) -> bool:
    """Whether the first bytes of a file are those of audio, whatever its name says."""
    if head.startswith(_MAGIC) or _pyav_name(head) is not None:
        return True
    # An MPEG audio frame: eleven set bits, then a version, a layer, a bit rate and a sampling rate that exist. Arrow's
    # streams, and so our own shards, begin with 32 set bits.
    return (
        len(head) > 2
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08
        and head[1] & 0x06 != 0
        and head[2] & 0xF0 != 0xF0
        and head[2] & 0x0C != 0x0C
    )


def _pyav_name(head: bytes) -> str | None:
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # a frame of AAC in ADTS
        return "AAC"
    return _PYAV.get(head[4:8] if head[4:8] == b"ftyp" else head[:4])


def _why_unreadable(head: bytes, size: int, error: soundfile.LibsndfileError) -> str:
    if size == 0:
        return "the file is empty (0 bytes)"
    if head.startswith(b"NIST_1A") and (b"shorten" in head or b"wavpack" in head):
        return "compressed SPHERE: convert it with `sph2pipe -f wav IN OUT`"
    if sniff(head):
        return f"{error.error_string.rstrip('.')} ({size} bytes); it may be cut off or damaged"
    if head.isascii() and head[:64].decode().replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"it is text, not audio: {head[:40].decode()!r}"
    return "no audio header is recognised; headerless PCM needs the reader's `raw` option"


def _head(file: Path | bytes) -> tuple[bytes, int]:
    if isinstance(file, bytes):
        return file[:1024], len(file)
    try:
        with open(file, "rb", opener=_without_waiting) as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise AudioError(f"{file} is no file but a pipe, a device or a socket: write its sound into a file")
            return stream.read(1024), found.st_size
    except AudioError:
        raise
    except (OSError, ValueError) as error:
        raise AudioError(f"{file} cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe, too, is opened at once


class _Bytes(io.BytesIO):
    """The bytes of a file. A damaged header makes libsndfile seek to before its beginning: no place to go."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # raised in a callback from C, it would be printed with its traceback
            return self.tell()


def _open(file: Path | bytes, raw: RawFormat | None, head: bytes) -> soundfile.SoundFile:
    source = _Bytes(file) if isinstance(file, bytes) else str(file)
    if raw is None:
        if isinstance(source, str) and head.startswith(b"\xff"):
            # Beside an MP3 without a tag, libsndfile takes what macOS writes as `._NAME` for the header of
            # a Sound Designer file. A descriptor has no name.
            return soundfile.SoundFile(os.open(source, os.O_RDONLY))
        return soundfile.SoundFile(source)
    return soundfile.SoundFile(
        source, samplerate=raw.sampling_rate, channels=raw.channels, subtype=raw.subtype, format="RAW"
    )


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"its header claims {rate} Hz: it is damaged")


def _check_length(promised: int, there: int, rate: int, allowed: float) -> None:
    if promised - there > max(allowed, CUT_OFF * rate):
        raise AudioError(f"is cut off: {promised / rate:g} s are promised, {there / rate:g} s are there")


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What is to be read of a file, in frames."""

    start: float
    duration: float | None
    rate: int
    total: int
    """As its header says; 0 if it does not."""
    channels: int

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        if not (math.isfinite(self.start) and self.start >= 0):
            raise AudioError(f"a stretch from {self.start:g} s on is asked for")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise AudioError(f"a stretch of {self.duration:g} s is asked for")
        if self.total and self.first >= self.total:
            raise AudioError(f"starts at {self.start:g} s but the file lasts {self.total / self.rate:g} s")
        if self.wanted > MAX_SECONDS * self.rate:
            raise AudioError(f"lasts {self.wanted / self.rate / 3600:.1f} h; give segments, or cut it up first")

    @property
    def first(self) -> int:
        return round(self.start * self.rate)

    @property
    def wanted(self) -> int:
        return max(0, self.total - self.first) if self.duration is None else round(self.duration * self.rate)

    def check_size(self, frames: int) -> None:
        """Complains if so many frames are more than is ever read."""
        if frames * self.channels > MAX_VALUES:
            most = f"{MAX_VALUES * 4 / 2**30:g} GiB"
            raise AudioError(f"takes over {most} with its {self.channels} channels at {self.rate} Hz: cut it up first")

    def check(self, read: int, allowed: int = 0) -> None:
        """Complains if too few frames could be read."""
        there = self.first + read
        if self.duration is None:
            _check_length(self.total, there, self.rate, allowed)
        elif self.wanted - read > OVERHANG * self.rate:
            end = there / self.rate
            raise AudioError(f"{self.duration:g} s from {self.start:g} s on are asked for, the file ends at {end:g} s")

    def limit(self, longest: float, there: int, allowed: int = 0) -> None:
        """Complains if it is too long to be decoded; `there` are the frames that the file seems to have."""
        found = there - self.first
        if self.total or self.duration is not None:
            found = min(self.wanted, found)
        if found > (longest + BORDER) * self.rate:
            self.check(found, allowed)
            raise TooLong(found / self.rate, longest)


def _promised(sound: soundfile.SoundFile, head: bytes) -> int:
    """The frames that a header promises: libsndfile corrects it silently where the file is shorter."""
    frames: int = sound.frames
    if frames >= 2**62:
        raise AudioError("its header does not say how long it is, as encoders write it into a pipe: encode it again")
    if sound.format == "NIST" and (count := _SPHERE_COUNT.search(head)):
        return max(frames, int(count[1]))
    for said, found in _SHORTER.findall(sound.extra_info):
        if _PLACEHOLDER > int(said) > int(found) > 0:
            return round(frames * int(said) / int(found))
    return frames


def _check_ogg(file: Path | bytes) -> None:
    """Complains if the last page of an Ogg file is not whole: libsndfile then reads up to the page before."""
    if isinstance(file, bytes):
        tail = file[-2 * _OGG_PAGE :]
    else:
        with open(file, "rb") as stream:
            stream.seek(max(0, file.stat().st_size - 2 * _OGG_PAGE))
            tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]  # a header of 27 bytes, the last of which counts the sizes that follow
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 + len(sizes) + sum(sizes) or not sizes:
        raise AudioError("is cut off: its last page is not whole")


def _read(sound: soundfile.SoundFile, stretch: _Stretch) -> Samples:
    skip = stretch.first
    if skip > sound.frames:
        _check_length(stretch.total, sound.frames, stretch.rate, 0)
    if skip and sound.seekable():
        begin = max(0, skip - _LEAD.get(sound.subtype, 0))
        sound.seek(begin)
        skip -= begin
    blocks: list[Samples] = []
    left = skip + stretch.wanted
    stretch.check_size(min(left, sound.frames))
    while left > 0:
        try:
            block = sound.read(min(left, _BLOCK // sound.channels), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            there, rate = max(0, sound.tell()), stretch.rate
            raise AudioError(
                f"is cut off or damaged: {stretch.total / rate:g} s are promised, {there / rate:g} s could be read "
                f"({error.error_string.removeprefix('Error : ').rstrip('.')})"
            ) from error
        if not len(block):
            break
        blocks.append(block)
        left -= len(block)
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [np.zeros((0, sound.channels), np.float32)])
    return samples[skip:]


def _checked(samples: Samples) -> Samples:
    """Float samples, if they can be sound."""
    if samples.size and not np.abs(samples).max() < LOUDEST:  # NaN is not less
        raise AudioError("holds values that are no sound: not a number, or far beyond full scale")
    return samples


def _claimed_seconds(container: Any, stream: Any) -> float:
    """How long a file says it is; 0 where it does not."""
    if container.format.name == "aac":  # nothing but frames: FFmpeg guesses from the rate of the first ones
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Of WebM only the whole has a duration, in microseconds; beside a film, the sound may be shorter.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _decode_pyav(file: Path | bytes, kind: str, start: float, duration: float | None, longest: float) -> Decoded:
    av = require("av", extra="m4a", what=f"reading {kind}")
    try:
        with av.open(io.BytesIO(file) if isinstance(file, bytes) else str(file)) as container:
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(f"{kind} holds sound in a form for which there is no decoder")
            rate, channels = stream.rate or 0, stream.codec_context.channels
            claimed = round(_claimed_seconds(container, stream) * rate)
            stretch = _Stretch(start, duration, rate, claimed, channels)
            if claimed:
                stretch.limit(longest, claimed, _AAC_PADDING)
            most = stretch.first + (longest + BORDER) * rate
            resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
            blocks = [np.zeros((0, channels), np.float32)]
            last = stretch.first + (round(MAX_SECONDS * rate) if duration is None else stretch.wanted)
            read = kept = 0
            for frame in container.decode(stream):
                for out in resampler.resample(frame):
                    blocks.append(out.to_ndarray().reshape(-1, channels))
                    read += len(blocks[-1])
                    kept += len(blocks[-1])
                stretch.check_size(kept)
                if read > most and len(blocks) > 1:
                    blocks, kept = blocks[:1], 0  # what it does not say of itself is counted, but not kept
                if read > last:
                    break
            name = f"{kind}/{stream.codec_context.name.upper()}"
    except AudioError:
        raise
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise AudioError(f"{kind} cannot be decoded: {error}") from error
    if stretch.first >= read > 0:
        raise AudioError(f"starts at {start:g} s but the file lasts {read / rate:g} s")
    if duration is None and read > last:
        raise AudioError(f"lasts over {MAX_SECONDS / 3600:g} h; give segments, or cut it up first")
    stretch.limit(longest, min(read, last), _AAC_PADDING)
    samples = np.concatenate(blocks)
    samples = samples[stretch.first : last]
    stretch.check(len(samples), allowed=_AAC_PADDING)
    return Decoded(np.ascontiguousarray(_checked(samples), np.float32), rate, name)


def decode(
    file: Path | bytes,
    *,
    start: float = 0.0,
    duration: float | None = None,
    raw: RawFormat | None = None,
    longest: float = math.inf,
) -> Decoded:
    """Reads a recording or a stretch of it.

    Args:
        file: A path, or the bytes of a file.
        start: Seconds.
        duration: Seconds; None means to the end.
        raw: For headerless PCM. A file that has a header after all is read by it.
        longest: Seconds. What is clearly longer is not decoded.

    Raises:
        TooLong: It lasts longer than `longest` and `BORDER`.
        AudioError: Missing, empty, of an unknown format, damaged, cut off, or shorter than is asked for.
        MissingExtra: Its format needs PyAV, which is not installed.
    """
    head, size = _head(file)
    raw = None if head.startswith(_MAGIC) else raw
    kind = _pyav_name(head)
    if kind is not None and raw is None:
        return _decode_pyav(file, kind, start, duration, longest)
    try:
        with _open(file, raw, head) as sound:
            stretch = _Stretch(start, duration, sound.samplerate, _promised(sound, head), sound.channels)
            if sound.format == "OGG" and duration is None:
                _check_ogg(file)
            stretch.limit(longest, sound.frames, _PADDING.get(sound.subtype, 0))
            samples = _read(sound, stretch)
            stretch.check(len(samples), _PADDING.get(sound.subtype, 0))
            if sound.subtype in ("FLOAT", "DOUBLE"):
                _checked(samples)
            return Decoded(samples, sound.samplerate, f"{sound.format}/{sound.subtype}")
    except soundfile.LibsndfileError as error:
        raise AudioError(_why_unreadable(head, size, error)) from error


def header(file: Path | bytes, raw: RawFormat | None = None) -> Header:
    """Reads what a file says of itself.

    Raises:
        AudioError, MissingExtra: As `decode`.
    """
    head, size = _head(file)
    raw = None if head.startswith(_MAGIC) else raw
    if _pyav_name(head) is not None and raw is None:
        sound = decode(file)
        frames, channels = sound.samples.shape
        return Header(sound.sampling_rate, channels, frames / sound.sampling_rate, sound.format)
    try:
        with _open(file, raw, head) as f:
            _check_rate(f.samplerate)
            if f.format == "OGG":
                _check_ogg(file)
            _check_length(_promised(f, head), f.frames, f.samplerate, 0)
            return Header(f.samplerate, f.channels, f.frames / f.samplerate, f"{f.format}/{f.subtype}")
    except soundfile.LibsndfileError as error:
        raise AudioError(_why_unreadable(head, size, error)) from error


def mono(decoded: Decoded, channel: int | None = None) -> Samples:
    """One channel, or all mixed down, at 16 kHz.

    Raises:
        AudioError: The channel does not exist.
    """
    samples = decoded.samples
    channels = samples.shape[1]
    if channel is not None:
        if not 0 <= channel < channels:
            raise AudioError(f"channel {channel} is asked for, the file has {channels} (counted from 0)")
        flat = samples[:, channel]
    else:
        flat = samples[:, 0] if channels == 1 else samples.mean(axis=1)  # T, C -> T
    if decoded.sampling_rate != SAMPLING_RATE:
        flat = soxr.resample(flat, decoded.sampling_rate, SAMPLING_RATE, "HQ")
    return np.ascontiguousarray(flat, np.float32)


def _dbfs(value: float) -> float:
    return max(SILENCE_DBFS, 20 * float(np.log10(value))) if value > 0 else SILENCE_DBFS


def speech_dbfs(samples: Samples) -> float:
    """Level of the loudest tenth of 25 ms frames."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)  # T -> F, 400
    if not len(frames):
        return _dbfs(float(np.sqrt(np.mean(samples**2)))) if len(samples) else SILENCE_DBFS
    energy = np.einsum("ij,ij->i", frames, frames) / FRAME  # F
    loudest = max(1, len(energy) // 10)
    return _dbfs(float(np.sqrt(np.partition(energy, -loudest)[-loudest:].mean())))


def clipped(samples: Samples) -> float:
    """Share of samples within runs of three or more at full scale; any channel counts."""
    if not samples.size:
        return 0.0
    full = np.abs(samples) >= FULL_SCALE  # T, C
    if not full.any():
        return 0.0
    inside = full[2:] & full[1:-1] & full[:-2]
    return float(inside.any(axis=1).mean()) if len(inside) else 0.0


def fingerprint(samples: Samples) -> bytes:
    """248 bits of spectral shape, after Haitsma and Kalker (ISMIR 2002, section 4.2).

    The active stretch is cut into 32 equal parts and 9 bands; a bit says whether the slope between
    neighbouring bands rises from one part to the next. Level, codec and rate hardly change it;
    another take of the same words does.
    """
    if len(samples) < 2 * len(_WINDOW):
        return b""
    hop = max(64, len(samples) // (8 * FINGERPRINT_BINS))
    windows = np.lib.stride_tricks.sliding_window_view(samples, len(_WINDOW))[::hop]  # F, 512
    spectrum = np.fft.rfft(windows * _WINDOW, axis=1)  # F, 257
    power = spectrum.real**2 + spectrum.imag**2
    bands = np.add.reduceat(power, _BANDS, axis=1)[:, :-1]  # F, 9
    total = bands.sum(axis=1)
    active = np.flatnonzero(total > total.max() * 10**-3.5)  # within 35 dB of the loudest
    if len(active) < 2:
        return b""
    bands = bands[active[0] : active[-1] + 1]
    edges = np.linspace(0, len(bands), FINGERPRINT_BINS + 1).astype(int)[:-1]
    if edges[-1] >= len(bands) or len(np.unique(edges)) < FINGERPRINT_BINS:
        return b""
    parts = np.log(np.add.reduceat(bands, edges, axis=0) + 1e-12)  # 32, 9
    slope = np.diff(parts, axis=1)  # 32, 8
    return np.packbits(np.diff(slope, axis=0) > 0).tobytes()  # 31 * 8 bits


def encode(samples: Samples) -> bytes:
    """16 kHz mono samples as 16-bit FLAC."""
    return _encode_pcm(_to_pcm(samples))


def _to_pcm(samples: Samples) -> npt.NDArray[np.int16]:
    pcm: npt.NDArray[np.int16] = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return pcm


def _encode_pcm(pcm: npt.NDArray[np.int16]) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, pcm, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def store(
    samples: Samples,
    *,
    sampling_rate: int = SAMPLING_RATE,
    channels: int = 1,
    kind: str = "",
    clipped: float = 0.0,
    flac: bytes | None = None,
) -> Audio:
    """16 kHz mono samples as they are stored, measured.

    Args:
        samples: T, float32 in [-1, 1].
        sampling_rate: Of the source in Hz.
        channels: Of the source.
        kind: The source's format.
        clipped: Share of clipped samples in the source.
        flac: The same samples already encoded.
    """
    pcm = _to_pcm(samples)
    return Audio(
        flac=flac or _encode_pcm(pcm),
        seconds=len(pcm) / SAMPLING_RATE,
        sampling_rate=sampling_rate,
        channels=channels,
        format=kind,
        peak_dbfs=round(_dbfs(float(np.abs(samples).max(initial=0.0))), 2),
        speech_dbfs=round(speech_dbfs(samples), 2),
        clipped=round(clipped, 6),
        digest=xxhash.xxh3_128_hexdigest(pcm.tobytes()),
        fingerprint=fingerprint(samples),
    )


def load(
    file: Path | bytes,
    *,
    start: float = 0.0,
    duration: float | None = None,
    channel: int | None = None,
    raw: RawFormat | None = None,
    longest: float = math.inf,
) -> Audio:
    """A recording as it is stored: decoded once, encoded at most once.

    16-bit 16 kHz mono FLAC is kept byte for byte.

    Raises:
        AudioError: As `decode` and `mono`; or there is not one sample.
    """
    decoded = decode(file, start=start, duration=duration, raw=raw, longest=longest)
    if not len(decoded.samples):
        raise AudioError("holds no samples")
    samples = mono(decoded, channel)
    if not len(samples):
        raise AudioError(f"holds {len(decoded.samples)} samples: too few")
    channels = decoded.samples.shape[1]
    as_it_is = decoded.format == "FLAC/PCM_16" and (decoded.sampling_rate, channels, start, duration) == (
        SAMPLING_RATE,
        1,
        0.0,
        None,
    )
    flac = None
    if as_it_is:
        flac = file if isinstance(file, bytes) else file.read_bytes()
        flac = flac if flac.startswith(b"fLaC") else None  # a tag before it: not all decoders skip that
    return store(
        samples,
        sampling_rate=decoded.sampling_rate,
        channels=channels,
        kind=decoded.format,
        clipped=clipped(decoded.samples),
        flac=flac,
    )


def samples_of(audio: Audio) -> Samples:
    """The 16 kHz mono samples of stored speech. Shape T, float32 in [-1, 1]."""
    return np.asarray(soundfile.read(io.BytesIO(audio.flac), dtype="float32")[0], np.float32)
