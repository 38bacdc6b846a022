"""Finish: shards become a dataset. What depends on all rows is done here, and the manifest comes last."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import ValidationError

from pipeline import mirror, shards
from pipeline.build import Job, rows_of, unchanged
from pipeline.filters.duplicates import COLUMNS, REASONS, Duplicates
from pipeline.llm.base import LLM
from pipeline.plan import Plan, Unit
from pipeline.publish.card import NO_ROWS, card
from pipeline.setup import Setup
from schemas.arrow import FEATURES, SCHEMA
from schemas.manifest import Agreement, DatasetManifest, Leakage, ShardManifest, SplitSummary, Tokens
from schemas.sample import Rejection
from schemas.utterance import AUGMENTED

IN_TRAIN = "query_in_train"
"""The reason for rows of test in which something is said or called that a row of train has, too."""
IN_TEST = "query_in_test"
"""The same of rows of train, where the row of test comes from an earlier run."""
_JUDGED = REASONS | {IN_TRAIN, IN_TEST}


class LeakageError(RuntimeError):
    """Train and test share a speaker, a recording or an instruction. This is a defect of ours."""


def finish(job: Job, plan: Plan) -> DatasetManifest:
    """Makes a dataset of finished shards: sets duplicates aside, checks for leaks, writes the manifest.

    Rows of an earlier run stay as they are; of two that do not go together the later one is set aside.
    Where nothing has changed since the dataset was finished, no shard is read.

    Raises:
        LeakageError: Train and test share something.
    """
    out, setup = mirror.folder(job.out), unchanged(job)
    mirror.refresh(out)  # other machines may have built
    made = [_manifest(out, unit, setup.fingerprint) for unit in plan.units]
    finished = _finished(out, _state(setup, plan, made))
    if finished is None:
        shards.remove(out, "dataset.json")  # it must not vouch for shards that are written anew
    shards.discard_strays(out, made)
    if finished is not None:
        return finished
    runs = [unit.generation for unit in plan.units]
    made = _without_duplicates(out, made, setup.duplicates, setup.recipe.shards.rows_per_batch, runs)
    dataset = _dataset_manifest(out, setup, plan, made)
    leakage = dataset.leakage
    shared = [name for names in leakage.model_dump().values() for name in names][:5]
    if shared:
        raise LeakageError(f"train and test share {', '.join(shared)}: the dataset is not finished")
    _write_dataset(out, dataset)
    return dataset


def _state(setup: Setup, plan: Plan, made: list[ShardManifest]) -> str:
    """Digest of all that a dataset's manifest follows from."""
    files = [
        (m.split, m.unit, m.kept and m.kept.digest, m.rejected and m.rejected.digest, sorted(m.removed.items()))
        for m in made
    ]
    said = (setup.fingerprint, setup.resolved, setup.tasks_left_out, plan.utterances, plan.gone, files)
    return xxhash.xxh3_128_hexdigest(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))


def _finished(out: Path, state: str) -> DatasetManifest | None:
    """The dataset if it is finished and in this state, with all that belongs to it."""
    try:
        dataset = DatasetManifest.model_validate_json((out / "dataset.json").read_bytes())
    except OSError:
        return None
    except ValidationError:
        shards.log.warning("%s is damaged or of another version: it is written anew", out / "dataset.json")
        return None
    beside = [f"{split}/{name}" for split in dataset.splits for name in ("state.json", "dataset_info.json")]
    whole = all((out / name).is_file() for name in (*beside, "dataset_dict.json", "README.md"))
    return dataset if whole and dataset.state == state else None


def _manifest(out: Path, unit: Unit, fingerprint: str) -> ShardManifest:
    manifest = shards.finished(out, unit.id, unit.split, fingerprint)
    assert manifest is not None, f"unit {unit.id} is not finished"
    return manifest


