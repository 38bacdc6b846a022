"""Withdrawal: rows that hold an utterance which is no longer in the plan leave their shards.

Shards that hold none of them are not touched. A run that is killed here does the same again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import known as earlier
from pipeline import planfile, shards
from pipeline.known import plan_path
from pipeline.plan import Plan, Unit, companions_of, layout, opened, origins
from schemas.manifest import ShardManifest
from schemas.utterance import AUGMENTED

_DONE = "withdrawn"
"""Holds the digest of what was gone when the shards were last looked through."""


def withdraw(out: Path, plan: Plan, rows_per_batch: int) -> int:
    """Takes out of all shards what is gone from the plan.

    Args:
        out: The dataset's folder.
        plan: As it is now.
        rows_per_batch: Of the recipe.

    Returns:
        How many shards were written anew.
    """
    mark = out / shards.BUILD / _DONE
    listing = plan.folder / earlier.GONE
    state = shards.digest_of(listing) if listing.exists() else ""
    if not state or (mark.exists() and mark.read_text() == state):
        return 0
    changed = 0
    for unit, gone in _concerned(plan):
        manifest = shards.load_manifest(out / shards.manifest_path(unit.split, unit.id))
        rows = _rows_with(out, manifest, gone) if manifest is not None else {}
        if manifest is not None and rows:
            shards.remove(out, "dataset.json")  # it must not vouch for shards that are written anew
            shards.without(out, manifest, rows, rows_per_batch)
            changed += 1
    shards.write_atomically(mark, state.encode())
    return changed


def _concerned(plan: Plan) -> Iterator[tuple[Unit, dict[int, str]]]:
    """Units with something that is gone, as their own or as company, by hashes of the ids, with the reasons."""
    where = layout(plan.folder)
    names = {split: _names(plan, split) for split, gone in where.gone.items() if gone}
    for unit in plan.units:
        gone = where.gone[unit.split]
        if not gone:
            continue
        with opened(plan_path(plan.folder, unit.generation, unit.split)) as file:
            first = unit.batch * file.get_batch(0).num_rows
        begin = where.begin(unit) + first
        others = companions_of(plan.folder, unit, first, unit.utterances)
        members = {*range(begin, begin + unit.utterances), *(row for rows in others for row in rows)}
        found = {int(names[unit.split][row]): gone[row] for row in sorted(members) if row in gone}
        if found:
            yield unit, found


def _names(plan: Plan, split: str) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Hashes of the ids of all rows of a split."""
    paths = [plan_path(plan.folder, generation, split) for generation in plan.generations]
    table = pa.concat_tables([planfile.columns(path, ["name"]) for path in paths])
    return np.array(table["name"].to_numpy(), np.uint64)


def _rows_with(out: Path, manifest: ShardManifest, gone: dict[int, str]) -> dict[int, str]:
    """Rows of a shard that hold something that is gone, by position, with the reasons."""
    found: dict[int, str] = {}
    for file in (manifest.kept, manifest.rejected):
        if file is None:
            continue
        for batch in shards.batches(shards.local(out, file), ["id", "position", "utterances"]):
            heard = batch["utterances"]
            parts = pc.struct_field(heard.flatten(), "parts")
            of_row = pc.list_parent_indices(heard).to_numpy()
            of_part = of_row[pc.list_parent_indices(parts).to_numpy()]
            held = [
                *zip(of_row.tolist(), pc.struct_field(heard.flatten(), "id").to_pylist(), strict=True),
                *zip(of_part.tolist(), pc.struct_field(parts.flatten(), "id").to_pylist(), strict=True),
                *((row, name) for row, id_ in enumerate(batch["id"].to_pylist()) for name in origins(id_)),
            ]
            positions = batch["position"].to_pylist()
            for row, name in held:
                reason = gone.get(planfile.hashed(name.removesuffix(AUGMENTED)))
                if reason is not None:
                    found[positions[row]] = reason
    return found
