"""Report: what a run has made and what it took, for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.build import UnitReport
from pipeline.publish.card import table, without_rows
from pipeline.text import unmarked
from schemas.manifest import DatasetManifest


@dataclass(frozen=True, slots=True)
class Report:
    """A finished dataset and the run that finished it."""

    dataset: DatasetManifest
    units: list[UnitReport]
    warnings: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """LLM replies that this run paid for."""
        return sum(unit.asked for unit in self.units)

    @property
    def remembered(self) -> int:
        """LLM replies that were known from earlier."""
        return sum(unit.remembered for unit in self.units)

    @property
    def skipped(self) -> int:
        """Units that an earlier run had finished."""
        return sum(unit.skipped for unit in self.units)

    @property
    def kept(self) -> int:
        """Rows of the dataset."""
        return sum(split.rows for split in self.dataset.splits.values())

    @property
    def hours(self) -> float:
        """Of source audio: each utterance once."""
        return sum(split.seconds for split in self.dataset.splits.values()) / 3600

    @property
    def row_hours(self) -> float:
        """Of all rows."""
        return sum(split.row_seconds for split in self.dataset.splits.values()) / 3600

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Of this run, over all workers, longest first."""
        total: Counter[str] = Counter()
        for unit in self.units:
            total.update(unit.seconds)
        return {name: round(s, 2) for name, s in total.most_common() if s >= 0.005}

    @property
    def table(self) -> list[dict[str, Any]]:
        """All figures as rows of what, name and value."""
        dataset = self.dataset
        rows: list[tuple[str, str, Any]] = [
            ("rows", "kept", self.kept),
            ("rows", "rejected", dataset.set_aside),
            ("hours", "rows", round(self.row_hours, 3)),
            ("hours", "source audio", round(self.hours, 3)),
        ]
        rows += [("rows of split", name, split.rows) for name, split in dataset.splits.items()]
        augmented = {name: split.augmented_rows for name, split in dataset.splits.items() if split.augmented_rows}
        rows += [("augmented rows of split", name, count) for name, count in augmented.items()]
        rows += [("rows of task", name, count) for name, count in dataset.tasks.items()]
        rows += [("rejected", name, count) for name, count in dataset.reasons.items()]
        rows += [("removed", name, count) for name, count in dataset.removed.items()]
        for model, tokens in dataset.tokens.items():
            rows += [("tokens", f"{model} prompt", tokens.prompt), ("tokens", f"{model} reply", tokens.completion)]
        for found in dataset.agreement:
            name, (median, most) = ("CER", found.cer) if found.wer is None else ("WER", found.wer)
            kind = f"{found.language} by {found.voice}"
            rows += [(f"{name}, median", kind, median), (f"{name}, 90th percentile", kind, most)]
        if dataset.cost is not None:
            rows.append(("cost", "all", dataset.cost))
        rows += [("LLM replies", "paid for", self.asked), ("LLM replies", "remembered", self.remembered)]
        rows += [("seconds of stage", name, seconds) for name, seconds in self.stage_seconds.items()]
        return [{"what": what, "name": name, "value": value} for what, name, value in rows]

    @property
    def markdown(self) -> str:
        """The same, to be read."""
        dataset = self.dataset
        parts = [
            f"# {dataset.name}",
            f"{self.kept} rows of {self.row_hours:.2f} hours, made of {self.hours:.2f} hours of source audio; "
            f"{dataset.set_aside} rows set aside.",
            table(("what", "name", "value"), [tuple(row.values()) for row in self.table]),
        ]
        if not dataset.speech_verified:
            parts.append("Speech not verified: no recogniser has compared it with the transcripts.")
        parts += [text.rstrip() for text in (without_rows(dataset),) if text]
        if self.warnings:
            parts.append("\n".join(f"- {unmarked(warning)}" for warning in self.warnings))
        return "\n\n".join(parts)
