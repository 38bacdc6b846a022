"""Metrics: figures of a run for Prometheus, served by the run's process while it lasts, and left as a file.

Workers are other processes, maybe on other machines. What they have finished comes with their reports, what they
are at through the run's folder, and the ledger here joins the two so that no counter ever falls.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import counts, mirror, plugins
from pipeline.build import Job, UnitReport
from pipeline.counts import BOUNDS, Made, Spent, Telling, Traffic
from pipeline.llm.base import Prices
from pipeline.plan import Plan
from pipeline.progress import STALE, Speed
from pipeline.setup import prepare
from pipeline.shards import BUILD, write_atomically
from pipeline.telling import under_way
from schemas.manifest import DatasetManifest

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

VARIABLE = "EARWITNESS_METRICS"
FILE = "metrics.prom"
_LOOPBACK = "127.0.0.1"


class MetricsError(ValueError):
    """Metrics cannot be served as they are asked for."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of figures."""

    name: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    about: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("earwitness_run_info", "gauge", "Always 1; which dataset and run this is", ("dataset", "run")),
    Metric("earwitness_run_start_time_seconds", "gauge", "When the run began, in seconds since 1970"),
    Metric("earwitness_samples_total", "counter", "Rows kept by this run", ("split",)),
    Metric("earwitness_rejections_total", "counter", "Rows set aside by this run", ("reason",)),
    Metric("earwitness_audio_seconds_total", "counter", "Source audio in rows kept by this run", ("split",)),
    Metric("earwitness_real_time_factor", "gauge", "Source audio kept a second of time, over the last minute"),
    Metric("earwitness_units", "gauge", "Units: planned, done (by earlier runs, too), running, failed", ("state",)),
    Metric("earwitness_unit_retries_total", "counter", "Units begun again since their worker was killed"),
    Metric("earwitness_utterances", "gauge", "Utterances: planned, done (by earlier runs, too)", ("state",)),
    Metric("earwitness_replies_total", "counter", "LLM replies: asked (paid for), remembered", ("source",)),
    Metric("earwitness_llm_tokens_total", "counter", "Tokens paid for: prompt, completion", ("model", "kind")),
    Metric("earwitness_llm_cost_total", "counter", "Of those tokens, at the recipe's prices", ("currency",)),
    Metric("earwitness_requests_total", "counter", "Tries of requests to servers", ("endpoint", "outcome")),
    Metric("earwitness_request_seconds", "histogram", "How long those tries took", ("endpoint",)),
    Metric("earwitness_requests_in_flight", "gauge", "Requests that a server has now", ("endpoint",)),
    Metric("earwitness_requests_waiting", "gauge", "Requests that wait for a place among those", ("endpoint",)),
    Metric("earwitness_stage_seconds_total", "counter", "Time of workers, by stage", ("stage",)),
    Metric("earwitness_workers", "gauge", "Workers that build a unit now"),
    Metric("earwitness_memory_bytes", "gauge", "Resident memory: run, workers (all together)", ("process",)),
    Metric("earwitness_dataset_rows", "gauge", "Rows of the finished dataset, duplicates set aside", ("split",)),
    Metric("earwitness_dataset_rejected_rows", "gauge", "Rows set aside in all, when it is finished", ("reason",)),
)
"""All that is served."""


@dataclass(slots=True)
class Totals:
    """The figures at one moment."""

    made: dict[str, Made] = field(default_factory=dict)
    """By split."""
    spent: Spent = field(default_factory=Spent)
    units: dict[str, int] = field(default_factory=dict)
    utterances: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    workers: int = 0
    memory: int = 0
    real_time_factor: float | None = None
    dataset: DatasetManifest | None = None

    @property
    def share(self) -> float:
        """Of the utterances that are done."""
        return self.utterances["done"] / max(1, self.utterances["planned"])


