"""Mirror: a dataset in a store has a work folder here, in which it is built and read as if it were local.

The work folder lies below the user's cache, at a place that says the URL (`EARWITNESS_WORK` names another), and
holds what needs a disk: plan, memo, lock, temporary files, and copies of the manifests. Its shards lie beside
it, by their digests, so that the machine that wrote one fetches nothing; those that were not used for longest
go when there are too many (`EARWITNESS_CACHE_GB`).

The store is the truth. What is written goes there first, and what is removed is removed here first; so what lies
here lies there, too, whenever a run is killed. An object appears whole or not at all, and a manifest comes after
what it names: no reader sees half a shard. One that is written anew is overwritten whole, after its manifest is
gone; a reader that still has the old manifest finds another digest and says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline import lease, storage
from schemas.manifest import ShardFile, ShardManifest

BUILD = ".build"  # plan, memo and temporary files: needed to go on, not to use the dataset
PENDING = f"{BUILD}/pending"
"""What replaces finished shards, until all of it is written."""
_PLAN = f"{BUILD}/plan"
_LISTING = "plan.json"
_SHARDS = "shards"
_AT_ONCE = 8  # requests for small objects, or shards that are fetched
_RECENT = 600.0  # seconds; what was used so lately is not removed: somebody may be about to open it
_MANIFEST = re.compile(r"(train|test)/shard-[^/]+\.json")


def folder(text: str | Path) -> Path:
    """The folder of a dataset: itself, or the work folder of one in a store. Asks nobody.

    Raises:
        StoreError, MissingExtra: The URL cannot be used.
    """
    text = str(text)
    if not storage.is_url(text):
        return Path(text)
    path = storage.place(text)
    url = str(path)
    if not storage.is_url(url):
        return path
    scheme, _, rest = url.partition("://")
    return _root() / "stores" / scheme / rest


def target(text: str | Path) -> Path:
    """The folder of a dataset that is to be built.

    Raises:
        StoreError, MissingExtra: The URL cannot be used, or nothing can be built there.
    """
    found = folder(text)
    if (url := of(found)) is not None:
        storage.writable(url)
    return found


OPTION: dict[str, Any] = {"parser": folder, "metavar": "FOLDER|URL"}
"""What makes an option of the command line take either."""
TARGET: dict[str, Any] = OPTION | {"parser": target}
"""The same for a dataset that is to be built."""


def of(folder: Path) -> str | None:
    """The URL whose work folder this is, or None for a dataset of the disk."""
    root = (_root() / "stores").as_posix() + "/"
    path = folder.as_posix()
    if not path.startswith(root):
        return None
    scheme, _, rest = path[len(root) :].partition("/")
    return f"{scheme}://{rest}"


def address(folder: Path) -> str:
    """What a person calls a dataset, and another machine finds it by: its path or its URL."""
    return of(folder) or str(folder)


def _root() -> Path:
    named = os.environ.get("EARWITNESS_WORK")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earwitness"
    return Path(named).absolute() if named else cache


def name_of(folder: Path) -> str:
    """A name of a work folder that no other has, on any machine. Call it while holding the folder."""
    place = folder / BUILD / "folder"
    if not place.exists():
        _keep(place, uuid.uuid4().hex.encode())
    return place.read_text()


def put(folder: Path, name: str, content: bytes) -> None:
    """Sends a small file of a dataset to its store, if it has one."""
    if (url := of(folder)) is not None:
        lease.check(url)
        storage.write(f"{url}/{name}", content)


def settle(folder: Path, manifest: ShardManifest, note: Path) -> bool:
    """Sends the shards of a unit, and keeps them here under their digests. Their manifest is to come after them.

    Those that replace finished ones are whole in the store before the old ones go, for nobody may be able to make
    either again; then the store itself copies them into their place. Whatever machine goes on can end that.

    Args:
        folder: The work folder.
        manifest: Of the unit.
        note: The manifest, as it waits here beside the unit's shards.

    Returns:
        Whether they replace others, so that `settled` is to follow.
    """
    url = of(folder)
    assert url is not None
    files = [(kind, file) for kind, file in (("kept", manifest.kept), ("rejected", manifest.rejected)) if file]
    place = _manifest_of(manifest)
    replaces = (folder / place).exists()
    for kind, file in files:
        waiting = note.with_suffix(f".{kind}")
        written = waiting if waiting.exists() else _shard(file)
        lease.check(url)
        storage.send(written, f"{url}/{PENDING}/{waiting.name}" if replaces else f"{url}/{file.path}")
        if written == waiting:
            _shard(file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(waiting, _shard(file))
    if replaces:
        put(folder, f"{PENDING}/{note.name}", note.read_bytes())
        (folder / place).unlink()
        remove(folder, place)
        for kind, file in files:
            storage.copy(f"{url}/{PENDING}/{note.with_suffix(f'.{kind}').name}", f"{url}/{file.path}")
    _make_room()
    return replaces


def settled(folder: Path, note: Path) -> None:
    """Removes from the store what waited there, its note first."""
    url = of(folder)
    assert url is not None
    for name in (note.name, *(note.with_suffix(f".{kind}").name for kind in ("kept", "rejected"))):
        remove(folder, f"{PENDING}/{name}")


def _end_pending(folder: Path, url: str, there: dict[str, dict[str, Any]]) -> bool:
    """Ends what a machine that is gone had begun to replace. Whether there was anything."""
    waiting = [name for name in there if name.startswith(f"{PENDING}/")]
    for name in (name for name in waiting if name.endswith(".json")):
        content = storage.read(f"{url}/{name}")
        manifest = ShardManifest.model_validate_json(content)
        remove(folder, _manifest_of(manifest))
        for kind, file in (("kept", manifest.kept), ("rejected", manifest.rejected)):
            if file is not None:
                storage.copy(f"{url}/{name.removesuffix('.json')}.{kind}", f"{url}/{file.path}")
        put(folder, _manifest_of(manifest), content)
    for name in sorted(waiting, key=lambda name: not name.endswith(".json")):
        remove(folder, name)
    return bool(waiting)


def _manifest_of(manifest: ShardManifest) -> str:
    return f"{manifest.split}/shard-{manifest.unit}.json"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def remove(folder: Path, name: str) -> None:
    """Removes a file of a dataset from its store, if it has one."""
    if (url := of(folder)) is not None:
        lease.check(url)
        storage.delete(f"{url}/{name}")


def names(folder: Path) -> list[str]:
    """All files of a dataset as its store lists them, without those that only serve to go on."""
    url = of(folder)
    assert url is not None
    return [name for name in storage.listed(url) if not name.startswith(f"{BUILD}/")]


def fetch(folder: Path, name: str) -> None:
    """Brings a small file up to date with the store, if there is one: it may be gone there, too."""
    url = of(folder)
    if url is None:
        return
    try:
        content = storage.read(f"{url}/{name}")
    except FileNotFoundError:
        (folder / name).unlink(missing_ok=True)
    else:
        _keep(folder / name, content)


def refresh(folder: Path) -> None:
    """Brings all manifests up to date with the store. Call it while holding the dataset.

    A manifest whose shard is not there as it says is removed, here and there.
    """
    url = of(folder)
    if url is None:
        return
    there = storage.listed(url)
    if _end_pending(folder, url, there):
        there = storage.listed(url)
    wanted = [name for name in there if _MANIFEST.fullmatch(name)]
    others = [name for name in there if name.startswith(f"{_PLAN}/") or name in (f"{BUILD}/name", "dataset.json")]
    _bring(folder, url, [*wanted, *others], there)
    known = {*wanted, *others}
    for own in (*folder.glob("t*/shard-*.json"), *_files(folder / _PLAN), folder / "dataset.json"):
        if own.relative_to(folder).as_posix() not in known:
            own.unlink(missing_ok=True)
    for name in wanted:
        if not _whole(folder / name, there):
            (folder / name).unlink(missing_ok=True)
            remove(folder, name)


def _whole(manifest: Path, there: dict[str, dict[str, int]]) -> bool:
    try:
        said = ShardManifest.model_validate_json(manifest.read_bytes())
    except ValueError:
        return False
    files = (file for file in (said.kept, said.rejected) if file is not None)
    return all(file.path in there and there[file.path]["size"] == file.bytes for file in files)


def _bring(folder: Path, url: str, wanted: Iterable[str], there: dict[str, dict[str, int]]) -> None:
    """Fetches what is not here as it is there."""

    def bring(name: str) -> None:
        if not _same(folder / name, there[name]):
            _keep(folder / name, storage.read(f"{url}/{name}"))

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for _ in threads.map(bring, wanted):
            pass


def _same(path: Path, info: dict[str, int]) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == storage.checksum(info)


def _keep(path: Path, content: bytes) -> None:
    """Writes a copy; two processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def share_plan(folder: Path) -> None:
    """Sends the plan to the store, for workers that share nothing else. Its listing comes last."""
    url = of(folder)
    if url is None:
        return
    there = storage.listed(f"{url}/{_PLAN}")
    files = {p.relative_to(folder / _PLAN).as_posix(): p for p in (folder / _PLAN).rglob("*") if p.is_file()}
    here = {name: path for name, path in files.items() if not path.name.startswith(".")}
    for name in sorted(here, key=lambda name: (name == _LISTING, name)):
        if name not in there or not _same(here[name], there[name]):
            lease.check(url)
            storage.send(here[name], f"{url}/{_PLAN}/{name}")
    for name in there.keys() - here.keys():
        remove(folder, f"{_PLAN}/{name}")