def _without_duplicates(
    out: Path,
    made: list[ShardManifest],
    duplicates: Duplicates | None,
    rows_per_batch: int,
    runs: Sequence[int] | None = None,
) -> list[ShardManifest]:
    """Judges all rows that are sound in themselves, whatever was said of them before.

    So the verdicts depend on nothing but the rows: not on what an earlier run with other units said,
    and not on how far a killed one came.

    Args:
        out: The dataset's folder.
        made: Its shards, those of earlier runs first.
        duplicates: The filter; None if it is switched off.
        rows_per_batch: Of the recipe.
        runs: Which run planned each shard; one and the same if omitted.
    """
    columns: dict[str, list[pa.Array]] = defaultdict(list)  # views of the files: a corpus's rows are many
    tables: list[pa.Table] = []
    asked: list[set[str] | None] = []
    for index, manifest in enumerate(made):
        for batch in _sound(out, manifest):
            tables.append(_judged_by(batch))
            for name in ("messages", "rejected", "detail", "position"):
                columns[name].append(batch[name])
            columns["unit"].append(pa.array(np.full(batch.num_rows, index, np.int32)))
            asked += _asked(batch)
    if not tables:
        return made
    unit, position = (pa.chunked_array(columns[name]).to_numpy() for name in ("unit", "position"))
    messages, rejected, detail = (pa.chunked_array(columns[name]) for name in ("messages", "rejected", "detail"))
    # The order in which the first of equals is kept: that of the plan.
    order = np.lexsort((position, unit))
    found: dict[int, Rejection] = {}
    if duplicates is not None:
        rows = pa.concat_tables(tables)
        rows = rows if np.array_equal(order, np.arange(len(order))) else rows.take(pa.array(order))
        found = duplicates.find(rows, lambda row: [str(m["content"]) for m in messages[int(order[row])].as_py()])
    verdicts = {int(order[row]): verdict for row, verdict in found.items()}
    settled: dict[str, set[str]] = {split: set() for split in shards.SPLITS}
    of_run = np.array(runs or [0] * len(made))[unit]
    by_run = sorted((int(of_run[row]), _tests(made[unit[row]]), row) for row, keys in enumerate(asked) if keys)
    for _, tests, row in by_run:
        own, other = ("test", "train") if tests else ("train", "test")
        keys = asked[row] or set()
        if row in verdicts:
            continue
        if settled[other].isdisjoint(keys):
            settled[own] |= keys
        else:
            reason = IN_TRAIN if tests else IN_TEST
            verdicts[row] = Rejection(reason, f"the same is said or called in a row of {other}")
    changed: dict[int, dict[int, Rejection | None]] = defaultdict(dict)
    for row in {*verdicts, *np.flatnonzero(rejected.is_valid().to_numpy()).tolist()}:
        reason, verdict = rejected[row].as_py(), verdicts.get(row)
        if verdict != (None if reason is None else Rejection(reason, detail[row].as_py())):
            changed[int(unit[row])][int(position[row])] = verdict
    return [shards.judged(out, m, changed[i], rows_per_batch) if i in changed else m for i, m in enumerate(made)]


def _tests(manifest: ShardManifest) -> bool:
    return manifest.split == "test"


def _asked(batch: pa.RecordBatch) -> list[set[str] | None]:
    """What is said and called in each row, as digests; None where tools are no matter.

    Grammars keep the splits apart by themselves; what an LLM writes around no call may come up in both.
    """
    found: list[set[str] | None] = [None] * batch.num_rows
    places = np.flatnonzero(pc.not_equal(batch["outcome"], "").to_numpy(zero_copy_only=False))
    rows = batch.select(["utterances", "messages"]).take(pa.array(places))
    for place, utterances, messages in zip(places, *(column.to_pylist() for column in rows.columns), strict=True):
        functions = (call["function"] for message in messages for call in message["tool_calls"])
        calls = ((function["name"], function["arguments"]) for function in functions)
        found[place] = shards.queries((utterance["transcript"] for utterance in utterances), calls)
    return found