class Ledger:
    """Joins what is finished and what is under way. Any thread may ask, and any number.

    What is under way is kept as it was last told until the unit's report comes: between the two nothing is missing,
    and nothing counts twice. A unit that is built again counts by the try that came furthest.
    """

    def __init__(self, out: Path, plan: Plan, run: str) -> None:
        self._out, self._plan, self._run = out, plan, run
        self._lock = threading.Lock()
        self._done: set[str] = set()
        self._utterances = self._failed = self._retries = 0
        self._made: dict[str, Made] = {}
        self._spent = Spent()
        self._open: dict[str, Telling] = {}
        self._dataset: DatasetManifest | None = None
        self._speed = Speed()

    def add(self, report: UnitReport) -> None:
        """A unit is finished."""
        with self._lock:
            if report.unit in self._done:
                return
            self._done.add(report.unit)
            self._utterances += report.utterances
            made, spent = report.made, report.spent
            if (telling := self._open.pop(report.unit, None)) is not None:
                made, spent = telling.made.furthest(made), telling.spent.furthest(spent).at_rest()
            self._made[report.split] = self._made.get(report.split, Made()).plus(made)
            self._spent = self._spent.plus(spent.at_rest())
            self._retries += max(0, spent.tries - 1)

    def failed(self) -> None:
        """A unit could not be built."""
        with self._lock:
            self._failed += 1

    def finished(self, dataset: DatasetManifest) -> None:
        """All is done."""
        with self._lock:
            self._dataset = dataset

    def totals(self) -> Totals:
        """The figures now."""
        with self._lock:  # also while files are read: a reader that is late must not bring back what is past
            for telling in under_way(self._out):
                self._hear(telling)
            made, spent, now = dict(self._made), self._spent, time.time()
            workers = memory = retries = utterances = 0
            for telling in self._open.values():
                made[telling.split] = made.get(telling.split, Made()).plus(telling.made)
                alive = not telling.error and now - telling.at < STALE
                spent = spent.plus(telling.spent if alive else telling.spent.at_rest())
                workers, memory = workers + alive, memory + alive * telling.memory
                retries += max(0, telling.spent.tries - 1)
                utterances += telling.utterances
            done, planned = len(self._done), len(self._plan.units)
            speed = self._speed.of(sum(one.seconds for one in made.values()))
            return Totals(
                made,
                spent,
                {"planned": planned, "done": done, "running": workers, "failed": self._failed},
                {"planned": self._plan.utterances, "done": self._utterances + utterances},
                self._retries + retries,
                workers,
                memory,
                speed[0] if speed is not None else None,
                self._dataset,
            )

    def _hear(self, telling: Telling) -> None:
        """Takes in what a worker tells, unless it is known or its unit is done."""
        if telling.unit in self._done or telling.run != self._run:
            return
        before = self._open.get(telling.unit)
        if before is not None:
            if telling.number <= before.number:
                return
            telling.made = before.made.furthest(telling.made)
            telling.spent = before.spent.furthest(telling.spent)
        self._open[telling.unit] = telling