def take_plan(folder: Path) -> None:
    """Brings the plan here, where another machine has made it. One request, if it is here already.

    Its listing names units by their contents, so one that is the same is of the same plan.
    """
    url = of(folder)
    if url is None:
        return
    with _alone(folder / BUILD / "plan.lock"):
        there = storage.listed(f"{url}/{_PLAN}")
        if _LISTING in there and _same(folder / _PLAN / _LISTING, there[_LISTING]):
            return
        named = {f"{_PLAN}/{name}": info for name, info in there.items()}
        _bring(folder, url, named.keys() - {f"{_PLAN}/{_LISTING}"}, named)
        _bring(folder, url, named.keys() & {f"{_PLAN}/{_LISTING}"}, named)


def follow(folder: Path) -> None:
    """Brings the plan and the manifests of finished units here, to see how far another machine's run is."""
    if (url := of(folder)) is not None:
        take_plan(folder)
        there = storage.listed(url)
        _bring(folder, url, [name for name in there if _MANIFEST.fullmatch(name)], there)


def local(folder: Path, file: ShardFile) -> Path:
    """Where a shard lies to be read. What lies in a store alone is fetched.

    Raises:
        StoreError: It is not there, or not as its manifest says.
    """
    url = of(folder)
    if url is None:
        return folder / file.path
    path = _shard(file)
    with _alone(path.with_name(f"{file.digest[:2]}.lock")):
        if _size(path) == file.bytes:
            os.utime(path)  # when it was used last
            return path
        temporary = path.with_name(f".{file.digest}.tmp")
        try:
            found = storage.fetch(f"{url}/{file.path}", temporary)
        except FileNotFoundError as error:
            raise storage.StoreError(f"{url}/{file.path} is not there: build the dataset again") from error
        if found != file.digest:
            temporary.unlink()
            raise storage.StoreError(
                f"{url}/{file.path} is not as its manifest says: it is being written anew, or damaged. Wait for the "
                f"run that builds it, or run it again"
            )
        os.replace(temporary, path)
    _make_room()
    return path


