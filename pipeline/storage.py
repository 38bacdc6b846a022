"""Storage: corpora and datasets that lie in an object store, by fsspec URL (`s3://bucket/folder`).

`place` gives a path that readers use like one of the disk. Credentials come from the environment or the
configuration of the store's own library, never from us: a URL that carries some is refused unread.
Listings are made once for a whole folder, a request for a thousand files, and hold size and checksum of
each, so that planning opens no recording. They are forgotten when a plan begins (`forget`).
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import posixpath
import re
import tempfile
import traceback
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import xxhash

from pipeline.plugins import require

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://(.*)", re.DOTALL)
_DISK = ("file", "local")
_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf", "memory")
_WRITABLE = ("s3", "s3a", "gs", "gcs", "memory")
"""Where an object appears whole or not at all, and can be created on condition that it is not there. On the
Hub each file would be a commit; `earwitness publish` makes one of all. Azure's library has not been seen to
keep the condition."""
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "hf": "set HF_TOKEN, or run `hf auth login`",
}
_FAMILY = {"s3a": "s3", "gcs": "gs"}
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gs")),
    **dict.fromkeys(("abfs", "abfss", "az"), ("adlfs", "azure")),
}
"""What each store needs, and the extra that installs it; the Hub's comes with `datasets`."""
_LIBRARIES = frozenset(
    "botocore aiobotocore aiohttp s3fs gcsfs google azure adlfs huggingface_hub requests httpx httpx2 fsspec".split()
)
"""Packages whose errors are about a store."""
_PART = 32 * 2**20  # bytes of one part of a multipart upload
_BLOCK = 2**20  # bytes read at a time from an archive: its members' headers lie between long stretches of sound
_SMALL = 8 * 2**20  # bytes
_SAMPLED = 4096  # bytes, as of files on disk


class StoreError(OSError):
    """A store cannot be used; the message names the URL and the cure."""


def is_url(text: str) -> bool:
    """Whether a text is a URL, and no path of the disk."""
    return _URL.match(text) is not None


def normal(url: str) -> str:
    """A URL in one form, without `.`, `..` and doubled or trailing slashes.

    Raises:
        StoreError: It carries credentials, leads out of its bucket, or names no store that is known.
    """
    found = _URL.match(url)
    assert found is not None, "a path is no URL"
    scheme, rest = found[1].lower(), found[2]
    if "@" in rest.split("/", 1)[0] and not scheme.startswith("abfs"):  # there it parts container and account
        raise StoreError(
            f"a {scheme}:// URL carries a name or a password before `@`: leave them out. Credentials come from the "
            f"environment: {_CREDENTIALS.get(_FAMILY.get(scheme, scheme), 'see the library of the store')}"
        )
    if scheme not in (*_STORES, *_DISK):
        raise StoreError(f"{scheme}:// is no store that is known; there are: {', '.join(_STORES)}, and plain paths")
    path = posixpath.normpath(rest if scheme in _DISK else rest.lstrip("/"))
    if path == "." or path.split("/")[0] == "..":
        raise StoreError(f"{url}: {scheme}://BUCKET/FOLDER is expected")
    return f"{scheme}://{path}"


def place(text: str | Path) -> Path:
    """A path of the disk, or one of a store that is used like it.

    Raises:
        StoreError, MissingExtra: The URL cannot be used.
    """
    if isinstance(text, Path):
        return text
    text = str(text)
    if not is_url(text):
        return Path(text)
    url = normal(text)
    scheme, _, rest = url.partition("://")
    if scheme in _DISK:
        return Path(rest)
    filesystem(url)  # which says what is missing
    from upath import UPath

    # It has pathlib's interface without being its subclass; `open(path)` alone does not take it.
    return cast(Path, UPath(url, use_listings_cache=False))


def on_disk(text: str | Path) -> Path:
    """A path of the disk, for what is written to or read from no store.

    Raises:
        StoreError: It is a URL.
    """
    if is_url(str(text)) and normal(str(text)).partition("://")[0] not in _DISK:
        raise StoreError(
            f"{text}: only corpora and datasets may lie in a store. Name a path of the disk here, and copy the file or "
            f"folder between both with the store's own tool (`aws s3 cp`, `gcloud storage cp`, `hf upload`)"
        )
    return Path(place(text))


