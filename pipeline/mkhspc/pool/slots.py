"""Memory shared with the workers: each slot holds the pixels of one window, so none is ever sent.

The parent writes a slot, one worker reads it, then it is free for another window. The memory is an
anonymous file, given to the workers as a descriptor: nothing is left behind by a killed process,
and the size of /dev/shm does not matter.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkhspc.process.shared_memory import anonymous_file

Pixels = NDArray[np.uint8]


class Slots:
    """`count` slots of `slot_bytes` each, for writing."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        self.count = count
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._descriptor = anonymous_file("mkhspc-windows")
        os.ftruncate(self._descriptor, max(1, count) * max(mmap.PAGESIZE, self.slot_bytes))
        self._memory = mmap.mmap(self._descriptor, 0)

    def pixels(self, slot: int, height: int, width: int) -> Pixels:
        """A view of a slot as an image, (height, width, 3)."""
        return _view(self._memory, slot * self.slot_bytes, height, width)

    def forget(self, slot: int) -> None:
        """Gives the memory of a slot back until it is written again, where the system can."""
        self.forget_beyond(slot, 0)

    def forget_beyond(self, slot: int, used_bytes: int) -> None:
        """The same for what a smaller window does not need of a slot that held a larger one."""
        begin = -(-used_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if begin < self.slot_bytes and hasattr(mmap, "MADV_REMOVE"):
            with suppress(OSError):  # not every kernel and sandbox can for every kind of file
                place = slot * self.slot_bytes + begin
                self._memory.madvise(mmap.MADV_REMOVE, place, self.slot_bytes - begin)

    def close(self) -> None:
        """Gives the memory back; views are not to be used any more."""
        for slot in range(self.count):
            self.forget(slot)  # the mapping itself lives as long as any view of it
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled to a process being started, it becomes a `SlotReader`."""
        return SlotReader, (reduction.DupFd(self._descriptor), self.slot_bytes)


class SlotReader:
    """The slots as a worker sees them: read-only."""

    def __init__(self, duplicate: Any, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        descriptor = duplicate.detach()
        self._memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        os.close(descriptor)

    def pixels(self, slot: int, height: int, width: int) -> Pixels:
        """A read-only view of a slot as an image, (height, width, 3)."""
        return _view(self._memory, slot * self._slot_bytes, height, width)

    def forget(self) -> None:
        """Unmaps what was seen, so that this process does not count it as its own memory for ever."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


def _view(memory: mmap.mmap, offset: int, height: int, width: int) -> Pixels:
    flat = np.frombuffer(memory, np.uint8, count=3 * height * width, offset=offset)
    return flat.reshape(height, width, 3)
