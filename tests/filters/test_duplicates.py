"""Duplicates: the first of equals is kept, whatever else differs, and nothing else is lost."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import audio
from pipeline.audio import Samples
from pipeline.filters.duplicates import COLUMNS, Duplicates
from schemas.arrow import SAMPLING_RATE
from schemas.sample import Rejection
from schemas.utterance import Audio


def speech(seed: int, seconds: float = 3.0) -> Samples:
    """Something with formants and syllables, its own for each seed."""
    rng = np.random.default_rng(seed)
    made = np.zeros(0, np.float32)
    while len(made) < seconds * SAMPLING_RATE:
        time = np.arange(int(rng.uniform(0.08, 0.25) * SAMPLING_RATE)) / SAMPLING_RATE
        pitch = rng.uniform(90, 250)
        levels = rng.uniform(0.05, 1.0, 20)
        tones = sum(level * np.sin(2 * np.pi * pitch * (k + 1) * time) for k, level in enumerate(levels))
        made = np.concatenate([made, (0.03 * np.hanning(len(time)) * tones).astype(np.float32)])
    return made + rng.normal(0, 0.0005, len(made)).astype(np.float32)


class Row:
    """A kept row, as `finish` shows it to the filter."""

    def __init__(
        self,
        utterance: str,
        heard: Audio,
        *,
        task: str = "reply",
        text: str = "Hello",
        said: str = "",
        question: str = "",
        copy: bool = False,
    ) -> None:
        self.utterance, self.heard, self.task, self.text, self.said = utterance, heard, task, text, said
        self.question, self.copy = question, copy


def find(rows: Sequence[Row], **options: Any) -> dict[int, Rejection]:
    values = {
        "id": [f"{r.utterance}:{r.task}:{n}" for n, r in enumerate(rows)],
        "task": [r.task for r in rows],
        "utterance": [r.utterance for r in rows],
        "copy": [r.copy for r in rows],
        "transcript": [r.said for r in rows],
        "digest": [r.heard.digest for r in rows],
        "fingerprint": [r.heard.fingerprint for r in rows],
    }
    others = {"fingerprint": pa.binary(), "copy": pa.bool_()}
    kinds = [others.get(name, pa.string()) for name in COLUMNS]
    table = pa.table(
        [pa.array(values[name], kind) for name, kind in zip(COLUMNS, kinds, strict=True)], names=list(COLUMNS)
    )
    return Duplicates(**options).find(table, lambda row: [f"<|audio|>\n{rows[row].question}", rows[row].text])


def reasons(rows: Sequence[Row], **options: Any) -> dict[int, str]:
    return {row: rejection.reason for row, rejection in find(rows, **options).items()}


def stored(samples: Samples) -> Audio:
    return audio.store(samples)


def as_file(samples: Samples, rate: int, form: str, subtype: str) -> Audio:
    """The same recording, out of a file of another format and rate."""
    stream = io.BytesIO()
    soundfile.write(stream, soxr.resample(samples, SAMPLING_RATE, rate), rate, format=form, subtype=subtype)
    return audio.load(stream.getvalue())


ONE, TWO, THREE = (stored(speech(n)) for n in range(3))


def test_the_same_samples_under_another_name() -> None:
    rows = [
        Row("a", ONE, text="One"),
        Row("b", TWO, text="Two"),
        Row("c", ONE, text="Three"),
        Row("c", ONE, text="Four", task="qa"),
    ]
    found = find(rows)
    assert {n: r.reason for n, r in found.items()} == {2: "duplicate_audio", 3: "duplicate_audio"}
    assert found[2].detail == "the same samples as a"
    assert reasons(rows, near=False) == {2: "duplicate_audio", 3: "duplicate_audio"}


def test_several_rows_of_one_utterance_are_no_duplicates() -> None:
    assert (
        reasons([Row("a", ONE, text="One"), Row("a", ONE, text="Two words"), Row("a", ONE, text="One", task="qa")])
        == {}
    )


@pytest.mark.parametrize(
    ("rate", "form", "subtype"),
    [
        (16_000, "MP3", "MPEG_LAYER_III"),
        (48_000, "OGG", "VORBIS"),
        (8_000, "WAV", "ULAW"),
        (44_100, "WAV", "PCM_24"),
        (11_025, "WAV", "PCM_16"),
    ],
)
def test_the_same_recording_in_another_format(rate: int, form: str, subtype: str) -> None:
    copy = as_file(speech(0), rate, form, subtype)
    assert copy.digest != ONE.digest
    rows = [Row("a", ONE, said="Hello you"), Row("b", TWO, said="Something else"), Row("c", copy, said="hello, YOU!")]
    assert reasons(rows) == {2: "near_duplicate_audio"}
    assert reasons(rows, near=False) == {}


def test_the_same_recording_at_another_level() -> None:
    rows = [Row("a", ONE), Row("b", stored(0.2 * speech(0)))]
    assert reasons(rows) == {1: "near_duplicate_audio"}
    assert "bits from a" in find(rows)[1].detail


def test_other_takes_of_the_same_words_are_kept() -> None:
    rows = [Row(f"u{n}", stored(speech(n)), said="The same words") for n in range(30)]
    assert reasons(rows) == {}


def test_in_a_large_group_of_one_text_copies_are_found_too() -> None:
    rows = [Row(f"u{n}", stored(speech(n, 1.5)), said="yes") for n in range(90)]
    rows += [Row(f"v{n}", stored(0.5 * speech(n, 1.5)), said="yes") for n in range(0, 90, 9)]
    assert reasons(rows) == {90 + n: "near_duplicate_audio" for n in range(10)}


def test_how_near_is_an_option() -> None:
    rows = [Row("a", ONE, said="hi"), Row("b", as_file(speech(0), 8_000, "WAV", "ULAW"), said="hi")]
    first, second = (row.heard.fingerprint for row in rows)
    apart = sum((x ^ y).bit_count() for x, y in zip(first, second, strict=True))
    assert 0 < apart <= 32
    assert reasons(rows, bits=apart) == {1: "near_duplicate_audio"}
    assert reasons(rows, bits=apart - 1) == {}


def test_a_chain_of_copies_ends_at_what_is_kept() -> None:
    """Each copy is one of a kept utterance, never of one that is itself set aside."""
    rows = [Row(f"u{n}", stored(speech(0) * 0.9**n)) for n in range(6)]
    found = find(rows)
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert all(r.detail.endswith("u0") for r in found.values())


def test_too_short_for_a_fingerprint_is_compared_exactly() -> None:
    short = stored(speech(5)[:800])
    assert short.fingerprint == b""
    rows = [Row("a", short), Row("b", stored(speech(6)[:800])), Row("c", short)]
    assert reasons(rows) == {2: "duplicate_audio"}


def test_nearly_equal_examples_of_one_utterance() -> None:
    question = "What does the man hope to have for his dinner tonight?"
    rows = [
        Row("a", ONE, task="qa", question=question, text="He hopes for a stew."),
        Row("a", ONE, task="qa", question=question.upper(), text="He hopes for a stew!"),
        Row("a", ONE, task="qa", question="Why is he out so late?", text="He missed the bus."),
        Row("a", ONE, task="summary", question=question, text="He hopes for a stew."),
        Row("b", TWO, task="qa", question=question, text="He hopes for a stew."),
    ]
    found = find(rows)
    assert {n: r.reason for n, r in found.items()} == {1: "duplicate_sample"}
    assert found[1].detail == "like a:qa:0"
    assert reasons(rows, texts=1.0) == {1: "duplicate_sample"}
    assert set(reasons(rows, texts=0.01)) == {1, 2}


def test_an_augmented_copy_beside_its_clean_row() -> None:
    """It has the id, digest and fingerprint of its origin: no duplicate of that, but of what that is a duplicate of."""
    rows = [Row("a", ONE, text="One"), Row("a", ONE, text="One", copy=True)]
    rows += [Row("b", TWO, text="Two"), Row("b", TWO, text="Two", copy=True)]
    rows += [Row("c", ONE, text="One"), Row("c", ONE, text="One", copy=True), Row("a", ONE, text="One", copy=True)]
    found = {4: "duplicate_audio", 5: "duplicate_audio", 6: "duplicate_sample"}
    assert reasons(rows) == found
    assert reasons(rows, same_response=1) == found


def test_responses_that_come_too_often() -> None:
    rows = [Row(f"u{n}", stored(speech(n, 1.0)), text=["Sure.", "sure", "Of course."][n % 3]) for n in range(9)]
    rows.append(Row("u9", stored(speech(9, 1.0)), text="Sure!", task="qa"))
    assert reasons(rows) == {}
    found = find(rows, same_response=4)
    assert {n: r.reason for n, r in found.items()} == {6: "repeated_response", 7: "repeated_response"}
    assert "4 may" in found[6].detail


def test_nothing_and_one() -> None:
    assert reasons([]) == {}
    assert reasons([Row("a", ONE)], same_response=1) == {}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(["a", "b"]), st.sampled_from(["x", "y z"])),
        max_size=14,
    )
)
def test_of_equals_the_first_is_kept(drawn: list[tuple[int, int, str, str]]) -> None:
    """Of each sound exactly one utterance is kept, and it is the first."""
    heard = [ONE, TWO, THREE, stored(speech(9, 1.0))]
    rows = [Row(f"{sound}{copy}", heard[sound], task=task, text=text) for sound, copy, task, text in drawn]
    found = find(rows)
    for sound in heard:
        of_sound = [n for n, r in enumerate(rows) if r.heard is sound]
        kept = [n for n in of_sound if n not in found]
        assert {rows[n].utterance for n in kept} == {rows[n].utterance for n in of_sound[:1]}
        assert kept[:1] == of_sound[:1]
    assert len({(rows[n].utterance, rows[n].task, rows[n].text) for n in range(len(rows)) if n not in found}) == len(
        rows
    ) - len(found)
    kept_rows = [r for n, r in enumerate(rows) if n not in found]
    assert reasons(kept_rows) == {}, "once is enough"


@pytest.mark.parametrize(
    "options",
    [{"bits": -1}, {"bits": 63}, {"texts": 0.0}, {"texts": 1.1}, {"same_response": 0}, {"near": 1}, {"nearly": True}],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Duplicates(**options)