def _judged_by(batch: pa.RecordBatch) -> pa.Table:
    """The columns that a duplicate is told by. An augmented utterance goes by what it was made of."""
    utterances = batch["utterances"]
    alone = (
        len(utterances.flatten()) == batch.num_rows and pc.all(pc.equal(pc.list_value_length(utterances), 1)).as_py()
    )
    first = utterances.flatten() if alone else pc.list_element(utterances, 0)  # a view, rather than a copy
    name, digest, clean = (pc.struct_field(first, field) for field in ("id", "digest", "clean_digest"))
    copy = pc.and_(pc.is_valid(clean), pc.ends_with(name, AUGMENTED))
    if clean.null_count < len(clean):
        name = pc.if_else(copy, pc.utf8_slice_codeunits(name, 0, -len(AUGMENTED)), name)
        digest = pc.coalesce(clean, digest)
    columns = {
        "id": batch["id"],
        "task": batch["task"],
        "utterance": name,
        "copy": copy,
        "transcript": pc.struct_field(first, "transcript"),
        "digest": digest,
        "fingerprint": pc.struct_field(first, "fingerprint"),
    }
    return pa.table([columns[column] for column in COLUMNS], names=list(COLUMNS))


def _sound(out: Path, manifest: ShardManifest) -> Iterator[pa.RecordBatch]:
    """What a duplicate is judged by, of rows that are kept or were set aside as duplicates."""
    columns = ["id", "task", "outcome", "utterances", "messages", "rejected", "detail", "position"]
    if manifest.kept is not None:
        yield from shards.batches(shards.local(out, manifest.kept), columns)
    if manifest.rejected is not None and _JUDGED & manifest.reasons.keys():
        for batch in shards.batches(shards.local(out, manifest.rejected), columns):
            yield batch.filter(pc.is_in(batch["rejected"], pa.array(sorted(_JUDGED))))


