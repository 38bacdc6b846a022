"""Progress: how far a run is, as its folder tells. Any process can look, on any machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.plan import Plan
from pipeline.shards import BUILD, load_manifest, manifest_path


@dataclass(slots=True)
class State:
    """What is done of a plan."""

    units: int = 0
    units_done: int = 0
    utterances: int = 0
    utterances_done: int = 0
    kept: int = 0
    rejected: int = 0


@dataclass(slots=True)
class Watch:
    """Looks at a folder again and again, and reads each manifest once."""

    out: Path
    _done: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def look(self, newer_than: float = 0.0) -> State | None:
        """The state now; None before there is a plan, or while there is only one of an earlier run.

        Args:
            newer_than: Time (of the clock) before which a plan does not count.
        """
        folder = self.out / BUILD / "plan"
        try:
            if (folder / "plan.json").stat().st_mtime < newer_than:
                return None
        except OSError:
            return None
        plan = Plan.load(folder)
        if plan is None:
            return None
        for unit in plan.units:
            if unit.id not in self._done:
                manifest = load_manifest(self.out / manifest_path(unit.split, unit.id))
                if manifest is not None:
                    kept = manifest.kept.rows if manifest.kept else 0
                    rejected = manifest.rejected.rows if manifest.rejected else 0
                    self._done[unit.id] = (unit.utterances, kept, rejected)
        state = State(units=len(plan.units), units_done=len(self._done), utterances=plan.utterances)
        for utterances, kept, rejected in [*self._done.values(), *self._under_way()]:
            state.utterances_done += utterances
            state.kept += kept
            state.rejected += rejected
        return state

    def _under_way(self) -> list[tuple[int, int, int]]:
        found = []
        for path in (self.out / BUILD / "progress").glob("*.json"):
            if path.stem.partition("-")[2] in self._done:
                continue
            try:
                told = json.loads(path.read_text())
                found.append((told["utterances"], told["rows"] - told["rejected"], told["rejected"]))
            except (OSError, ValueError, KeyError):
                continue  # being written, or gone by now
        return found
