"""Counts: what a unit has made, and what it took, as it is told while it is being built.

A unit that is begun again, since its worker was killed, makes the same rows again: of its tries the one that came
furthest counts. What it took is taken again, and counts each time.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import msgspec

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
"""Upper bounds of the buckets that latencies are counted in, in seconds; one more is without bound."""

Number = TypeVar("Number", int, float)


class Latency(msgspec.Struct):
    """How long tries of requests took, in buckets."""

    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def plus(self, other: Latency) -> Latency:
        """Both together."""
        both = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        return Latency(both, self.seconds + other.seconds)

    def quantile(self, share: float) -> float | None:
        """The seconds that a share of the tries stayed below, straight lines drawn within buckets; None without any.

        Beyond the last bound it is that bound.
        """
        rank, below = share * sum(self.buckets), 0
        for count, low, high in zip(self.buckets, (0.0, *BOUNDS), BOUNDS, strict=False):
            if count and below + count >= rank:
                return low + (high - low) * (rank - below) / count
            below += count
        return BOUNDS[-1] if sum(self.buckets) else None


class Traffic(msgspec.Struct):
    """What went to the servers of one kind."""

    latency: Latency = msgspec.field(default_factory=Latency)
    outcomes: dict[str, int] = msgspec.field(default_factory=dict)
    """Tries: `ok`, `busy`, `failed` (5xx), `refused` (4xx), `nonsense` (no answer of such a server), `cut`, `timeout`,
    `unreached`, and `cancelled` where the run ended first."""
    in_flight: int = 0
    waiting: int = 0
    """Requests that wait for a place among those in flight."""

    def tried(self, outcome: str, seconds: float) -> None:
        """Counts one try."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.latency.add(seconds)

    def plus(self, other: Traffic) -> Traffic:
        """Both together."""
        return Traffic(
            self.latency.plus(other.latency),
            added(self.outcomes, other.outcomes),
            self.in_flight + other.in_flight,
            self.waiting + other.waiting,
        )

    def furthest(self, other: Traffic) -> Traffic:
        """Of two tellings the higher numbers; what is on its way is that of the other."""
        a, b = self.latency, other.latency
        latency = Latency([max(pair) for pair in zip(a.buckets, b.buckets, strict=True)], max(a.seconds, b.seconds))
        return Traffic(latency, highest(self.outcomes, other.outcomes), other.in_flight, other.waiting)


class Made(msgspec.Struct):
    """Rows of a unit."""

    kept: int = 0
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    """Rejected rows by reason."""
    seconds: float = 0.0
    """Of source audio in kept rows, each utterance once."""

    @property
    def rejected(self) -> int:
        """Rows that were set aside."""
        return sum(self.reasons.values())

    def plus(self, other: Made) -> Made:
        """Both together."""
        return Made(self.kept + other.kept, added(self.reasons, other.reasons), self.seconds + other.seconds)

    def furthest(self, other: Made) -> Made:
        """Of two tries of a unit what either has made."""
        reasons = highest(self.reasons, other.reasons)
        return Made(max(self.kept, other.kept), reasons, max(self.seconds, other.seconds))


class Spent(msgspec.Struct):
    """What a unit took, in all its tries of one run."""

    tries: int = 0
    asked: int = 0
    """Replies of the LLM that were paid for."""
    remembered: int = 0
    """Replies that were known."""
    prompt_tokens: dict[str, int] = msgspec.field(default_factory=dict)
    """Paid for, by model."""
    completion_tokens: dict[str, int] = msgspec.field(default_factory=dict)
    traffic: dict[str, Traffic] = msgspec.field(default_factory=dict)
    """By what is served: `llm`, `tts`, `asr`."""
    stages: dict[str, float] = msgspec.field(default_factory=dict)
    """Seconds."""

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        traffic = dict(self.traffic)
        for name, one in other.traffic.items():
            traffic[name] = traffic[name].plus(one) if name in traffic else one
        return Spent(
            self.tries + other.tries,
            self.asked + other.asked,
            self.remembered + other.remembered,
            added(self.prompt_tokens, other.prompt_tokens),
            added(self.completion_tokens, other.completion_tokens),
            traffic,
            added(self.stages, other.stages),
        )

    def at_rest(self) -> Spent:
        """The same, when nothing is on its way any more."""
        resting = {n: msgspec.structs.replace(t, in_flight=0, waiting=0) for n, t in self.traffic.items()}
        return msgspec.structs.replace(self, traffic=resting)

    def furthest(self, other: Spent) -> Spent:
        """Of two tellings of a unit, each number where it is higher."""
        return Spent(
            max(self.tries, other.tries),
            max(self.asked, other.asked),
            max(self.remembered, other.remembered),
            highest(self.prompt_tokens, other.prompt_tokens),
            highest(self.completion_tokens, other.completion_tokens),
            {
                name: one.furthest(other.traffic.get(name, one))
                for name, one in {**other.traffic, **self.traffic}.items()
            },
            highest(self.stages, other.stages),
        )


class Telling(msgspec.Struct):
    """What a worker tells of the unit that it builds."""

    run: str
    unit: str
    split: str
    host: str
    process: int
    at: float
    """Seconds since 1970, by the worker's clock."""
    number: int
    """Of this telling, over all tries: a later one has a higher number."""
    memory: int = 0
    """Resident bytes of the worker."""
    utterances: int = 0
    """Of which there is a row."""
    made: Made = msgspec.field(default_factory=Made)
    spent: Spent = msgspec.field(default_factory=Spent)
    error: str = ""
    """Why this try failed."""


def added(one: Mapping[str, Number], other: Mapping[str, Number]) -> dict[str, Number]:
    """The sums of two dictionaries of numbers."""
    total = dict(one)
    for name, number in other.items():
        total[name] = total[name] + number if name in total else number
    return total


def highest(one: Mapping[str, Number], other: Mapping[str, Number]) -> dict[str, Number]:
    """Of each name the higher number of two dictionaries."""
    return {name: max(number, other.get(name, number)) for name, number in {**other, **one}.items()}


_traffic: ContextVar[dict[str, Traffic] | None] = ContextVar("traffic", default=None)


@contextmanager
def counting() -> Iterator[dict[str, Traffic]]:
    """What goes to servers, by kind, from here on and in this context."""
    found: dict[str, Traffic] = {}
    token = _traffic.set(found)
    try:
        yield found
    finally:
        _traffic.reset(token)


def traffic(kind: str) -> Traffic:
    """The count that a client of servers of one kind adds to; nobody reads it outside of `counting`."""
    found = _traffic.get()
    return Traffic() if found is None else found.setdefault(kind, Traffic())


def memory() -> int:
    """Resident bytes of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
