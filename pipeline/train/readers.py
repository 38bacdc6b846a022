"""Readers: forked processes that work ahead, and hand over what they made without copying it twice.

torch's DataLoader would do, but for two things. If one of its processes is killed it raises wherever the main process
happens to be, in the middle of a checkpoint or of another library; here it is an error of the iterator. And it needs
/dev/shm, of which a container has little; here each result lies in a file in memory without a name, sent as a
descriptor. The file is written again when nobody holds the tensors in it any more: new pages cost more than the copy.

What goes through a reader's socket: a header for each result, with the file's descriptor when it is new; and back the
number of a file that is free again, or that a result was taken.
"""

from __future__ import annotations

import io
import mmap
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

_HEADER = struct.Struct("QQQ")  # the file's number, where the pickle begins in it, and its bytes
_ALIGNED = 64  # bytes
_FILES = 64  # of a reader; the results of one who holds more at a time are copied out of a last file, number 64
_TAKEN = bytes([_FILES])
_ROOM = 1.25  # of the bytes that a new file is needed for: the next results are about as large


class ReaderError(RuntimeError):
    """Work failed in a way that is a defect of ours; the message holds the stack."""


class Readers:
    """Results of `work` for some numbers, in their order. Iterate once; `close` ends the processes.

    Args:
        work: Called in one of the processes, which begin as copies of this one.
        numbers: What it is called with.
        count: Of processes.
        ahead: Results that each may have made before they are taken.
    """

    def __init__(self, work: Callable[[int], Any], numbers: Sequence[int], count: int, ahead: int) -> None:
        self._numbers = numbers
        self._sockets: list[socket.socket] = []
        self._files: list[dict[int, mmap.mmap]] = [{} for _ in range(count)]
        self._processes: list[BaseProcess] = []
        context = multiprocessing.get_context("fork")
        for reader in range(count):
            here, there = socket.socketpair()
            self._sockets.append(here)
            arguments = (work, numbers[reader::count], there, list(self._sockets), ahead)
            process = context.Process(target=_read, args=arguments, daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
        # Also where a program ends in the middle: later than this, Python has taken apart what ending them needs.
        self._end = weakref.finalize(self, _end, self._sockets, self._processes)

    def __iter__(self) -> Iterator[Any]:
        """Results.

        Raises:
            MemoryError: A process was killed.
            ReaderError: `work` raised.
        """
        try:
            for place in range(len(self._numbers)):
                yield self._take(place % len(self._sockets))
        finally:
            self.close()

    def _take(self, reader: int) -> Any:
        taken = self._sockets[reader]
        try:
            header, handles, _, _ = socket.recv_fds(taken, _HEADER.size, 1)
        except ConnectionError:
            header, handles = b"", []
        if len(header) < _HEADER.size:
            raise MemoryError(self._why(reader))
        number, begin, size = _HEADER.unpack(header)
        if handles:
            self._files[reader][number] = mmap.mmap(handles[0], 0)
            os.close(handles[0])
        memory = memoryview(self._files[reader][number])  # held by all tensors that lie in it
        if number < _FILES:
            weakref.finalize(memory, _tell, taken, bytes([number])).atexit = False
        made = _Unpickler(io.BytesIO(memory[begin : begin + size]), memory, copy=number == _FILES).load()
        _tell(taken, _TAKEN)
        if isinstance(made, _Raised):
            raise ReaderError(f"reading failed:\n{made.stack}")
        return made

    def _why(self, reader: int) -> str:
        process = self._processes[reader]
        process.join()
        code = process.exitcode or 0
        how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with code {code}"
        return (
            f"a process that reads rows was killed {how}: was there too little memory? "
            "Fewer `batches.workers` and less of `batches.seconds` need less"
        )

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        self._end()
        self._files = []


def _end(sockets: Sequence[socket.socket], processes: Sequence[BaseProcess]) -> None:
    for one in sockets:
        one.close()
    for process in processes:
        process.kill()  # they hold nothing but memory
        process.join()


def _tell(reader: socket.socket, what: bytes) -> None:
    with suppress(OSError):  # if it has ended, the next result is what tells
        reader.sendall(what)


class _Raised:
    def __init__(self, stack: str) -> None:
        self.stack = stack


def _read(
    work: Callable[[int], Any], numbers: Sequence[int], to: socket.socket, others: list[socket.socket], ahead: int
) -> None:
    """A reader's life. It ends with its run: what the run held of the sockets, the forks of it must not hold."""
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the run decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    out = _Out(to)
    with suppress(ConnectionError):
        for done, number in enumerate(numbers):
            while done - out.taken >= ahead:
                out.listen(wait=True)
            try:
                made = work(number)
            except MemoryError:
                raise  # it ends, and is told of as one that was killed
            except Exception:
                made = _Raised(traceback.format_exc())
            out.send(made)
        while True:  # the last results are on their way
            out.listen(wait=True)
    os._exit(0)


class _Out:
    """A reader's way out: its socket and its files."""

    def __init__(self, to: socket.socket) -> None:
        self._to = to
        self._files: dict[int, mmap.mmap] = {}
        self._free: set[int] = set()
        self.taken = 0
        """Results that the run has taken."""

    def listen(self, *, wait: bool) -> None:
        """Hears what was taken, and what is free.

        Raises:
            ConnectionError: The run has ended.
        """
        try:
            heard = self._to.recv(4096, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not heard:
            raise ConnectionResetError
        self.taken += heard.count(_TAKEN)
        self._free.update(set(heard) - {_FILES})

    def send(self, made: Any) -> None:
        """Writes a result, and says where it is."""
        skeleton = io.BytesIO()
        pickler = _Pickler(skeleton)
        pickler.dump(made)
        content, begin = skeleton.getvalue(), pickler.size
        number, handle = self._file(begin + len(content))
        memory = self._files[number]
        for tensor, place in pickler.tensors:
            _view(memory, place, tensor.dtype, tuple(tensor.shape)).copy_(tensor)
        memory[begin : begin + len(content)] = content
        header = _HEADER.pack(number, begin, len(content))
        if handle is None:
            self._to.sendall(header)
        else:
            socket.send_fds(self._to, [header], [handle])
            os.close(handle)

    def _file(self, size: int) -> tuple[int, int | None]:
        """A file's number, and its descriptor if it is new."""
        self.listen(wait=False)
        large = next((number for number in sorted(self._free) if len(self._files[number]) >= size), None)
        if large is not None:
            self._free.discard(large)
            return large, None
        # One that is free and too small is made anew; else there is a further one. The last is never free: it is new
        # each time.
        number = self._free.pop() if self._free else min(len(self._files), _FILES)
        handle = os.memfd_create("pass")
        os.ftruncate(handle, int(size * _ROOM))
        self._files[number] = mmap.mmap(handle, 0)
        return number, handle


class _Pickler(pickle.Pickler):
    """Leaves tensors out, and lists them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[Tensor, int]] = []
        self.size = 0

    def persistent_id(self, found: Any) -> Any:
        if not isinstance(found, Tensor):
            return None
        place, self.size = self.size, -(-(self.size + found.nbytes) // _ALIGNED) * _ALIGNED
        self.tensors.append((found, place))
        return place, found.dtype, tuple(found.shape)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, memory: memoryview, copy: bool) -> None:
        super().__init__(file)
        self._memory, self._copy = memory, copy

    def persistent_load(self, name: Any) -> Tensor:
        place, kind, shape = name
        found = _view(self._memory, place, kind, shape)
        return found.clone() if self._copy else found


def _view(memory: mmap.mmap | memoryview, place: int, kind: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor in memory, which it holds."""
    count = torch.Size(shape).numel()
    if not count:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(memory, dtype=kind, count=count, offset=place).view(shape)
