"""Messages between a worker and the owner of the models: arrays by shared memory, the rest by a socket.

The memory is an anonymous file that holds one message at a time and is empty in between, so neither
side keeps the largest message it ever saw, and nothing is left behind by a killed process. It is written
and read as a file: mapping it would take twice as long, for the faults of its pages. So an array of a
message is the reader's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import MkhspcError
from mkhspc.models.service import Message
from mkhspc.process.shared_memory import anonymous_file

SMALL = (int, float, str, bool, type(None), np.generic)


@dataclass(frozen=True)
class Place:
    """Where an array lies in the memory, in C order."""

    offset_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Letter:
    """A message whose arrays lie in the memory: what goes over the socket."""

    arrays: Mapping[str, Place]
    values: Mapping[str, int | float | str | bool | None]


@dataclass(frozen=True)
class Question:
    """A request to a model.

    Attributes:
        is_repeated: a process died while it had this request in hand.
    """

    model: str
    letter: Letter
    is_repeated: bool


@dataclass(frozen=True)
class Fault:
    """An error as it goes over the socket: its class and its three parts."""

    kind: type[MkhspcError]
    what: str
    where: str | None
    fix: str

    @classmethod
    def of(cls, error: MkhspcError) -> Fault:
        return cls(type(error), error.what, None if error.where is None else str(error.where), error.fix)

    def error(self) -> MkhspcError:
        return self.kind(self.what, where=self.where, fix=self.fix)


@dataclass(frozen=True)
class LostGpu:
    """What a process says last that can use its GPU no more.

    Attributes:
        reason: as CUDA told it, in one line.
    """

    reason: str


@dataclass(frozen=True)
class Note:
    """What a process tells its parent for the run's log, a clause about its device."""

    text: str


class Mailbox:
    """One side's hold of the memory; the two sides take turns in writing.

    Args:
        descriptor: of the other side's memory, taken over; by default the memory is made here.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = anonymous_file("mkhspc-message") if descriptor is None else descriptor

    def post(self, message: Message) -> Letter:
        """Writes a message's arrays where the other side finds them.

        Raises:
            TypeError: a value is neither an array of plain numbers nor small.
            MemoryError, OSError: there is no room for them; what was written of them is given back.
        """
        arrays = {name: value for name, value in message.items() if isinstance(value, np.ndarray)}
        values: dict[str, Any] = {name: value for name, value in message.items() if name not in arrays}
        for name, value in values.items():
            if not isinstance(value, SMALL):
                raise TypeError(
                    f"'{name}' is a {type(value).__name__}: a message takes arrays and small values"
                )
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise TypeError(f"'{name}' holds Python objects: a message takes arrays of plain numbers")
        try:
            return Letter(self._write_all(arrays), values)
        except (MemoryError, OSError):
            os.ftruncate(self.descriptor, 0)
            raise

    def fetch(self, letter: Letter) -> Message:
        """The message that the other side wrote; its pages go back to the system, even if it cannot be read.

        Raises:
            EOFError, ValueError: the memory does not hold what the letter says.
            MemoryError: there is no room for it.
        """
        try:
            arrays = {name: np.empty(place.shape, place.dtype) for name, place in letter.arrays.items()}
            for name, array in arrays.items():
                self._read(_bytes_of(array), letter.arrays[name].offset_bytes)
        finally:
            os.ftruncate(self.descriptor, 0)
        return {**letter.values, **arrays}

    def _write_all(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Place]:
        """Writes arrays one after the other."""
        places = {}
        end_bytes = 0
        for name, array in arrays.items():
            places[name] = Place(end_bytes, array.shape, array.dtype)
            self._write(_bytes_of(np.ascontiguousarray(array)), end_bytes)
            end_bytes += array.nbytes
        return places

    def _write(self, content: memoryview, offset_bytes: int) -> None:
        done = 0
        while done < len(content):  # the system takes at most 2 GiB at once
            done += os.pwrite(self.descriptor, content[done:], offset_bytes + done)

    def _read(self, content: memoryview, offset_bytes: int) -> None:
        done = 0
        while done < len(content):
            got = os.preadv(self.descriptor, [content[done:]], offset_bytes + done)
            if not got:
                raise EOFError("a message is shorter than its letter says")
            done += got

    def close(self) -> None:
        os.close(self.descriptor)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory itself of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data
