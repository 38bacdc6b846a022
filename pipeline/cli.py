"""The command line: a dictionary of functions."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, ParamSpec, TypeVar

import pyarrow as pa
import typer
from rich.logging import RichHandler
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline import build as building
from pipeline import inspect as inspection
from pipeline import logs, mirror, storage
from pipeline import metrics as figures
from pipeline import page as pages
from pipeline import recipes as recipe_files
from pipeline import survey as surveying
from pipeline.closed_world.command import closed_world
from pipeline.evaluate.command import evaluate
from pipeline.model.export.command import export
from pipeline.plugins import MissingExtra
from pipeline.publish import card
from pipeline.readers.base import CorpusError
from pipeline.setup import prepare
from pipeline.shards import DiskError, refuse_foreign
from pipeline.status import status
from pipeline.terminal import Terminal, escape
from pipeline.tools.errors import CatalogueError
from pipeline.train.command import overfit, train
from pipeline.workers import begin_early
from schemas.manifest import DatasetManifest
from schemas.sample import Sample

if TYPE_CHECKING:  # a build without tools starts sooner
    from pipeline.tools import trial
    from pipeline.tools.catalogue import Catalogue

console = Terminal()
errors = Terminal(stderr=True)
log = logging.getLogger("earwitness")
P = ParamSpec("P")
T = TypeVar("T")

PREFECTS = ("prefect", "httpx", "sqlalchemy")  # whose errors are not about the dataset
PROBLEMS_SHOWN = 5


def build(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's file, or the name of a shipped one (`earwitness recipes`).")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The dataset's folder, or its URL (s3://...). Default: out/NAME", **mirror.TARGET),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many, drawn by chance; earlier runs' stay.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many build at the same time. Default: a process a core, or the whole cluster."),
    ] = None,
    runner: Annotated[
        Literal["processes", "dask", "ray"], typer.Option(help="Where: this machine's processes, or a cluster.")
    ] = "processes",
    address: Annotated[
        str | None, typer.Option(help="Of a cluster that runs: tcp://HOST:8786, or HOST:6379 for Ray.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Read finished shards first; damaged ones are made again.")] = False,
    verbose: Annotated[bool, typer.Option(help="Show what Prefect logs.")] = False,
    log_format: Annotated[
        str | None, typer.Option(metavar="text|json", help="Of logs, here and in workers. Default: EARWITNESS_LOG")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="PORT", help="Serve metrics for Prometheus: PORT on loopback, or HOST:PORT.")
    ] = None,
) -> None:
    """Build a dataset from a recipe. Run it again to go on after a stop: nothing is done twice."""
    _watch(log_format, metrics)
    path = recipe_files.find(recipe)
    setup = prepare(str(path))
    folder = out or Path("out") / setup.recipe.name
    where = mirror.address(folder)
    refuse_foreign(folder, setup.recipe.name)  # before Prefect starts; the flow asks again, holding the folder
    console.print(f"[bold]{setup.recipe.name}[/bold]  {escape(f'{path} -> {where}')}")
    if setup.tasks_left_out:
        names = ", ".join(setup.tasks_left_out)
        console.print(f"[yellow]Left out, since the recipe names no LLM (`llm`):[/yellow] {names}")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    # It writes every event that it could not send, at length, when its server is gone.
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "ERROR" if verbose else "CRITICAL")
    _check_prefect_home()
    from flows import _early as prefect_server

    prefect_server.begin()
    if runner == "processes":
        begin_early(building.make_ready, str(path))
    with _told_how_to_go_on(folder), _shown(folder):
        from flows import build_dataset

        report = _apart(build_dataset.run, path, folder, limit, workers, runner, address, verify)
    for warning in report.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    _summary(report.dataset)
    if report.asked or report.remembered:
        console.print(f"LLM replies: {report.asked} asked for now, {report.remembered} remembered from earlier runs.")
    if report.skipped:
        console.print(f"{report.skipped} of {len(report.units)} units were finished before this run.")
    if not report.kept:
        console.print(
            "[yellow]Not one row was kept.[/yellow] See why: "
            f"[cyan]earwitness inspect {escape(where)} --rejected[/cyan]"
        )
        return
    load = "load_from_disk" if storage.is_url(where) else "load_dataset"  # which lists no folder of a store
    console.print(f"\nLoad it: [cyan]datasets.{load}({escape(repr(where))})[/cyan]")
    console.print(f"Look into it: [cyan]earwitness inspect {escape(where)}[/cyan]")


def _watch(log_format: str | None, metrics: str | None) -> None:
    """Sets up how the run is watched; its workers and the flow find it in the environment."""
    if log_format is not None:
        os.environ[logs.VARIABLE] = log_format
        logs.configure(RichHandler(console=errors, show_path=False))
    if metrics is not None:
        figures.place(metrics)  # a wrong one is told before any work
        os.environ[figures.VARIABLE] = metrics


def corpora(
    path: Annotated[str, typer.Argument(help="A folder, a listing or an archive; or the URL of one, s3://...")],
    headers: Annotated[bool, typer.Option(help="Read the header of each file.")] = True,
) -> None:
    """Find the corpora below a path: how to read them, what is in them, and what is wrong."""
    at = storage.place(path).resolve()
    with storage.told(path):
        if not at.exists():
            raise typer.BadParameter(f"{path} does not exist")
        found = list(surveying.find(at))
    if not found:
        where = "below it" if at.is_dir() else "in it"
        raise CorpusError(f"{path}: no corpus is recognised {where}. Name its reader in a recipe; see the README")
    failed = 0
    for corpus in found:
        try:
            with console.status(f"reading {escape(str(corpus.path))}"):
                result = surveying.survey(corpus, headers=headers)
        except (CorpusError, MissingExtra) as error:
            errors.print(Text.assemble((str(corpus.path), "red"), f" ({corpus.reader}): {error}"), soft_wrap=True)
            failed += 1
            continue
        _show_survey(result)
    count = len(found) - failed
    console.print(f"{count} {'corpus' if count == 1 else 'corpora'}. Put an entry under `corpora:` of a recipe.")
    if not count:
        raise typer.Exit(1)


def inspect(
    dataset: Annotated[Path, typer.Argument(help="A dataset's folder.", **mirror.OPTION)],
    row: Annotated[int | None, typer.Option(min=0, help="Show row N, counted from 0.")] = None,
    wav: Annotated[Path | None, typer.Option(help="Write the speech of that row to this file.", **storage.DISK)] = None,
    rejected: Annotated[bool, typer.Option(help="Look at rejected rows.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare all files with their digests.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with figures, rows and their sound.", **storage.DISK)
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows on that page.")] = pages.ROWS,
    seed: Annotated[int, typer.Option(help="Draws those rows.")] = 0,
) -> None:
    """Look into a dataset: counts, hours, reasons, examples; one row and its sound; or all that as a page."""
    manifest = inspection.load(dataset)
    if verify:
        wrong = inspection.verify(dataset, manifest)
        for text in wrong:
            errors.print(Text(text, "red"))
        if wrong:
            errors.print(
                "`earwitness build --verify` makes them again; no reply that is remembered is asked for again."
            )
            raise typer.Exit(1)
        console.print("All files are as they were written.")
    if html is not None:
        if row is not None or wav is not None:
            raise typer.BadParameter("--html shows a sample of rows: leave --row and --wav out, or give --rows")
        _write_page(dataset, manifest, html, rows, rejected, seed)
        return
    if row is None and wav is None:
        _summary(manifest)
        for number, sample in inspection.examples(dataset, manifest, rejected):
            _show_row(number, sample)
        return
    number = row or 0
    sample = inspection.row(dataset, manifest, number, rejected)
    _show_row(number, sample, whole=True)
    if wav is not None:
        wav.write_bytes(inspection.wav(sample))
        console.print(f"The speech of row {number} is in {escape(str(wav))}.")


def _write_page(dataset: Path, manifest: DatasetManifest, html: Path, rows: int, rejected: bool, seed: int) -> None:
    page = pages.write(dataset, manifest, html, rows=rows, rejected=rejected, seed=seed)
    console.print(
        f"{escape(str(html))}: {page.rows} of {page.of} rows, {page.bytes / 1e6:.1f} MB. Open it in a browser."
    )
    if page.missing:
        console.print(f"[dim]not among them: {escape(', '.join(page.missing))}; --rows {rows} are too few[/dim]")
    if page.silent:
        limit = pages.SOUND_BYTES / 2**20
        console.print(f"[yellow]{page.silent} utterances are shown without sound:[/yellow] a page holds {limit:.0f} MB")


def tools(
    catalogue: Annotated[Path, typer.Argument(help="A file of tools in the OpenAI format, or a folder of such.")],
    language: Annotated[list[str] | None, typer.Option(help="Show only this one; may be repeated.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Requests shown of each tool.")] = 3,
    seed: Annotated[int, typer.Option(help="Draws them.")] = 0,
) -> None:
    """Check a tool catalogue with its grammars, and show what would be asked."""
    from pipeline.tools import catalogue as catalogues

    paths = catalogues.files(catalogue)
    if not paths:
        raise CatalogueError(f"{catalogue}: no catalogue is in it; files NAME.json with tools are expected")
    for path in paths:
        _show_catalogue(catalogues.load(path), language, examples, seed)


def _show_catalogue(catalogue: Catalogue, languages: list[str] | None, examples: int, seed: int) -> None:
    from pipeline.tools import trial

    console.print(Text.assemble((catalogue.name, "bold"), f"  {catalogue.path}: {catalogue.about('en')}"))
    table = Table("tool", "arguments", *(f"phrasings, {name}" for name in catalogue.grammars))
    for tool in catalogue.tools.values():
        arguments = ", ".join(a.name if a.required else f"[{a.name}]" for a in tool.arguments.values())
        sizes = (str(g.tools[tool.name].ask.size) for g in catalogue.grammars.values())
        table.add_row(tool.name, Text(arguments), *sizes)
    console.print(table)
    unknown = set(languages or ()) - set(catalogue.grammars)
    if catalogue.grammars and unknown:
        known = ", ".join(catalogue.grammars)
        raise CatalogueError(f"{catalogue.path}: no grammar in {sorted(unknown)[0]!r} is beside it; there are: {known}")
    if not catalogue.grammars:
        console.print(
            "No grammar is beside it: an LLM writes its requests (task `tool_call`), for calls such as these."
        )
    for name in languages or catalogue.grammars or ["en"]:
        if name in catalogue.grammars and examples:
            console.print(f"\n[bold]{name}[/bold]")
            for asked in catalogue.tools:
                for text in trial.phrasings(catalogue, name, asked, examples, seed):
                    console.print(Text.assemble((f"  {asked}  ", "cyan"), text))
        for shown in trial.dialogues(catalogue, name, seed):
            console.print(Text.assemble((f"  {shown.situation}  ", "green"), _told(shown)), soft_wrap=True)
    console.print()


def _told(shown: trial.Shown) -> str:
    parts = [" ... ".join(shown.said), "; ".join(shown.calls) or "no call", shown.answer]
    return " -> ".join(part for part in parts if part)


def recipes() -> None:
    """List the shipped recipes: those of datasets for `build`, and those for `train`."""
    for use, folder in (("build", recipe_files.SHIPPED), ("train", recipe_files.SHIPPED.with_name("training"))):
        for name, path in recipe_files.shipped(folder).items():
            about = " ".join(str(recipe_files.Document(path).values.get("description", "")).split())
            console.print(Text.assemble((f"{use} {name}", "bold"), f": {about}"))
            console.print(Text(f"  {path}", "dim"), soft_wrap=True)  # in one line, so that it can be copied


def publish(
    dataset: Annotated[Path, typer.Argument(help="The folder of a finished dataset.", **mirror.OPTION)],
    repository: Annotated[
        str | None, typer.Argument(help="OWNER/NAME on the Hugging Face Hub; made if it is not there.")
    ] = None,
    rejected: Annotated[
        bool | None, typer.Option("--rejected/--no-rejected", help="Publish the rows that were set aside, too.")
    ] = None,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="Let everybody see a repository that is new.")
    ] = None,
    purge: Annotated[
        bool, typer.Option(help="Afterwards delete for good what is no longer shown, and the history. No way back.")
    ] = False,
) -> None:
    """Publish a finished dataset on the Hub, all at once. The token is taken from HF_TOKEN. Run it again to go on.

    What is omitted is as the recipe says under `publish`.
    """
    from pipeline.publish import release

    private = None if public is None else not public
    done = release.publish(
        dataset, inspection.load(dataset), repository, rejected=rejected, private=private, purge=purge
    )
    if not done.changed:
        console.print(f"{done.repository} has all of it already: no new release.")
    elif not done.rows:
        console.print(
            f"{done.repository}: all rows were withdrawn, and have left the Hub's page. Its history has them."
        )
    else:
        console.print(f"{done.repository}: {done.files} files, of which {done.made} were made for this release.")
        console.print(f"Load it: datasets.load_dataset({done.repository!r})", soft_wrap=True)
    if purge:
        console.print(f"{done.purged} files of older releases are deleted for good.")


COMMANDS: dict[str, Callable[..., None]] = {
    "build": build,
    "closed-world": closed_world,
    "corpora": corpora,
    "evaluate": evaluate,
    "export": export,
    "inspect": inspect,
    "overfit": overfit,
    "publish": publish,
    "recipes": recipes,
    "status": status,
    "tools": tools,
    "train": train,
}


def main() -> None:
    """Runs the command that was given."""
    application = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Makes instruction data for audio LLMs from transcribed speech. Begin with: earwitness build quickstart",
    )
    for name, function in COMMANDS.items():
        application.command(name)(function)
    try:
        logs.configure(RichHandler(console=errors, show_path=False))
        application()
    except pa.ArrowInvalid as error:
        _fail(f"a file of the dataset is damaged: {error}. `earwitness build --verify` makes it again")
    except OSError as error:
        if _is_ours(error):
            _fail(str(error))
        where = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{where}{error.strerror or error}: mend the path, its permissions or the disk, and run the command again"
        )
    except Exception as error:
        if _is_ours(error):
            _fail(str(error))
        if _raised_in(error) not in PREFECTS:
            raise
        _fail(f"Prefect failed: {error}. See that its server (PREFECT_API_URL) runs and PREFECT_HOME can be written")


def _fail(message: str) -> NoReturn:
    if _is_json():
        log.error(message)
    else:
        errors.print(Text.assemble(("Error: ", "bold red"), logs.hidden(message)), soft_wrap=True)
    sys.exit(1)


def _is_json() -> bool:
    """Whether programs read what we write; a form of logs that is not known is itself told to people."""
    try:
        return logs.is_json()
    except logs.LogError:
        return False


def _is_ours(error: BaseException) -> bool:
    """Whether it is of a class of ours: these say what a person can do, and are shown without a stack."""
    return type(error).__module__.partition(".")[0] in ("pipeline", "schemas", "flows")


def _raised_in(error: BaseException) -> str:
    """The package in whose code an error arose."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0] if frames else ""


