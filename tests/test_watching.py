"""Watching: logs that programs read, metrics that never fall, and what a folder tells of a run."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as families

from pipeline import inspect, logs, metrics, served, telling
from pipeline.build import UnitReport
from pipeline.counts import BOUNDS, Latency, Made, Spent, Telling, Traffic
from pipeline.metrics import METRICS, Exposition, Ledger, MetricsError
from pipeline.plan import Plan, Unit
from pipeline.progress import Watch
from tests.conftest import ROOT, LLMServer, _free_port

KEY, TOKEN = "sk-very-secret-0123456789", "hf_abcdefghijklmnop"


@pytest.fixture
def records() -> Iterator[list[str]]:
    """Lines as programs get them, and as others' handlers do."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logs.JSONLines().format(record))

    handler = Kept()
    logs.log.addHandler(handler)
    before = logs.log.level
    logs.configure(run="r")
    yield lines
    logs.log.removeHandler(handler)
    logs.log.setLevel(before)


def test_a_line_names_what_is_at_work_and_no_secret(records: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served.key_from("SOME_SERVICE")
    logs.configure()
    with logs.working("run-7", "unit-1"):
        logs.at("corpus/5", "generate")
        logs.log.warning("the key %s and %s", KEY, TOKEN, extra={"sent": f"Bearer {KEY}", "tries": 3})
        try:
            raise ValueError(f"401 for {KEY}")
        except ValueError:
            logs.log.exception("refused by http://me:hunter2@host/v1")
    logs.log.error("x" * 9000, extra={"more": ["é" * 9000]})
    assert not [secret for secret in (KEY, TOKEN, "hunter2") if secret in "".join(records)]
    assert all("\n" not in line and len(line.encode()) < logs.LONGEST for line in records)
    first, second, long = map(json.loads, records)
    told = {"level": "warning", "run": "run-7", "unit": "unit-1", "sample": "corpus/5", "stage": "generate"}
    assert first.items() >= (told | {"tries": 3, "logger": "earwitness", "sent": "Bearer [hidden]"}).items()
    assert datetime.fromisoformat(first["time"]).utcoffset() is not None
    assert "ValueError: 401 for [hidden]" in second["error"]
    assert second["message"] == "refused by http://[hidden]@host/v1"
    assert long["shortened"]
    assert "unit" not in long


class Simulated:
    """Workers that tell of some units, are killed, and report, as a sequence of draws says."""

    def __init__(self, out: Path, units: int) -> None:
        self.out = out
        self.plan = Plan(out, [Unit(f"u{i}", "train" if i % 2 else "test", i, 10) for i in range(units)], 10 * units)
        self.ledger = Ledger(out, self.plan, "r")
        self.tries: dict[str, list[tuple[Made, Spent]]] = {}
        self.at: dict[str, Telling] = {}
        telling.folder(out).mkdir(parents=True)

    def act(self, unit: Unit, action: str) -> None:
        tries = self.tries.setdefault(unit.id, [])
        if action == "report":
            if tries:
                made, spent = self._sum(tries)
                self._path(unit).unlink(missing_ok=True)
                self.ledger.add(UnitReport(unit.id, 0, 0, split=unit.split, utterances=10, made=made, spent=spent))
            return
        if action == "begin" or not tries:
            tries.append((Made(), Spent(tries=1)))
        made, spent = tries[-1]
        if action == "row":
            reasons = {"short": len(tries)} if made.kept % 2 else {}
            made = Made(made.kept + 1, {**made.reasons, **reasons}, made.seconds + 0.5)
            traffic = Traffic(outcomes={"ok": spent.asked + 1})
            traffic.latency.buckets[3] = spent.asked + 1
            spent = Spent(1, spent.asked + 1, 0, {"m": 10 * (spent.asked + 1)}, {}, {"llm": traffic})
            tries[-1] = made, spent
        before = self.at.get(unit.id)
        number = before.number + 1 if before else 1
        now = Telling("r", unit.id, unit.split, "h", 1, time.time(), number, 0, made.kept, made, self._sum(tries)[1])
        self.at[unit.id] = now
        self._path(unit).write_bytes(msgspec.json.encode(now))

    def _path(self, unit: Unit) -> Path:
        return telling.folder(self.out) / f"{unit.split}-{unit.id}.json"

    @staticmethod
    def _sum(tries: list[tuple[Made, Spent]]) -> tuple[Made, Spent]:
        spent = Spent()
        for _, one in tries:
            spent = spent.plus(one)
        return tries[-1][0], spent


def counters(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What must never fall."""
    found = {}
    for family in families(text):
        for sample in family.samples:
            if family.type in ("counter", "histogram") and not sample.name.endswith("_created"):
                found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def fallen(before: dict[Any, float], after: dict[Any, float]) -> list[Any]:
    return [(name, value, after.get(name)) for name, value in before.items() if after.get(name, -1) < value]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["begin", "row", "row", "look", "report"])), max_size=40))
def test_no_counter_falls_and_nothing_counts_twice(actions: list[tuple[int, str]]) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    with tempfile.TemporaryDirectory() as folder:
        some = Simulated(Path(folder), 3)
        registry = CollectorRegistry()
        registry.register(Exposition(some.ledger, "d", "r"))
        seen: dict[Any, float] = {}
        finished: set[str] = set()
        for number, action in [*actions, *((n, "report") for n in range(3))]:
            unit = some.plan.units[number]
            if action != "look" and unit.id not in finished:
                some.act(unit, action)
                if action == "report" and some.tries[unit.id]:
                    finished.add(unit.id)
            now = counters(generate_latest(registry).decode())
            assert not fallen(seen, now)
            seen = now
        totals = some.ledger.totals()
        asked = sum(spent.asked for tries in some.tries.values() for _, spent in tries)
        assert totals.spent.asked == asked, "each try is paid for"
        last = {name: tries[-1][0].kept for name, tries in some.tries.items() if tries}
        most = {name: max(made.kept for made, _ in tries) for name, tries in some.tries.items() if tries}
        kept = sum(made.kept for made in totals.made.values())
        assert sum(last.values()) <= kept <= sum(most.values()), "the rows of a unit count once"
        assert totals.units["done"] == len(last)


def scraped(port: int) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


@pytest.mark.long
def test_a_build_is_watched(
    tmp_path: Path, write_recipe: Callable[..., Path], llm_server: Callable[..., LLMServer]
) -> None:
    """Its figures and lines, from two workers, while it goes on and at its end."""
    server = llm_server("--latency", "0.1", "--faults", "0.2", "--kinds", "error", "not_json", "--key", KEY)
    llm = {"engine": "openai", "base_url": server.url, "model": "scripted", "concurrency": 4, "api_key_env": "LLM_KEY"}
    recipe = write_recipe(
        "watched",
        llm=llm | {"prices": {"prompt": 2.0, "completion": 4.0}},
        tasks={"question_answer": None, "transcription": None},
        samples_per_utterance=2,
    )
    out, port = tmp_path / "out", _free_port()
    env = os.environ | {"LLM_KEY": KEY, "HF_TOKEN": TOKEN, "EARWITNESS_LOG": "json", "EARWITNESS_LOG_LEVEL": "debug"}
    command = [sys.executable, "-m", "tests.watched", str(recipe), str(out), str(port)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log)
        try:
            texts, watch, states = [], Watch(out), []
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if (text := scraped(port)) is not None:
                    texts.append(text)
                if (state := watch.look()) is not None:
                    states.append(state)
                time.sleep(0.1)
            assert process.wait(timeout=10) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
    texts.append((out / ".build" / metrics.FILE).read_text())
    series = [counters(text) for text in texts]
    assert not [f for before, after in itertools.pairwise(series) for f in fallen(before, after)]
    assert len(texts) > 3
    names = {family.name for family in families(texts[-1])}
    assert names == {metric.name.removesuffix("_total") for metric in METRICS}
    assert 'earwitness_requests_in_flight{endpoint="llm"} 4.0' in "".join(texts) or any(
        state.spent.traffic and state.spent.traffic["llm"].in_flight for state in states
    )

    dataset = inspect.load(out)
    end = {(name, *sorted(v for _, v in labels)): value for (name, labels), value in series[-1].items()}
    reasons = {name: value for name, value in dataset.reasons.items() if f'reason="{name}"' in texts[-1]}
    assert (
        sum(v for (n, *_), v in end.items() if n == "earwitness_rejections_total")
        + sum(v for (n, *_), v in end.items() if n == "earwitness_samples_total")
        == dataset.rows_in
    )
    assert set(reasons) == set(dataset.reasons)
    tokens = dataset.tokens["scripted"]
    assert end["earwitness_llm_tokens_total", "prompt", "scripted"] == tokens.prompt
    assert end["earwitness_llm_tokens_total", "completion", "scripted"] == tokens.completion
    assert end["earwitness_llm_cost_total", "USD"] == pytest.approx((tokens.prompt * 2 + tokens.completion * 4) / 1e6)
    assert (
        end["earwitness_requests_total", "llm", "ok"] == end["earwitness_replies_total", "asked"] == len(server.served)
    )
    assert end["earwitness_requests_total", "failed", "llm"] > 0
    tries = sum(value for (name, *_), value in end.items() if name == "earwitness_requests_total")
    assert end["earwitness_request_seconds_bucket", "+Inf", "llm"] == tries
    assert end["earwitness_request_seconds_bucket", "0.05", "llm"] < tries / 2, "most took the 0.1 s"
    state = Watch(out).look()
    assert state is not None
    assert (state.units_done, state.utterances_done) == (state.units, 24)
    assert state.kept + state.rejected == dataset.rows_in
    assert max(s.workers for s in states) == 2

    written = (tmp_path / "log").read_text()
    assert KEY not in written + "".join(texts)
    assert TOKEN not in written + "".join(texts)
    lines = [json.loads(line) for line in written.splitlines()]
    assert {line["run"] for line in lines} == {"run-1"}
    built = [line for line in lines if line["message"] == "unit built"]
    assert {line["unit"] for line in built} == {path.stem.partition("-")[2] for path in out.glob("*/shard-*.json")}
    assert len({line["process"] for line in built}) == 2
    aside = Counter(line["reason"] for line in lines if line["message"] == "set aside")
    duplicates = {name: count for name, count in dataset.reasons.items() if name not in aside}
    assert aside | duplicates == dataset.reasons
    assert all(line["sample"] and line["stage"] and line["unit"] for line in lines if line["message"] == "set aside")


def test_a_port_is_checked_before_work_begins(tmp_path: Path) -> None:
    assert metrics.place("9464") == ("127.0.0.1", 9464)
    assert metrics.place("0.0.0.0:9464") == ("0.0.0.0", 9464)
    for value in ("port", "70000", "host:"):
        with pytest.raises(MetricsError, match="9464"):
            metrics.place(value)


def test_quantiles_lie_in_their_buckets() -> None:
    latency = Latency()
    assert latency.quantile(0.5) is None
    for seconds in (0.2, 0.2, 0.2, 30.0):
        latency.add(seconds)
    median, high = latency.quantile(0.5), latency.quantile(0.95)
    assert median is not None
    assert high is not None
    assert 0.1 <= median <= 0.25
    assert 20.0 <= high <= 40.0
    latency.buckets[-1] += 100
    assert latency.quantile(0.9) == BOUNDS[-1]


def test_the_page_names_all_metrics() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `(earwitness_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    labels = {name: tuple(re.findall(r"`(\w+)`", some)) for name, _, some, _ in rows}
    assert {(name, kind, labels[name], about.strip()) for name, kind, _, about in rows} == {
        (metric.name, metric.kind, metric.labels, metric.about) for metric in METRICS
    }
