"""The dataset card: what a person and the Hub read first."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.text import unmarked
from schemas.manifest import DatasetManifest

_USE = """```python
import io, datasets, soundfile

rows = datasets.load_dataset("THIS FOLDER", split="train")
samples, sampling_rate = soundfile.read(io.BytesIO(rows[0]["audios"][0]["bytes"]))
```
"""
_ASIDE = (
    "The others are in the configuration `rejected`; where there is no sound to be had, an entry of `audios` is null."
)
_NO_FILES = "configs: []\n"
NO_ROWS = "empty.arrow"
"""What stands for the rows where none is kept: else `load_dataset` would take those that were set aside for them."""


def card(dataset: DatasetManifest) -> str:
    """`README.md` of a dataset, with the YAML head by which `load_dataset` finds its files."""
    use = _USE if any(split.rows for split in dataset.splits.values()) else ""
    return f"---\n{_head(dataset)}---\n\n{body(dataset, use=use)}"


def _head(dataset: DatasetManifest) -> str:
    configs, state = "", _state(dataset)
    kept = {split: f"{split}/shard-*.arrow" for split in dataset.splits}
    if not kept and dataset.rejected:
        kept = {"train": NO_ROWS}
    rejected = {file.path.split("/")[1].split("-")[0] for file in dataset.rejected}
    aside = {split: f"rejected/{split}-*.arrow" for split in sorted(rejected, reverse=True)}
    for name, files in (("default", kept), ("rejected", aside)):
        if files:
            configs += f"- config_name: {name}\n  description: {state}\n  data_files:\n"
            configs += "".join(f"  - split: {split}\n    path: {path}\n" for split, path in files.items())
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in about(dataset).items()) + "\n"
    return head + (f"configs:\n{configs}" if configs else _NO_FILES)


def about(dataset: DatasetManifest) -> dict[str, Any]:
    """What the Hub can search by, wherever the dataset lies."""
    languages = sorted({name.split("-")[0] for name in dataset.languages if name != "unknown"})
    found: dict[str, Any] = {"pretty_name": dataset.name}
    return (
        found | ({"language": languages} if languages else {}) | {"tags": ["audio", "instruction-tuning", "earwitness"]}
    )


def _state(dataset: DatasetManifest) -> str:
    """What changes with the shards.

    `datasets` finds what it has cached by the folder's last name and these configurations alone: without it, another
    build under the same name would be loaded as the one before.
    """
    files = [*(file for split in dataset.splits.values() for file in split.shards), *dataset.rejected]
    listing = "\n".join(f"{file.path} {file.digest}" for file in files)
    return f"shards {hashlib.blake2b(listing.encode(), digest_size=8).hexdigest()}"


def body(dataset: DatasetManifest, use: str = _USE, audio: str = "audios", aside: str = _ASIDE) -> str:
    """What a person reads.

    Args:
        use: How its rows are read.
        audio: The column of the speech.
        aside: Where the rows are that were set aside.
    """
    rows = sum(s.rows for s in dataset.splits.values())
    parts = [
        f"# {dataset.name}\n",
        f"{dataset.recipe.get('description') or 'Spoken instructions and their responses.'}\n",
        f"Made by Earwitness. Each row holds speech (`{audio}`, 16 kHz FLAC), a conversation about it "
        "(`messages`, one `<|audio|>` for each recording) and where both come from.\n",
        use,
        table(
            ("split", "rows", "hours of rows", "hours of source audio", "speakers"),
            ((n, s.rows, hours(s.row_seconds), hours(s.seconds), s.speakers) for n, s in dataset.splits.items()),
        ),
        "Source audio counts each utterance once that a row plays by itself, whole; mixtures of utterances and pauses "
        "cut from them count only as rows.\n",
        "## Tasks\n",
        table(("task", "rows"), _most_first(dataset.tasks)),
        _left_out(dataset),
        without_rows(dataset),
        _tools(dataset),
        "## Set aside\n",
        f"Of {rows + dataset.set_aside} rows {rows} are kept. {aside if dataset.set_aside else ''}\n",
        table(("reason", "rows"), _most_first(dataset.reasons)) if dataset.set_aside else "",
        "## Languages and licences\n",
        table(("language", "hours of source audio"), _hours(dataset.languages)),
        table(("licence", "hours of source audio"), _hours(dataset.licences)),
        _voices(dataset),
        _augmentation(dataset),
        _tokens(dataset),
        "## What was checked\n",
        "No speaker, no recording of an unknown speaker, no instruction, no query for tools and no call is in both "
        "train and test. "
        + (
            ""
            if dataset.speech_verified
            else "Speech not verified: no recogniser has compared it with the transcripts."
        )
        + "\n",
        _agreement(dataset),
    ]
    return "\n".join(part for part in parts if part)


def table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """Rows as a markdown table."""
    lines = [" | ".join(map(_cell, row)) for row in rows]
    if not lines:
        return "None.\n"
    rule = " | ".join("---" for _ in header)
    return "\n".join(f"| {line} |" for line in [" | ".join(header), rule, *lines]) + "\n"


def _cell(value: object) -> str:
    """A value that ends neither its cell nor its row and is no markup: licences are a corpus's own words."""
    return unmarked(str(value))


