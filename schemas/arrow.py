"""The one Arrow schema of a shard, and the way from samples to record batches and back.

The schema's metadata holds the Hugging Face features, so `datasets` reads a shard with its
`Audio` type and no code of ours. Batches are built column by column: at 10,000 rows/s a
dictionary a row would cost more than everything else together.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from schemas.conversation import Message, ToolCall, ToolSpec
from schemas.manifest import SCHEMA_VERSION
from schemas.sample import Mention, Provenance, Sample, Scores
from schemas.utterance import Audio, AudioSource, Delivery, Part, Utterance

SAMPLING_RATE = 16_000  # Hz, of all stored speech

_AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_TOOL_CALL = pa.struct(
    {
        "id": pa.string(),
        "type": pa.string(),
        "function": pa.struct({"name": pa.string(), "arguments": pa.string()}),
    }
)
_MESSAGE = pa.struct(
    {
        "role": pa.string(),
        "content": pa.string(),
        "tool_calls": pa.list_(_TOOL_CALL),
        "tool_call_id": pa.string(),
    }
)
_TOOL = pa.struct(
    {
        "type": pa.string(),
        "function": pa.struct({"name": pa.string(), "description": pa.string(), "parameters": pa.string()}),
    }
)
_LABEL = pa.struct({"name": pa.string(), "value": pa.string()})
_PART = pa.struct({"id": pa.string(), "speaker": pa.string()})
_SOURCE = pa.struct(
    {
        "path": pa.string(),
        "member": pa.string(),
        "start": pa.float64(),
        "duration": pa.float64(),
        "channel": pa.int32(),
    }
)
_DELIVERY = pa.struct(
    {"engine": pa.string(), "licence": pa.string(), "rate": pa.float64(), "pitch": pa.float64()},
)
_UTTERANCE = pa.struct(
    {
        "id": pa.string(),
        "corpus": pa.string(),
        "transcript": pa.string(),
        "spoken": pa.string(),
        "hypothesis": pa.string(),
        "language": pa.string(),
        "speaker": pa.string(),
        "recording": pa.string(),
        "licence": pa.string(),
        "voice": pa.string(),
        "delivery": _DELIVERY,
        "effects": pa.list_(_LABEL),
        "clean_digest": pa.string(),
        "labels": pa.list_(_LABEL),
        "parts": pa.list_(_PART),
        "source": _SOURCE,
        "seconds": pa.float64(),
        "sampling_rate": pa.int32(),
        "channels": pa.int32(),
        "format": pa.string(),
        "peak_dbfs": pa.float32(),
        "speech_dbfs": pa.float32(),
        "clipped": pa.float32(),
        "digest": pa.string(),
        "fingerprint": pa.binary(),
    }
)
_SCORES = pa.struct({"characters_per_second": pa.float32(), "wer": pa.float32(), "cer": pa.float32()})
_MENTION = pa.struct({"utterance": pa.int32(), "argument": pa.string(), "words": pa.string()})
_PROVENANCE = pa.struct(
    {
        "instruction": pa.string(),
        "prompt": pa.string(),
        "engine": pa.string(),
        "model": pa.string(),
        "seed": pa.int64(),
        "attempts": pa.int32(),
        "prompt_tokens": pa.int64(),
        "completion_tokens": pa.int64(),
        "reply": pa.string(),
    }
)

_COLUMNS = {
    "id": pa.string(),
    "task": pa.string(),
    "language": pa.string(),
    "split": pa.string(),
    "audios": pa.list_(_AUDIO),
    "messages": pa.list_(_MESSAGE),
    "tools": pa.list_(_TOOL),
    "choices": pa.list_(pa.string()),
    "answer": pa.string(),
    "outcome": pa.string(),
    "situation": pa.string(),
    "mentions": pa.list_(_MENTION),
    "evidence": pa.string(),
    "utterances": pa.list_(_UTTERANCE),
    "scores": _SCORES,
    "provenance": _PROVENANCE,
    "rejected": pa.string(),
    "detail": pa.string(),
    "position": pa.int32(),
}


def _feature(kind: pa.DataType) -> Any:
    """The Hugging Face feature of an Arrow type, as `datasets` writes it into the metadata."""
    if kind == _AUDIO:
        # Rows are read as FLAC bytes: decoding would need torchcodec, and fails where that is not installed.
        return {"sampling_rate": SAMPLING_RATE, "decode": False, "_type": "Audio"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {child.name: _feature(child.type) for child in kind}
    name = {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return {"dtype": name, "_type": "Value"}


FEATURES: dict[str, Any] = {name: _feature(kind) for name, kind in _COLUMNS.items()}
"""`datasets.Features.from_dict(FEATURES)` gives the features of a shard."""

SCHEMA = pa.schema(
    _COLUMNS,
    metadata={
        "huggingface": json.dumps({"info": {"features": FEATURES}}),
        "earwitness": json.dumps({"schema_version": SCHEMA_VERSION}),
    },
)


def _column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(list(values), kind)


def _binary(blobs: Sequence[bytes | None]) -> pa.Array:
    """A binary column in one copy; `pa.array` grows its buffer and copies again.

    The buffer is of Arrow's pool, which keeps its memory: new pages cost more than the copy.
    """
    ends = list(itertools.accumulate((len(b) if b is not None else 0 for b in blobs), initial=0))
    offsets = pa.array(ends, pa.int32())
    data = pa.allocate_buffer(ends[-1])
    view = memoryview(data).cast("B")
    for blob, begin, end in zip(blobs, ends, ends[1:], strict=False):
        if blob is not None:
            view[begin:end] = blob
    valid = None
    if None in blobs:
        valid = pa.array([b is not None for b in blobs], pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(pa.binary(), len(blobs), [valid, offsets.buffers()[1], data])


def _struct(kind: pa.StructType, *columns: pa.Array, valid: Sequence[bool] | None = None) -> pa.Array:
    mask = None if valid is None else pa.array([not v for v in valid], pa.bool_())
    return pa.StructArray.from_arrays(list(columns), fields=list(kind), mask=mask)


def _list(lengths: Iterable[int], values: pa.Array) -> pa.Array:
    offsets = pa.array(list(itertools.accumulate(lengths, initial=0)), pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


def _messages(samples: Sequence[Sample]) -> pa.Array:
    turns = [m for s in samples for m in s.messages]
    calls = [c for m in turns for c in m.tool_calls]
    function = _struct(
        _TOOL_CALL.field("function").type,
        _column((c.name for c in calls), pa.string()),
        _column((c.arguments for c in calls), pa.string()),
    )
    call = _struct(
        _TOOL_CALL,
        _column((c.id for c in calls), pa.string()),
        _column(("function" for _ in calls), pa.string()),
        function,
    )
    turn = _struct(
        _MESSAGE,
        _column((m.role for m in turns), pa.string()),
        _column((m.content for m in turns), pa.string()),
        _list((len(m.tool_calls) for m in turns), call),
        _column((m.tool_call_id for m in turns), pa.string()),
    )
    return _list((len(s.messages) for s in samples), turn)


def _tools(samples: Sequence[Sample]) -> pa.Array:
    tools = [t for s in samples for t in s.tools]
    function = _struct(
        _TOOL.field("function").type,
        _column((t.name for t in tools), pa.string()),
        _column((t.description for t in tools), pa.string()),
        _column((t.parameters for t in tools), pa.string()),
    )
    tool = _struct(_TOOL, _column(("function" for _ in tools), pa.string()), function)
    return _list((len(s.tools) for s in samples), tool)


def _pairs(mappings: Sequence[dict[str, str]]) -> pa.Array:
    pairs = [pair for mapping in mappings for pair in mapping.items()]
    values = _struct(
        _LABEL,
        _column((name for name, _ in pairs), pa.string()),
        _column((value for _, value in pairs), pa.string()),
    )
    return _list((len(mapping) for mapping in mappings), values)


def _parts(utterances: Sequence[Utterance]) -> pa.Array:
    parts = [p for u in utterances for p in u.parts]
    values = _struct(
        _PART, _column((p.id for p in parts), pa.string()), _column((p.speaker for p in parts), pa.string())
    )
    return _list((len(u.parts) for u in utterances), values)


def _sources(utterances: Sequence[Utterance]) -> pa.Array:
    sources = [u.source or AudioSource("") for u in utterances]
    return _struct(
        _SOURCE,
        _column((s.path for s in sources), pa.string()),
        _column((s.member for s in sources), pa.string()),
        _column((s.start for s in sources), pa.float64()),
        _column((s.duration for s in sources), pa.float64()),
        _column((s.channel for s in sources), pa.int32()),
        valid=[u.source is not None for u in utterances],
    )


def _deliveries(utterances: Sequence[Utterance]) -> pa.Array:
    deliveries = [u.delivery or Delivery("") for u in utterances]
    return _struct(
        _DELIVERY,
        *(_column((getattr(d, f.name) for d in deliveries), f.type) for f in _DELIVERY),
        valid=[u.delivery is not None for u in utterances],
    )


def _mentions(samples: Sequence[Sample]) -> pa.Array:
    mentions = [m for s in samples for m in s.mentions]
    values = _struct(_MENTION, *(_column((getattr(m, f.name) for m in mentions), f.type) for f in _MENTION))
    return _list((len(s.mentions) for s in samples), values)


def _utterances(utterances: Sequence[Utterance]) -> pa.Array:
    audios = [u.audio for u in utterances]
    columns = [
        _column((u.id for u in utterances), pa.string()),
        _column((u.corpus for u in utterances), pa.string()),
        _column((u.transcript for u in utterances), pa.string()),
        _column((u.spoken for u in utterances), pa.string()),
        _column((u.hypothesis for u in utterances), pa.string()),
        _column((u.language for u in utterances), pa.string()),
        _column((u.speaker for u in utterances), pa.string()),
        _column((u.recording for u in utterances), pa.string()),
        _column((u.licence for u in utterances), pa.string()),
        _column((u.voice for u in utterances), pa.string()),
        _deliveries(utterances),
        _pairs([u.effects for u in utterances]),
        _column((u.clean_digest for u in utterances), pa.string()),
        _pairs([u.labels for u in utterances]),
        _parts(utterances),
        _sources(utterances),
        _column((a.seconds if a else None for a in audios), pa.float64()),
        _column((a.sampling_rate if a else None for a in audios), pa.int32()),
        _column((a.channels if a else None for a in audios), pa.int32()),
        _column((a.format if a else None for a in audios), pa.string()),
        _column((a.peak_dbfs if a else None for a in audios), pa.float32()),
        _column((a.speech_dbfs if a else None for a in audios), pa.float32()),
        _column((a.clipped if a else None for a in audios), pa.float32()),
        _column((a.digest if a else None for a in audios), pa.string()),
        _column((a.fingerprint if a else None for a in audios), pa.binary()),
    ]
    return _struct(_UTTERANCE, *columns)


def to_batch(samples: Sequence[Sample]) -> pa.RecordBatch:
    """Samples as rows of the schema."""
    utterances = [u for s in samples for u in s.utterances]
    lengths = [len(s.utterances) for s in samples]
    audio = _struct(
        _AUDIO,
        _binary([u.audio.flac if u.audio else None for u in utterances]),
        _column((f"{u.id}.flac" if u.audio else None for u in utterances), pa.string()),
        valid=[u.audio is not None for u in utterances],
    )
    scores = [s.scores for s in samples]
    provenance = [s.provenance for s in samples]
    columns = {
        "id": _column((s.id for s in samples), pa.string()),
        "task": _column((s.task for s in samples), pa.string()),
        "language": _column((s.language for s in samples), pa.string()),
        "split": _column((s.split for s in samples), pa.string()),
        "audios": _list(lengths, audio),
        "messages": _messages(samples),
        "tools": _tools(samples),
        "choices": _list(
            (len(s.choices) for s in samples), _column((c for s in samples for c in s.choices), pa.string())
        ),
        "answer": _column((s.answer for s in samples), pa.string()),
        "outcome": _column((s.outcome for s in samples), pa.string()),
        "situation": _column((s.situation for s in samples), pa.string()),
        "mentions": _mentions(samples),
        "evidence": _column((s.evidence for s in samples), pa.string()),
        "utterances": _list(lengths, _utterances(utterances)),
        "scores": _struct(
            _SCORES,
            *(_column((getattr(s, f.name) for s in scores), f.type) for f in _SCORES),
        ),
        "provenance": _struct(
            _PROVENANCE,
            *(_column((getattr(p, f.name) for p in provenance), f.type) for f in _PROVENANCE),
        ),
        "rejected": _column((s.rejected for s in samples), pa.string()),
        "detail": _column((s.detail for s in samples), pa.string()),
        "position": _column((s.position for s in samples), pa.int32()),
    }
    return pa.RecordBatch.from_arrays([columns[f.name] for f in SCHEMA], schema=SCHEMA)


def message_from(row: dict[str, Any]) -> Message:
    """A message of a row as Arrow gives it."""
    calls = tuple(ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in row["tool_calls"] or ())
    return Message(row["role"], row["content"], calls, row["tool_call_id"])


def _utterance_from(row: dict[str, Any], audio: dict[str, Any] | None) -> Utterance:
    heard = None
    if audio is not None and audio["bytes"] is not None:
        measured = ("seconds", "sampling_rate", "channels", "format", "peak_dbfs", "speech_dbfs")
        heard = Audio(
            flac=audio["bytes"],
            **{name: row[name] for name in (*measured, "clipped", "digest", "fingerprint")},
        )
    plain = ("id", "corpus", "transcript", "spoken", "hypothesis", "language", "speaker", "recording", "licence")
    return Utterance(
        **{name: row[name] for name in plain},
        voice=row["voice"],
        delivery=Delivery(**row["delivery"]) if row["delivery"] else None,
        effects={pair["name"]: pair["value"] for pair in row["effects"]},
        clean_digest=row["clean_digest"],
        labels={pair["name"]: pair["value"] for pair in row["labels"]},
        parts=tuple(Part(**part) for part in row["parts"]),
        source=AudioSource(**row["source"]) if row["source"] else None,
        audio=heard,
    )


def from_batch(batch: pa.RecordBatch) -> Iterator[Sample]:
    """The samples of a record batch, as they were given to `to_batch`."""
    for row in batch.to_pylist():
        utterances = zip(row["utterances"], row["audios"], strict=True)
        yield Sample(
            id=row["id"],
            utterances=tuple(_utterance_from(u, a) for u, a in utterances),
            split=row["split"],
            task=row["task"],
            language=row["language"],
            messages=tuple(message_from(m) for m in row["messages"]),
            tools=tuple(ToolSpec(**t["function"]) for t in row["tools"]),
            choices=tuple(row["choices"]),
            answer=row["answer"],
            outcome=row["outcome"],
            situation=row["situation"],
            mentions=tuple(Mention(**m) for m in row["mentions"]),
            evidence=row["evidence"],
            scores=Scores(**row["scores"]),
            provenance=Provenance(**row["provenance"]),
            rejected=row["rejected"],
            detail=row["detail"],
            position=row["position"],
        )
