"""Release: a finished dataset's folder becomes what the Hub shows: Parquet, a card, pictures, sound, the manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from huggingface_hub.hf_api import RepoFile
from pydantic import TypeAdapter, ValidationError

from pipeline import shards
from pipeline.publish import figures
from pipeline.publish.card import card as bare
from pipeline.publish.errors import PublishError
from pipeline.publish.hub import Hub, Published, Push
from pipeline.publish.hub_card import PICTURE, SOUND, Card
from pipeline.publish.layout import File, parts
from pipeline.publish.memory import Memory
from pipeline.publish.purge import purge as purge_history
from schemas.arrow import from_batch
from schemas.manifest import DatasetManifest
from schemas.recipe import PublishSpec
from schemas.sample import Sample

log = logging.getLogger("earwitness")
MANIFEST = "earwitness.json"
"""`dataset`: the manifest; `files`: which shards each Parquet file holds, by which the next release goes."""
_FILES = TypeAdapter(dict[str, File])


def asked(dataset: DatasetManifest) -> PublishSpec:
    """What the dataset's recipe says of publishing."""
    return PublishSpec.model_validate(dataset.recipe.get("publish") or {})


def publish(
    folder: Path,
    dataset: DatasetManifest,
    repository: str | None = None,
    *,
    rejected: bool | None = None,
    private: bool | None = None,
    purge: bool = False,
    endpoint: str | None = None,
) -> Published:
    """Makes a finished dataset visible on the Hub, all of it at once. Run again, it sends what has changed.

    Args:
        folder: The dataset's.
        dataset: Its manifest.
        repository: `owner/name`, made if it is not there; if omitted, that of the recipe. The recipe also says what
            is not told of the next two.
        rejected: Whether rows that were set aside are a configuration of their own.
        private: Whether a new repository is.
        purge: Whether what is no longer shown is deleted for good: recordings that were withdrawn, and all history.
        endpoint: The Hub's address; `HF_ENDPOINT` or the usual one if omitted.

    Where all rows have been withdrawn, the data of the release before leaves the Hub.

    Raises:
        PublishError: There is nothing to publish, or the Hub refuses.
        FolderInUse: A build is writing in the folder.
    """
    spec = asked(dataset)
    repository = repository or spec.repository
    if not repository:
        raise PublishError(
            "name the repository, OWNER/NAME, or write `publish: {repository: OWNER/NAME}` in the recipe"
        )
    rows = sum(split.rows for split in dataset.splits.values())
    if not rows and (dataset.set_aside or "withdrawn" not in dataset.removed):
        raise PublishError(
            f"{folder} has no rows to publish: `earwitness inspect {folder}` says why they were set aside. What was "
            "published before stays as it is; delete the repository on the Hub if it must not"
        )
    hub = Hub(repository, endpoint=endpoint)
    with shards.exclusive(folder):
        if rows:
            hub.create(spec.private if private is None else private)
        memory = Memory(folder)
        facts = memory.facts([file for split in dataset.splits.values() for file in split.shards])
        head, there = hub.head()
        before = _before(hub, head, there)
        wanted = parts(dataset, before, single=facts.single, rejected=spec.rejected if rejected is None else rejected)
        push = Push(hub, folder, memory, before)
        files = push.send(wanted, there)
        card = Card(folder, dataset, facts, files, repository, hub.api.endpoint, spec.licences)
        texts = {MANIFEST: _manifest(dataset, files)} | (
            _shown(card) if rows else {"README.md": bare(dataset).encode()}
        )
        message = f"{rows} rows, {dataset.fingerprint[:12]}"
        commit, changed = push.commit(files, texts, message, {PICTURE, SOUND} - texts.keys())
        memory.forget_files()
        done = Published(repository, commit, changed, len(files) + len(texts), push.made, rows, push.read)
        if purge:
            commit, purged = purge_history(hub, message)
            done = replace(done, commit=commit, purged=purged)
        return done


def _shown(card: Card) -> dict[str, bytes]:
    """What a person sees of a release, by path."""
    sample = _first(card.folder, card.dataset)
    return {
        "README.md": card.text(sample).encode(),
        PICTURE: figures.picture(card.dataset, card.facts),
        SOUND: sample.utterances[0].audio.flac if sample.utterances[0].audio else b"",
    }


def _before(hub: Hub, head: str, there: Mapping[str, RepoFile]) -> dict[str, File]:
    """The files of the release that is visible."""
    if MANIFEST not in there:
        return {}
    try:
        return _FILES.validate_python(json.loads(hub.read(MANIFEST, head))["files"])
    except (ValueError, ValidationError, KeyError, TypeError):
        log.warning("%s: %s is damaged or of another version: all files are made again", hub.repository, MANIFEST)
        return {}


def _manifest(dataset: DatasetManifest, files: Mapping[str, File]) -> bytes:
    found = {"dataset": dataset.model_dump(mode="json"), "files": {p: f.model_dump() for p, f in files.items()}}
    return json.dumps(found, indent=1, ensure_ascii=False).encode()


def _first(folder: Path, dataset: DatasetManifest) -> Sample:
    file = next(file for split in dataset.splits.values() for file in split.shards)
    return next(from_batch(next(shards.batches(shards.local(folder, file))).slice(0, 1)))
