"""Release: a finished dataset's folder becomes what the Hub shows: Parquet, a card, a picture, the manifest."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline import shards
from pipeline.plugins import require
from pipeline.prompting import Prompts
from pipeline.publish import parquet
from pipeline.publish.card import about, body
from pipeline.publish.errors import PublishError
from pipeline.publish.hub import Published, Push
from pipeline.publish.parquet import Part
from schemas.arrow import from_batch
from schemas.conversation import ToolCall
from schemas.manifest import DatasetManifest
from schemas.sample import Sample

MANIFEST = "earwitness.json"
PICTURE = "figures.png"
_BARS = 12
_KNOWN_LICENCES = {
    "CC0-1.0": "cc0-1.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-3.0": "cc-by-3.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_USE = """```python
import io, datasets, soundfile

rows = datasets.load_dataset("{repository}", split="{split}")
rows = rows.cast_column("{audio}", {feature})  # the bytes as they are, without torchcodec
samples, sampling_rate = soundfile.read(io.BytesIO(rows[0]["{audio}"]{first}["bytes"]))
```
"""


def publish(
    folder: Path,
    dataset: DatasetManifest,
    repository: str,
    *,
    rejected: bool = False,
    private: bool = True,
    endpoint: str | None = None,
) -> Published:
    """Makes a finished dataset visible on the Hub, all of it at once. Run again, it sends what has changed.

    Args:
        folder: The dataset's.
        dataset: Its manifest.
        repository: `owner/name`; made if it is not there.
        rejected: Whether rows that were set aside are a configuration of their own.
        private: Whether a new repository is.
        endpoint: The Hub's address; `HF_ENDPOINT` or the usual one if omitted.

    Raises:
        PublishError: There is nothing to publish, or the Hub refuses.
        FolderInUse: A build is writing in the folder.
    """
    if not any(split.rows for split in dataset.splits.values()):
        raise PublishError(
            f"{folder} has no rows to publish: `earwitness inspect {folder}` says why they were set aside"
        )
    with shards.exclusive(folder):
        single = parquet.has_single_audios(folder, dataset)
        parts = parquet.parts(dataset, single=single, rejected=rejected)
        texts = {
            "README.md": card(folder, dataset, repository, parts).encode(),
            MANIFEST: dataset.model_dump_json(indent=1).encode(),
            PICTURE: picture(dataset),
        }
        rows = sum(split.rows for split in dataset.splits.values())
        push = Push(folder, repository, endpoint=endpoint, private=private)
        return push.release(parts, texts, f"{rows} rows, {dataset.fingerprint[:12]}")


def card(folder: Path, dataset: DatasetManifest, repository: str, parts: Sequence[Part]) -> str:
    """The card as the Hub shows it."""
    split = next(name for name, s in dataset.splits.items() if s.rows)
    single = any(part.single for part in parts)
    use = _USE.format(
        repository=repository,
        split=split,
        audio="audio" if single else "audios",
        feature="datasets.Audio(decode=False)" if single else "[datasets.Audio(decode=False)]",
        first="" if single else "[0]",
    )
    has_aside = any(part.config == parquet.REJECTED for part in parts)
    aside = "The others are in the configuration `rejected`." if has_aside else "The others are not published."
    told = [
        f"---\n{_head(dataset, parts)}---\n",
        body(dataset, use=use, audio="audio" if single else "audios", aside=aside),
        f"![Rows by task, hours by language, rows set aside by reason]({PICTURE})\n",
        _prompts(folder, dataset),
        _example(_first(folder, dataset)),
    ]
    return "\n".join(told)


def _head(dataset: DatasetManifest, parts: Sequence[Part]) -> str:
    """The YAML head. Its values are written as JSON, which YAML contains."""
    rows = sum(split.rows for split in dataset.splits.values())
    size = next((name for most, name in _SIZES if rows < most), "1M<n<10M")
    keys: dict[str, Any] = about(dataset) | {
        "license": _licences(dataset),
        "task_categories": ["automatic-speech-recognition", "question-answering", "text-generation"],
        "size_categories": [size],
    }
    configs, infos = [], []
    for config, files in groupby(parts, key=lambda part: part.config):
        splits = {split: list(some) for split, some in groupby(files, key=lambda part: part.split)}
        configs.append(
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits],
            }
        )
        infos.append({"config_name": config, **_info(splits)})
    keys |= {"configs": configs, "dataset_info": infos}
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())


def _info(splits: Mapping[str, Sequence[Part]]) -> dict[str, Any]:
    """`dataset_info`, in the form that the Hub's viewer reads."""
    datasets = require("datasets", extra="publish", what="publishing")
    single = next(iter(splits.values()))[0].single
    features = datasets.Features.from_arrow_schema(parquet.schema(single))
    sizes = {name: sum(file.bytes for part in some for file in part.shards) for name, some in splits.items()}
    return {
        "features": features._to_yaml_list(),
        "splits": [
            {"name": name, "num_bytes": sizes[name], "num_examples": sum(part.rows for part in some)}
            for name, some in splits.items()
        ],
        "download_size": sum(sizes.values()),
        "dataset_size": sum(sizes.values()),
    }


