"""Effects: each does to a sound what it says, as far as can be measured, and never breaks one."""

from __future__ import annotations

import io
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import audio, plugins, seeds
from pipeline.audio import Samples
from pipeline.effects.base import Draw, Effect, EffectError, Told
from pipeline.tts.base import Line
from pipeline.tts.espeak import Espeak
from schemas.arrow import SAMPLING_RATE
from tests.examples import sentences

EFFECTS = plugins.names("effects")
SNR_ERROR = 0.5  # dB


def effect(name: str, **options: Any) -> Effect:
    if name == "tempo":
        pytest.importorskip("python_stretch")
    made: Effect = plugins.load("effects", name)(**options)
    made.check()
    return made


def draw(*parts: object, **fields: Any) -> Draw:
    return Draw(seeds.rng("test", *parts), **fields)


@lru_cache(maxsize=32)
def spoken(number: int) -> Samples:
    """Synthetic speech: silent between the words."""
    voice = ("en-us+f2", "en+m3", "en-gb-scotland+f4", "en-us+m7")[number % 4]
    (said,) = Espeak().speak([Line(sentences("en")[number], voice, "en")])
    assert isinstance(said, np.ndarray)
    return said


@lru_cache(maxsize=32)
def recorded(number: int) -> Samples:
    """The same as a recorder hears it: a pause before it, hiss and hum, another level."""
    rng = np.random.default_rng(number)
    said = np.concatenate([np.zeros(rng.integers(0, 2 * SAMPLING_RATE), np.float32), spoken(number)])
    hum = np.sin(2 * np.pi * 50 * np.arange(len(said)) / SAMPLING_RATE) + rng.normal(0, 1, len(said))
    return np.asarray(10 ** rng.uniform(-1.2, 0) * (said + 0.001 * hum), np.float32)


def applied(made: Effect, samples: Samples, *parts: object, **fields: Any) -> tuple[Samples, Told]:
    changed, told = made.apply(samples, draw(*parts, **fields))
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert np.abs(changed).max(initial=0.0) <= 1
    return changed, told


# Noise.


