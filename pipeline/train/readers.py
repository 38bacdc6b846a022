"""Readers: forked processes that work ahead, and hand over what they made without copying it twice.

torch's DataLoader would do, but for two things. If one of its processes is killed it raises wherever the main process
happens to be, in the middle of a checkpoint or of another library; here it is an error of the iterator. And it needs
/dev/shm, of which a container has little; here each result is a file in memory without a name, sent as a descriptor.
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
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

_HEADER = struct.Struct("QQ")  # where the pickle begins in the file, and its bytes
_ALIGNED = 64  # bytes
_TAKEN = b"."


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
        made = _unpacked(handles[0], *_HEADER.unpack(header))
        if isinstance(made, _Raised):
            raise ReaderError(f"reading failed:\n{made.stack}")
        with suppress(OSError):  # if it was killed meanwhile, the next result is what tells
            taken.sendall(_TAKEN)
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
        for one in self._sockets:
            one.close()
        for process in self._processes:
            process.kill()  # they hold nothing but memory
            process.join()
        self._sockets, self._processes = [], []


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
    for done, number in enumerate(numbers):
        if done >= ahead and not to.recv(1):
            os._exit(0)
        try:
            made = work(number)
        except MemoryError:
            raise  # it ends, and is told of as one that was killed
        except Exception:
            made = _Raised(traceback.format_exc())
        try:
            _send(to, made)
        except ConnectionError:
            os._exit(0)
    while to.recv(1):  # the last results are on their way
        pass
    os._exit(0)


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
    def __init__(self, file: io.BytesIO, memory: mmap.mmap) -> None:
        super().__init__(file)
        self._memory = memory

    def persistent_load(self, name: Any) -> Tensor:
        place, kind, shape = name
        return _view(self._memory, place, kind, shape)


def _view(memory: mmap.mmap, place: int, kind: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor in memory, which it keeps from being unmapped."""
    count = torch.Size(shape).numel()
    if not count:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(memory, dtype=kind, count=count, offset=place).view(shape)


def _send(to: socket.socket, made: Any) -> None:
    skeleton = io.BytesIO()
    pickler = _Pickler(skeleton)
    pickler.dump(made)
    content = skeleton.getvalue()
    with _nameless() as file:
        file.truncate(pickler.size + len(content))
        with mmap.mmap(file.fileno(), pickler.size + len(content)) as memory:
            for tensor, place in pickler.tensors:
                _view(memory, place, tensor.dtype, tuple(tensor.shape)).copy_(tensor)
            memory[pickler.size :] = content
        socket.send_fds(to, [_HEADER.pack(pickler.size, len(content))], [file.fileno()])


def _nameless() -> Any:
    """A file in memory."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("pass"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _unpacked(handle: int, begin: int, size: int) -> Any:
    try:
        memory = mmap.mmap(handle, begin + size)
    finally:
        os.close(handle)
    return _Unpickler(io.BytesIO(memory[begin : begin + size]), memory).load()
