"""Decoding: every format at every depth, rate and channel count, and every way in which a file is broken."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.audio import (
    FULL_SCALE,
    MAX_SECONDS,
    AudioError,
    RawFormat,
    TooLong,
    clipped,
    decode,
    encode,
    fingerprint,
    header,
    load,
    mono,
    samples_of,
    sniff,
    speech_dbfs,
    store,
)
from pipeline.plugins import MissingExtra
from tests.reading import Entry, index

LOSSY = 15.0  # dB: what the weakest codecs keep
WAV = {
    "PCM_U8": 34,
    "PCM_16": 80,
    "PCM_24": 100,
    "PCM_32": 100,
    "FLOAT": 100,
    "DOUBLE": 100,
    "ULAW": 36,
    "ALAW": 36,
    "MS_ADPCM": LOSSY,
    "IMA_ADPCM": LOSSY,
    "GSM610": 14,
}
"""Depths of WAV, and how many dB of signal to noise each keeps."""
OTHERS = {
    ("WAVEX", "PCM_24"): 100,
    ("RF64", "PCM_16"): 80,
    ("W64", "PCM_16"): 80,
    ("FLAC", "PCM_S8"): 34,
    ("FLAC", "PCM_16"): 80,
    ("FLAC", "PCM_24"): 100,
    ("MP3", "MPEG_LAYER_III"): 30,
    ("OGG", "VORBIS"): 25,
    ("OGG", "OPUS"): 18,
    ("AIFF", "PCM_S8"): 34,
    ("AIFF", "PCM_16"): 80,
    ("AIFF", "PCM_24"): 100,
    ("AIFF", "FLOAT"): 100,
    ("AIFF", "ULAW"): 36,
    ("NIST", "PCM_16"): 80,
    ("NIST", "PCM_24"): 100,
    ("NIST", "ULAW"): 36,
    ("NIST", "ALAW"): 36,
    ("AU", "PCM_16"): 80,
    ("AU", "ULAW"): 36,
    ("CAF", "PCM_16"): 80,
    ("CAF", "ALAC_24"): 100,
}
FORMATS = {("WAV", subtype): kept for subtype, kept in WAV.items()} | OTHERS
every_format = pytest.mark.parametrize(("form", "subtype"), FORMATS, ids=[f"{f}-{s}" for f, s in FORMATS])


def voice(rate: int, seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    """Four sines below 3 kHz that fade in and out; each channel is weaker than the one before. Shape T, C."""
    time = np.arange(round(seconds * rate)) / rate
    partials = ((0.3, 220, 0.0), (0.15, 510, 1.0), (0.1, 1370, 2.0), (0.05, 2950, 0.5))
    sound = sum(a * np.sin(2 * np.pi * hz * time + phase) for a, hz, phase in partials)
    sound = sound * np.clip(np.minimum(time, seconds - time) / 0.05, 0, 1)
    return np.stack([sound * 0.8**c for c in range(channels)], axis=1)


def file_of(form: str, subtype: str, rate: int = 16_000, channels: int = 1, seconds: float = 1.0) -> bytes:
    """A file of that voice."""
    stream = io.BytesIO()
    soundfile.write(stream, voice(rate, seconds, channels), rate, format=form, subtype=subtype)
    return stream.getvalue()


def kept(samples: np.ndarray, channels: int = 1, seconds: float = 1.0) -> float:
    """Signal to noise in dB of 16 kHz mono samples, compared with that voice."""
    wanted = voice(16_000, seconds, channels).mean(axis=1)
    length = min(len(wanted), len(samples))
    noise = wanted[:length] - samples[:length]
    return float(10 * np.log10((wanted[:length] ** 2).sum() / ((noise**2).sum() + 1e-20)))


def pyav_file(form: str, codec: str, sound: np.ndarray, rate: int = 16_000) -> bytes:
    """A file of a format that only PyAV writes."""
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    layout = {1: "mono", 2: "stereo"}[sound.shape[1]]
    with av.open(stream, "w", format=form) as container:
        out = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T, np.float32), format="fltp", layout=layout)
        frame.rate = rate
        context = out.codec_context
        shape = av.AudioResampler(
            format=context.format, layout=layout, rate=rate, frame_size=context.frame_size or 1024
        )
        for part in [*shape.resample(frame), *shape.resample(None), None]:
            container.mux(out.encode(part))
    return stream.getvalue()


def complaint(file: Path | bytes, **where: Any) -> str:
    """What a file that cannot be read is said to be."""
    with pytest.raises(AudioError) as error:
        load(file, **where)
    return str(error.value)


class TestFormats:
    """What comes out is what was put in."""

    @every_format
    @pytest.mark.parametrize("from_archive", [True, False], ids=["bytes", "path"])
    def test_every_format_and_depth(self, tmp_path: Path, form: str, subtype: str, from_archive: bool) -> None:
        content = file_of(form, subtype)
        path = tmp_path / "no_name_says_what_it_is"
        path.write_bytes(content)
        file = content if from_archive else path
        decoded = decode(file)
        assert decoded.samples.dtype == np.float32
        assert (decoded.sampling_rate, decoded.format) == (16_000, f"{form}/{subtype}")
        samples = mono(decoded)
        block = 0.02 if "ADPCM" in subtype else 0.001  # seconds: some codecs only know whole blocks
        assert 16_000 <= len(samples) <= 16_000 * (1 + block)
        assert kept(samples) > FORMATS[form, subtype]
        said = header(file)
        assert (said.sampling_rate, said.channels, said.format) == (16_000, 1, f"{form}/{subtype}")
        assert said.seconds == len(decoded.samples) / 16_000
        assert sniff(content[:64])

    @pytest.mark.parametrize(
        "head", [b"\xff" * 4 + b"\x88\x0c\0\0", b"\xff\xfb\xf0\0", b"\xff\xfb\x9c\0", b"\xff\xeb\x90\0"]
    )
    def test_what_is_none_is_not_taken_for_it(self, head: bytes) -> None:
        assert not sniff(head), "Arrow's streams, and MPEG of a rate or version that there is not"

    @pytest.mark.parametrize("channels", [1, 2, 6])
    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])
    def test_any_rate_and_channels_become_16_khz_mono(self, rate: int, channels: int) -> None:
        stored = load(file_of("WAV", "PCM_24", rate, channels))
        assert (stored.sampling_rate, stored.channels) == (rate, channels)
        samples = samples_of(stored)
        assert samples.ndim == 1
        assert abs(len(samples) - 16_000) <= 1
        assert stored.seconds == len(samples) / 16_000
        assert kept(samples, channels) > 70
        assert soundfile.info(io.BytesIO(stored.flac)).subtype == "PCM_16"

    def test_one_channel_can_be_chosen(self) -> None:
        file = file_of("FLAC", "PCM_16", channels=2)
        left, right = (samples_of(load(file, channel=c)) for c in (0, 1))
        assert kept(left) > 80
        assert kept(right / 0.8) > 80
        assert "channel 2 is asked for, the file has 2 (counted from 0)" in complaint(file, channel=2)
        assert "channel -1" in complaint(file, channel=-1)

    @pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
    def test_headerless_files_are_read_as_the_recipe_says(self, subtype: str) -> None:
        raw = RawFormat(8_000, subtype, 2)
        stream = io.BytesIO()
        soundfile.write(stream, voice(8_000, channels=2), 8_000, format="RAW", subtype=subtype)
        stored = load(stream.getvalue(), raw=raw)
        assert (stored.seconds, stored.channels, stored.format) == (1.0, 2, f"RAW/{subtype}")
        assert kept(samples_of(stored), channels=2) > 35
        assert load(file_of("WAV", "PCM_16"), raw=raw).sampling_rate == 16_000, "a header goes first"

    def test_16_khz_mono_flac_is_kept_byte_for_byte(self, tmp_path: Path) -> None:
        content = file_of("FLAC", "PCM_16")
        path = tmp_path / "a.flac"
        path.write_bytes(content)
        assert load(content).flac == load(path).flac == content
        assert load(content, start=0.5).flac != content

    def test_the_same_samples_in_another_container_are_the_same_sound(self) -> None:
        samples = (voice(16_000) * 32_767).astype(np.int16)
        digests = set()
        for form in ("WAV", "FLAC", "AIFF", "NIST", "CAF"):
            stream = io.BytesIO()
            soundfile.write(stream, samples, 16_000, format=form, subtype="PCM_16")
            digests.add(load(stream.getvalue()).digest)
        assert len(digests) == 1

    def test_an_mp3_beside_what_macos_leaves(self, tmp_path: Path) -> None:
        """libsndfile takes `._a.mp3` for the header of a Sound Designer file."""
        path = tmp_path / "a.mp3"
        path.write_bytes(file_of("MP3", "MPEG_LAYER_III"))
        (tmp_path / "._a.mp3").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(40))
        assert load(path).seconds == header(path).seconds == 1.0

    def test_the_name_of_a_file_may_be_anything(self, tmp_path: Path) -> None:
        for name in ("日本語 é.wav", "a'b\"c\n.flac", "-.mp3"):
            path = tmp_path / name
            path.write_bytes(file_of("WAV", "PCM_16"))
            assert load(path).seconds == 1.0


class TestPyAV:
    """Formats that need the extra `m4a`."""

    @pytest.mark.parametrize(
        ("form", "codec", "rate", "least"),
        [
            ("ipod", "aac", 44_100, 14),
            ("ipod", "alac", 16_000, 80),
            ("mp4", "aac", 16_000, 14),
            ("webm", "libopus", 48_000, 15),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 2])
    def test_they_are_read(self, tmp_path: Path, form: str, codec: str, rate: int, least: float, channels: int) -> None:
        content = pyav_file(form, codec, voice(rate, 1.0, channels), rate)
        path = tmp_path / "a.m4a"
        path.write_bytes(content)
        stored = load(path)
        assert stored.digest == load(content).digest
        assert (stored.sampling_rate, stored.channels) == (rate, channels)
        assert abs(stored.seconds - 1) < 0.15, "AAC pads"
        assert header(path).sampling_rate == rate
        samples = samples_of(stored)
        assert max(kept(samples[shift:], channels) for shift in (0, 1024 * 16_000 // rate)) > least

    def test_raw_aac_does_not_say_how_long_it_is(self) -> None:
        """FFmpeg guesses it from the first frames, which are small where a recording begins quietly."""
        quiet_first = np.concatenate([np.zeros((48_000 * 4, 1)), voice(48_000)])
        stored = load(pyav_file("adts", "aac", quiet_first, 48_000))
        assert abs(stored.seconds - 5) < 0.1
        assert stored.format.startswith("AAC/")

    @pytest.mark.parametrize(("form", "codec"), [("ipod", "aac"), ("webm", "libopus"), ("ipod", "alac")])
    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    def test_a_file_that_is_cut_off(self, form: str, codec: str, part: float) -> None:
        content = pyav_file(form, codec, voice(48_000, 3.0), 48_000)
        told = complaint(content[: int(len(content) * part)])
        assert "cut off" in told or "cannot be decoded" in told

    def test_a_stretch(self) -> None:
        content = pyav_file("ipod", "alac", voice(16_000, 3.0))
        whole = decode(content).samples
        assert np.array_equal(decode(content, start=1.0, duration=0.5).samples, whole[16_000:24_000])
        assert "starts at 5 s but the file lasts" in complaint(content, start=5.0)
        assert "the file ends at" in complaint(content, start=2.0, duration=4.0)

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
        for head, name in {
            b"\0\0\0\x20ftypM4A ": "MP4/M4A",
            b"\x1aE\xdf\xa3": "WebM",
            b"\xff\xf1\x50\x80": "AAC",
        }.items():
            for read in (load, header):
                with pytest.raises(MissingExtra, match=rf"reading {name} needs .*pip install 'earwitness\[m4a\]'"):
                    read(head + bytes(100))
        assert load(file_of("WAV", "PCM_16")).seconds == 1.0, "the others need it not"


class TestStretches:
    """Segments of a recording."""

    @pytest.mark.parametrize(
        ("form", "subtype"),
        [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("NIST", "ULAW"), ("AIFF", "PCM_24")],
    )
    def test_are_those_of_the_whole(self, form: str, subtype: str) -> None:
        content = file_of(form, subtype, 22_050, 2, seconds=3.0)
        whole = decode(content).samples
        for start, duration in ((0.0, 1.0), (0.5, 0.25), (1.23456, 1.0), (2.5, None), (2.9999, None)):
            first = round(start * 22_050)
            end = None if duration is None else first + round(duration * 22_050)
            assert np.allclose(decode(content, start=start, duration=duration).samples, whole[first:end], atol=1e-6)

    def test_may_reach_a_little_beyond_the_end(self) -> None:
        content = file_of("WAV", "PCM_16")
        assert load(content, start=0.5, duration=0.9).seconds == 0.5
        told = complaint(content, start=0.5, duration=1.1)
        assert told == "1.1 s from 0.5 s on are asked for, the file ends at 1 s"

    @pytest.mark.parametrize(
        ("where", "told"),
        [
            ({"start": 1.0}, "starts at 1 s but the file lasts 1 s"),
            ({"start": 1e12}, "but the file lasts 1 s"),
            ({"start": -0.1}, "a stretch from -0.1 s on is asked for"),
            ({"start": float("nan")}, "a stretch from nan s on"),
            ({"start": float("inf")}, "a stretch from inf s on"),
            ({"duration": 0.0}, "a stretch of 0 s is asked for"),
            ({"duration": -1.0}, "a stretch of -1 s"),
            ({"duration": float("nan")}, "a stretch of nan s"),
            ({"duration": MAX_SECONDS + 1}, "lasts 1.0 h; give segments"),
        ],
    )
    def test_that_cannot_be(self, where: dict[str, float], told: str) -> None:
        assert told in complaint(file_of("WAV", "PCM_16"), **where)

    def test_of_a_file_that_is_cut_off_elsewhere(self) -> None:
        """What is asked for is there."""
        for form, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")):
            content = file_of(form, subtype, seconds=4.0)
            assert load(content[: len(content) * 3 // 4], start=0.5, duration=1.0).seconds == 1.0


class TestBroken:
    """A file that cannot be read says why, and never raises anything else."""

    @every_format
    @pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9])
    def test_cut_off(self, form: str, subtype: str, part: float) -> None:
        """Never a shorter recording: its transcript is that of the whole."""
        content = file_of(form, subtype, seconds=4.0)
        cut = content[: int(len(content) * part)]
        assert complaint(cut)
        if form not in {"MP3", "FLAC"}:  # whose headers alone are whole
            with pytest.raises(AudioError):
                header(cut)

    @pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "OPUS")])
    def test_cut_off_says_so(self, form: str, subtype: str) -> None:
        content = file_of(form, subtype, seconds=4.0)
        assert "is cut off" in complaint(content[: len(content) // 2])

    def test_a_few_milliseconds_may_be_missing(self) -> None:
        content = file_of("WAV", "PCM_16", seconds=4.0)
        assert load(content[:-1000]).seconds == 4 - 500 / 16_000

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"", "the file is empty (0 bytes)"),
            (b"This is not a valid WAV file.\n", "it is text, not audio: 'This is not a valid WAV file."),
            (b"<!DOCTYPE html>\r\n\t<p>404", "it is text, not audio: '<!DOCTYPE html>"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "it is text, not audio"),
            (bytes(1000), "no audio header is recognised; headerless PCM needs the reader's `raw` option"),
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "no audio header is recognised"),
            (b"R", "it is text"),
            (b"RIFF", "it may be cut off or damaged"),
            (b"OggS" + bytes(200), "it may be cut off or damaged"),
            (b"fLaC" + bytes(200), "it may be cut off or damaged"),
        ],
    )
    def test_no_audio(self, tmp_path: Path, content: bytes, told: str) -> None:
        path = tmp_path / "a.wav"
        path.write_bytes(content)
        for file in (content, path):
            assert told in complaint(file)
            with pytest.raises(AudioError):
                header(file)

    def test_files_that_cannot_be_opened_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "folder.wav").mkdir()
        (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
        assert complaint(tmp_path / "none.wav") == f"{tmp_path}/none.wav cannot be opened: No such file or directory"
        assert "folder.wav cannot be opened: Is a directory" in complaint(tmp_path / "folder.wav")
        assert "loop.wav cannot be opened: Too many levels" in complaint(tmp_path / "loop.wav")
        assert "cannot be opened" in complaint(tmp_path / "nul\0.wav")

    @pytest.mark.parametrize(
        "packer", ["pcm,embedded-shorten-v2.00", "pcm,embedded-wavpack-v0.9", "ulaw,embedded-shorten-v1.09"]
    )
    def test_compressed_sphere_says_how_to_convert_it(self, packer: str) -> None:
        fields = (
            f"sample_count -i 16000\nsample_rate -i 16000\nchannel_count -i 1\nsample_coding -s{len(packer)} {packer}\n"
        )
        content = f"NIST_1A\n   1024\n{fields}end_head\n".encode().ljust(1024) + b"ajkg\x02" + bytes(500)
        assert complaint(content) == "compressed SPHERE: convert it with `sph2pipe -f wav IN OUT`"

    @pytest.mark.parametrize(
        ("form", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS")]
    )
    def test_a_header_without_samples(self, form: str, subtype: str) -> None:
        assert complaint(file_of(form, subtype, seconds=0.0))

    def test_too_few_samples_to_resample(self) -> None:
        stream = io.BytesIO()
        soundfile.write(stream, np.zeros(1), 192_000, format="WAV")
        assert complaint(stream.getvalue()) == "holds 1 samples: too few"

    @pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
    @pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
    def test_values_that_are_no_sound(self, odd: float, subtype: str) -> None:
        samples = voice(16_000)
        samples[100] = odd
        stream = io.BytesIO()
        soundfile.write(stream, samples, 16_000, format="WAV", subtype=subtype)
        assert "holds values that are no sound" in complaint(stream.getvalue())

    @pytest.mark.parametrize(
        ("rate", "readable"), [(0, False), (1, False), (999, False), (1_000, True), (2**31 - 1, False)]
    )
    def test_rates_that_cannot_be(self, rate: int, readable: bool) -> None:
        content = bytearray(file_of("WAV", "PCM_16"))
        content[24:28] = struct.pack("<I", rate)
        if readable:
            assert load(bytes(content)).sampling_rate == rate
        else:
            assert complaint(bytes(content))

    @pytest.mark.parametrize("channels", [0, 2_000, 65_535])
    def test_channels_that_cannot_be(self, channels: int) -> None:
        content = bytearray(file_of("WAV", "PCM_16"))
        content[22:24] = struct.pack("<H", channels)
        assert complaint(bytes(content))

    @pytest.mark.parametrize("size", [10**6, 2**30, 2**31 - 2**13])
    def test_a_huge_size_that_a_header_claims_is_not_allocated(self, size: int) -> None:
        import resource

        content = bytearray(file_of("WAV", "PCM_16"))
        content[40:44] = struct.pack("<I", size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "cut off" in complaint(bytes(content)) or "lasts" in complaint(bytes(content))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"

    def test_a_huge_flac(self) -> None:
        """Its 36 bits of samples would be 1,193 hours."""
        content = bytearray(file_of("FLAC", "PCM_16"))
        content[21] |= 0x0F
        content[22:26] = b"\xff" * 4
        assert "give segments, or cut it up first" in complaint(bytes(content))

    @pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF024, 0])
    def test_a_wav_that_was_written_into_a_pipe(self, size: int) -> None:
        """`ffmpeg`, `sox` and `arecord` leave such sizes in the header; the sound is whole."""
        content = bytearray(file_of("WAV", "PCM_16"))
        content[4:8] = content[40:44] = struct.pack("<I", size)
        if size:
            assert load(bytes(content)).seconds == 1.0
        else:
            assert complaint(bytes(content)) == "holds no samples"

    @every_format
    def test_damage_anywhere_is_told_and_prints_no_traceback(
        self, form: str, subtype: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        rng, content = random.Random(f"{form}{subtype}"), file_of(form, subtype)
        for _ in range(40):
            damaged = bytearray(content)
            for _ in range(rng.choice([1, 2, 8, 64])):
                place = rng.randrange(min(len(damaged), rng.choice([48, 200, len(damaged)])))
                damaged[place] = rng.choice([0, 255, rng.randrange(256)])
            try:
                stored = load(bytes(damaged))
            except AudioError:
                continue
            assert np.isfinite(samples_of(stored)).all()
        assert "Traceback" not in capfd.readouterr().err

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from(
            [b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b"NIST", b".snd", b"caff", b"\xff\xfb", b""]
        ),
        st.binary(max_size=300),
    )
    def test_any_bytes_are_audio_or_an_error(self, magic: bytes, content: bytes) -> None:
        for read in (load, header):
            with contextlib.suppress(AudioError):
                read(magic + content)


class TestStored:
    """What is kept of a recording."""

    @settings(max_examples=60, deadline=None)
    @given(arrays.arrays(np.float32, st.integers(1, 4000), elements=st.floats(-1, 1, width=32)))
    def test_what_is_encoded_is_decoded(self, samples: np.ndarray) -> None:
        again = decode(encode(samples))
        assert again.samples.shape == (len(samples), 1)
        assert again.sampling_rate == 16_000
        assert np.abs(again.samples[:, 0] - samples).max() <= 1 / 32_768
        stored = store(samples)
        assert np.array_equal(samples_of(stored), again.samples[:, 0])
        assert stored.seconds == len(samples) / 16_000
        assert store(samples_of(stored)).digest == stored.digest, "a second time, nothing is lost"

    def test_what_is_too_loud_is_cut_and_does_not_wrap(self) -> None:
        assert samples_of(store(np.array([2.0, -3.0, 0.5], np.float32))).tolist() == [32_767 / 32_768, -1.0, 0.5]

    def test_levels(self) -> None:
        time = np.arange(16_000) / 16_000
        sine = np.sin(2 * np.pi * 400 * time).astype(np.float32)
        assert store(sine).peak_dbfs == pytest.approx(0, abs=0.01)
        assert speech_dbfs(sine) == pytest.approx(-3.01, abs=0.01), "a sine's mean square is a half"
        with_pauses = np.concatenate([np.zeros(48_000, np.float32), sine])
        assert speech_dbfs(with_pauses) == pytest.approx(-3.01, abs=0.01), "silence around it does not lower it"
        assert store(np.zeros(16_000, np.float32)).speech_dbfs == -120
        assert speech_dbfs(np.zeros(0, np.float32)) == -120

    def test_clipping_is_runs_at_full_scale(self) -> None:
        assert clipped(voice(16_000)) == 0
        samples = voice(16_000)
        samples[1_000], samples[2_000:2_002] = 1.0, -1.0
        assert clipped(samples) == 0, "single peaks may touch it"
        samples[3_000:3_160] = FULL_SCALE
        assert clipped(samples) == pytest.approx(0.01, abs=0.001)
        assert clipped(np.zeros((0, 1))) == 0
        loud = np.clip(8 * voice(16_000), -1, 1)
        stream = io.BytesIO()
        soundfile.write(stream, loud, 16_000, format="WAV", subtype="PCM_U8")
        assert load(stream.getvalue()).clipped > 0.3, "8 bits end at 127/128"

    @pytest.mark.parametrize(
        ("form", "subtype", "rate"),
        [("MP3", "MPEG_LAYER_III", 44_100), ("OGG", "OPUS", 16_000), ("WAV", "ULAW", 8_000)],
    )
    def test_a_fingerprint_survives_a_codec_and_not_another_recording(self, form: str, subtype: str, rate: int) -> None:
        def babble(seed: int) -> np.ndarray:
            rng = np.random.default_rng(seed)
            envelope = np.repeat(rng.uniform(0.05, 0.5, 30), rate // 10)
            pitch = np.repeat(rng.uniform(200, 1500, 30), rate // 10)
            return envelope * np.sin(2 * np.pi * np.cumsum(pitch) / rate) + rng.normal(0, 0.02, len(envelope))

        def print_of(seed: int, form: str, subtype: str) -> int:
            stream = io.BytesIO()
            soundfile.write(stream, babble(seed), rate, format=form, subtype=subtype)
            return int.from_bytes(load(stream.getvalue()).fingerprint)

        own = print_of(1, "FLAC", "PCM_16")
        assert (own ^ print_of(1, form, subtype)).bit_count() < 248 * 0.2
        assert (own ^ print_of(2, form, subtype)).bit_count() > 248 * 0.3
        assert fingerprint(np.zeros(100, np.float32)) == b"", "too short to have one"


@pytest.fixture(scope="module")
def known(speech: Path) -> list[tuple[Path, Entry]]:
    """The loose files of INDEX.tsv with what a person found in them."""
    return [(speech / e.path, e) for e in index(speech).values() if "!" not in e.path]


def test_real_recordings_are_read_as_a_person_read_them(known: list[tuple[Path, Entry]]) -> None:
    read = broken = 0
    for path, entry in known:
        if entry.seconds is None:
            assert complaint(path), entry.path
            broken += 1
            continue
        said = header(path)
        assert (said.sampling_rate, said.channels, said.format) == (entry.sampling_rate, entry.channels, entry.format)
        assert said.seconds == pytest.approx(entry.seconds, abs=0.01), entry.path
        read += 1
    assert read > 350
    assert broken > 40


def test_the_same_speech_in_many_formats(speech: Path) -> None:
    """`one two three` with 8 to 32 bits, in mono and stereo; and Kennedy in stereo at 44.1 kHz, in mono, as MP3."""
    files = sorted((speech / "uberi_formats" / "tests").glob("audio-*"))
    prints = [int.from_bytes(load(f).fingerprint) for f in files]
    assert len(files) == 8
    assert all((prints[0] ^ other).bit_count() < 248 * 0.3 for other in prints)
    kennedy = [load(speech / "jfk" / f"jfk.{suffix}") for suffix in ("flac", "wav", "mp3")]
    assert all(abs(k.seconds - 11) < 0.01 for k in kennedy)
    first = int.from_bytes(kennedy[0].fingerprint)
    assert all((first ^ int.from_bytes(k.fingerprint)).bit_count() < 248 * 0.15 for k in kennedy)


class TestTooLong:
    """What is longer than is asked for is not decoded."""

    @pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
    def test_its_header_is_enough(self, tmp_path: Path, form: str) -> None:
        path = tmp_path / "long"
        soundfile.write(path, voice(16_000, 60), 16_000, format=form)
        load(path, longest=60)
        tracemalloc.start()
        with pytest.raises(TooLong, match=r"^60(\.0\d+)? s, at most 30 s are asked for$"):
            load(path, longest=30)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2**20, "60 s would take 3.8 MB"
        assert load(path, longest=30, start=1.0, duration=29).seconds == 29

    def test_a_stretch_says_how_long_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        soundfile.write(path, voice(8_000, 20), 8_000)
        with pytest.raises(TooLong, match="15 s, at most 9 s"):
            load(path, longest=9, start=3, duration=15)
        with pytest.raises(AudioError, match="the file ends at 20 s") as caught:
            load(path, longest=9, start=3, duration=25)
        assert not isinstance(caught.value, TooLong)

    def test_at_the_border_it_is_measured(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        soundfile.write(path, voice(8_000, 10)[: 8_000 * 9 + 400], 8_000)
        assert load(path, longest=9).seconds == pytest.approx(9.05)

    def test_a_header_that_lies_is_told_as_ever(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        soundfile.write(path, voice(8_000, 60), 8_000)
        path.write_bytes(path.read_bytes()[: 20 * 16_000])
        with pytest.raises(AudioError, match="is cut off: 60 s are promised") as caught:
            load(path, longest=30)
        assert not isinstance(caught.value, TooLong)

    def test_with_pyav(self) -> None:
        for form, codec in (("ipod", "aac"), ("adts", "aac"), ("webm", "libopus")):
            content = pyav_file(form, codec, voice(48_000, 20), 48_000)
            with pytest.raises(TooLong, match=r"^20(\.\d+)? s, at most 9 s"):
                load(content, longest=9)
            load(content, longest=20)
