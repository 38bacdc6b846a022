"""The Arrow schema: what goes in comes out, and Hugging Face reads it."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.arrow import FEATURES, SCHEMA, from_batch, to_batch
from schemas.conversation import Message, ToolCall, ToolSpec
from schemas.sample import Mention, Provenance, Sample, Scores
from schemas.utterance import Audio, AudioSource, Delivery, Part, Utterance

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
maybe = st.none() | texts
floats = st.floats(-120, 120, width=32)
seconds = st.floats(0, 1e6)
small = st.integers(0, 2**31 - 1)

audios = st.builds(
    Audio,
    flac=st.binary(min_size=1, max_size=40),
    seconds=seconds,
    sampling_rate=small,
    channels=small,
    format=texts,
    peak_dbfs=floats,
    speech_dbfs=floats,
    clipped=st.floats(0, 1, width=32),
    digest=texts,
    fingerprint=st.binary(max_size=31),
)
sources = st.builds(
    AudioSource, path=texts, member=maybe, start=seconds, duration=st.none() | seconds, channel=st.none() | small
)
utterances = st.builds(
    Utterance,
    id=texts,
    corpus=texts,
    transcript=texts,
    spoken=maybe,
    hypothesis=maybe,
    language=maybe,
    speaker=maybe,
    recording=maybe,
    licence=maybe,
    voice=maybe,
    delivery=st.none()
    | st.builds(Delivery, engine=texts, licence=maybe, rate=st.floats(0.5, 2), pitch=st.floats(0.5, 2)),
    effects=st.dictionaries(texts, texts, max_size=2),
    source=st.none() | sources,
    labels=st.dictionaries(texts, texts, max_size=3),
    parts=st.lists(st.builds(Part, id=texts, speaker=maybe), max_size=2).map(tuple),
    audio=st.none() | audios,
)
calls = st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=texts), max_size=2).map(tuple)
messages = st.builds(Message, role=texts, content=texts, tool_calls=calls, tool_call_id=maybe)
samples = st.builds(
    Sample,
    id=texts,
    utterances=st.lists(utterances, min_size=1, max_size=3).map(tuple),
    split=st.sampled_from(["train", "test"]),
    task=texts,
    outcome=texts,
    situation=texts,
    mentions=st.lists(st.builds(Mention, utterance=small, argument=texts, words=texts), max_size=2).map(tuple),
    language=maybe,
    messages=st.lists(messages, max_size=3).map(tuple),
    tools=st.lists(st.builds(ToolSpec, name=texts, description=texts, parameters=texts), max_size=2).map(tuple),
    choices=st.lists(texts, max_size=4).map(tuple),
    answer=texts,
    evidence=texts,
    scores=st.builds(Scores, characters_per_second=st.none() | floats, wer=st.none() | floats, cer=st.none()),
    provenance=st.builds(
        Provenance, instruction=texts, engine=texts, seed=st.integers(0, 2**63 - 1), attempts=small, prompt_tokens=small
    ),
    rejected=maybe,
    detail=texts,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(samples, max_size=6))
def test_what_goes_in_comes_out(rows: list[Sample]) -> None:
    batch = to_batch(rows)
    batch.validate(full=True)
    assert list(from_batch(batch)) == rows


@settings(max_examples=30, deadline=None)
@given(st.lists(samples, min_size=1, max_size=4))
def test_equal_rows_give_equal_bytes(rows: list[Sample]) -> None:
    assert to_batch(rows).serialize().to_pybytes() == to_batch(list(rows)).serialize().to_pybytes()


def test_the_features_are_those_of_hugging_face() -> None:
    features = datasets.Features.from_dict(FEATURES)
    assert features == datasets.Features.from_arrow_schema(SCHEMA)
    assert features.arrow_schema.remove_metadata() == SCHEMA.remove_metadata()
    assert isinstance(features["audios"].feature, datasets.Audio)
    assert features["audios"].feature.sampling_rate == 16000


def test_text_that_is_no_text_is_refused() -> None:
    row = Sample(id="\ud800", utterances=(Utterance("a", "b"),), split="train")
    with pytest.raises(UnicodeEncodeError):
        to_batch([row])


def test_no_rows() -> None:
    batch = to_batch([])
    assert batch.num_rows == 0
    assert batch.schema == SCHEMA
    assert isinstance(batch, pa.RecordBatch)