def _check_prefect_home() -> None:
    """Whether Prefect can begin: without its database it tries in vain for minutes, and shows every stack."""
    if os.environ.get("PREFECT_API_URL"):
        return
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"x")
    except OSError as error:
        cure = "free space there, or set PREFECT_HOME to a folder that can be written"
        raise DiskError(
            error.errno, f"{home}: Prefect cannot keep its records here ({error.strerror}): {cure}"
        ) from error


@contextmanager
def _told_how_to_go_on(folder: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run at once; all that was finished stays."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt as interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        told = f"What was finished is in {mirror.address(folder)}; the same command goes on from there."
        if logs.is_json():
            log.warning("Stopped. %s", told)
        else:
            errors.print(f"\n[yellow]Stopped.[/yellow] {told}")
        stop = getattr(sys.modules.get("flows.build_dataset"), "stop", None)  # None while it is loaded
        if stop is not None:
            stop()
        sys.stderr.flush()
        # Nothing is left to be written, and other threads may wait for ever.
        os._exit(128 + (signal.SIGTERM if isinstance(interruption, _Terminated) else signal.SIGINT))
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _interrupt(*_: object) -> None:
    raise _Terminated


def _apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs something in a thread and waits for it, so that signals come to us alone.

    A terminal's Ctrl-C also ends Prefect's temporary server, to which Prefect would then try for a
    minute to report that it was interrupted.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*args, **kwargs))
        except BaseException as error:  # handed on as it is
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    building.load_converters()  # while Prefect waits for its server
    return outcome.result()


