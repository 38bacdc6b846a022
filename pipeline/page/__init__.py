"""Page: a dataset as one HTML file that opens anywhere, with figures and a sample of rows to listen to.

Nothing in it is fetched: style, script and sound are in the file, and its policy forbids everything
else. What comes from the data is never markup: figures are escaped by the template, rows are JSON
without a `<` in it, and the script puts text into nodes as text. The file is written piece
by piece, one row after another, so that no more than a row's sound is in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline import shards
from pipeline.page.charts import number, time
from pipeline.page.choice import Choice, Place
from pipeline.page.columns import glances
from pipeline.page.rows import row
from pipeline.page.summary import Summary
from schemas.arrow import from_batch
from schemas.manifest import DatasetManifest, ShardFile
from schemas.sample import Sample

ROWS = 60
SOUND_BYTES = 48 * 2**20
"""Of FLAC on one page; base64 makes four bytes of three. Rows after that are shown without sound."""

_HERE = Path(__file__).resolve().parent
_templates = Environment(
    loader=FileSystemLoader(_HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_templates.filters |= {"number": number, "time": time}


@dataclass(slots=True)
class Page:
    """A page that was written."""

    path: Path
    bytes: int = 0
    rows: int = 0
    of: int = 0
    """Rows that it was drawn from."""
    silent: int = 0
    """Utterances whose sound had no room."""
    missing: list[str] = field(default_factory=list)
    """What is in the dataset but on no row of the page, e.g. `task spell`: there were too few rows."""


def write(
    folder: Path,
    dataset: DatasetManifest,
    path: Path,
    *,
    rows: int = ROWS,
    rejected: bool = False,
    seed: int = 0,
    sound_bytes: int = SOUND_BYTES,
) -> Page:
    """Writes the page of a finished dataset; equal arguments give equal bytes.

    Args:
        folder: The dataset's.
        dataset: Its manifest.
        path: Of the page; it appears whole or not at all.
        rows: At most so many are shown.
        rejected: Whether only rejected rows are shown; else a part of the rows are.
        seed: Draws the rows.
        sound_bytes: At most so much FLAC is put in.

    Raises:
        DiskError: The page cannot be written.
    """
    kept = [file for split in dataset.splits.values() for file in split.shards]
    files = [*kept, *dataset.rejected]
    summary, choice = Summary(), Choice(rows, seed)
    for place, file in enumerate(files):
        summary.begin()
        for i, glance in enumerate(glances(shards.local(folder, file))):
            summary.add(glance)
            if not rejected or place >= len(kept):
                choice.add(Place(place, i), glance)
    chosen, missing = choice.chosen()
    shown_files = files[len(kept) :] if rejected else files
    page = Page(path, rows=len(chosen), of=sum(file.rows for file in shown_files), missing=missing)
    drawn = _drawn(folder, files, len(kept), chosen)
    values = {
        "dataset": dataset,
        "recipe": json.dumps(dataset.recipe, indent=2, ensure_ascii=False),
        "summary": summary,
        "charts": summary.charts(dataset),
        "page": page,
        "only_rejected": rejected,
        "seed": seed,
        "rows": _pieces(drawn, page, sound_bytes),
    }
    _write(page, values)
    return page


def _drawn(folder: Path, files: list[ShardFile], kept: int, chosen: list[Place]) -> Iterator[tuple[int, Sample]]:
    """The chosen rows with their numbers, by which `inspect --row` finds them; no other row is decoded."""
    for index, file in enumerate(files):
        wanted = [place.row for place in chosen if place.file == index]
        if not wanted:
            continue
        before = sum(f.rows for f in (files[:index] if index < kept else files[kept:index]))
        begin = 0
        for batch in shards.batches(shards.local(folder, file)):
            here = [i for i in wanted if begin <= i < begin + batch.num_rows]
            for i in here:
                (sample,) = from_batch(batch.slice(i - begin, 1))
                yield before + i, sample
            begin += batch.num_rows


def _pieces(drawn: Iterator[tuple[int, Sample]], page: Page, left: int) -> Iterator[dict[str, Any]]:
    """For each row its JSON, and the sounds that it names."""
    count = 0
    for place, sample in drawn:
        sounds: dict[str, str] = {}
        names = []
        for utterance in sample.utterances:
            flac = utterance.audio.flac if utterance.audio else b""
            name = ""
            if flac and len(flac) <= left:
                name = f"sound-{count}"
                sounds[name] = base64.b64encode(flac).decode()
                left -= len(flac)
                count += 1
            elif flac:
                page.silent += 1
            names.append(name)
        yield {"json": in_script(row(place, sample, names)), "sounds": sounds}


def in_script(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, nor begin a comment there."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - nothing that is markup is left in it


def _write(page: Page, values: dict[str, Any]) -> None:
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{_source(script)}'; style-src '{_source(style)}'; "
        "media-src data:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    pieces = _templates.get_template("page.html").generate(
        policy=policy,
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        **values,
    )
    temporary = page.path.with_name(f".{page.path.name}.{os.getpid()}.tmp")
    with shards.explained(page.path):
        page.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                for piece in pieces:
                    page.bytes += file.write(piece.encode())
            os.replace(temporary, page.path)
        finally:
            temporary.unlink(missing_ok=True)


def _source(text: str) -> str:
    """How a policy names the one inline element that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
