"""`earwitness evaluate`: a model on a dataset, beside the cascade and the oracle, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline import mirror, plugins, storage
from pipeline.asr.base import ASR
from pipeline.evaluate.errors import EvaluationError
from pipeline.plugins import require
from pipeline.recipes import Document
from pipeline.terminal import Terminal, escape

if TYPE_CHECKING:
    from pipeline.evaluate.questions import Settings
    from pipeline.evaluate.results import Result

console = Terminal()
_PATHS = ("model", "file")  # of an engine; those that are none are names on the Hub


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder, or a hub id.")],
    dataset: Annotated[Path, typer.Argument(help="A finished dataset's folder.", **mirror.OPTION)],
    out: Annotated[
        Path | None, typer.Option(help="The report's folder. Default: out/evaluation/MODEL-DATASET", **storage.DISK)
    ] = None,
    split: Annotated[Literal["train", "test"], typer.Option(help="Which rows.")] = "test",
    system: Annotated[
        list[str] | None,
        typer.Option(
            help="end_to_end, cascade, oracle, reading, shuffled, silent or text_only; may be repeated. Default: "
            "end_to_end, oracle, shuffled, silent, and cascade where --asr is given."
        ),
    ] = None,
    asr: Annotated[
        str | None,
        typer.Option(help="The cascade's ASR: ENGINE:MODEL, or a YAML file with an `asr:` as recipes have it."),
    ] = None,
    constrain: Annotated[bool, typer.Option(help="Also decode among valid answers only.")] = False,
    joint: Annotated[bool, typer.Option(help="Also decode the transcript first, then the answer.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows, drawn by chance.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only rows of this task; may be repeated.")] = None,
    questions: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Text questions in MMLU's layout, as JSON lines.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="The training run's folder, for its curves.")
    ] = None,
    most_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Questions that are answered together.")] = 16,
    timed: Annotated[int, typer.Option(min=0, help="Questions on which latency is measured.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU if there is one.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto is bfloat16 on a GPU, else float32.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Draws rows, the order of options, and whose speech is shuffled in.")] = 0,
) -> None:
    """Evaluate a model on a dataset. Run it again to go on after a stop: nothing is asked twice."""
    for package in ("torch", "transformers"):
        require(package, extra="train", what="evaluating a model")
    from pipeline.evaluate.questions import Settings
    from pipeline.evaluate.systems import DEFAULT

    storage.on_disk(model)
    device, precision = placed(device, dtype)
    settings = Settings(
        split=split,
        systems=tuple(system or (*DEFAULT, *(["cascade"] if asr else []))),
        decodings=("plain", *(["constrained"] if constrain else []), *(["joint"] if joint else [])),
        asr=engine(asr) if asr else None,
        limit=limit,
        tasks=tuple(task or ()),
        questions=questions,
        most_tokens=most_tokens,
        at_once=batch,
        timed=timed,
        device=device,
        dtype=precision,
        seed=seed,
    )
    folder = out or Path("out") / "evaluation" / f"{Path(model).name}-{dataset.name}"
    result, page = shown(model, dataset, folder, settings, training)
    _summary(result)
    console.print(f"\nThe report: [cyan]{escape(str(page))}[/cyan]", soft_wrap=True)


def placed(device: str, dtype: str) -> tuple[str, str]:
    """A device and a precision, where they are left to us (`auto`)."""
    if device == "auto":
        torch = require("torch", extra="train", what="evaluating a model")
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return device, dtype


def shown(
    model: str, dataset: Path, out: Path, settings: Settings, training: Path | None = None
) -> tuple[Result, Path]:
    """Evaluates with a progress bar, and writes the report."""
    from pipeline.evaluate import report
    from pipeline.evaluate.run import evaluate as run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, Any] = {}
    with Progress(*columns, console=console) as progress:

        def told(what: str, done: int, of: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what.replace("_", " "), total=of)
            progress.update(bars[what], completed=done)

        result = run(model, dataset, out, settings, progress=told)
    return result, report.write(result, out, training or trained_in(model))


def trained_in(model: str) -> Path | None:
    """The folder of the run that trained a model, if it still lies in it."""
    folder = Path(model).resolve().parent
    return folder if (folder / "metrics.jsonl").is_file() else None


def engine(text: str) -> ASR:
    """An ASR engine, from `ENGINE:MODEL` or from a file with its options.

    Raises:
        EvaluationError, RecipeError: It cannot be used so; says what is expected.
    """
    path = Path(text).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return _of_file(path)
    name, colon, model = text.partition(":")
    if not colon or not model:
        raise EvaluationError(f"--asr {text}: ENGINE:MODEL is expected, or a YAML file with `asr:`")
    try:
        found: ASR = plugins.load("asr", name).model_validate({"model": model})
    except plugins.UnknownPlugin as error:
        raise EvaluationError(f"--asr {text}: {error}") from error
    except ValidationError as error:
        raise EvaluationError(f"--asr {text}: {error.errors()[0]['msg']}; write it as a file with `asr:`") from error
    return found


def _of_file(path: Path) -> ASR:
    document = Document(path)
    at: tuple[str, ...] = ("asr",) if isinstance(document.values.get("asr"), dict) else ()
    values = dict(document.values["asr"] if at else document.values)
    name = values.pop("engine", None)
    if not isinstance(name, str):
        raise document.missing("engine", values, at, f"; there are: {', '.join(plugins.names('asr'))}")
    kind = document.plugin("asr", name, (*at, "engine"))
    for key in _PATHS:
        if isinstance(values.get(key), str) and (key == "file" or values[key].startswith((".", "/", "~", "$"))):
            values[key] = document.resolve(values[key], (*at, key))
    found: ASR = document.check(kind, values, at)
    return found


def _summary(result: Result) -> None:
    from pipeline.evaluate import report

    content = report.systems(result, brief=True)
    table = Table(title=escape(f"{result.model} on {result.dataset}: {result.turns} responses"), title_justify="left")
    table.add_column("")
    for row in content.rows:  # systems side by side: there are few of them, and many figures
        table.add_column(escape(row[0]), justify="right")
    for number, head in enumerate(content.heads[1:], 1):
        table.add_row(escape(head), *(escape(row[number]) for row in content.rows))
    console.print(table)
    for remark in report.remarks(result):
        console.print(Text(remark, "dim"))
    for turn, why in result.bad[:5]:
        console.print(Text.assemble((str(turn), "yellow"), f": {why}"), soft_wrap=True)