class Exposition:
    """The figures as `prometheus_client` wants them.

    Args:
        ledger: Knows them.
        dataset: Its name.
        run: The run's id.
        prices: The recipe's.
    """

    def __init__(self, ledger: Ledger, dataset: str, run: str, prices: Prices | None = None) -> None:
        self._ledger, self._dataset, self._run, self._prices = ledger, dataset, run, prices
        self._began = time.time()

    def collect(self) -> Iterator[Family]:
        """All families, those without any figure included."""
        core = plugins.require("prometheus_client.core", extra="metrics", what="--metrics")
        families: Mapping[str, Any] = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        figures = self._figures(self._ledger.totals())
        for metric in METRICS:
            family = families[metric.kind](metric.name.removesuffix("_total"), metric.about, labels=metric.labels)
            for labels, value in figures[metric.name]:
                if isinstance(value, Traffic):
                    family.add_metric(labels, _buckets(value), sum_value=value.latency.seconds)
                else:
                    family.add_metric(labels, value)
            yield family

    def _figures(self, now: Totals) -> dict[str, Iterable[tuple[tuple[str, ...], Any]]]:
        """By metric, values with their labels."""
        spent, traffic = now.spent, now.spent.traffic.items()
        reasons: dict[str, int] = {}
        for made in now.made.values():
            reasons = counts.added(reasons, made.reasons)
        tokens = {(m, "prompt"): n for m, n in spent.prompt_tokens.items()}
        tokens |= {(m, "completion"): n for m, n in spent.completion_tokens.items()}
        rows = {name: split.rows for name, split in now.dataset.splits.items()} if now.dataset else {}
        memory = {"run": counts.memory(), "workers": now.memory}
        return {
            "earwitness_run_info": [((self._dataset, self._run), 1)],
            "earwitness_run_start_time_seconds": [((), self._began)],
            "earwitness_samples_total": [((split,), made.kept) for split, made in now.made.items()],
            "earwitness_rejections_total": _labelled(reasons),
            "earwitness_audio_seconds_total": [((split,), made.seconds) for split, made in now.made.items()],
            "earwitness_real_time_factor": [((), now.real_time_factor or 0.0)],
            "earwitness_units": _labelled(now.units),
            "earwitness_unit_retries_total": [((), now.retries)],
            "earwitness_utterances": _labelled(now.utterances),
            "earwitness_replies_total": _labelled({"asked": spent.asked, "remembered": spent.remembered}),
            "earwitness_llm_tokens_total": tokens.items(),
            "earwitness_llm_cost_total": self._cost(spent),
            "earwitness_requests_total": [((e, o), n) for e, t in traffic for o, n in t.outcomes.items()],
            "earwitness_request_seconds": [((endpoint,), one) for endpoint, one in traffic],
            "earwitness_requests_in_flight": [((endpoint,), one.in_flight) for endpoint, one in traffic],
            "earwitness_requests_waiting": [((endpoint,), one.waiting) for endpoint, one in traffic],
            "earwitness_stage_seconds_total": _labelled(spent.stages),
            "earwitness_workers": [((), now.workers)],
            "earwitness_memory_bytes": _labelled(memory),
            "earwitness_dataset_rows": _labelled(rows),
            "earwitness_dataset_rejected_rows": _labelled(now.dataset.reasons if now.dataset else {}),
        }

    def _cost(self, spent: Spent) -> list[tuple[tuple[str], float]]:
        if self._prices is None:
            return []
        prompt, completion = sum(spent.prompt_tokens.values()), sum(spent.completion_tokens.values())
        cost = (prompt * self._prices.prompt + completion * self._prices.completion) / 1e6
        return [((self._prices.currency,), cost)]


def _labelled(values: Mapping[str, float]) -> list[tuple[tuple[str], float]]:
    return [((name,), value) for name, value in values.items()]


def _buckets(traffic: Traffic) -> list[tuple[str, int]]:
    """Cumulative, as Prometheus has them."""
    found, total = [], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), traffic.latency.buckets, strict=True):
        total += count
        found.append((bound, total))
    return found


def place(value: str) -> tuple[str, int]:
    """Where metrics are served: `PORT` on loopback, or `HOST:PORT`.

    Raises:
        MetricsError: It is neither.
    """
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise MetricsError(f"metrics at {value!r}: a port is expected, e.g. 9464, or HOST:PORT; 0 takes a free one")
    return host or _LOOPBACK, int(port)


@contextmanager
def serving(job: Job, ledger: Ledger, at: str | None, told: Callable[[str], None]) -> Iterator[None]:
    """Serves the figures for as long as the context lasts, and leaves the last ones in the build folder.

    Args:
        job: The run's.
        ledger: Knows the figures.
        at: As for `place`; by default what `EARWITNESS_METRICS` says. Without either nothing is served.
        told: Takes a sentence that says where.

    Raises:
        MetricsError: The port is taken.
        MissingExtra: `prometheus_client` is not installed.
    """
    at = at or os.environ.get(VARIABLE)
    if not at:
        yield
        return
    host, port = place(at)
    client = plugins.require("prometheus_client", extra="metrics", what="--metrics")
    setup = prepare(job.recipe)
    registry = client.CollectorRegistry()
    prices = setup.llm.prices if setup.llm is not None else None
    registry.register(Exposition(ledger, setup.recipe.name, job.run, prices))
    try:
        server, thread = client.start_http_server(port, host, registry)
    except OSError as error:
        cure = "give another one, or 0 for one that is free"
        raise MetricsError(f"metrics cannot be served at {host}:{port} ({error.strerror}): {cure}") from error
    told(f"metrics: http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        write_atomically(mirror.folder(job.out) / BUILD / FILE, client.generate_latest(registry))
        server.shutdown()
        server.server_close()
        thread.join()
