"""Listings: files of a corpus that a manifest or a table names by their paths, or by their URLs."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

from pipeline import storage
from pipeline.readers.base import CorpusError, Reader, identity, leads_out
from schemas.utterance import AudioSource

_PARENTS_TRIED = 6  # folders above a manifest in which its relative paths are looked for
_FILES_KNOWN = 65_536  # whose size and time a listing remembers


class Listing:
    """Finds the files that a listing names by relative or absolute paths.

    Listings are written relative to their own folder, to the corpus's root, or to a folder above
    it. The first of these in which the first path exists, or else its folder, is taken; but never
    the root of a disk or the user's own folder, below which all else lies. No path leads out of it.
    """

    def __init__(self, reader: Reader, first: str | None) -> None:
        self._known: dict[str, str] = {}
        self._home = reader.root.resolve()
        if reader.audio_root is not None:
            self._base = storage.place(reader.audio_root).resolve()
            if not self._base.is_dir():
                raise CorpusError(
                    f"audio_root: {reader.audio_root} is no folder; the one that paths start in is expected"
                )
        else:
            self._base = self._find(first)
        self._prefix = _way(self._home.as_posix(), self._base.as_posix())
        self._base_text = self._base.as_posix().rstrip("/") + "/"
        self._home_text = self._home.as_posix().rstrip("/") + "/"
        given = reader.root.as_posix()
        self._given_text = (given if storage.is_url(given) else os.path.abspath(given)).rstrip("/") + "/"
        """The corpus's folder as the recipe writes it, with its symbolic links."""
        self._inside = self._home_text[len(self._base_text) :] if self._home_text.startswith(self._base_text) else None

    def _within(self, path: str) -> str | None:
        """A path that is absolute or goes up, or a URL, relative to the base; None if it leads out of it."""
        if path.startswith(self._given_text):
            path = self._home_text + path[len(self._given_text) :]
        if storage.is_url(path):
            try:
                full = storage.normal(path)
            except storage.StoreError:  # of no store that is known, or with a password in it
                return None
        elif storage.is_url(self._home_text) and not path.startswith("/"):
            full = storage.normal(self._home_text + path)
        else:
            full = posixpath.normpath(posixpath.join(self._home_text, path))
        return full[len(self._base_text) :] if full.startswith(self._base_text) else None

    def _find(self, first: str | None) -> Path:
        if not first or os.path.isabs(first) or storage.is_url(first):
            return self._home
        above_it = self._home.parents[:_PARENTS_TRIED]
        folders = [self._home, *(folder for folder in above_it if not _holds_all_else(folder))]
        above = Path(first).parent
        for part in (Path(first), above, *above.parents):  # a file may be missing where its folder is
            for folder in folders:
                if part != Path(".") and storage.exists(folder / str(part)):
                    return folder
        return self._home

    def source(
        self, path: str, start: float = 0.0, duration: float | None = None, channel: int | None = None
    ) -> tuple[AudioSource, str | None]:
        """A path of the listing as a source, and what is wrong with it."""
        if path.startswith("/") or "://" in path or (".." in path and leads_out(path)):
            within = self._within(path)
            if within is None:
                hint = "if it is meant, set audio_root to a folder above it"
                below = self._prefix or "the corpus"
                return AudioSource(path), f"path_outside_corpus: {path} is not below {below}; {hint}"
            path = within
        known = self._known.get(path)
        if known is None:
            known = identity(self._base_text + path)
            if duration is not None:  # a recording of many utterances
                if len(self._known) >= _FILES_KNOWN:
                    self._known.clear()
                self._known[path] = known
        if self._inside and path.startswith(self._inside):
            relative = path[len(self._inside) :]
        else:
            relative = self._prefix + path
        problem = None if known else f"audio_missing: {relative} is not there"
        return AudioSource(relative, None, start, duration, channel, identity=known), problem


def _holds_all_else(folder: Path) -> bool:
    return folder.parent == folder or folder == Path.home()


def _way(home: str, base: str) -> str:
    """How paths below one folder begin when they are written from another."""
    (store, _, inside), (other, _, below) = (text.rpartition("://") for text in (home, base))
    if store != other:  # they lie in different stores, or one on the disk
        return base.rstrip("/") + "/"
    prefix = posixpath.relpath(f"/{below}", f"/{inside}")
    return "" if prefix == "." else f"{prefix}/"
