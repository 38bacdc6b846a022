"""The Hugging Face Hub: a dataset becomes visible by one commit, after all of its data is there.

Files are sent ahead (`preupload_lfs_files`), then one commit with a parent makes them visible: who loads the
dataset sees the release before or this one, never half of one. What the Hub has is not sent again, and what has
not changed is not even read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from pipeline import shards
from pipeline.publish import parquet
from pipeline.publish.errors import PublishError
from pipeline.publish.parquet import Part

log = logging.getLogger("earwitness")
T = TypeVar("T")

KIND = "dataset"
RETRIED = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
ATTEMPTS = 8
FIRST_WAIT = 1.0  # seconds; doubled with each attempt
LONGEST_WAIT = 120.0  # seconds between two attempts
_STALE = 412  # the parent is no longer the head
_OURS = (f"{parquet.DEFAULT}/", f"{parquet.REJECTED}/")


@dataclass(frozen=True, slots=True)
class Published:
    """What a push did."""

    repository: str
    commit: str
    """Of the release that is visible now."""
    changed: bool
    """False where the Hub had all of it: then there is no new commit."""
    files: int
    """Of the release."""
    made: int
    """Files that were made from shards; the others were known to be there."""
    bytes_read: int
    """Of shards. What was made is sent, but for what the Hub had after all."""


def token() -> str | None:
    """The Hub's token, of the environment alone: `HF_TOKEN`, or the file that `hf auth login` writes."""
    return huggingface_hub.get_token()


class Push:
    """One release of a dataset's folder."""

    def __init__(self, folder: Path, repository: str, *, endpoint: str | None = None, private: bool = True) -> None:
        self.folder, self.repository, self.private = folder, repository, private
        self.api = HfApi(endpoint=endpoint, token=token(), library_name="earwitness")
        self._known = _Known(folder / shards.BUILD / "published.json")
        self._made = self._read = 0

    def release(self, parts: Iterable[Part], texts: dict[str, bytes], message: str) -> Published:
        """Sends what the Hub lacks, then makes all of it visible by one commit.

        Args:
            parts: The Parquet files of the release.
            texts: Small files by path: the card, pictures, the manifest.
            message: Of the commit.

        Raises:
            PublishError: The Hub refuses, or cannot be reached after all attempts.
            DamagedShard: A shard is not as its manifest says.
        """
        parts = list(parts)
        self._attempt("create the repository", self._create)
        operations: dict[str, CommitOperationAdd] = {}
        for attempt in range(ATTEMPTS):
            head, there = self._attempt("list the repository", self._there)
            wanted = {part.path for part in parts} | set(texts)
            for part in parts:
                if part.path not in operations and not self._has(there.get(part.path), part):
                    operations[part.path] = self._send(part)
            adds = [operation for path, operation in operations.items() if not _same(there.get(path), operation)]
            adds += [
                CommitOperationAdd(path, content)
                for path, content in texts.items()
                if not _same_text(there.get(path), content)
            ]
            gone = sorted(path for path in there if path.startswith(_OURS) and path not in wanted)
            if not adds and not gone:
                return self._told(head, changed=bool(attempt), files=len(wanted))
            changes = [*adds, *(CommitOperationDelete(path) for path in gone)]
            try:
                commit = self._attempt("commit", partial(self._commit, changes, head, message))
            except _Moved:
                log.warning("%s has changed meanwhile: the release is compared with it again", self.repository)
                continue
            return self._told(commit, changed=True, files=len(wanted))
        raise PublishError(f"{self.repository} was changed by others {ATTEMPTS} times while this release was made")

    def _create(self) -> None:
        try:
            self.api.repo_info(self.repository, repo_type=KIND)
        except RepositoryNotFoundError:
            self.api.create_repo(self.repository, repo_type=KIND, private=self.private, exist_ok=True)

    def _there(self) -> tuple[str, dict[str, RepoFile]]:
        """The commit that is visible, and its files by path."""
        head = self.api.repo_info(self.repository, repo_type=KIND).sha
        assert head is not None
        tree = self.api.list_repo_tree(self.repository, repo_type=KIND, recursive=True, revision=head)
        return head, {file.path: file for file in tree if isinstance(file, RepoFile)}

    def _has(self, file: RepoFile | None, part: Part) -> bool:
        """Whether the Hub has a part, as far as is known without making it."""
        known = self._known.get(part.key)
        return file is not None and file.lfs is not None and known == (file.lfs.sha256, file.size)

    def _send(self, part: Part) -> CommitOperationAdd:
        content = parquet.write(self.folder, part)
        operation = CommitOperationAdd(part.path, content)
        self._made += 1
        self._read += sum(file.bytes for file in part.shards)
        begun = time.monotonic()
        self._attempt(
            f"send {part.path}",
            lambda: self.api.preupload_lfs_files(self.repository, [operation], repo_type=KIND),
        )
        self._known.put(part.key, operation.upload_info.sha256.hex(), operation.upload_info.size)
        log.info("%s: %d rows, %.1f MB, %.1f s", part.path, part.rows, len(content) / 1e6, time.monotonic() - begun)
        return operation

    def _commit(self, operations: list[Any], head: str, message: str) -> str:
        try:
            info = self.api.create_commit(
                self.repository, operations, commit_message=message, repo_type=KIND, parent_commit=head
            )
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code == _STALE:
                raise _Moved from error
            raise
        return str(info.oid)

    def _attempt(self, what: str, work: Callable[[], T]) -> T:
        """Works against a Hub that is busy for a while.

        Raises:
            PublishError: It stays so, or refuses for good.
        """
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except (HfHubHTTPError, httpx2.TransportError, ConnectionError, TimeoutError) as error:
                response = getattr(error, "response", None)
                status = None if response is None else response.status_code
                if (status is not None and status not in RETRIED) or attempt == ATTEMPTS - 1:
                    raise PublishError(
                        f"{self.repository}: the Hub does not {what}: {_reason(error, status)}"
                    ) from error
                wait = _wait(response, attempt)
                log.warning("the Hub answers %s to the attempt to %s: again in %.0f s", status or error, what, wait)
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _told(self, commit: str, *, changed: bool, files: int) -> Published:
        return Published(self.repository, commit, changed, files, self._made, self._read)


