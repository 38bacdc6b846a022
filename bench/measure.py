"""What the benchmarks share: repeated runs in turn, medians, a table, memory."""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console()


def in_turn(runs: int, candidates: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What each candidate returns, run after run, in turn: what the machine does meanwhile hits all."""
    results: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, candidate in candidates.items():
            gc.collect()
            results[name].append(candidate())
    return results


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, and the smallest and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(ours: Sequence[float], floor: Sequence[float]) -> list[float]:
    """Ours by the floor of the same turn."""
    return [a / b for a, b in zip(ours, floor, strict=True)]


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    # Not getrusage: a process begins with the peak of the one that started it.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


def report(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], out: Path) -> None:
    """Shows a table, and appends it to the results."""
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
    record = {"title": title, "machine": machine(), "rows": [dict(zip(header, map(str, r), strict=True)) for r in rows]}
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "results.jsonl", "a") as stream:
        stream.write(json.dumps(record) + "\n")


def machine() -> str:
    """What was measured on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
