"""Disturbs runs in all ways that are known, each at a random moment, and prints what came of it.

python -m tests.chaos [--seed N] [--rounds N] [NAME ...]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.disturbances import ALL, Disturbance, Outcome, Skipped, trial
from tests.chaos.world import World
from tests.prefect_server import PrefectServer

console = Console(width=160)
LATEST = 0.85  # of the requests: later there is hardly anything left to disturb


def main() -> int:
    """The number of disturbances after which something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=None, help="Draws the moments; printed, so that they can be met again."
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("names", nargs="*", help="Only these disturbances.")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int(time.time())
    unknown = set(given.names) - {kind.__name__ for kind in ALL}
    if unknown:
        parser.error(f"there is no {sorted(unknown)[0]}; there are: {', '.join(kind.__name__ for kind in ALL)}")
    kinds = [kind for kind in ALL if not given.names or kind.__name__ in given.names]
    console.print(f"seed {seed}")
    table = Table("disturbance", "moment", "runs", "asked twice", "seconds", "result", "what was said")
    broken = 0
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        prefect = PrefectServer(Path(folder))
        world = World(Path(folder) / "world", prefect)
        try:
            for number in range(given.rounds):
                for kind in kinds:
                    broken += not _shown(world, kind, random.Random(f"{seed} {number} {kind.__name__}"), table)
        finally:
            world.close()
            prefect.kill()
    console.print(table)
    console.print(f"{broken} did not hold; the same moments: SEED={seed}")
    return broken


def _shown(world: World, kind: type[Disturbance], rng: random.Random, table: Table) -> bool:
    moment = rng.uniform(0.0, LATEST)
    try:
        disturbance = kind(world, rng.randrange(2**31))
        outcome: Outcome = trial(disturbance, moment)
    except Skipped as reason:
        table.add_row(kind.__name__, "", "", "", "", "[yellow]skipped[/yellow]", str(reason))
        return True
    except Exception as error:  # the others are to be seen, too
        traceback.print_exc()
        table.add_row(kind.__name__, f"{moment:.0%}", "", "", "", "[red]broken[/red]", str(error)[:300])
        return False
    row = (f"{outcome.moment:.0%}", outcome.runs, outcome.repeated, f"{outcome.seconds:.0f}")
    table.add_row(outcome.disturbance, *map(str, row), "[green]equal[/green]", outcome.said[:300])
    console.print(f"{outcome.disturbance}: {row} {outcome.said}", markup=False)
    return True


if __name__ == "__main__":
    sys.exit(min(main(), 100))