DISK: dict[str, Any] = {"parser": on_disk, "metavar": "PATH"}
"""What makes an option of the command line refuse URLs, which would else become folders named `s3:`."""


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the URL as it names it.

    Raises:
        StoreError, MissingExtra: The package for it is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme in _PACKAGES:
        if scheme in ("gs", "gcs"):
            # Else each first look at a bucket asks by gRPC of what kind it is, a minute long where nobody answers.
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        package, extra = _PACKAGES[scheme]
        require(package, extra=extra, what=f"{scheme}://")
    import fsspec

    try:
        # What a library remembers of listings would hide what others have written since.
        found, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise StoreError(f"{scheme}:// needs a package that is not installed: {error}") from error
    return found, str(path)


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turns the errors of a store's library into ones that say what to do.

    `FileNotFoundError` and `FileExistsError` stay: they are answers.

    Raises:
        StoreError: The store refuses or cannot be reached.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        cure = _cure(error, url)
        if cure is None:
            raise
        raise StoreError(f"{url}: {cure}") from error


def _cure(error: Exception, url: str) -> str | None:
    """What to do about an error; None for one that is no store's, or says only that an object is not there."""
    scheme = url.partition("://")[0]
    how = _CREDENTIALS.get(_FAMILY.get(scheme, scheme), "see the documentation of the store's library")
    causes = [error, *filter(None, (error.__cause__, error.__context__))]
    names = " ".join(type(cause).__name__ for cause in causes)
    if "Credential" in names or "TokenRetrieval" in names:
        return f"no credentials are found: {how}"
    if isinstance(error, FileExistsError):
        return None
    if isinstance(error, FileNotFoundError):
        no_bucket = "bucket" in str(error).lower() and "not exist" in str(error)
        return "there is no such bucket: create it, or correct the URL" if no_bucket else None
    if not any(_of_library(cause) for cause in causes):
        return None
    if isinstance(error, PermissionError) or any(_status(cause) in (401, 403) for cause in causes):
        return f"access is refused ({error}): see that these credentials may read and write there, or {how}"
    if "Connect" in names or "Timeout" in names:
        return f"the store cannot be reached ({error}): see the network, the region and the endpoint, then run it again"
    return f"the store fails ({type(error).__name__}: {error}): run it again when it is well"


def _of_library(error: BaseException) -> bool:
    """Whether a store's library says it: by a class of its own, or with its own words by a common one."""
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""
    of_disk = isinstance(error, OSError) and error.errno is not None  # full, or not to be written to
    names = (type(error).__module__, "" if of_disk else raised_in)
    return any(name.partition(".")[0] in _LIBRARIES for name in names)


def _status(error: BaseException) -> int | None:
    """Of HTTP, where an error has one."""
    if str(error).startswith("Forbidden"):  # so gcsfs says it, by a plain OSError
        return 403
    found = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def writable(url: str) -> None:
    """Nothing, for a store that datasets can be built in.

    Raises:
        StoreError: It is none.
    """
    scheme = url.partition("://")[0]
    if scheme not in _WRITABLE:
        cure = "`earwitness publish` makes a release there" if scheme == "hf" else f"use {', '.join(_WRITABLE)}"
        raise StoreError(f"{url}: a dataset cannot be built in {scheme}://: build it elsewhere; {cure}")


def read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """An object, or a stretch of it, by one request.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    # Else s3fs asks for the size first, in case it could read stretches at once.
    options = {"max_concurrency": 1} if url.startswith("s3") else {}
    with told(url):
        content: bytes = files.cat_file(path, start=start, end=end, **options)
    return content


def opened(path: Path) -> Any:
    """A file to be read, from any place in it. Of a store a small one comes by one request, others bit by bit.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    url = str(path)
    if not is_url(url):
        return open(path, "rb", opener=without_waiting)
    folder, _, own = url.rpartition("/")
    known = _folders.get(folder, {}).get(own)
    if known is not None and int(known.partition("-")[0]) <= _SMALL:
        return io.BytesIO(read(url))
    files, name = filesystem(url)
    with told(url):
        return io.BufferedReader(files.open(name, "rb", block_size=_BLOCK, cache_type="readahead"))


