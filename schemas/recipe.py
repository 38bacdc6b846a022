"""Recipe: the strict model of a recipe file.

What belongs to a plugin (a reader's, task's, engine's or filter's own options) stays a plain
mapping here; `pipeline.recipes` checks it against the plugin's own `Options`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Mapping = dict[str, Any]


class Options(BaseModel):
    """Base of everything that a recipe can set: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class SplitSpec(Options):
    """How speakers are divided between train and test."""

    test: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of speakers (of recordings where no speaker is known) that go to test."""
    test_speakers: list[str] = []
    """`corpus/speaker` names that go to test whatever their draw says."""
    use_corpus_splits: bool = True
    """Whether a corpus's own train/dev/test division is kept; dev and test go to test."""


class ShardSpec(Options):
    """The grain of work: a unit makes one shard."""

    utterances: PositiveInt = 512
    """At most this many utterances a unit."""
    rows_per_batch: PositiveInt = 64
    """Rows of one Arrow record batch: what a random read touches."""


class AugmentSpec(Options):
    """Whose sound is changed, and how."""

    train: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of train utterances that are changed."""
    test: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The same of test. Clean unless asked for, so that figures can be compared."""
    keep_clean: bool = False
    """Whether the clean row stays beside the changed one, whose id then ends in `:augmented`."""
    longest: PositiveFloat = 30.0
    """Seconds that no effect makes an utterance exceed."""
    effects: Annotated[dict[str, Mapping | None], Field(min_length=1)] | None = None
    """Those that are drawn from, by name, with their options; the usual ones if omitted."""


class PublishSpec(Options):
    """How the dataset is published, where the command does not say it."""

    repository: Annotated[str, Field(pattern=r"^$|^[\w.-]+/[\w.-]+$")] = ""
    """`owner/name` on the Hub."""
    rejected: bool = False
    """Whether the rows that were set aside are a configuration of their own."""
    private: bool = True
    """Whether a repository that is made is."""
    licences: dict[str, str] = {}
    """Of the models that wrote and listened, by name, for the card: `{Qwen/Qwen3-8B: Apache-2.0}`."""


class LaterSpec(Options):
    """What a later run does with utterances that a corpus no longer has as they were."""

    disappeared: Literal["keep", "withdraw"] = "keep"
    """Of those that are no longer listed, or whose file is not there."""
    changed: Literal["supersede", "keep", "withdraw"] = "supersede"
    """Of those whose sound or text is another under the same id: the new one comes in place of the old one, or the old
    one stays, or neither."""


class WithdrawnSpec(Options):
    """What is taken out of the dataset and kept out of it, whether a corpus still has it or not."""

    speakers: list[str] = []
    """`corpus/name`, as rows call them."""
    utterances: list[str] = []
    """Ids, as rows call them."""
    recordings: list[str] = []
    """`corpus/name` of recordings that utterances are segments of."""
    licences: list[str] = []
    """As the corpora write them."""
    file: str | None = None
    """A text file with more of them, one a line: `speaker NAME`, `utterance ID`, `recording NAME`, `licence NAME`."""


class Recipe(Options):
    """A whole recipe. Paths are relative to the recipe's file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Names the dataset; also the default output folder."""
    description: str = ""
    seed: int = 0
    """Every random choice is derived from it."""
    corpora: Annotated[list[Mapping], Field(min_length=1)]
    """Each names a `reader`, a `path` and the reader's options."""
    tts: Mapping | None = None
    """The engine that speaks what exists only as text."""
    llm: Mapping | None = None
    """The engine that writes responses. Without one, tasks that need it are left out and named."""
    asr: Mapping | None = None
    """The engine that listens to what was spoken. Without one, speech is not verified."""
    tasks: Annotated[dict[str, Mapping | None], Field(min_length=1)]
    samples_per_utterance: PositiveInt | Literal["all"] = 1
    """How many different tasks are drawn for an utterance, by weight, from those that fit it."""
    instruction_languages: list[str] = []
    """Drawn from at random; empty means the language of the speech, or else English."""
    prompts: str | None = None
    """A folder whose files go before the shipped `prompts/`."""
    filters: dict[str, Mapping | Literal[False] | None] = {}
    """Options of filters, by name; `false` switches one off. Filters not named run as they are."""
    spoken_instructions: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the instructions of one line that are spoken, too; needs `tts`."""
    augment: AugmentSpec | None = None
    """What is done to the sound of utterances; nothing if omitted."""
    later: LaterSpec = LaterSpec()
    withdrawn: WithdrawnSpec = WithdrawnSpec()
    """Names that must not be in the dataset; they are in no manifest and no card either."""
    split: SplitSpec = SplitSpec()
    shards: ShardSpec = ShardSpec()
    publish: PublishSpec = PublishSpec()
