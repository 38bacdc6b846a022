"""The Hugging Face Hub: a dataset becomes visible by one commit, after all of its data is there.

Files are sent ahead (`preupload_lfs_files`), then one commit with a parent makes them visible: who loads the
dataset sees the release before or this one, never half of one. What the Hub has is not sent again, and what has
not changed is not even read.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
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
from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info

from pipeline.publish import parquet
from pipeline.publish.errors import PublishError
from pipeline.publish.layout import OURS, File, Part
from pipeline.publish.memory import Memory
from pipeline.publish.parquet import Made

log = logging.getLogger("earwitness")
T = TypeVar("T")

KIND = "dataset"
RETRIED = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
ATTEMPTS = 8
FIRST_WAIT = 1.0  # seconds; doubled with each attempt
LONGEST_WAIT = 120.0  # seconds between two attempts
_NAME = re.compile(r"(?!.*(?:--|\.\.|\.git$))\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)  # what the Hub takes
_LONGEST_NAME = 96
_STALE = 412  # the parent is no longer the head


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
    rows: int
    """Of the release; none where all of them were withdrawn."""
    bytes_read: int
    """Of shards. What was made is sent, but for what the Hub had after all."""
    purged: int = 0
    """Files that no release shows any more and that are deleted for good."""


def token() -> str | None:
    """The Hub's token, of the environment alone: `HF_TOKEN`, or the file that `hf auth login` writes."""
    return huggingface_hub.get_token()


class Hub:
    """One repository, asked again where the Hub is busy.

    Raises:
        PublishError: The name is none, or there is no token: told before anything is made.
    """

    def __init__(self, repository: str, *, endpoint: str | None = None) -> None:
        _check_name(repository)
        if token() is None:
            raise PublishError(
                f"{repository}: there is no token: set HF_TOKEN to one that may write there, or run `hf auth login`"
            )
        self.repository = repository
        self.api = HfApi(endpoint=endpoint, token=token(), library_name="earwitness")

    def create(self, private: bool) -> None:
        """Makes the repository if it is not there."""
        try:
            self.attempt("find the repository", lambda: self.api.repo_info(self.repository, repo_type=KIND))
        except PublishError as error:
            if not isinstance(error.__cause__, RepositoryNotFoundError):
                raise
            self.attempt(
                "create the repository",
                lambda: self.api.create_repo(self.repository, repo_type=KIND, private=private, exist_ok=True),
            )

    def head(self) -> tuple[str, dict[str, RepoFile]]:
        """The commit that is visible, and its files by path."""
        return self.attempt("list the repository", self._head)

    def _head(self) -> tuple[str, dict[str, RepoFile]]:
        head = self.api.repo_info(self.repository, repo_type=KIND).sha
        assert head is not None
        return head, self.files(head)

    def files(self, revision: str) -> dict[str, RepoFile]:
        """The files of a revision by path."""
        tree = self.api.list_repo_tree(self.repository, repo_type=KIND, recursive=True, revision=revision)
        return {file.path: file for file in tree if isinstance(file, RepoFile)}

    def read(self, path: str, revision: str) -> bytes:
        """A small file's content."""
        with tempfile.TemporaryDirectory() as place:  # the Hub's cache would keep each release's
            found = self.attempt(
                f"show {path}",
                lambda: self.api.hf_hub_download(
                    self.repository, path, repo_type=KIND, revision=revision, local_dir=place
                ),
            )
            return Path(found).read_bytes()

    def has(self, info: UploadInfo) -> bool:
        """Whether the Hub holds a content, in a commit or not yet."""
        actions, _, _ = self.attempt(
            "say what it has",
            lambda: post_lfs_batch_info([info], token(), KIND, self.repository, endpoint=self.api.endpoint),
        )
        return bool(actions) and actions[0].get("actions") is None

    def attempt(self, what: str, work: Callable[[], T]) -> T:
        """Works against a Hub that is busy for a while.

        Raises:
            PublishError: It stays so, or refuses for good.
        """
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except (HfHubHTTPError, httpx2.TransportError, ConnectionError, TimeoutError, RuntimeError) as error:
                said = _said(error)
                response = getattr(said, "response", None)
                status = None if response is None else response.status_code
                if (status is not None and status not in RETRIED) or attempt == ATTEMPTS - 1:
                    raise PublishError(f"{self.repository}: the Hub does not {what}: {_reason(said, status)}") from said
                wait = _wait(response, attempt)
                log.warning("the Hub answers %s to the attempt to %s: again in %.0f s", status or said, what, wait)
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