def active_level(samples: Samples) -> float:
    """Mean square of the 25 ms frames within 20 dB of the loudest tenth, written down anew, frame by frame."""
    frames = [samples[i : i + 400].astype(float) for i in range(0, len(samples) - 399, 400)]
    energies = sorted((float(frame @ frame) / 400 for frame in frames), reverse=True)
    loudest = sum(energies[: max(1, len(energies) // 10)]) / max(1, len(energies) // 10)
    active = [energy for energy in energies if energy >= loudest / 100]
    return sum(active) / len(active)


def measured_snr(speech: Samples, heard: Samples) -> float:
    """From the parts: what is heard without the speech in it is the noise."""
    kept = 1.0
    if np.abs(heard).max() > 0.999:  # both were made quieter alike
        kept = float(heard.astype(float) @ speech) / float(speech.astype(float) @ speech)
    noise = heard - kept * speech
    return 10 * float(np.log10(kept**2 * active_level(speech) / np.mean(noise.astype(float) ** 2)))


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noises of all sorts: short and long, other rates and formats, bursts, silence, one that is damaged."""
    folder = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(3)
    (folder / "street").mkdir()
    hiss = rng.normal(0, 0.1, (70 * 8000, 1))
    soundfile.write(folder / "street" / "long.flac", hiss, 8000)
    bursts = np.repeat(rng.uniform(0, 1, 60) ** 4, 800)[:, None] * rng.normal(0, 0.2, (48_000, 2))
    soundfile.write(folder / "street" / "bursts.wav", bursts, 48_000)
    soundfile.write(folder / "short.wav", rng.normal(0, 0.02, 1600), 16_000)
    soundfile.write(folder / "hum.ogg", 0.2 * np.sin(np.arange(44_100 * 3) * 0.014), 44_100)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    (folder / "damaged.wav").write_bytes(b"RIFF....WAVEfmt nothing more")
    (folder / "notes.txt").write_text("not a noise")
    (folder / ".hidden.wav").write_bytes(b"RIFF")
    return folder


@pytest.mark.parametrize("source", ["white", "pink", "babble", "folder"])
@pytest.mark.parametrize("speech", [spoken, recorded])
def test_the_snr_is_the_one_asked_for(speech: Any, source: str, noises: Path) -> None:
    """25 cases each, 200 together."""
    options: dict[str, Any] = {"folder": str(noises)} if source == "folder" else {"kinds": [source]}
    made = effect("noise", snr_db=[-5.0, 30.0], **options)
    seen = []
    for case in range(25):
        clip = speech(case % 10)
        heard, told = applied(made, clip, source, case)
        assert len(heard) == len(clip)
        seen.append(float(told["snr_db"]))
        assert abs(measured_snr(clip, heard) - seen[-1]) < SNR_ERROR, (case, told)
    assert min(seen) < 5
    assert max(seen) > 20
    assert source == "folder" or told["noise"] == source


def test_the_snr_holds_in_what_is_stored() -> None:
    clip = spoken(0)
    heard, told = applied(effect("noise", snr_db=[30.0, 40.0], kinds=["pink"]), clip)
    stored = audio.samples_of(audio.store(heard))
    assert abs(measured_snr(clip, stored) - float(told["snr_db"])) < SNR_ERROR


def test_the_snr_of_real_speech(speech: Path) -> None:
    files = sorted((speech / "librispeech_test_clean_mini").rglob("*.flac"))[:6]
    assert files
    for number, path in enumerate(files):
        clip = audio.mono(audio.decode(path))
        heard, told = applied(effect("noise"), clip, number)
        assert abs(measured_snr(clip, heard) - float(told["snr_db"])) < SNR_ERROR


def test_noise_files(noises: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = effect("noise", folder=str(noises))
    used = {applied(made, spoken(0), case)[1]["noise"] for case in range(60)}
    assert used == {"street/long.flac", "street/bursts.wav", "short.wav", "hum.ogg"}
    assert sum("damaged.wav is left out" in record.message for record in caplog.records) <= 1, "told once"


def test_test_hears_noises_that_train_does_not(noises: Path) -> None:
    made = effect("noise", folder=str(noises))
    heard = {
        held_out: {applied(made, spoken(1), n, held_out=held_out, test=0.4)[1].get("noise") for n in range(40)}
        for held_out in (False, True)
    }
    assert heard[False]
    assert heard[True]
    assert not heard[False] & heard[True] - {None}


def test_a_single_noise_is_for_both(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.random.default_rng(0).normal(0, 0.1, 9000), 16_000)
    made = effect("noise", folder=str(tmp_path))
    for held_out in (False, True):
        assert applied(made, spoken(1), held_out=held_out, test=0.1)[1]["noise"] == "one.wav"


def test_a_short_noise_is_repeated_without_a_click(tmp_path: Path) -> None:
    time = np.arange(4360) / SAMPLING_RATE
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 100 * time), SAMPLING_RATE, subtype="FLOAT")
    clip = spoken(2)
    heard, _ = applied(effect("noise", folder=str(tmp_path), snr_db=[0.0, 0.0]), 0.2 * clip)
    noise = heard - 0.2 * clip
    assert np.abs(np.diff(noise)).max() < 0.08 * np.abs(noise).max(), "no step is much steeper than the tone"


def test_colours() -> None:
    quiet = np.zeros(4 * SAMPLING_RATE, np.float32)
    quiet[::4000] = 0.02  # something that counts as speech
    spectra = {}
    for kind in ("white", "pink"):
        heard, _ = applied(effect("noise", kinds=[kind], snr_db=[-20.0, -20.0]), quiet)
        power = np.abs(np.fft.rfft(heard)) ** 2
        hertz = np.fft.rfftfreq(len(heard), 1 / SAMPLING_RATE)
        low, high = (power[(hertz >= a) & (hertz < 2 * a)].sum() for a in (100, 3200))
        spectra[kind] = 10 * np.log10(high / low)
    assert abs(spectra["white"] - 15.05) < 1, "five octaves, 3 dB each"
    assert abs(spectra["pink"]) < 1


def test_without_speech_there_is_no_ratio() -> None:
    nothing = np.zeros(8000, np.float32)
    for name in ("noise", "reverberation", "gain", "clipping"):
        heard, told = applied(effect(name), nothing)
        assert told == {}
        assert not heard.any()


def test_noise_folders_are_checked(tmp_path: Path, noises: Path) -> None:
    for folder, text in (("missing", "is not a folder"), ("empty", "holds no audio that can be read")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(EffectError, match=text) as raised:
            plugins.load("effects", "noise")(folder=str(tmp_path / folder)).check()
        assert raised.value.key == "folder"
    (tmp_path / "empty" / "a.wav").write_bytes((noises / "damaged.wav").read_bytes())
    with pytest.raises(EffectError, match="holds no audio that can be read"):
        plugins.load("effects", "noise")(folder=str(tmp_path / "empty")).check()
    with pytest.raises(ValidationError, match="folder"):
        effect("noise", licence="CC0-1.0")


# Rooms.


def test_the_reverberation_time_is_the_one_asked_for() -> None:
    """T30 of Schroeder's backward integral (1965), of what becomes of a click."""
    click = np.zeros(3 * SAMPLING_RATE, np.float32)
    click[0] = 1.0
    made = effect("reverberation", rt60=[0.15, 1.5], direct_db=[-5.0, 15.0])
    for case in range(40):
        heard, told = applied(made, click, case)
        energy = heard.astype(float) ** 2
        left = np.cumsum(energy[::-1])[::-1]
        decay = 10 * np.log10(left[left > 0] / left[1])  # what follows the direct sound
        fitted = np.flatnonzero((decay <= -5) & (decay >= -35))
        slope = np.polyfit(fitted / SAMPLING_RATE, decay[fitted], 1)[0]
        assert abs(-60 / slope / float(told["rt60"]) - 1) < 0.1, told
        direct = 10 * np.log10(energy[0] / energy[1:].sum())
        assert abs(direct - float(told["direct_db"])) < 0.5, told


def test_a_room_changes_neither_level_nor_length_nor_place() -> None:
    for number in range(8):
        clip = recorded(number)
        heard, _ = applied(effect("reverberation", direct_db=[6.0, 12.0]), 0.5 * clip, number)
        assert len(heard) == len(clip)
        assert abs(10 * np.log10(active_level(heard) / active_level(0.5 * clip))) < 0.2
        assert lag(0.5 * clip, heard) == 0


def lag(before: Samples, after: Samples) -> int:
    size = 2 * max(len(before), len(after))
    likeness = np.fft.irfft(np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size)), size)
    place = int(np.argmax(likeness))
    return place if place < size // 2 else place - size


# Durations.


@pytest.mark.parametrize("name", ["speed", "tempo"])
def test_pace_changes_the_duration_exactly(name: str) -> None:
    made = effect(name, factor=[0.8, 1.25])
    factors = set()
    for case in range(30):
        clip = spoken(case % 5)[: 800 + 977 * case]
        heard, told = applied(made, clip, case)
        factor = float(told[name])
        factors.add(factor > 1)
        assert len(heard) == round(len(clip) / factor)
    assert factors == {True, False}


@pytest.mark.parametrize(("name", "wanted"), [("speed", 440.0 * 1.2), ("tempo", 440.0)])
def test_speed_changes_the_pitch_and_tempo_does_not(name: str, wanted: float) -> None:
    tone = np.asarray(0.4 * np.sin(2 * np.pi * 440 * np.arange(2 * SAMPLING_RATE) / SAMPLING_RATE), np.float32)
    heard, _ = applied(effect(name, factor=[1.2, 1.2]), tone)
    found = np.argmax(np.abs(np.fft.rfft(heard * np.hanning(len(heard))))) * SAMPLING_RATE / len(heard)
    assert abs(found - wanted) < 2


def test_speed_keeps_level_and_does_not_fold() -> None:
    clip = spoken(3)
    heard, _ = applied(effect("speed", factor=[1.1, 1.1]), clip)
    assert abs(10 * np.log10(active_level(heard) / active_level(clip))) < 0.5
    tone = np.asarray(0.4 * np.sin(2 * np.pi * 7600 * np.arange(SAMPLING_RATE) / SAMPLING_RATE), np.float32)
    heard, _ = applied(effect("speed", factor=[1.2, 1.2]), tone)  # 9,120 Hz: beyond what 16 kHz can hold
    assert np.abs(heard[400:-400]).max() < 0.01


def test_silence_is_exact() -> None:
    clip = spoken(0)
    for case in range(30):
        heard, told = applied(effect("silence"), clip, case)
        before, after = (round(float(told[f"silence_{where}"]) * SAMPLING_RATE) for where in ("before", "after"))
        assert len(heard) == before + len(clip) + after
        assert np.array_equal(heard[before : before + len(clip)], clip)
        assert not heard[:before].any()
        assert not heard[before + len(clip) :].any()


@pytest.mark.parametrize("name", ["speed", "tempo", "silence"])
def test_nothing_gets_longer_than_it_may(name: str) -> None:
    options: dict[str, Any] = (
        {"before": [1.0, 2.0], "after": [1.0, 2.0]} if name == "silence" else {"factor": [0.8, 0.9]}
    )
    made, tone = effect(name, **options), 0.1 * np.ones(5 * SAMPLING_RATE, np.float32)
    for longest in (3.0, 5.0, 5.1234, 5.5, 60.0):
        heard, _ = applied(made, tone, longest=longest)
        assert len(heard) <= max(longest, 5.0) * SAMPLING_RATE
        assert longest <= 5 or len(heard) > len(tone)
    assert applied(made, tone, longest=5.0)[1] == {}


# Levels.


def test_gain_is_exact_and_never_clips() -> None:
    for case in range(30):
        clip = recorded(case % 10)
        heard, told = applied(effect("gain", db=[-20.0, 20.0]), clip, case)
        if told:
            measured = 10 * np.log10(np.mean(heard.astype(float) ** 2) / np.mean(clip.astype(float) ** 2))
            assert abs(measured - float(told["gain_db"])) < 0.01
            assert -20 <= float(told["gain_db"]) <= 20
        assert audio.clipped(heard[:, None]) == 0


def test_the_share_that_is_clipped() -> None:
    for case in range(30):
        clip = recorded(case % 10)
        heard, told = applied(effect("clipping"), clip, case)
        level = np.abs(heard).max()
        share = float(told["clipped_share"])
        assert 0.0005 < share < 0.0105
        assert abs(np.mean(np.abs(heard) >= level) - share) < 0.02 * share + 2 / len(clip)
        untouched = np.abs(clip) < level
        assert np.array_equal(heard[untouched], clip[untouched])


# Lines.


def band_db(samples: Samples, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    return 10 * float(np.log10(power[(hertz >= low) & (hertz < high)].mean() + 1e-12))


@pytest.mark.parametrize(("codec", "down"), [("none", 45), ("mulaw", 30), ("alaw", 30), ("opus", 12)])
def test_a_telephone_has_a_band(codec: str, down: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * SAMPLING_RATE).astype(np.float32)
    heard, told = applied(effect("telephone", codec=[codec]), noise)
    assert told["telephone"] == codec
    inside = band_db(heard, 400, 3300)
    assert abs(inside - band_db(noise, 400, 3300)) < (1 if codec != "opus" else 4)
    assert band_db(heard, 20, 180) < inside - down
    assert band_db(heard, 4100, 8000) < inside - 40


@pytest.mark.parametrize("codec", ["mulaw", "alaw", "opus", "none"])
def test_a_codec_keeps_speech_in_its_place(codec: str) -> None:
    for number in range(3):
        clip = spoken(number)
        line, _ = applied(effect("telephone", codec=["none"]), clip)
        heard, told = applied(effect("telephone", codec=[codec], opus_kbps=[24.0, 24.0]), clip)
        assert len(heard) == len(clip)
        assert lag(line, heard) == 0
        error = np.sum((heard.astype(float) - line) ** 2) / np.sum(line.astype(float) ** 2)
        assert 10 * np.log10(error + 1e-12) < {"mulaw": -30, "alaw": -30, "opus": -6, "none": -100}[codec]
        assert ("opus_kbps" in told) == (codec == "opus")


def test_g711_is_that_of_libsndfile() -> None:
    """256 values are left: each sample is one of them."""
    ramp = np.linspace(-1, 1, 20_000, dtype=np.float32)
    stream = io.BytesIO()
    soundfile.write(stream, ramp, 8000, format="WAV", subtype="ULAW")
    stream.seek(0)
    from pipeline.effects import _codec

    heard = _codec.g711(ramp, "mulaw", 8000)
    assert np.array_equal(heard, soundfile.read(stream, dtype="float32")[0])
    assert len(np.unique(heard)) <= 256
    assert len(np.unique(_codec.g711(ramp, "alaw", 8000))) <= 256


def test_a_lower_bit_rate_loses_more() -> None:
    clip = spoken(1)
    error = []
    for kbps in (6.0, 12.0, 32.0, 96.0):
        heard, told = applied(effect("opus", kbps=[kbps, kbps]), clip)
        assert told == {"opus": f"{kbps:g}"}
        assert lag(clip, heard) == 0
        error.append(float(np.mean((heard - clip) ** 2)))
    assert error == sorted(error, reverse=True)
    assert error[-1] < 0.1 * error[0]


# All.


def test_they_come_in_the_order_of_the_way_from_mouth_to_file() -> None:
    ordered = sorted((plugins.load("effects", name) for name in EFFECTS), key=lambda e: e.order)
    names = [e.__name__.lower() for e in ordered]
    assert names == "speed tempo silence reverberation noise gain clipping telephone opus".split()
    assert len({e.order for e in ordered}) == len(ordered)


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_depends_on_its_draw_alone(name: str) -> None:
    made, clip = effect(name), spoken(4)
    before = clip.copy()
    first, told = applied(made, clip, 1)
    random.seed(1)
    np.random.seed(1)
    applied(made, spoken(5), 2)
    again, told_again = applied(made, clip, 1)
    assert told
    assert told == told_again
    assert np.array_equal(first, again)
    assert np.array_equal(clip, before), "the sound that came in is somebody else's"
    assert all(isinstance(value, str) for value in told.values())
    assert len({str(applied(made, clip, n)[1]) for n in range(12)}) > 2, "another draw is another change"


def sound(kind: str, count: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    if kind == "silence":
        return np.zeros(count, np.float32)
    if kind == "full scale":
        return rng.choice(np.float32([-1, 1]), count)
    if kind == "constant":
        return np.ones(count, np.float32)
    if kind == "faint":
        return rng.normal(0, 1e-6, count).astype(np.float32)
    if kind == "click":
        made = np.zeros(count, np.float32)
        made[rng.integers(0, count)] = -1
        return made
    return np.clip(rng.normal(0, 0.2, count), -1, 1).astype(np.float32)


KINDS = ["silence", "full scale", "constant", "faint", "click", "noise"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EFFECTS), st.sampled_from(KINDS), st.integers(800, 40_000), st.integers(0, 2**32))
def test_no_sound_breaks_an_effect(name: str, kind: str, count: int, seed: int) -> None:
    clip = sound(kind, count, seed)
    heard, told = applied(effect(name), clip, seed)
    assert len(heard) >= 1
    assert told or np.array_equal(heard, clip)


@pytest.mark.parametrize("kind", KINDS)
def test_no_sound_breaks_the_whole_chain(kind: str) -> None:
    for count in (1, 2, 399, 800, 30 * SAMPLING_RATE):
        clip = sound(kind, count, count)
        for name in sorted((n for n in EFFECTS if n != "tempo"), key=lambda n: plugins.load("effects", n).order):
            if name == "opus" and count > 800 and kind != "full scale":
                continue  # seconds of a processor
            clip, _ = applied(effect(name), clip, count)
        assert 1 <= len(clip) <= 30 * SAMPLING_RATE


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("noise", {"snr_db": [25.0, 5.0]}),
        ("noise", {"snr_db": [5.0]}),
        ("noise", {"snr_db": [5.0, float("nan")]}),
        ("noise", {"kinds": []}),
        ("noise", {"kinds": ["brown"]}),
        ("speed", {"factor": [0.5, 1.0]}),
        ("speed", {"chance": 1.5}),
        ("reverberation", {"rt60": [0.0, 1.0]}),
        ("telephone", {"codec": ["gsm"]}),
        ("telephone", {"codec": []}),
        ("clipping", {"share": [0.0, 0.1]}),
        ("silence", {"before": [-1.0, 0.0]}),
        ("gain", {"db": ["-3", "3"]}),
        ("opus", {"kbps": [1.0, 8.0]}),
    ],
)
def test_options_that_make_no_sense(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugins.load("effects", name)(**options)
