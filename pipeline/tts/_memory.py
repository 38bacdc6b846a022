"""The memory of a shared library, which can be put back to what it was.

It is the library's variables, and the blocks that it has asked the C library for: these are counted by standing
in for `malloc` and `free` in the table by which it calls them. For 64-bit ELF files, little-endian.

Source: the ELF specification, refspecs.linuxfoundation.org/elf/gabi4+, chapters 4 and 5.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_PAGE = 4096  # bytes; what was relocated is protected in whole pages
_LARGEST_VARIABLE = 2**15  # bytes; larger blocks are dictionaries and phoneme data, which are only read, and sound
_MEMORY = ("malloc", "calloc", "realloc", "free")
_IDLE = ("speechPlayer_initialize", "speechPlayer_terminate")
"""A second synthesiser, which one variant alone uses, and which is ended and begun at each pause of every other."""


class State(NamedTuple):
    """What the library's memory held at one time."""

    variables: bytes
    blocks: Mapping[int, int]
    """Sizes of those that it had, by address."""
    contents: tuple[tuple[int, bytes], ...]
    """What stood in those that texts may change, by address."""


class Memory:
    """All that the library can write to."""

    def __init__(self, place: Place) -> None:
        self._at, self._size, slots = place
        self._libc: Any = ctypes.CDLL(None)
        self._blocks: dict[int, int] = {}
        self._kept: Mapping[int, int] = {}
        """Those of a state that is to come back: freed, they stay."""
        size, address = ctypes.c_size_t, ctypes.c_void_p
        for name, arguments in (("malloc", [size]), ("realloc", [address, size])):
            function = getattr(self._libc, name)
            function.argtypes, function.restype = arguments, address
        self._libc.free.argtypes, self._libc.free.restype = [address], None
        self._standing_in = {
            "malloc": ctypes.CFUNCTYPE(address, size)(self._malloc),
            "calloc": ctypes.CFUNCTYPE(address, size, size)(self._calloc),
            "realloc": ctypes.CFUNCTYPE(address, address, size)(self._realloc),
            "free": ctypes.CFUNCTYPE(None, address)(self._free),
        } | dict.fromkeys(_IDLE, self._libc.labs)  # takes a number, gives one, does nothing: as quick as can be
        for name, slot in slots.items():
            function = ctypes.cast(self._standing_in[name], ctypes.c_void_p).value
            ctypes.c_void_p.from_address(slot).value = function

    def state(self, unchanged: Set[int] = frozenset()) -> State:
        """What it holds now, of which some blocks are known to stay as they are.

        Until another state is put back these blocks stay, whatever the library frees.
        """
        self._kept = dict(self._blocks)
        small = (at for at, size in self._blocks.items() if at not in unchanged and size <= _LARGEST_VARIABLE)
        contents = tuple((at, ctypes.string_at(at, self._blocks[at])) for at in small)
        return State(ctypes.string_at(self._at, self._size), self._kept, contents)

    def put_back(self, state: State) -> None:
        """Makes all as it was, and frees what has been asked for since."""
        for at in [at for at in self._blocks if at not in state.blocks]:
            self._libc.free(at)
        self._blocks = dict(state.blocks)
        self._kept = state.blocks
        ctypes.memmove(self._at, state.variables, self._size)
        for at, content in state.contents:
            ctypes.memmove(at, content, len(content))

    def let_go(self) -> None:
        """From now on what the library frees is free."""
        self._kept = {}

    def _malloc(self, size: int) -> int | None:
        at: int | None = self._libc.malloc(size)
        if at:
            self._blocks[at] = size
        return at

    def _calloc(self, count: int, size: int) -> int | None:
        at = self._malloc(max(1, count * size))
        if at:
            ctypes.memset(at, 0, count * size)
        return at

    def _realloc(self, at: int | None, size: int) -> int | None:
        if not at:
            return self._malloc(size)
        if at in self._kept:
            other = self._malloc(size)
            if other:
                ctypes.memmove(other, at, min(size, self._kept[at]))
            return other
        moved: int | None = self._libc.realloc(at, size)
        if moved:
            self._blocks.pop(at, None)
            self._blocks[moved] = size
        return moved

    def _free(self, at: int | None) -> None:
        if at and at not in self._kept:
            self._blocks.pop(at, None)
            self._libc.free(at)


class Place(NamedTuple):
    """Where a library lies in memory."""

    begin: int
    """Of its variables."""
    size: int
    slots: Mapping[str, int]
    """Where the addresses of functions are kept that can be stood in for."""


def place_of(library: Any, path: Path) -> Place | None:
    """Where a library lies that was just loaded and has done nothing; None where that cannot be told."""
    elf = _Elf.read(path)
    if elf is None or not {"malloc", "free", *_IDLE} <= elf.slots.keys():
        return None
    begin, end = elf.variables
    if not all(begin <= slot < end for slot in elf.slots.values()):  # they are read-only by now
        return None
    base = int(ctypes.cast(library.espeak_Initialize, ctypes.c_void_p).value or 0) - elf.functions["espeak_Initialize"]
    return Place(base + begin, end - begin, {name: base + slot for name, slot in elf.slots.items()})


class _Elf(NamedTuple):
    """What a shared library's file says of itself; addresses are relative to where it is loaded."""

    variables: tuple[int, int]
    """Where the memory begins and ends that it may write to."""
    functions: Mapping[str, int]
    slots: Mapping[str, int]
    """Where the addresses of the C library's functions for memory are kept."""

    @classmethod
    @lru_cache(maxsize=1)
    def read(cls, path: Path) -> _Elf | None:
        """None if it is no ELF file of 64 bits, little-endian."""
        content = path.read_bytes()
        if content[:6] != b"\x7fELF\x02\x01":
            return None
        offset, _, size, count = *struct.unpack_from("<QQ", content, 32), *struct.unpack_from("<HH", content, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", content, offset + size * n) for n in range(count)]
        loaded = [h for h in headers if h[0] == 1]  # PT_LOAD: kind, flags, offset, address, -, in file, in memory

        def place(address: int) -> int:
            return int(next(address - h[3] + h[2] for h in loaded if h[3] <= address < h[3] + h[5]))

        dynamic = next((h for h in headers if h[0] == 2), None)
        writable = [h for h in loaded if h[1] & 2]
        if dynamic is None or len(writable) != 1:
            return None
        entries = dict(struct.iter_unpack("<QQ", content[dynamic[2] : dynamic[2] + dynamic[5]]))
        strings, symbols = place(entries[5]), place(entries[6])

        def symbol(number: int) -> tuple[str, int]:
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", content, symbols + 24 * number)
            begin = strings + name
            return content[begin : content.index(b"\0", begin)].decode(), value

        def relocations(table: int, length: int) -> Iterator[tuple[int, int]]:
            if table in entries:
                begin = place(entries[table])
                for where, info, _ in struct.iter_unpack("<QQq", content[begin : begin + entries[length]]):
                    yield where, info >> 32

        found = [(symbol(n)[0], where) for where, n in [*relocations(23, 2), *relocations(7, 8)] if n]
        slots = {name: where for name, where in found if name in (*_MEMORY, *_IDLE)}
        defined = (symbol(n) for n in range((strings - symbols) // 24))
        functions = {name: value for name, value in defined if value}
        begin, end = writable[0][3], writable[0][3] + writable[0][6]
        protected = next((h[3] + h[6] for h in headers if h[0] == 0x6474E552), begin)  # PT_GNU_RELRO
        return cls((max(begin, -(-protected // _PAGE) * _PAGE), end), functions, slots)
