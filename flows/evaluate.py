"""Evaluation as a job that a schedule starts: a model on a dataset, with its figures as artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows._watching import shown
from pipeline import mirror, storage
from pipeline.evaluate.command import engine, placed, trained_in
from pipeline.evaluate.results import Result
from pipeline.evaluate.systems import DEFAULT

if TYPE_CHECKING:  # torch is needed where a run runs, not where it is deployed from
    from pipeline.evaluate.questions import Settings

System = Literal["end_to_end", "cascade", "oracle", "reading", "shuffled", "silent", "text_only"]


@task(name="ask", cache_policy=NO_CACHE, persist_result=False, retries=1)
def answers(model: str, dataset: str, out: str, settings: Settings) -> Result:
    """Puts the rows to all systems; what was answered before is not asked again."""
    from pipeline.evaluate.run import evaluate as ask

    return ask(model, mirror.folder(dataset), Path(out), settings)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def written(result: Result, model: str, out: str) -> Path:
    """Writes the report."""
    from pipeline.evaluate import report

    return report.write(result, Path(out), trained_in(model))


@flow(name="evaluate", persist_result=False)
def evaluate(
    model: str,
    dataset: str,
    out: str,
    systems: list[System] | None = None,
    asr: str | None = None,
    constrain: bool = False,
    joint: bool = False,
    limit: Annotated[int, Field(ge=1)] | None = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Result:
    """Evaluates a model on the test split of a dataset.

    Args:
        model: Its folder, or a hub id.
        dataset: The folder of a finished dataset.
        out: The report's folder; a further run into it asks only what is missing.
        systems: Who answers; end to end, oracle and controls if omitted, with `asr` the cascade, too.
        asr: The cascade's engine: `ENGINE:MODEL`, or a YAML file with `asr:`.
        constrain: Whether answers are also decoded among valid ones only.
        joint: Whether they are also decoded after the transcript.
        limit: At most so many rows, drawn by chance.
        device: As torch names it; auto takes a GPU if there is one.
        dtype: Of encoders and LLM; auto is bfloat16 on a GPU, else float32.
    """
    from pipeline.evaluate import report
    from pipeline.evaluate.questions import Settings

    for path in (model, out):
        storage.on_disk(path)  # refused before a model is loaded
    device, kind = placed(device, dtype)
    settings = Settings(
        systems=tuple(systems or (*DEFAULT, *(["cascade"] if asr else []))),
        decodings=("plain", *(["constrained"] if constrain else []), *(["joint"] if joint else [])),
        asr=engine(asr) if asr else None,
        limit=limit,
        device=device,
        dtype=kind,
    )
    result = answers(model, dataset, out, settings)
    written(result, model, out)
    name = "".join(c if c.isalnum() else "-" for c in f"{result.model}-{result.dataset}".lower()).strip("-")
    table = report.systems(result)
    shown(
        "the systems",
        create_table_artifact,
        [dict(zip(table.heads, row, strict=True)) for row in table.rows],
        key=f"{name}-systems",
    )
    shown("the evaluation", create_markdown_artifact, report.summary(result), key=f"{name}-evaluation")
    return result
