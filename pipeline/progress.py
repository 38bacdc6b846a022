"""Progress: how far a run is, as its folder tells. Any process can look, on any machine."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.counts import Made, Spent, Telling, added
from pipeline.plan import Plan, Unit
from pipeline.shards import BUILD, load_manifest, manifest_path
from pipeline.telling import under_way

WINDOW = 60.0  # seconds over which speeds are told
_LEAST = 1.0  # seconds: a speed over less says nothing
STALE = 30.0  # seconds without a word after which a worker counts as gone


@dataclass(slots=True)
class State:
    """What is done of a plan."""

    units: int = 0
    units_done: int = 0
    utterances: int = 0
    utterances_done: int = 0
    kept: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejected rows by reason."""
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    """Of all rows, remembered replies included, by model; of units under way what was paid for."""
    completion_tokens: dict[str, int] = field(default_factory=dict)
    workers: int = 0
    """Who tell of a unit now."""
    memory: int = 0
    """Their resident bytes."""
    spent: Spent = field(default_factory=Spent)
    """Of the units under way: requests in flight and waiting, latencies, replies."""
    tried_again: int = 0
    """Units under way whose worker was killed before."""
    failing: dict[str, int] = field(default_factory=dict)
    """Units whose last try failed, by error."""
    rate: float | None = None
    """Utterances a second, over the last minute; None before that is known."""
    real_time_factor: float | None = None
    """Seconds of source audio in kept rows made a second, over the last minute."""

    @property
    def left(self) -> float | None:
        """Seconds until all utterances are done, at the present rate."""
        return (self.utterances - self.utterances_done) / self.rate if self.rate else None


class Speed:
    """How quickly numbers grow, over the last minute or so."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._past: deque[tuple[float, tuple[float, ...]]] = deque()

    def of(self, *numbers: float) -> tuple[float, ...] | None:
        """Growth a second of each; None at the first look."""
        now = time.monotonic()
        while len(self._past) > 1 and now - self._past[1][0] >= self._window:
            self._past.popleft()
        if self._past and now - self._past[-1][0] < self._window / 100:
            earlier = self._past[0]
        else:
            self._past.append((now, numbers))
            earlier = self._past[0]
        since = now - earlier[0]
        if since < _LEAST:
            return None
        return tuple(max(0.0, number - old) / since for number, old in zip(numbers, earlier[1], strict=True))


@dataclass(slots=True)
class Watch:
    """Looks at a folder again and again, and reads each manifest once."""

    out: Path
    _done: set[str] = field(default_factory=set)
    _utterances: int = 0
    _made: Made = field(default_factory=Made)
    _plan: tuple[int, Plan] | None = None
    _tokens: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))
    _speed: Speed = field(default_factory=Speed)

    def look(self, newer_than: float = 0.0) -> State | None:
        """The state now; None before there is a plan, or while there is only one of an earlier run.

        Args:
            newer_than: Time (of the clock) before which a plan does not count.
        """
        plan = self._planned(newer_than)
        if plan is None:
            return None
        told = under_way(self.out)  # before the manifests: what is finished meanwhile counts as finished
        self._read_manifests(plan)
        state = State(units=len(plan.units), units_done=len(self._done), utterances=plan.utterances)
        state.prompt_tokens, state.completion_tokens = dict(self._tokens[0]), dict(self._tokens[1])
        made = self._made
        state.utterances_done = self._utterances
        for telling in told:
            if telling.unit not in self._done:
                made = made.plus(telling.made)
                _add(state, telling)
        state.kept, state.rejected, state.reasons = made.kept, made.rejected, made.reasons
        speed = self._speed.of(state.utterances_done, made.seconds)
        if speed is not None:
            state.rate, state.real_time_factor = speed
        return state

    def _planned(self, newer_than: float) -> Plan | None:
        """The plan, read once as long as it stays the same."""
        folder = self.out / BUILD / "plan"
        try:
            found = (folder / "plan.json").stat()
        except OSError:
            return None
        if found.st_mtime < newer_than:
            return None
        if self._plan is None or self._plan[0] != found.st_mtime_ns:
            plan = Plan.load(folder)
            if plan is None:
                return None
            self._plan = found.st_mtime_ns, plan
            # Its units need not be those of the plan before.
            self._done, self._utterances, self._made, self._tokens = set(), 0, Made(), ({}, {})
        return self._plan[1]

    def _read_manifests(self, plan: Plan) -> None:
        """Those that are new; folders are listed, since most units of a large plan are not done."""
        there: dict[str, set[str]] = {}
        for unit in plan.units:
            if unit.id in self._done:
                continue
            folder, _, name = manifest_path(unit.split, unit.id).rpartition("/")
            if folder not in there:
                there[folder] = _names(self.out / folder)
            if name in there[folder]:
                self._read(unit)

    def _read(self, unit: Unit) -> None:
        manifest = load_manifest(self.out / manifest_path(unit.split, unit.id))
        if manifest is None:
            return
        kept = manifest.kept.rows if manifest.kept else 0
        self._done.add(unit.id)
        self._utterances += unit.utterances
        self._made = self._made.plus(Made(kept, manifest.reasons, manifest.seconds))
        prompts, completions = self._tokens
        self._tokens = (
            added(prompts, {model: tokens.prompt for model, tokens in manifest.tokens.items()}),
            added(completions, {model: tokens.completion for model, tokens in manifest.tokens.items()}),
        )


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _add(state: State, telling: Telling) -> None:
    """Adds what is told of a unit under way."""
    state.utterances_done += telling.utterances
    spent = telling.spent
    state.prompt_tokens = added(state.prompt_tokens, spent.prompt_tokens)
    state.completion_tokens = added(state.completion_tokens, spent.completion_tokens)
    if telling.error:
        state.failing = dict(Counter(state.failing) + Counter({telling.error: 1}))
        spent = spent.at_rest()
    elif time.time() - telling.at < STALE:
        state.workers += 1
        state.memory += telling.memory
        state.tried_again += spent.tries > 1
    else:
        spent = spent.at_rest()
    state.spent = state.spent.plus(spent)