def without_waiting(path: str, flags: int) -> int:
    """Opens a file for `open`; a pipe at once, too, whether or not somebody writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def write(url: str, content: bytes, *, new: bool = False) -> None:
    """Makes an object: whole or not at all.

    Args:
        url: Of the object.
        content: Its content.
        new: Whether it must not be there yet.

    Raises:
        FileExistsError: It is there.
        StoreError: The store refuses, cannot be reached, or has not got what was sent.
    """
    files, path = filesystem(url)
    with told(url):
        files.pipe_file(path, content, **({"mode": "create"} if new else {}))
        _check(files, path, url, len(content), _Sums.of([content]))


def send(file: Path, url: str) -> None:
    """Makes an object of a local file: whole or not at all. Every byte is sent once.

    Raises:
        StoreError: As `write`.
    """
    files, path = filesystem(url)
    # Parts that are under way are held in memory; smaller files go by one request.
    options = {"chunksize": _PART, "max_concurrency": 2} if url.startswith("s3") else {}
    with told(url):
        files.put_file(str(file), path, **options)
        with open(file, "rb") as stream:
            sums = _Sums.of(iter(lambda: stream.read(_PART), b""))
        _check(files, path, url, file.stat().st_size, sums)


class _Sums:
    """Checksums by which stores know an object, and ours."""

    def __init__(self) -> None:
        self.whole, self.ours, self.parts = hashlib.md5(usedforsecurity=False), xxhash.xxh3_128(), b""
        self.count = 0

    @classmethod
    def of(cls, parts: Any) -> _Sums:
        sums = cls()
        for part in parts:
            sums.whole.update(part)
            sums.ours.update(part)
            sums.parts += hashlib.md5(part, usedforsecurity=False).digest()
            sums.count += 1
        return sums

    def match(self, checksum: str) -> bool:
        many = f"{hashlib.md5(self.parts, usedforsecurity=False).hexdigest()}-{self.count}"
        return checksum in (self.whole.hexdigest(), many)


def _check(files: Any, path: str, url: str, size: int, sums: _Sums) -> None:
    """Whether a store has what was sent: by its checksum, or by reading it back.

    An object that is encrypted with a key of its own has a checksum that nobody else can compute.
    """
    info = files.info(path)
    there = info["size"] == size
    if there and not sums.match(checksum(info)):
        found = xxhash.xxh3_128()
        for block in _blocks(files, path):
            found.update(block)
        there = found.digest() == sums.ours.digest()
    if not there:
        raise StoreError(f"{url}: the store has not got what was sent to it: run the command again")


def _blocks(files: Any, path: str) -> Iterator[bytes]:
    with files.open(path, "rb", block_size=_PART, cache_type="readahead") as stream:
        while block := stream.read(_PART):
            yield block


def copy(url: str, to: str) -> None:
    """Has a store copy an object, whole; nothing is sent.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    with told(url):
        files.cp_file(path, filesystem(to)[1])


