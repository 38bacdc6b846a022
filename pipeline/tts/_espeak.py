"""The shared library of eSpeak NG: loaded, and put back to the same state before each text.

What it says depends on what it said before: phases, levels, random noise and the state of the text's
analysis are kept in variables that no call resets. Loading it anew for each text makes equal texts sound
equal, and costs a third of the time that speaking takes. So its memory is put back instead: its variables,
and the blocks that it has asked the C library for, which are counted by standing in for `malloc` and
`free`. That also frees what it forgets: 190 kB for each text with a word of another language.
Where this cannot be done (no 64-bit ELF) it is loaded anew. Both sound the same, bit for bit.

Source: `speak_lib.h`; the ELF specification (refspecs.linuxfoundation.org/elf/gabi4+, chapter 5).
"""

from __future__ import annotations

import _ctypes
import ctypes
import math
import struct
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pipeline.plugins import require
from pipeline.tts.base import SpeechError

NORMAL_RATE, NORMAL_PITCH = 175, 50
"""Words a minute, and a number from 0 to 100, of a voice as it is."""
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeakRATE, espeakPITCH, espeakRANGE
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come before Synth returns, with no thread
_CHARS_UTF8 = 1
_BUFFER_MS = 1000  # fewer, larger pieces are 4 % quicker than the default of 60 ms
_SEED = 1
_PAGE = 4096  # bytes; what was relocated is protected in whole pages
_LARGEST_VARIABLE = 2**15  # bytes; larger blocks are dictionaries and phoneme data, which are only read, and sound
_IDLE = ("speechPlayer_initialize", "speechPlayer_terminate")
"""A second synthesiser, which one variant alone uses, and which is ended and begun at each pause of every other."""
_PLAYED = "klatt6"
_MEMORY = ("malloc", "calloc", "realloc", "free")
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Spoken(NamedTuple):
    """What the library said."""

    pcm: bytes
    """16-bit samples."""
    sampling_rate: int


class Library:
    """The synthesiser, as it is when it was just loaded.

    Args:
        counted: Whether its memory is to be put back later, if that can be done.
    """

    def __init__(self, counted: bool = False) -> None:
        brought = loader()
        try:
            self._c: Any = ctypes.CDLL(brought.get_library_path())
            self._libc: Any = ctypes.CDLL(None)
        except OSError as error:
            raise SpeechError(f"eSpeak NG cannot be loaded: {error}") from error
        self._c.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self._c.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
            *(ctypes.c_void_p, ctypes.c_void_p),
        ]
        self._c.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self._c.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._c.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._c.espeak_ListVoices.argtypes = [ctypes.c_void_p]
        self._c.espeak_ListVoices.restype = ctypes.c_void_p
        self.memory = Memory.of(self._c, Path(brought.get_library_path())) if counted else None
        data = str(brought.get_data_path()).encode()
        self.sampling_rate = self._c.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MS, data, 0)
        if self.sampling_rate <= 0:
            raise SpeechError(f"eSpeak NG does not start with its data in {data.decode()}")
        self._c.espeak_ng_SetRandSeed(_SEED)
        self._pieces: list[bytes] = []
        self._callback = _CALLBACK(self._collect)  # kept, or the library would call freed memory
        self._c.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, count * 2))
        return 0

    def list_voices(self) -> None:
        """Reads which voices there are: it would be done at the first voice, and takes as long as speaking."""
        self._c.espeak_ListVoices(None)

    def choose(self, voice: str) -> None:
        """Takes a voice.

        Raises:
            SpeechError: There is none of that name.
        """
        name, _, variant = voice.partition("+")
        known = name in languages() and (variant in variants() or not variant)
        if not known or self._c.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechError(f"eSpeak NG has no voice {voice!r}")

    def say(self, text: str, rate: float, pitch: float) -> Spoken | None:
        """Speaks with the voice that was chosen; None if it cannot.

        Args:
            text: In words.
            rate: Against the voice's own.
            pitch: The same.
        """
        self._pieces.clear()
        if rate != 1.0:
            self._c.espeak_SetParameter(_RATE, round(NORMAL_RATE * rate), 0)
        if pitch != 1.0:
            self._c.espeak_SetParameter(_PITCH, setting_of(pitch), 0)
            self._c.espeak_SetParameter(_RANGE, min(99, round(NORMAL_PITCH * pitch)), 0)
        self._libc.srand(_SEED)  # the variant klatt6 takes its noise from the C library
        content = text.encode("utf-8", "replace").replace(b"\0", b" ")
        if self._c.espeak_Synth(content, len(content) + 1, 0, 1, 0, _CHARS_UTF8, None, None) != 0:
            return None
        return Spoken(b"".join(self._pieces), self.sampling_rate)

    def unload(self) -> None:
        """Gives the library back; the next one begins with fresh variables."""
        self._c.espeak_Terminate()
        handle = self._c._handle
        del self._c
        _ctypes.dlclose(handle)