def local_all(folder: Path, files: Sequence[ShardFile]) -> None:
    """Fetches shards that are to be read again and again, several at once.

    Raises:
        StoreError: They take more room than there may be, or one is not there.
    """
    if of(folder) is None:
        return
    size = sum(file.bytes for file in files)
    if size > limit():
        raise storage.StoreError(
            f"{address(folder)}: its shards take {size / 1e9:.1f} GB, and {limit() / 1e9:.1f} GB may be kept here: "
            f"raise EARWITNESS_CACHE_GB, or name a larger disk with EARWITNESS_WORK"
        )
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for _ in threads.map(lambda file: local(folder, file), files):
            pass


def limit() -> float:
    """Bytes that shards of stores may take here."""
    text = os.environ.get("EARWITNESS_CACHE_GB") or "100"
    try:
        return float(text) * 1e9
    except ValueError as error:
        raise storage.StoreError(f"EARWITNESS_CACHE_GB is {text!r}; a number of gigabytes is expected") from error


def _shard(file: ShardFile) -> Path:
    return _root() / _SHARDS / f"{file.digest}.arrow"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _make_room() -> None:
    """Removes the shards that were not used for longest, if there are too many.

    One that somebody has mapped stays readable: the system keeps it until it is closed.
    """
    found = []
    for path in (_root() / _SHARDS).glob("*.arrow"):
        with suppress(FileNotFoundError):
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    over = sum(size for _, size, _ in found) - limit()
    for used, size, path in sorted(found):
        if over <= 0 or time.time() - used < _RECENT:
            return
        path.unlink(missing_ok=True)
        over -= size


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
