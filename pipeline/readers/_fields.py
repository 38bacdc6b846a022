"""What corpora call the fields of a row: for readers of tables and records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import AfterValidator

from pipeline.plugins import nearest

ALIASES = {
    "audio": "audio_filepath audio audio_path audio_file wav wav_filename wav_path path file file_name".split(),
    "transcript": "transcript_with_punctuation transcript text txt sentence transcription raw_text".split(),
    "key": ["id", "key", "utt_id", "utterance_id", "uttid", "segment_id"],
    "speaker": ["speaker", "speaker_id", "speaker_name", "spk", "spk_id", "client_id"],
    "language": ["language", "lang", "locale"],
    "recording": ["recording", "recording_id", "session", "session_id"],
    "duration": ["duration", "seconds"],
    "start": ["offset", "start", "start_time"],
    "sampling_rate": ["sampling_rate", "sample_rate", "samplerate"],
    "channel": ["channel"],
    "split": ["split", "subset"],
    "licence": ["licence", "license"],
}
LABELS = "emotion accent dialect gender sex age intent slots entities sentiment topic speech".split()
"""Fields that become labels unless the recipe says otherwise."""
GENDERS = {"m": "male", "f": "female", "male_masculine": "male", "female_feminine": "female"}


def _known(chosen: dict[str, str]) -> dict[str, str]:
    wrong = next((name for name in chosen if name not in ALIASES), None)
    if wrong is not None:
        raise ValueError(f"there is no field {wrong!r}.{nearest(wrong, list(ALIASES))} There are: {', '.join(ALIASES)}")
    return chosen


Chosen = Annotated[dict[str, str], AfterValidator(_known)]
"""An option that says what fields are called: `{transcript: txt}`."""


class Names(NamedTuple):
    """What each field is called in the rows of a listing; None where there is none."""

    audio: str | None = None
    transcript: str | None = None
    key: str | None = None
    speaker: str | None = None
    language: str | None = None
    recording: str | None = None
    duration: str | None = None
    start: str | None = None
    sampling_rate: str | None = None
    channel: str | None = None
    split: str | None = None
    licence: str | None = None


def guess(known: Iterable[str], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Which field of a row is what: as the recipe says, or by the names that corpora use."""
    there = {str(name).lower(): name for name in known}
    found = {what: next((there[n] for n in names if n in there), None) for what, names in ALIASES.items()}
    return {what: name for what, name in (found | dict(chosen)).items() if name is not None}


def labels_of(row: Mapping[Any, Any], names: Iterable[str]) -> dict[str, str]:
    """The labels of a row; nested ones as JSON."""
    found: dict[str, str] = {}
    for name in names:
        if name not in row:
            continue
        value = row[name]
        if value in (None, "", [], {}):
            continue
        text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
        label = "gender" if name == "sex" else name
        found[label] = GENDERS.get(text.lower(), text) if label == "gender" else text
    return found


def number(value: Any, kind: type[float] | type[int] = float) -> Any:
    """A number, or None for what is none.

    Raises:
        ValueError, TypeError: It is something else.
    """
    if value is None or value == "" or isinstance(value, bool):
        return None
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"a number is expected, not {value!r}")
    if kind is float:
        return found
    if not found.is_integer():
        raise ValueError(f"a whole number is expected, not {value!r}")
    return int(found)
