"""Messages between a worker and a model server: arrays through shared memory, the rest over a socket.

The memory is an anonymous file that holds one message at a time and is empty in between. So neither side
keeps the largest message it ever saw, and a killed process leaves nothing behind. It is written and read as
a file: mapping it would take twice as long, for the faults of its pages. An array of a message is therefore
the reader's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkhspc.models.service import Message
from mkhspc.process.shared_memory import anonymous_file

SMALL = (int, float, str, bool, type(None), np.generic)
"""Types of the values that travel over the socket."""


@dataclass(frozen=True)
class ArrayHeader:
    """Where an array lies in the memory, in C order."""

    offset_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class MessageHeader:
    """What goes over the socket of a message whose arrays lie in the memory."""

    arrays: Mapping[str, ArrayHeader]
    values: Mapping[str, int | float | str | bool | None]


@dataclass(frozen=True)
class Request:
    """A worker's question to a model.

    Attributes:
        runs_alone: a server died of it, or of what ran beside it, so it is not to share a batch again.
    """

    model: str
    header: MessageHeader
    runs_alone: bool


class MessageMemory:
    """One side's hold of the memory; worker and server take turns in writing.

    Args:
        descriptor: of the other side's memory, which this object then closes; by default new memory is made.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = anonymous_file("mkhspc-message") if descriptor is None else descriptor

    def write(self, message: Message) -> MessageHeader:
        """Writes a message's arrays where the other side finds them.

        Raises:
            TypeError: a value is neither an array of plain numbers nor of the types in `SMALL`.
            MemoryError, OSError: there is no room for them; what was written so far is given back.
        """
        arrays = {name: value for name, value in message.items() if isinstance(value, np.ndarray)}
        values: dict[str, Any] = {name: value for name, value in message.items() if name not in arrays}
        for name, value in values.items():
            if not isinstance(value, SMALL):
                raise TypeError(
                    f"'{name}' is a {type(value).__name__}; a message takes arrays, numbers and texts"
                )
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise TypeError(f"'{name}' holds Python objects; a message takes arrays of plain numbers")
        try:
            return MessageHeader(self._write_all(arrays), values)
        except (MemoryError, OSError):
            os.ftruncate(self.descriptor, 0)
            raise

    def read(self, header: MessageHeader) -> Message:
        """The message that the other side wrote; the memory is emptied, even if it cannot be read.

        Raises:
            EOFError, ValueError: the memory does not hold what the header says.
            MemoryError: there is no room for the arrays.
        """
        try:
            arrays = {name: np.empty(array.shape, array.dtype) for name, array in header.arrays.items()}
            for name, array in arrays.items():
                self._read(_bytes_of(array), header.arrays[name].offset_bytes)
        finally:
            os.ftruncate(self.descriptor, 0)
        return {**header.values, **arrays}

    def _write_all(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, ArrayHeader]:
        """Writes arrays one after the other."""
        headers = {}
        end_bytes = 0
        for name, array in arrays.items():
            headers[name] = ArrayHeader(end_bytes, array.shape, array.dtype)
            self._write(_bytes_of(np.ascontiguousarray(array)), end_bytes)
            end_bytes += array.nbytes
        return headers

    def _write(self, content: memoryview, offset_bytes: int) -> None:
        done = 0
        while done < len(content):  # the system takes at most 2 GiB at once
            done += os.pwrite(self.descriptor, content[done:], offset_bytes + done)

    def _read(self, content: memoryview, offset_bytes: int) -> None:
        done = 0
        while done < len(content):
            got = os.preadv(self.descriptor, [content[done:]], offset_bytes + done)
            if not got:
                raise EOFError("a message is shorter than its header says")
            done += got

    def close(self) -> None:
        os.close(self.descriptor)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory itself of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data
