"""Manifests: what was made, written last. Files without one do not exist."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

SCHEMA_VERSION = 2
"""Raised when the meaning or the columns of a shard change."""


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _stays_inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable() or ":" in parts[0]:
        raise ValueError(f"{path!r} leads out of the dataset's folder, or is no path")
    return path


_Name = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*$")]
"""A part of the names of files."""


class ShardFile(_Manifest):
    """One Arrow file."""

    path: Annotated[str, AfterValidator(_stays_inside)]
    """Relative to the dataset's folder."""
    rows: int
    bytes: int
    digest: str
    """XXH3, 128 bits: finds damage, at memory speed; it is no protection against malice."""


class Tokens(_Manifest):
    """What one model read and wrote for the rows of a shard."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0


class ShardManifest(_Manifest):
    """Accounts for every row of a unit: kept, rejected and removed ones are all that came in."""

    schema_version: int = SCHEMA_VERSION
    unit: _Name
    """Digest of the unit's utterances and their contents."""
    fingerprint: str
    """Digest of everything else that shapes the rows."""
    split: _Name
    utterances: int
    """Planned for the unit; each appears in at least one row, kept or rejected."""
    heard: int
    """Utterances of which there is something in a kept row, mixtures included."""
    kept: ShardFile | None
    rejected: ShardFile | None
    reasons: dict[str, int]
    """Rejected rows by reason."""
    removed: dict[str, int] = {}
    """Rows that are no longer there, since an utterance in them was taken out of the dataset, by reason: `withdrawn`,
    `corpus_removed`, `changed`, `superseded` or `disappeared`. Of a unit that was built afterwards, the utterances."""
    seconds: float
    """Of source audio: distinct utterances that a kept row plays as they are, or augmented. Mixtures of them
    and pauses cut from them count as rows only."""
    row_seconds: float
    """Of all kept rows: an utterance with two tasks counts twice."""
    augmented: float = 0.0
    """Seconds of distinct kept utterances whose sound was changed."""
    augmented_rows: int = 0
    """Kept rows that hear one of them."""
    tasks: dict[str, int]
    """Kept rows by task."""
    languages: dict[str, float]
    """Seconds of source audio by language."""
    licences: dict[str, float]
    """The same by licence."""
    speakers: list[str]
    """Of kept rows; of mixtures, all who speak in them."""
    recordings: list[str]
    """Of kept rows whose speakers nobody knows: these are what their split was drawn by."""
    queries: list[str]
    """Digests of what is said and called in kept rows about tools: none is in both splits."""
    outcomes: dict[str, int]
    """Kept rows about tools by outcome."""
    voices: dict[str, float]
    """Seconds of synthetic speech in kept rows by engine and licence: `espeak, GPL-3.0-or-later`."""
    instructions: list[str]
    """Ids of the instruction paraphrases in kept rows."""
    tokens: dict[str, Tokens]
    """By model, for kept and rejected rows."""


class SplitSummary(_Manifest):
    """One split of a finished dataset."""

    rows: int
    utterances: int
    """Of which there is something in a kept row."""
    seconds: float
    """Of source audio: each utterance once, without mixtures of them and pauses cut from them."""
    row_seconds: float
    """Of all rows, each with all that it plays."""
    augmented: float = 0.0
    """Seconds of distinct audio that was changed after it was recorded or spoken."""
    augmented_rows: int = 0
    """Rows that hear some of it."""
    speakers: int
    shards: list[ShardFile]


class Leakage(_Manifest):
    """What train and test share. All lists are empty, or the dataset is not finished."""

    speakers_in_both: list[str]
    recordings_in_both: list[str]
    instructions_in_both: list[str]
    queries_in_both: list[str]


class Agreement(_Manifest):
    """How what an ASR engine heard agrees with what should be said, in kept rows of one kind."""

    language: str
    voice: str
    """The TTS engine that spoke; `recording` where people did."""
    rows: int
    wer: tuple[float, float] | None
    """Median and 90th percentile; None in languages whose words are not parted by spaces."""
    cer: tuple[float, float]
    """The same of characters."""


class DatasetManifest(_Manifest):
    """A finished dataset."""

    schema_version: int = SCHEMA_VERSION
    name: str
    fingerprint: str
    recipe: dict[str, object]
    """As resolved, without secrets and run-level choices."""
    splits: dict[str, SplitSummary]
    rejected: list[ShardFile]
    planned_utterances: int
    """Without those that were taken out since."""
    rows_in: int
    """Equals kept, rejected and removed rows."""
    reasons: dict[str, int]
    removed: dict[str, int] = {}
    """Rows that are no longer there, by reason: see `ShardManifest`."""
    taken_out: dict[str, int] = {}
    """Utterances of earlier runs that are no longer in the dataset, by the same reasons."""
    tasks: dict[str, int]
    outcomes: dict[str, int]
    """Kept rows about tools by outcome."""
    voices: dict[str, float]
    """Seconds of synthetic speech in kept rows by engine and licence."""
    tasks_left_out: list[str]
    """Tasks of the recipe that need an LLM where the recipe names none."""
    languages: dict[str, float]
    licences: dict[str, float]
    tokens: dict[str, Tokens]
    cost: float | None
    """Of all tokens at the recipe's prices, in the recipe's currency; None without prices."""
    leakage: Leakage
    speech_verified: bool
    """Whether an ASR engine has compared the speech with the transcripts."""
    agreement: list[Agreement] = []
    """Of the rows that it has compared."""
    state: str = ""
    """Digest of the plan, the shards and the recipe: a run that finds them so has nothing to do."""

    @property
    def set_aside(self) -> int:
        """Rejected rows."""
        return sum(self.reasons.values())

    @property
    def tasks_without_rows(self) -> list[str]:
        """Tasks of the recipe of which no row was kept."""
        asked = self.recipe.get("tasks")
        return [name for name in asked if name not in self.tasks] if isinstance(asked, dict) else []
