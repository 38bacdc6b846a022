"""The main job without Prefect, and what tests compare of its results."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline import mirror, shards
from pipeline.build import Job, build_unit, left, planned, serving
from pipeline.finish import finish
from pipeline.setup import prepare
from schemas.manifest import DatasetManifest
from schemas.sample import Sample


def build(recipe: Path, out: Path | str, limit: int | None = None) -> DatasetManifest:
    """Plan, units one after another, finish."""
    prepare.cache_clear()
    out = mirror.folder(out)
    job = Job(str(recipe), mirror.address(out), prepare(str(recipe)).fingerprint)
    with shards.exclusive(out):
        shards.claim(out, prepare(job.recipe).recipe.name)
        shards.clear_temporary(out)
        plan = planned(job, limit)
        _, units = left(job, plan)
        with serving(job, units) as served:
            for unit in units:
                build_unit(served, unit)
        return finish(job, plan)


def files_of(out: Path) -> dict[str, str]:
    """Digests of all files of a dataset, without what only serves to go on."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".build" not in path.parts
    }


def rows(out: Path, manifest: DatasetManifest) -> tuple[list[Sample], list[Sample]]:
    """Kept and rejected samples."""
    kept = [s for split in manifest.splits.values() for f in split.shards for s in shards.read(out / f.path)]
    rejected = [s for f in manifest.rejected for s in shards.read(out / f.path)]
    return kept, rejected