class _Moved(Exception):
    """Somebody else has committed since the repository was listed."""


class _Known:
    """What files were, by what they are made of: SHA-256 and size. Lost, it costs making them again, not sending."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._entries: dict[str, list[Any]] = json.loads(path.read_bytes())
        except FileNotFoundError:
            self._entries = {}
        except ValueError:
            log.warning("%s is damaged: all files are made again, to be compared with the Hub's", path)
            self._entries = {}

    def get(self, key: str) -> tuple[str, int] | None:
        entry = self._entries.get(key)
        return None if entry is None else (str(entry[0]), int(entry[1]))

    def put(self, key: str, sha256: str, size: int) -> None:
        self._entries[key] = [sha256, size]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        shards.write_atomically(self._path, json.dumps(self._entries, indent=1).encode())


def _same(file: RepoFile | None, operation: CommitOperationAdd) -> bool:
    return file is not None and file.lfs is not None and file.lfs.sha256 == operation.upload_info.sha256.hex()


def _same_text(file: RepoFile | None, content: bytes) -> bool:
    if file is None:
        return False
    if file.lfs is not None:
        return file.lfs.sha256 == hashlib.sha256(content).hexdigest()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)  # git's name of a content
    return file.blob_id == blob.hexdigest()


def _wait(response: Any, attempt: int) -> float:
    """Seconds until the next attempt: what the Hub asks for, or doubled from one to the next."""
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), LONGEST_WAIT)
    if asked:
        try:
            return min(max(0.0, parsedate_to_datetime(asked).timestamp() - time.time()), LONGEST_WAIT)
        except ValueError:
            log.warning("the Hub asks to wait until %r, which is no date", asked)
    return min(FIRST_WAIT * 2.0**attempt, LONGEST_WAIT)


def _reason(error: Exception, status: int | None) -> str:
    cure = {
        401: "set HF_TOKEN to a token that may write there",
        403: "the token may not write there: use one with write access",
        404: "there is no such repository or owner, or the token may not see it",
        413: "a file is larger than the Hub takes",
    }.get(status or 0, "")
    said = str(getattr(error, "server_message", "") or error).splitlines()[0]
    return f"{said}{f' ({status})' if status and str(status) not in said else ''}{f': {cure}' if cure else ''}"