class Speaker:
    """Speaks with the library as if it was loaded for each text.

    Args:
        puts_back: Whether memory is put back where that can be done; else the library is loaded anew.
    """

    _holding: ClassVar[Speaker | None] = None
    """Who keeps the library: there is one of it in a process."""

    def __init__(self, puts_back: bool = True) -> None:
        self._puts_back = puts_back
        self._library: Library | None = None
        self._fresh: State | None = None
        """As it was when it was loaded."""
        self._chosen: State | None = None
        """As it was when the voice was chosen."""
        self._voice: str | None = None
        self._listed: Set[int] = frozenset()
        """Blocks that hold the list of voices, which no text changes."""

    def say(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Spoken | None:
        """As `Library.say`. Texts of one voice that follow each other are quicker.

        Raises:
            SpeechError: There is no such voice, or no library.
        """
        memory = self._memory() if self._puts_back and not voice.endswith(f"+{_PLAYED}") else None
        if memory is None:
            return self._loaded_anew(text, voice, rate, pitch)
        library = self._library
        assert library is not None
        assert self._fresh is not None
        if self._voice == voice:
            assert self._chosen is not None
            memory.put_back(self._chosen)
        else:
            self._voice = None
            memory.put_back(self._fresh)
            library.choose(voice)
            self._chosen = memory.state(unchanged=self._listed)
            self._voice = voice
        return library.say(text, rate, pitch)

    def _memory(self) -> Memory | None:
        """The memory of the library, which is loaded once; None where it cannot be put back."""
        if self._library is None:
            self._make_room()
            library = Library(counted=True)
            if library.memory is None:
                library.unload()
                self._puts_back = False
                return None
            before = library.memory.state()
            library.list_voices()
            self._library, self._fresh = library, library.memory.state()
            Speaker._holding = self
            self._listed = self._fresh.blocks.keys() - before.blocks.keys()
        return self._library.memory

    def _loaded_anew(self, text: str, voice: str, rate: float, pitch: float) -> Spoken | None:
        self._make_room()
        library = Library()
        try:
            library.choose(voice)
            return library.say(text, rate, pitch)
        finally:
            library.unload()

    def _make_room(self) -> None:
        """While it is kept, loading it gives the same again, and not a fresh one."""
        if Speaker._holding is not None:
            Speaker._holding.close()

    def close(self) -> None:
        """Gives the kept library back."""
        if self._library is None:
            return
        assert self._library.memory is not None
        assert self._fresh is not None
        self._library.memory.put_back(self._fresh)
        self._library.memory.let_go()
        self._library.unload()
        self._library = self._fresh = self._chosen = self._voice = Speaker._holding = None


class State(NamedTuple):
    """What the library's memory held at one time."""

    variables: bytes
    blocks: Mapping[int, int]
    """Sizes of those that it had, by address."""
    contents: tuple[tuple[int, bytes], ...]
    """What stood in those that texts may change, by address."""


class Memory:
    """All that the library can write to."""

    def __init__(self, variables: tuple[int, int], slots: Mapping[str, int]) -> None:
        self._at, self._size = variables
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

    @classmethod
    def of(cls, library: Any, path: Path) -> Memory | None:
        """The memory of a library that was just loaded and has done nothing; None if it cannot be had."""
        elf = _Elf.read(path)
        if elf is None or not {"malloc", "free", *_IDLE} <= elf.slots.keys():
            return None
        base = (
            int(ctypes.cast(library.espeak_Initialize, ctypes.c_void_p).value or 0) - elf.functions["espeak_Initialize"]
        )
        begin, end = elf.variables
        if not all(begin <= slot < end for slot in elf.slots.values()):  # they are read-only by now
            return None
        return cls((base + begin, end - begin), {name: base + slot for name, slot in elf.slots.items()})

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


class _Elf(NamedTuple):
    """What a shared library's file says of itself; addresses are relative to where it is loaded."""

    variables: tuple[int, int]
    """Where the memory begins and ends that it may write to."""
    functions: Mapping[str, int]
    slots: Mapping[str, int]
    """Where the addresses of the C library's functions for memory are kept."""

    @classmethod
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


def setting_of(pitch: float) -> int:
    """The setting, 0 to 100, at which a voice is so many times as high.

    An octave is 50 steps of the base frequency alone; with the range beside it, 58 gave what was asked for
    within 3 % (median of voiced frames; six voices, 0.8 to 1.3).
    """
    return min(100, max(0, NORMAL_PITCH + round(58 * math.log2(pitch))))


def loader() -> Any:
    return require("espeakng_loader", extra="espeak", what="the TTS engine espeak")


@lru_cache(maxsize=1)
def languages() -> frozenset[str]:
    """The voices that the data folder has, one or several a language."""
    return _files("lang")


@lru_cache(maxsize=1)
def variants() -> frozenset[str]:
    """The variants that it has. An unknown one would be ignored silently."""
    return _files("voices/!v")


def _files(folder: str) -> frozenset[str]:
    data = Path(str(loader().get_data_path()))
    return frozenset(path.name.lower() for path in (data / folder).rglob("*") if path.is_file())
