"""Status: what is done of a recipe's dataset, what a run would do now, and what that would cost.

Nothing is changed: the corpora are listed, and what a run would plan is written to a temporary folder.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from pipeline import mirror, recipes, shards
from pipeline.build import rows_of, times_taken
from pipeline.known import FATES
from pipeline.plan import Plan, Unit
from pipeline.progress import State, Watch
from pipeline.publish.card import hours, small
from pipeline.setup import Setup, prepare
from pipeline.shards import refuse_foreign
from pipeline.terminal import Terminal, escape
from schemas.manifest import ShardManifest

REFRESH = 1.0  # seconds between two looks of --watch
REFRESH_FAR = 5.0  # the same, where a store has to be asked
_SAID = {
    "withdrawn": "withdrawn by the recipe",
    "corpus_removed": "of a corpus that left the recipe",
    "changed": "changed, and not made again",
    "superseded": "changed, and made again",
    "disappeared": "disappeared",
}


@dataclass(slots=True)
class Estimate:
    """What the units that are to be built would take."""

    units: int = 0
    utterances: int = 0
    basis: int = 0
    """Utterances of finished units that it rests on."""
    other: int = 0
    """Of these, how many another state of the recipe or the program made."""
    requests: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    cost: float | None = None
    currency: str = ""
    hours: float | None = None
    """Of one worker: as many workers take so much less."""


@dataclass(slots=True)
class Status:
    """A dataset and its corpora as they are now."""

    name: str
    out: Path
    done: list[tuple[Unit, ShardManifest]] = field(default_factory=list)
    finished: bool = False
    """Whether there is a dataset that can be used."""
    running: bool = False
    plan: Plan = field(default_factory=lambda: Plan(Path()))
    """As a run would have it."""
    under_way: State | None = None
    estimate: Estimate = field(default_factory=Estimate)

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected rows of finished units by reason, most first."""
        return dict(sum((Counter(m.reasons) for _, m in self.done), Counter()).most_common())

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """What is shown: what, name and value."""
        kept, rejected = (sum(rows_of(m)[i] for _, m in self.done) for i in (0, 1))
        found, utterances = self.plan.found, sum(unit.utterances for unit, _ in self.done)
        rows = [
            ("done", "units", f"{len(self.done):,} of {len(self.plan.units):,}"),
            ("done", "utterances", f"{utterances:,} of {self.plan.utterances:,}"),
            ("done", "rows", f"{kept:,} kept, {rejected:,} rejected"),
            ("done", "hours of source audio", hours(sum(m.seconds for _, m in self.done))),
            ("done", "dataset", "finished" if self.finished else "not finished"),
        ]
        if self.running and self.under_way is not None:
            now = self.under_way
            rows.append(("in work", "utterances", f"{now.utterances_done:,} of {now.utterances:,} done"))
        rows += [("corpora", "new", f"{found['new']:,}"), ("corpora", "known", f"{found['known']:,}")]
        rows += [
            ("corpora", said, f"{found[key]:,}")
            for key, said in (
                ("moved", "known, elsewhere"),
                ("missing", "disappeared or changed, and kept"),
                ("withheld", "kept out by `withdrawn`"),
                ("left out", "kept out, since an older one stays"),
            )
            if found[key]
        ]
        rows += [("would leave now", _SAID[fate], f"{found[fate]:,}") for fate in FATES[1:] if found[fate]]
        rows += [("has left", _SAID[fate], f"{n:,}") for fate, n in self.plan.gone.items() if n > found[fate]]
        rows += [("rejected", reason, f"{count:,}") for reason, count in self.reasons.items()]
        return rows + self._costs()

    def _costs(self) -> list[tuple[str, str, str]]:
        would = self.estimate
        if not would.units:
            return [("to be built", "units", "none")]

        def told(value: float | None, form: Callable[[float], str] = "{:,.0f}".format) -> str:
            return "unknown" if value is None else f"about {form(value)}" if value else "none"

        rows = [
            ("to be built", "units", f"{would.units:,}"),
            ("to be built", "utterances", f"{would.utterances:,}"),
            ("would take", "LLM requests", told(would.requests)),
            ("would take", "tokens read", told(would.prompt_tokens)),
            ("would take", "tokens written", told(would.completion_tokens)),
            ("would take", f"cost, {would.currency}" if would.currency else "cost", told(would.cost, small)),
            ("would take", "hours of one worker", told(would.hours, small)),
        ]
        if would.basis:
            older = f", {would.other:,} of them by an earlier recipe or program" if would.other else ""
            rest = f"{would.basis:,} utterances made before{older}; replies that are remembered cost nothing again"
        else:
            rest = "nothing: no unit is finished yet. `--limit` makes a few to judge by"
        return [*rows, ("would take", "rests on", rest)]


def look(setup: Setup, out: Path) -> Status:
    """What a run would find now.

    Raises:
        CorpusError: A corpus cannot be read at all.
    """
    status = Status(setup.recipe.name, out)
    mirror.take_plan(out)
    with tempfile.TemporaryDirectory(prefix="earwitness-") as scratch:
        status.plan = setup.plan(out, scratch=Path(scratch))
    status.finished = (out / "dataset.json").is_file()
    status.running = shards.in_use(out)
    status.under_way = Watch(out).look()
    left = []
    for unit in status.plan.units:
        finished = shards.finished(out, unit.id, unit.split, setup.fingerprint)
        finished = finished or shards.finished_elsewhere(out, unit.id, unit.split, setup.fingerprint)
        if finished is None:
            left.append(unit)
        else:
            status.done.append((unit, finished))
    made = [m for _, m in status.done] or list(shards.manifests(out, shards.SPLITS))
    status.estimate = _estimate(setup, out, left, made)
    return status