def fetch(url: str, file: Path) -> str:
    """Writes an object to a local file.

    Returns:
        Its XXH3 digest.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    found = xxhash.xxh3_128()
    with told(url):
        files.get_file(path, str(file))
    with open(file, "rb") as stream:
        while block := stream.read(2**20):
            found.update(block)
    return found.hexdigest()


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A file of the disk with the same content, for libraries that read no other; it itself, where it is one.

    Raises:
        OSError: It is not there, or its store fails.
    """
    if not is_url(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        fetch(str(path), file)
        yield file


def delete(url: str) -> None:
    """Removes an object, if it is there.

    Raises:
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    try:
        with told(url):
            files.rm_file(path)
    except FileNotFoundError:
        return


def digest(url: str) -> str:
    """The XXH3 digest of an object, all of which is read.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    found = xxhash.xxh3_128()
    with told(url):
        for block in _blocks(files, path):
            found.update(block)
    return found.hexdigest()


def modified(url: str) -> float:
    """When an object was written, in seconds since 1970 by the clock of the store.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    with told(url):
        return float(files.modified(path).timestamp())


def age(url: str) -> float:
    """Seconds since an object was written, by the clock of the store: those of machines differ, and jump.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    with told(url):
        written = files.modified(path)
        probe = f"{path}.{uuid.uuid4().hex}"
        files.pipe_file(probe, b"")
        now = files.modified(probe)
        files.rm_file(probe)
    return float((now - written).total_seconds())


def listed(url: str) -> dict[str, dict[str, Any]]:
    """All objects below a URL by their names from there, with what the store says of each: a request for 1,000.

    Raises:
        StoreError: The store refuses or cannot be reached.
    """
    files, path = filesystem(url)
    begin = path.rstrip("/") + "/"
    try:
        with told(url):
            found = files.find(path, detail=True)
    except FileNotFoundError:
        return {}
    return {name[len(begin) :]: info for name, info in sorted(found.items()) if name.startswith(begin)}


def checksum(info: dict[str, Any]) -> str:
    """What a store says of an object's content; empty if it says nothing."""
    lfs = info.get("lfs")
    known = info.get("ETag") or info.get("etag") or (lfs and lfs["sha256"]) or info.get("blob_id")
    if info.get("md5Hash"):
        known = base64.b64decode(info["md5Hash"]).hex()
    settings = info.get("content_settings")
    if not known and settings and settings.get("content_md5"):
        known = bytes(settings["content_md5"]).hex()
    return str(known or info.get("crc32c") or "").strip('"')


_folders: dict[str, dict[str, str]] = {}
"""Identities of files by folder and name, of folders that were listed since the plan began."""


def forget() -> None:
    """Lists anew from here on."""
    _folders.clear()
    _exists.cache_clear()


def below(folder: Path) -> Iterator[Path]:
    """All files below a folder of a store, in the order in which those of a disk are walked, without hidden ones."""
    url = str(folder).rstrip("/")
    files: dict[str, list[str]] = defaultdict(list)
    inside: dict[str, set[str]] = defaultdict(set)
    known: dict[str, dict[str, str]] = defaultdict(dict)
    for name, info in listed(url).items():
        if info["type"] != "file" or name.endswith("/"):  # which stands for an empty folder
            continue
        above, _, last = name.rpartition("/")
        files[above].append(last)
        known[f"{url}/{above}".rstrip("/")][last] = _identity(f"{url}/{name}", info)
        while above:
            upper, _, own = above.rpartition("/")
            inside[upper].add(own)
            above = upper
    _folders.update(known)
    yield from _walked(folder, "", files, inside)


def _walked(at: Path, name: str, files: dict[str, list[str]], inside: dict[str, set[str]]) -> Iterator[Path]:
    yield from (at / file for file in sorted(files.get(name, ())) if not file.startswith("."))
    for own in sorted(inside.get(name, ())):
        if not own.startswith("."):
            yield from _walked(at / own, f"{name}/{own}" if name else own, files, inside)


def identity(url: str) -> str:
    """Size and checksum of an object, by the listing of its folder; empty if it is not there.

    A store that has no checksum is asked for its first, middle and last 4 KiB.
    """
    folder, _, name = url.rpartition("/")
    if folder not in _folders:
        files, path = filesystem(folder)
        try:
            with told(folder):
                entries = files.ls(path, detail=True)
        except FileNotFoundError:
            entries = []
        found = {info["name"].rpartition("/")[2]: info for info in entries if info["type"] == "file"}
        _folders[folder] = {own: _identity(f"{folder}/{own}", info) for own, info in found.items() if own}
    return _folders[folder].get(name, "")


def _identity(url: str, info: dict[str, Any]) -> str:
    size, known = info["size"], checksum(info)
    if not known:
        places = (0, max(0, (size - _SAMPLED) // 2), max(0, size - _SAMPLED)) if size > 3 * _SAMPLED else (0,)
        length = _SAMPLED if len(places) > 1 else 3 * _SAMPLED
        known = xxhash.xxh3_64_hexdigest(b"".join(read(url, at, min(size, at + length)) for at in places))
    return f"{size}-{known}"


@lru_cache(maxsize=1024)
def _exists(url: str) -> bool:
    files, path = filesystem(url)
    with told(url):
        return bool(files.exists(path))


def exists(path: str | Path) -> bool:
    """Whether there is a file or a folder. Of a store it is asked once a plan."""
    return _exists(str(path)) if is_url(str(path)) else os.path.exists(path)