class Push:
    """One release of a dataset's folder."""

    def __init__(self, hub: Hub, folder: Path, memory: Memory, before: dict[str, File]) -> None:
        self._hub, self._folder, self._memory, self._before = hub, folder, memory, before
        self._operations: dict[str, CommitOperationAdd] = {}
        self.made = self.read = 0

    def send(self, parts: Iterable[Part], there: dict[str, RepoFile]) -> dict[str, File]:
        """Sends what the Hub lacks; nothing of it is visible yet.

        Returns:
            The files of the release by path.

        Raises:
            PublishError: The Hub refuses, or cannot be reached after all attempts.
            DamagedShard: A shard is not as its manifest says.
        """
        found: dict[str, File] = {}
        for part in parts:
            known = [self._known(path, part.key(n), there) for n, path in enumerate(part.paths)]
            if all(known):
                found |= {path: file for path, file in zip(part.paths, known, strict=True) if file is not None}
                continue
            self.read += part.bytes
            for number, made in enumerate(parquet.write(self._folder, part)):
                found[part.paths[number]] = self._send(part, number, made)
        return found

    def _known(self, path: str, key: str, there: dict[str, RepoFile]) -> File | None:
        """A file that the Hub has already, as far as is known without making it."""
        before = self._before.get(path)
        file = before if before is not None and before.key == key else self._memory.file(key)
        if file is None:
            return None
        if _is(there.get(path), file):
            return file
        info = UploadInfo(file.bytes, b"PAR1", bytes.fromhex(file.sha256))
        if not self._hub.has(info):
            return None
        operation = CommitOperationAdd(path, b"")  # sent by a push that was stopped
        operation.upload_info = info
        operation._upload_mode, operation._is_uploaded = "lfs", True
        self._operations[path] = operation
        return file

    def _send(self, part: Part, number: int, made: Made) -> File:
        path, begun = part.paths[number], time.monotonic()
        operation = CommitOperationAdd(path, made.content)
        self._hub.attempt(
            f"take {path}",
            lambda: self._hub.api.preupload_lfs_files(self._hub.repository, [operation], repo_type=KIND),
        )
        self._operations[path] = operation
        self.made += 1
        file = File(
            key=part.key(number),
            sha256=operation.upload_info.sha256.hex(),
            bytes=len(made.content),
            rows=made.rows,
            memory=made.memory,
            shards=[file.path for file in part.shards],
        )
        self._memory.put_file(file)
        log.info("%s: %d rows, %.1f MB, %.1f s", path, made.rows, file.bytes / 1e6, time.monotonic() - begun)
        return file

    def commit(
        self, files: dict[str, File], texts: dict[str, bytes], message: str, gone: Collection[str] = ()
    ) -> tuple[str, bool]:
        """Makes all of it visible, if there is anything new.

        Args:
            files: As `send` returns them.
            texts: Small files by path: the card, pictures, the manifest.
            message: Of the commit.
            gone: Paths beside the data that the release does not have.

        Returns:
            The commit that is visible, and whether it is new.

        Raises:
            PublishError: The Hub refuses, or others change the repository all the time.
        """
        for attempt in range(ATTEMPTS):
            head, there = self._hub.head()
            adds = [self._operation(path, file) for path, file in files.items() if not _is(there.get(path), file)]
            adds += [
                CommitOperationAdd(path, content)
                for path, content in texts.items()
                if not _same_text(there.get(path), content)
            ]
            old = sorted(path for path in there if path in gone or (path.startswith(OURS) and path not in files))
            if not adds and not old:
                return head, bool(attempt)
            changes = [*adds, *(CommitOperationDelete(path) for path in old)]
            try:
                return self._hub.attempt("commit", partial(self._commit, changes, head, message)), True
            except _Moved:
                log.warning("%s has changed meanwhile: the release is compared with it again", self._hub.repository)
        raise PublishError(f"{self._hub.repository} was changed by others {ATTEMPTS} times while this release was made")

    def _operation(self, path: str, file: File) -> CommitOperationAdd:
        if path not in self._operations:  # it was there when the release began, and somebody has removed it
            operation = CommitOperationAdd(path, b"")
            operation.upload_info = UploadInfo(file.bytes, b"PAR1", bytes.fromhex(file.sha256))
            operation._upload_mode, operation._is_uploaded = "lfs", True
            self._operations[path] = operation
        self._operations[path]._is_committed = False
        return self._operations[path]

    def _commit(self, operations: list[Any], head: str, message: str) -> str:
        try:
            info = self._hub.api.create_commit(
                self._hub.repository, operations, commit_message=message, repo_type=KIND, parent_commit=head
            )
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code == _STALE:
                raise _Moved from error
            raise
        return str(info.oid)


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository) or len(repository.partition("/")[2]) > _LONGEST_NAME:
        raise PublishError(
            f"{repository!r} names no repository: OWNER/NAME is expected, of letters, digits, `-`, `_` and `.`, "
            f"at most {_LONGEST_NAME} of them after the slash"
        )


class _Moved(Exception):
    """Somebody else has committed since the repository was listed."""


def _is(there: RepoFile | None, file: File) -> bool:
    return there is not None and there.lfs is not None and (there.lfs.sha256, there.size) == (file.sha256, file.bytes)


def _same_text(file: RepoFile | None, content: bytes) -> bool:
    if file is None:
        return False
    if file.lfs is not None:
        return file.lfs.sha256 == hashlib.sha256(content).hexdigest()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)  # git's name of a content
    return file.blob_id == blob.hexdigest()


def _said(error: Exception) -> Exception:
    """What the Hub has said, where huggingface_hub has put it into an error of its own."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


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
    said = (str(getattr(error, "server_message", "") or error).splitlines() or [type(error).__name__])[0]
    return f"{said}{f' ({status})' if status and str(status) not in said else ''}{f': {cure}' if cure else ''}"