@contextmanager
def _shown(folder: Path) -> Iterator[None]:
    """A progress bar, fed by what the folder tells."""
    from pipeline.progress import Watch

    watch, ended = Watch(folder), threading.Event()
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[rows]}")),
    )
    with Progress(*columns, console=console, disable=logs.is_json()) as progress:
        bar = progress.add_task("planning", total=None, rate="", rows="")
        started: list[tuple[float, int]] = []

        def follow() -> None:
            began = time.time()
            while not ended.wait(0.5):
                state = watch.look(newer_than=began)
                if state is not None:
                    _advance(progress, bar, state, started)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
            state = watch.look()
            if state is not None:
                _advance(progress, bar, state, started)
        finally:
            ended.set()
            thread.join()


def _advance(progress: Progress, bar: Any, state: Any, started: list[tuple[float, int]]) -> None:
    now = time.monotonic()
    if not started:
        started.append((now, state.utterances_done))
    began, had = started[0]
    rate = (state.utterances_done - had) / (now - began) if now > began else 0.0
    done = state.units_done == state.units
    progress.update(
        bar,
        description="finishing" if done else "utterances",
        total=state.utterances,
        completed=state.utterances_done,
        rate=f"{rate:.0f}/s",
        rows=f"{state.kept} rows, {state.rejected} set aside",
    )


