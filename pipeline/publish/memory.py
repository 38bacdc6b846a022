"""What was found out of shards and files, so that it need not be found out again.

Lost, it costs reading some columns of the shards, and after a push that was stopped making its files again; nothing
that the Hub has is sent for it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline import shards
from pipeline.publish import facts
from pipeline.publish.facts import Facts
from pipeline.publish.layout import File
from schemas.manifest import ShardFile

log = logging.getLogger("earwitness")
T = TypeVar("T")
_FILES = TypeAdapter(dict[str, File])
_FACTS = TypeAdapter(dict[str, Facts])


class Memory:
    """`.build/published.json`, what was sent, and `.build/facts.json`, what is in the shards, of a dataset's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files_at, self._facts_at = (folder / shards.BUILD / name for name in ("published.json", "facts.json"))
        self._files = _load(self._files_at, _FILES)

    def facts(self, files: list[ShardFile]) -> Facts:
        """Of all rows of some shards; what is known of others is forgotten."""
        known = _load(self._facts_at, _FACTS)
        found = {
            file.digest: known.get(file.digest) or facts.of_shard(shards.local(self._folder, file)) for file in files
        }
        if found.keys() != known.keys():
            shards.write_atomically(self._facts_at, _FACTS.dump_json(found))
        return facts.together(found[file.digest] for file in files)

    def file(self, key: str) -> File | None:
        """A file that was made of this and sent, whether or not it has become visible."""
        return self._files.get(key)

    def put_file(self, file: File) -> None:
        """Remembers a file that was sent."""
        self._files[file.key] = file
        shards.write_atomically(self._files_at, _FILES.dump_json(self._files, indent=1))

    def forget_files(self) -> None:
        """Of a release that is visible, the Hub tells what its files are."""
        self._files = {}
        self._files_at.unlink(missing_ok=True)


def _load(path: Path, adapter: TypeAdapter[dict[str, T]]) -> dict[str, T]:
    try:
        return adapter.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError:
        log.warning("%s is damaged or of another version: what it knew is found out again", path)
        return {}