def hours(seconds: float) -> str:
    """Hours with two digits at least that say something: a small dataset has some, too."""
    return small(seconds / 3600)


def small(value: float) -> str:
    """A figure with two decimals, or two digits where it is smaller than that shows."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.{1 - math.floor(math.log10(value))}f}"


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _hours(seconds: Mapping[str, float]) -> Iterable[tuple[str, str]]:
    return ((name, hours(s)) for name, s in sorted(seconds.items(), key=lambda item: -item[1]))


def _left_out(dataset: DatasetManifest) -> str:
    if not dataset.tasks_left_out:
        return ""
    return f"Left out, because the recipe names no LLM: {', '.join(dataset.tasks_left_out)}.\n"


def _tools(dataset: DatasetManifest) -> str:
    """What is right to do where tools are concerned."""
    if not dataset.outcomes:
        return ""
    return "## Requests for tools\n\n" + table(("outcome", "rows"), _most_first(dataset.outcomes))


def _voices(dataset: DatasetManifest) -> str:
    """Who has spoken what nobody recorded."""
    if not dataset.voices:
        return ""
    return "## Synthetic speech\n\n" + table(("engine and licence", "hours of rows"), _hours(dataset.voices))


def _agreement(dataset: DatasetManifest) -> str:
    """How near what a recogniser heard comes to what should be said."""
    if not dataset.agreement:
        return ""
    asr = dataset.recipe.get("asr")
    name = f"`{asr['engine']}` ({asr['model']})" if isinstance(asr, Mapping) else "A recogniser"
    rows = sum(s.rows for s in dataset.splits.values())
    return (
        f"Speech verified: {name} has listened to {sum(a.rows for a in dataset.agreement)} of {rows} rows. What it "
        "heard is in `utterances.hypothesis`. To evaluate with the same recogniser would be circular.\n\n"
    ) + table(
        ("language", "spoken by", "rows", "WER, median", "WER, 90th percentile", "CER, median", "CER, 90th percentile"),
        ((a.language, a.voice, a.rows, *_percent(a.wer), *_percent(a.cer)) for a in dataset.agreement),
    )


def _percent(values: tuple[float, float] | None) -> tuple[str, str]:
    return ("", "") if values is None else (f"{values[0]:.1%}", f"{values[1]:.1%}")


def _augmentation(dataset: DatasetManifest) -> str:
    """What was done to the sound of how much of it. Also told where nothing of it came through the checks."""
    asked = dataset.recipe.get("augment")
    if not isinstance(asked, Mapping):
        return ""
    rows = table(
        ("split", "augmented rows", "augmented hours"),
        ((n, f"{s.augmented_rows} of {s.rows}", hours(s.augmented)) for n, s in dataset.splits.items()),
    )
    effects = table(
        ("effect", "chance", "drawn from"),
        ((name, f"{options['chance']:g}", _options(options)) for name, options in asked["effects"].items()),
    )
    stays = "The clean rows are kept beside the augmented ones. " if asked["keep_clean"] else ""
    return (
        f"## Augmentation\n\n{stays}What was done to an utterance is in its `effects`; `clean_digest` names the sound "
        f"before it.\n\n{rows}\n{effects}{_noises(asked['effects'].get('noise'))}"
    )


def _noises(options: Mapping[str, object] | None) -> str:
    if options is None or not options.get("files"):
        return ""
    return f"\nThe noises come from {options['files']} files; licence: {options['licence'] or 'unknown'}.\n"


def _options(options: Mapping[str, object]) -> str:
    left_out = {"chance", "licence", "files"}
    shown = {name: value for name, value in options.items() if name not in left_out and value is not None}
    if "files" in options:
        shown.pop("kinds", None)
    return "; ".join(f"{name} {_values(value)}" for name, value in shown.items())


def _values(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], str):
        return ", ".join(value)
    return f"{value[0]:g} to {value[1]:g}" if isinstance(value, list) else str(value)


def without_rows(dataset: DatasetManifest) -> str:
    """A line on tasks that were asked for in vain; empty if there is none."""
    if not dataset.tasks_without_rows:
        return ""
    names = ", ".join(dataset.tasks_without_rows)
    return f"No row of {names}: no utterance fits, none was drawn for it, or all its rows were set aside.\n"


def _tokens(dataset: DatasetManifest) -> str:
    if not dataset.tokens:
        return ""
    rows = table(
        ("model", "requests", "prompt tokens", "completion tokens"),
        ((name, t.requests, t.prompt, t.completion) for name, t in dataset.tokens.items()),
    )
    cost = "" if dataset.cost is None else f"Cost at the recipe's prices: {small(dataset.cost)}.\n"
    return f"## Text LLM\n\n{rows}\n{cost}"