def _estimate(setup: Setup, out: Path, left: list[Unit], made: list[ShardManifest]) -> Estimate:
    basis = sum(m.utterances for m in made)
    would = Estimate(len(left), sum(unit.utterances for unit in left), basis)
    would.other = sum(m.utterances for m in made if m.fingerprint != setup.fingerprint)
    utterances, seconds = times_taken(out)
    if utterances:
        would.hours = seconds / utterances * would.utterances / 3600
    prices = setup.llm.prices if setup.llm is not None else None
    would.currency = prices.currency if prices is not None else ""
    asks = setup.llm is not None and any(task.uses_llm for task in setup.tasks)
    if not asks:
        would.requests = would.prompt_tokens = would.completion_tokens = would.cost = 0.0
    elif basis and (any(m.tokens for m in made) or would.other < basis):  # an earlier recipe may have asked nobody
        tokens = [tokens for m in made for tokens in m.tokens.values()]
        share = would.utterances / basis
        would.requests = sum(t.requests for t in tokens) * share
        would.prompt_tokens = sum(t.prompt for t in tokens) * share
        would.completion_tokens = sum(t.completion for t in tokens) * share
        if prices is not None:
            spent = would.prompt_tokens * prices.prompt + would.completion_tokens * prices.completion
            would.cost = spent / 1e6
    return would


def status(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's file, or the name of a shipped one (`earwitness recipes`).")
    ],
    out: Annotated[Path | None, typer.Option(help="The dataset's folder. Default: out/NAME", **mirror.TARGET)] = None,
    watch: Annotated[bool, typer.Option(help="Show how far a run is until it ends.")] = False,
) -> None:
    """Say what is done of a dataset, what is new in its corpora, and what building that would cost."""
    console = Terminal()
    setup = prepare(str(recipes.find(recipe)))
    folder = out or Path("out") / setup.recipe.name
    refuse_foreign(folder, setup.recipe.name)
    if watch:
        _watch(console, setup.recipe.name, folder)
        return
    with console.status("listing the corpora"):
        found = look(setup, folder)
    console.print(_table(f"{found.name}  {mirror.address(folder)}", found.rows))
    for warning in found.plan.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")
    if found.estimate.units or any(found.plan.found[fate] for fate in FATES[1:]):
        command = escape(f"earwitness build {recipe} --out {mirror.address(folder)}")
        console.print(f"Do it: [cyan]{command}[/cyan]", soft_wrap=True)


def _table(title: str, rows: list[tuple[str, str, str]]) -> Table:
    table = Table("what", "of it", "", title=escape(title), title_justify="left")
    before = ""
    for what, name, value in rows:
        table.add_row("" if what == before else what, escape(name), escape(value))
        before = what
    return table


def _watch(console: Terminal, name: str, out: Path) -> None:
    """Shows a run's progress until no run holds the folder. Ctrl-C ends the watching, not the run."""
    address = mirror.address(out)
    if not shards.in_use(out):
        console.print(f"No run is under way in {escape(address)}.")
        return
    watch = Watch(out)
    try:
        console.print("[dim]Ctrl-C ends the watching, not the run.[/dim]")
        with Live(console=console, refresh_per_second=2, transient=False) as live:
            while True:
                here = shards.used_here(out)
                running = here or shards.in_use(out)
                if not here:
                    mirror.follow(out)
                state = watch.look()
                live.update(_table(f"{name}  {address}", list(_progress(state))))
                if not running:
                    break
                time.sleep(REFRESH if here else REFRESH_FAR)
    except KeyboardInterrupt:
        console.print(f"No longer watched. The run in {escape(address)} goes on.")
        raise typer.Exit(128 + signal.SIGINT) from None
    mirror.fetch(out, "dataset.json")
    if (out / "dataset.json").is_file():
        console.print("The run has ended; the dataset is finished.")
    else:
        console.print("The run has ended before the dataset was finished: the same `earwitness build` goes on.")


def _progress(state: State | None) -> Iterator[tuple[str, str, str]]:
    if state is None:
        yield "planning", "", ""
        return
    yield "done", "units", f"{state.units_done:,} of {state.units:,}"
    yield "done", "utterances", f"{state.utterances_done:,} of {state.utterances:,}"
    yield "done", "rows", f"{state.kept:,} kept, {state.rejected:,} rejected"
    if state.rate:
        yield "speed", "utterances a second", f"{state.rate:,.1f}"
    if state.left:
        yield "speed", "minutes left", f"{state.left / 60:,.1f}"
    if state.real_time_factor:
        yield "speed", "times real time", f"{state.real_time_factor:,.1f}"
    if state.workers:
        yield "now", "workers", f"{state.workers}"
    for model, count in state.prompt_tokens.items():
        yield "tokens", model, f"{count:,} read, {state.completion_tokens.get(model, 0):,} written"
    for reason, count in sorted(state.reasons.items(), key=lambda pair: -pair[1]):
        yield "rejected", reason, f"{count:,}"
    for error, count in state.failing.items():
        yield "failing", error, f"{count} units"
