"""A build that is watched, without Prefect: real workers, and metrics as a flow serves them.

python -m tests.watched RECIPE OUT PORT
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pipeline import logs, metrics, shards
from pipeline.build import Job, build_unit, serving
from pipeline.finish import finish
from pipeline.metrics import Ledger
from pipeline.setup import prepare
from pipeline.workers import Workers


def main(recipe: str, out: str, port: str) -> None:
    setup = prepare(recipe)
    job = Job(recipe, out, setup.fingerprint, workers=2, run="run-1")
    logs.configure(run=job.run)
    folder = Path(out)
    with shards.exclusive(folder):
        plan = setup.plan(folder)
        ledger = Ledger(folder, plan, job.run)
        with metrics.serving(job, ledger, port, print):
            sys.stdout.flush()
            with serving(job, plan.units) as served, Workers(2) as workers, ThreadPoolExecutor(2) as threads:
                served = replace(served, workers=2)
                waiting = [threads.submit(workers.run, build_unit, served, unit) for unit in plan.units]
                for future in waiting:
                    ledger.add(future.result())
            ledger.finished(finish(job, plan))


if __name__ == "__main__":
    main(*sys.argv[1:])