def _summary(dataset: DatasetManifest) -> None:
    kept = sum(split.rows for split in dataset.splits.values())
    table = Table(title=f"{escape(dataset.name)}: {kept} rows, {dataset.set_aside} set aside", title_justify="left")
    for column in ("split", "rows", "utterances", "hours of rows", "hours of source", "speakers", "shards"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, s in dataset.splits.items():
        hours = (card.hours(seconds) for seconds in (s.row_seconds, s.seconds))
        row = (s.rows, s.utterances, *hours, s.speakers, len(s.shards))
        table.add_row(escape(name), *map(str, row))
    console.print(table)
    _counts("task", dataset.tasks)
    _counts("outcome", dataset.outcomes)
    if in_vain := card.without_rows(dataset):
        console.print(Text(in_vain.rstrip(), "yellow"))
    _counts("set aside", dataset.reasons)
    _counts("hours of source audio by language", {k: round(v / 3600, 3) for k, v in dataset.languages.items()})
    for model, tokens in dataset.tokens.items():
        console.print(
            f"{escape(model)}: {tokens.requests} requests, {tokens.prompt} tokens in, {tokens.completion} out"
        )
    if dataset.cost is not None:
        console.print(f"cost at the recipe's prices: {card.small(dataset.cost)}")
    if not dataset.speech_verified:
        console.print("[dim]speech not verified: no recogniser has compared it with the transcripts[/dim]")
    for found in dataset.agreement:
        name, (median, most) = ("CER", found.cer) if found.wer is None else ("WER", found.wer)
        kind = escape(f"{found.language} by {found.voice}")
        console.print(f"{kind}: {name} {median:.1%} at the median, {most:.1%} at the 90th percentile")


def _counts(title: str, counts: dict[str, Any]) -> None:
    if counts:
        items = sorted(counts.items(), key=lambda item: -item[1])
        console.print(f"[bold]{title}:[/bold] " + escape(", ".join(f"{name} {count}" for name, count in items)))


def _show_row(number: int, sample: Sample, whole: bool = False) -> None:
    text = Text()
    for utterance in sample.utterances:
        audio = f"{utterance.audio.seconds:.1f} s" if utterance.audio else "no audio"
        text.append(f"{utterance.id}  {audio}  {utterance.language or '?'}  {utterance.speaker or ''}\n", "dim")
        text.append(f"said: {utterance.transcript}\n", "italic")
        if utterance.spoken not in (None, "", utterance.transcript):
            text.append(f"voiced as: {utterance.spoken}\n", "italic")
        if utterance.hypothesis is not None:
            text.append(f"heard: {utterance.hypothesis}\n", "italic")
    if sample.tools:
        text.append(f"tools: {', '.join(tool.name for tool in sample.tools)}\n", "dim")
    for message in sample.messages:
        calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
        text.append(f"{message.role}: ", "bold")
        text.append(" ".join(filter(None, [message.content, "; ".join(calls)])) + "\n")
    if sample.rejected:
        text.append(f"{sample.rejected}: {sample.detail}\n", "red")
    if whole:
        made = sample.provenance
        if sample.outcome:
            text.append(f"outcome: {sample.outcome}\nsituation: {sample.situation}\n", "dim")
        text.append(f"answer: {sample.answer}\nlanguage: {sample.language}\nsplit: {sample.split}\n", "dim")
        text.append("".join(f"{name}: {value}\n" for name, value in _fields(made) if value), "dim")
    console.print(Panel(text, title=escape(f"row {number}: {sample.task or sample.rejected}"), title_align="left"))


def _fields(struct: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(struct, name)) for name in struct.__struct_fields__]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 360 else f"{seconds / 3600:.2f} h ({seconds:.1f} s)"