def _sum(counts: Iterator[Mapping[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in sorted(total.items())}


def _dataset_manifest(out: Path, setup: Setup, plan: Plan, made: list[ShardManifest]) -> DatasetManifest:
    of_split = {split: [m for m in made if m.split == split] for split in shards.SPLITS}
    speakers = {split: {s for m in of_split[split] for s in m.speakers} for split in shards.SPLITS}
    recordings = {split: {r for m in of_split[split] for r in m.recordings} for split in shards.SPLITS}
    instructions = {split: {s for m in of_split[split] for s in m.instructions} for split in shards.SPLITS}
    queries = {split: {s for m in of_split[split] for s in m.queries} for split in shards.SPLITS}
    tokens = _tokens(made)
    agreement = _agreement(out, made)
    return DatasetManifest(
        name=setup.recipe.name,
        fingerprint=setup.fingerprint,
        recipe=setup.resolved,
        splits={
            split: SplitSummary(
                rows=sum(m.kept.rows for m in of_split[split] if m.kept),
                utterances=sum(m.heard for m in of_split[split]),
                seconds=round(sum(m.seconds for m in of_split[split]), 3),
                row_seconds=round(sum(m.row_seconds for m in of_split[split]), 3),
                augmented=round(sum(m.augmented for m in of_split[split]), 3),
                augmented_rows=sum(m.augmented_rows for m in of_split[split]),
                speakers=len(speakers[split]),
                shards=[m.kept for m in of_split[split] if m.kept],
            )
            for split in shards.SPLITS
            if any(m.kept for m in of_split[split])
        },
        rejected=[m.rejected for m in made if m.rejected],
        planned_utterances=plan.utterances - sum(plan.gone.values()),
        rows_in=sum(sum(rows_of(m)) + sum(m.removed.values()) for m in made),
        reasons=_sum(m.reasons for m in made),
        removed=_sum(m.removed for m in made),
        taken_out=plan.gone,
        tasks=_sum(m.tasks for m in made),
        outcomes=_sum(m.outcomes for m in made),
        voices=_sum(m.voices for m in made),
        tasks_left_out=setup.tasks_left_out,
        languages=_sum(m.languages for m in made),
        licences=_sum(m.licences for m in made),
        tokens=tokens,
        cost=_cost(setup.llm, tokens),
        leakage=Leakage(
            speakers_in_both=sorted(set.intersection(*speakers.values())),
            recordings_in_both=sorted(set.intersection(*recordings.values())),
            instructions_in_both=sorted(set.intersection(*instructions.values())),
            queries_in_both=sorted(set.intersection(*queries.values())),
        ),
        speech_verified=bool(agreement),
        agreement=agreement,
        state=_state(setup, plan, made),
    )


def _agreement(out: Path, made: list[ShardManifest]) -> list[Agreement]:
    """WER and CER by language and voice, of the kept rows that an ASR engine has listened to."""
    measured: dict[tuple[str, str], list[tuple[float | None, float]]] = defaultdict(list)
    for manifest in made:
        kept = shards.local(out, manifest.kept) if manifest.kept else None
        for batch in shards.batches(kept, ["utterances", "scores"]) if kept else ():
            first, scores = pc.list_element(batch["utterances"], 0), batch["scores"]
            engine = pc.struct_field(pc.struct_field(first, "delivery"), "engine")
            voice = pc.if_else(
                pc.is_valid(pc.struct_field(first, "voice")),
                pc.coalesce(engine, pc.struct_field(first, "format")),
                "recording",
            )
            columns = (pc.struct_field(first, "language"), voice, *(pc.struct_field(scores, n) for n in ("wer", "cer")))
            for language, spoken_by, wer, cer in zip(*(c.to_pylist() for c in columns), strict=True):
                if cer is not None:
                    measured[language or "unknown", spoken_by or "unknown"].append((wer, cer))
    found = []
    for (language, spoken_by), rows in sorted(measured.items()):
        wers = [wer for wer, _ in rows if wer is not None]
        found.append(
            Agreement(
                language=language,
                voice=spoken_by,
                rows=len(rows),
                wer=_spread(wers) if wers else None,
                cer=_spread([cer for _, cer in rows]),
            )
        )
    return found


def _spread(values: list[float]) -> tuple[float, float]:
    """Median and 90th percentile."""
    median, most = np.percentile(values, (50, 90))
    return round(float(median), 4), round(float(most), 4)


def _tokens(made: list[ShardManifest]) -> dict[str, Tokens]:
    names = sorted({name for m in made for name in m.tokens})
    return {name: Tokens(**_sum(m.tokens[name].model_dump() for m in made if name in m.tokens)) for name in names}


def _cost(llm: LLM | None, tokens: Mapping[str, Tokens]) -> float | None:
    if llm is None or llm.prices is None:
        return None
    spent = sum(t.prompt * llm.prices.prompt + t.completion * llm.prices.completion for t in tokens.values())
    return round(spent / 1e6, 6)


def _no_rows() -> bytes:
    """An Arrow file without rows."""
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, SCHEMA).close()
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _write_dataset(out: Path, dataset: DatasetManifest) -> None:
    """What makes `load_dataset(folder)` and `load_from_disk(folder)` work, then the manifest, last."""
    for split, summary in dataset.splits.items():
        shards.write(out, f"{split}/state.json", shards.state_file(summary.shards, split))
        info = {"dataset_name": dataset.name, "features": FEATURES}
        shards.write(out, f"{split}/dataset_info.json", json.dumps(info, indent=1).encode())
    splits = json.dumps({"splits": list(dataset.splits)}).encode()
    shards.write(out, "dataset_dict.json", splits)
    if dataset.rejected and not dataset.splits:
        shards.write(out, NO_ROWS, _no_rows())
    else:
        shards.remove(out, NO_ROWS)
    shards.write(out, "README.md", card(dataset).encode())
    shards.write(out, "dataset.json", dataset.model_dump_json(indent=1).encode())
