"""Salvage: the answers that can still be read from a damaged memo.

SQLite refuses a file as soon as one page on the way to a row is wrong. This reads each page by itself, in
the file and in its journal, and takes every answer whose checksum is right, whatever else is damaged.
Source: sqlite.org/fileformat2.html, sections 1.6 (b-tree pages), 2.1 (records) and 4 (the journal).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

Bytes = bytes | mmap.mmap  # slices of both are bytes

_MAGIC = b"SQLite format 3\0"
_USUAL_PAGE = 4096  # bytes, where the file's own word is lost
_FILE_HEADER, _LEAF_HEADER = 100, 8  # bytes
_TABLE_LEAF = 13
_WAL_MAGIC, _WAL_HEADER, _FRAME_HEADER = (0x377F0682, 0x377F0683), 32, 24
_INTEGERS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # bytes by serial type
_COLUMNS = 3  # key, answer, checksum


def checksum(key: bytes, answer: bytes) -> int:
    """XXH3 of an answer together with what was asked, as SQLite stores integers: 64 bits with a sign."""
    state = xxhash.xxh3_64(key)
    state.update(answer)
    return int.from_bytes(state.digest(), "big", signed=True)


def answers(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and answers of a memo that are whole, some of them twice. Call it while nobody writes there.

    Args:
        path: The file; its journal lies beside it, as SQLite names it.

    Raises:
        OSError: The file cannot be read at all.
    """
    with _mapped(path) as file, _mapped(path.with_name(f"{path.name}-wal")) as wal:
        size, reserved = _page_size(file, wal)
        pages = _Pages(file, wal, size, size - reserved)
        for number, page in pages.all():
            yield from pages.whole_rows(page, _FILE_HEADER if number == 1 else 0)


@contextmanager
def _mapped(path: Path) -> Iterator[Bytes]:
    """A file's content; none where there is no file or nothing in it."""
    if not path.exists() or not path.stat().st_size:
        yield b""
        return
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _page_size(file: Bytes, wal: Bytes) -> tuple[int, int]:
    """Bytes of a page, and how many of them at its end are not used."""
    if file[:16] == _MAGIC:
        size = int.from_bytes(file[16:18], "big")
        size = 65536 if size == 1 else size
        if size >= 512 and size & (size - 1) == 0:
            return size, file[20]
    if len(wal) >= _WAL_HEADER and int.from_bytes(wal[:4], "big") in _WAL_MAGIC:
        return int.from_bytes(wal[8:12], "big"), 0
    return _USUAL_PAGE, 0


class _Pages:
    """The pages of a file, and the newer ones of its journal."""

    def __init__(self, file: Bytes, wal: Bytes, size: int, usable: int) -> None:
        self._file, self._wal, self._size, self._usable = file, wal, size, usable
        self._newer: dict[int, int] = dict(self._frames())

    def _frames(self) -> Iterator[tuple[int, int]]:
        """Numbers of the pages in the journal, and where each begins; the last of a page is the newest."""
        if len(self._wal) < _WAL_HEADER:
            return
        salts = self._wal[16:24]
        at = _WAL_HEADER
        while at + _FRAME_HEADER + self._size <= len(self._wal) and self._wal[at + 8 : at + 16] == salts:
            yield int.from_bytes(self._wal[at : at + 4], "big"), at + _FRAME_HEADER
            at += _FRAME_HEADER + self._size

    def all(self) -> Iterator[tuple[int, bytes]]:
        """All of them with their numbers, those that the journal replaces, too."""
        for number in range(1, len(self._file) // self._size + 1):
            yield number, self._in_file(number)
        for number in self._newer:
            yield number, self._page(number)

    def _in_file(self, number: int) -> bytes:
        return self._file[(number - 1) * self._size : number * self._size]

    def _page(self, number: int) -> bytes:
        at = self._newer.get(number)
        return self._in_file(number) if at is None else self._wal[at : at + self._size]

    def whole_rows(self, page: bytes, begin: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and answers of a page, if it is one that holds rows."""
        if len(page) < self._size or page[begin] != _TABLE_LEAF:
            return
        count = int.from_bytes(page[begin + 3 : begin + 5], "big")
        places = page[begin + _LEAF_HEADER :][: 2 * count]
        for (at,) in struct.iter_unpack(">H", places[: len(places) // 2 * 2]):
            try:
                row = _row(self._payload(page, at))
            except (IndexError, ValueError):  # nonsense where a row should be
                continue
            if row is not None and checksum(row[0], row[1]) == row[2]:
                yield row[0], row[1]

    def _payload(self, page: bytes, at: int) -> bytes:
        """The content of a cell, with what of it lies on further pages."""
        size, at = _varint(page, at)
        _, at = _varint(page, at)  # the number of the row
        most = self._usable - 35
        if size <= most:
            return page[at : at + size]
        if size > len(self._file) + len(self._wal):
            raise ValueError("longer than the file")
        least = (self._usable - 12) * 32 // 255 - 23
        here = least + (size - least) % (self._usable - 4)
        here = here if here <= most else least
        pieces, lacking = [page[at : at + here]], size - here
        further = int.from_bytes(page[at + here : at + here + 4], "big")
        while lacking > 0 and further:
            following = self._page(further)
            pieces.append(following[4 : 4 + min(lacking, self._usable - 4)])
            if not pieces[-1]:
                raise ValueError("a page beyond the end of the file")
            lacking -= len(pieces[-1])
            further = int.from_bytes(following[:4], "big")
        return b"".join(pieces)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where the next begins."""
    value = 0
    for taken in range(8):
        byte = data[at + taken]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + taken + 1
    return value << 8 | data[at + 8], at + 9


def _row(record: bytes) -> tuple[bytes, bytes, int] | None:
    """Key, answer and checksum; None for a row of another shape."""
    header, at = _varint(record, 0)
    kinds = []
    while at < header:
        kind, at = _varint(record, at)
        kinds.append(kind)
    if len(kinds) != _COLUMNS or kinds[2] not in _INTEGERS:
        return None
    blobs = []
    at = header
    for kind in kinds[:2]:
        if kind < 12 or kind % 2:  # no blob
            return None
        size = (kind - 12) // 2
        blobs.append(record[at : at + size])
        at += size
    total = (
        kinds[2] - 8
        if kinds[2] in (8, 9)
        else int.from_bytes(record[at : at + _INTEGERS[kinds[2]]], "big", signed=True)
    )
    return blobs[0], blobs[1], total
