"""The shared library of eSpeak NG: loaded, and put back to the same state before each text.

What it says depends on what it said before: phases, levels, random noise and the state of the text's
analysis are kept in variables that no call resets. Loading it anew for each text makes equal texts sound
equal, and costs a third of the time that speaking takes. So its memory is put back instead: its variables,
and the blocks that it has asked the C library for, which are counted by standing in for `malloc` and
`free`. That also frees what it forgets: 190 kB for each text with a word of another language.
Where this cannot be done (no 64-bit ELF) it is loaded anew. Both sound the same, bit for bit.

Source: github.com/espeak-ng/espeak-ng 1.52, `speak_lib.h`.
"""

from __future__ import annotations

import _ctypes
import ctypes
import math
from collections.abc import Set
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pipeline.plugins import require
from pipeline.tts._memory import Memory, State, place_of
from pipeline.tts.base import SpeechError

NORMAL_RATE, NORMAL_PITCH = 175, 50
"""Words a minute, and a number from 0 to 100, of a voice as it is."""
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeakRATE, espeakPITCH, espeakRANGE
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come before Synth returns, with no thread
_CHARS_UTF8 = 1
_BUFFER_MS = 1000  # fewer, larger pieces are 4 % quicker than the default of 60 ms
_SEED = 1
_PLAYED = "klatt6"
"""The variant that a further synthesiser speaks, whose state lies in blocks of C++: it is loaded anew for it."""
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
        place = place_of(self._c, Path(brought.get_library_path()))
        self._untouched = (place.begin, ctypes.string_at(place.begin, place.size)) if place is not None else None
        self.memory = Memory(place) if counted and place is not None else None
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
        if self._untouched is not None:  # others may hold it loaded: Kokoro's phonemiser does
            at, variables = self._untouched
            ctypes.memmove(at, variables, len(variables))
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
