"""Measure: what the runs of the closed world come to, by the evaluation that is shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.asr.transformers import Transformers
from pipeline.shards import write_atomically

SYSTEMS = ("end_to_end", "cascade", "oracle", "shuffled")
_NAME = "figures.json"
_WANTED = {
    "wer": ("transcription", "wer"),
    "ast": ("tools", "ast_accuracy"),
    "correct": ("tools", "correct"),
}


@dataclass(frozen=True)
class Number:
    """A figure with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    count: int

    def shown(self) -> str:
        """In percent."""
        if self.low is None or self.high is None:
            return f"{self.value:.1%}"
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


Figures = dict[str, dict[str, Number]]
"""By system, and by name: `wer`, `ast`, `correct`."""


def measure(
    model: Path,
    dataset: Path,
    out: Path,
    *,
    ears: Path,
    systems: Sequence[str],
    limit: int | None,
    threads: int,
    device: str,
) -> None:
    """Evaluates a model on the test split of a dataset, and keeps what the report needs.

    Args:
        model: Its folder.
        dataset: The same.
        out: Where the evaluation's report and the figures are written.
        ears: The CTC model that the cascade listens with.
        systems: Who answers.
        limit: Rows at most.
        threads: That the cascade's recogniser takes on a CPU.
        device: As torch names it.
    """
    from pipeline.evaluate import report
    from pipeline.evaluate.questions import Settings
    from pipeline.evaluate.run import evaluate

    asr = (
        Transformers(model=str(ears), threads=threads or 1, device=device, dtype="float32")
        if "cascade" in systems
        else None
    )
    settings = Settings(
        systems=tuple(systems), asr=asr, limit=limit, most_tokens=48, at_once=32, timed=0, device=device
    )
    result = evaluate(model, dataset, out, settings)
    report.write(result, out)
    found: Figures = {}
    for run in result.runs:
        for name, (family, figure) in _WANTED.items():
            one = run.figure(family, figure)
            if one is not None and one.value is not None:
                found.setdefault(run.system, {})[name] = Number(one.value, one.low, one.high, one.count)
    content = {system: {name: asdict(number) for name, number in own.items()} for system, own in found.items()}
    write_atomically(out / _NAME, json.dumps(content, indent=1).encode())


def read(out: Path) -> Figures:
    """What `measure` kept."""
    content = json.loads((out / _NAME).read_bytes())
    return {system: {name: Number(**number) for name, number in own.items()} for system, own in content.items()}