def _licences(dataset: DatasetManifest) -> list[str]:
    """As the Hub names them; what it has no name for is `other`, and the card's table says what it is."""
    names = {name for both in dataset.licences for name in both.split(" AND ")}
    return sorted({_KNOWN_LICENCES.get(name, "unknown" if name == "unknown" else "other") for name in names})


def _first(folder: Path, dataset: DatasetManifest) -> Sample:
    file = next(file for split in dataset.splits.values() for file in split.shards)
    return next(from_batch(next(shards.batches(folder / file.path)).slice(0, 1)))


def _example(sample: Sample) -> str:
    """A row to read."""
    shown = {
        "id": sample.id,
        "task": sample.task,
        "messages": [
            {"role": m.role, "content": m.content}
            | (
                {"tool_calls": [{"name": c.name, "arguments": c.arguments} for c in m.tool_calls]}
                if m.tool_calls
                else {}
            )
            for m in sample.messages
        ],
        "answer": sample.answer,
        "transcripts": [u.transcript for u in sample.utterances],
        "speakers": [u.speaker for u in sample.utterances],
        "seconds": [round(u.audio.seconds, 2) for u in sample.utterances if u.audio],
    }
    return f"## A row\n\n```json\n{json.dumps(shown, indent=1, ensure_ascii=False)}\n```\n"


def _call(call: ToolCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}


def _prompts(folder: Path, dataset: DatasetManifest) -> str:
    """What the text LLM was told, in the words of the templates."""
    own, found = dataset.recipe.get("prompts"), []
    prompts = Prompts(Path(str(own)) if own else None)
    for (task, language), digests in sorted(_told(folder, dataset).items()):
        if language not in prompts.languages(task):
            continue
        known = prompts.get(task, language)
        if not known.content.user:
            continue
        if digests != {known.digest}:
            found.append(f"`{task}` in `{language}`: its templates have been changed since these rows were made.\n")
        else:
            found.append(
                f"`{task}` in `{language}`:\n\n```jinja\n{known.content.system}\n---\n{known.content.user}\n```\n"
            )
    return "## Prompts of the text LLM\n\nSystem and user, as templates:\n\n" + "\n".join(found) if found else ""


def _told(folder: Path, dataset: DatasetManifest) -> dict[tuple[str, str], set[str]]:
    """Digests of the prompts of kept rows that an LLM wrote, by task and language. Reads no audio."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for file in (file for split in dataset.splits.values() for file in split.shards):
        for batch in shards.batches(folder / file.path, ["task", "provenance"]):
            made = batch["provenance"]
            columns = (made.field(name).to_pylist() for name in ("instruction", "prompt", "engine"))
            for task, instruction, prompt, engine in zip(batch["task"].to_pylist(), *columns, strict=True):
                if engine:
                    language = instruction.split("/")[1] if instruction.count("/") == 2 else "en"
                    found[task, language].add(prompt)
    return found


def picture(dataset: DatasetManifest) -> bytes:
    """Bars of rows by task, hours by language and rows set aside by reason. PNG; equal figures give equal bytes."""
    figures = require("matplotlib.figure", extra="publish", what="the picture of a dataset's figures")
    hours = {name: seconds / 3600 for name, seconds in dataset.languages.items()}
    panels: list[tuple[str, Mapping[str, float]]] = [
        ("rows by task", dataset.tasks),
        ("hours by language", hours),
        ("rows set aside", dataset.reasons),
    ]
    panels = [(title, counts) for title, counts in panels if counts]
    heights = [min(len(counts), _BARS) + 1.5 for _, counts in panels]
    figure = figures.Figure(figsize=(8, 0.3 * sum(heights)), dpi=120, layout="constrained")
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, (title, counts) in zip(axes, panels, strict=True):
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_BARS]
        bars = axis.barh([name for name, _ in most], [value for _, value in most], color="#3b6ea5")
        axis.bar_label(
            bars, [f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" for _, value in most], padding=3
        )
        axis.set_title(title, loc="left", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()