def _show_survey(result: surveying.Survey) -> None:
    text = Text()
    text.append(f"{result.utterances} utterances, {result.with_transcript} with a transcript, ")
    text.append(f"{_hours(result.seconds)}, {len(result.speakers)} speakers\n")
    for name, counts in (
        ("languages", result.languages),
        ("rates", result.rates),
        ("channels", result.channels),
        ("formats", result.formats),
        ("labels", result.labels),
    ):
        if counts:
            text.append(f"{name}: " + ", ".join(f"{k} ({n})" for k, n in counts.most_common()) + "\n")
    for note in result.notes:
        text.append(f"note: {note}\n", "yellow")
    for reason, details in sorted(result.problems.items()):
        text.append(f"{reason}: {len(details)}\n", "red")
        for detail in details[:PROBLEMS_SHOWN]:
            text.append(f"  {detail}\n")
        if len(details) > PROBLEMS_SHOWN:
            text.append(f"  and {len(details) - PROBLEMS_SHOWN} more\n", "dim")
    # Nothing around it and no line broken: the entry is to be copied.
    text.append("\n" + result.recipe.rstrip() + "\n", "cyan")
    console.print(Text.assemble((f"{result.found.path}\n", "bold"), text), soft_wrap=True)


if __name__ == "__main__":
    main()
