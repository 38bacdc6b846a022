"""Events: what the training loop tells while it runs. `watch.py` writes them down; tests count them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StageBegun:
    """A stage begins, or goes on where a run was ended."""

    stage: str
    number: int
    """From 0."""
    stages: int
    """How many the recipe has."""
    step: int
    """Steps of this stage that are done already; above 0 when it goes on."""
    steps: int
    """Steps of this stage at most."""
    overall: int
    """Steps that are done in all stages together. What was told of later ones before a kill holds no more."""
    steps_overall: int
    """At most, of all stages together."""
    trains: dict[str, int]
    """How many weights are trained, by part."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step of the optimizer, over all processes together."""

    stage: str
    step: int
    """Of the stage, from 1."""
    overall: int
    """Of all stages together, from 1."""
    epoch: float
    """Epochs of the stage that are done: 1.5 is in the middle of the second."""
    loss: float
    """What was minimised, a mean over response tokens."""
    losses: dict[str, float]
    """Its parts without their weights, each a mean over response tokens: `cross_entropy`, `distillation`."""
    learning_rates: dict[str, float]
    """By part."""
    gradient_norm: float
    """Before it was clipped."""
    rows: int
    tokens: int
    """Of responses: those that the loss is on."""
    positions: int
    """Of the LLM, padding left out."""
    padding: float
    """Share of the LLM's positions that are padding."""
    audio_seconds: float
    seconds: float
    """Wall time since the step before, with the wait for data, without validation and checkpoints."""
    waited: float
    """Share of it that was spent waiting for data, of the process that waited longest."""
    memory: int
    """Bytes at the peak: of the GPU, or of the process where there is none; of the process that has most."""

    @property
    def audio_rate(self) -> float:
        """Seconds of audio heard in a second."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0

    @property
    def token_rate(self) -> float:
        """Positions of the LLM in a second, padding left out."""
        return self.positions / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Validated:
    """A validation; `overall` is the number of steps that came before it."""

    stage: str
    step: int
    overall: int
    losses: dict[str, float]
    """Means over response tokens: `loss`, and `cross_entropy` and `distillation`, whichever of them trains."""
    figures: dict[str, float]
    """Of the decoded rows: `wer`, `cer`, `exact`, `correct`, whichever can be told."""
    figure: str
    """By which checkpoints are chosen: `wer`, `correct` or `loss`."""
    value: float
    """Its value."""
    better: bool
    """Whether it is the stage's best so far."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """A validation row that the model has answered."""

    stage: str
    step: int
    overall: int
    id: str
    task: str
    reference: str
    """What the row says."""
    response: str
    """What the model said."""
    scores: dict[str, float] = field(default_factory=dict)
    """Of this row alone, by name."""


class Watch(Protocol):
    """Who is told what happens. Only the main process tells."""

    def stage(self, event: StageBegun) -> None:
        """Before a stage's first step in this run."""

    def step(self, event: Stepped) -> None:
        """After each step."""

    def validation(self, event: Validated) -> None:
        """After each validation, and after its samples."""

    def sample(self, event: Decoded) -> None:
        """For each row that a validation decoded."""

    def note(self, text: str) -> None:
        """A sentence for people: a checkpoint was damaged, a stage ended early, and why."""


class Silent:
    """Nobody is told."""

    def stage(self, event: StageBegun) -> None:
        """Nothing."""

    def step(self, event: Stepped) -> None:
        """Nothing."""

    def validation(self, event: Validated) -> None:
        """Nothing."""

    def sample(self, event: Decoded) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
