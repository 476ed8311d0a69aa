"""Memory shared with the workers: each slot holds the pixels of one window, so none is ever sent.

The parent writes a slot, one worker reads it, then it is free for another window. The memory is an
anonymous file, given to the workers as a descriptor: nothing is left behind by a killed process,
and the size of /dev/shm does not matter.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import reduction
from typing import Any

import numpy as np

from mkhspc.geometry import RgbImage
from mkhspc.process.shared_memory import anonymous_file


class Slots:
    """`count` slots of `slot_bytes` each, for writing."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        self.count = count
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._descriptor = anonymous_file("mkhspc-windows")
        os.ftruncate(self._descriptor, max(1, count) * max(mmap.PAGESIZE, self.slot_bytes))
        self._memory = mmap.mmap(self._descriptor, 0)

    def pixels(self, slot: int, height: int, width: int) -> RgbImage:
        """Returns a view of a slot as an image, (height, width, 3)."""
        return _view(self._memory, slot * self.slot_bytes, height, width)

    def handle(self) -> SlotsHandle:
        """Returns what a worker opens the slots by."""
        return SlotsHandle(self._descriptor, self.slot_bytes)

    def give_back(self, slot: int, used_bytes: int = 0) -> None:
        """Gives the memory of a slot back to the system until it is written again, where the system can.

        Args:
            used_bytes: of its beginning, which stay: a window may be smaller than the one before it.
        """
        begin = -(-used_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if begin < self.slot_bytes and hasattr(mmap, "MADV_REMOVE"):
            with suppress(OSError):  # not every kernel and sandbox can for every kind of file
                offset = slot * self.slot_bytes + begin
                self._memory.madvise(mmap.MADV_REMOVE, offset, self.slot_bytes - begin)

    def close(self) -> None:
        """Gives the memory back; views must not be used any more."""
        for slot in range(self.count):
            self.give_back(slot)  # the mapping itself lives as long as any view of it
        os.close(self._descriptor)


class SlotsHandle:
    """Names the memory of the slots to a process being started, whose copy has a descriptor of its own."""

    def __init__(self, descriptor: int, slot_bytes: int) -> None:
        self._descriptor = descriptor
        self._slot_bytes = slot_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._descriptor), self._slot_bytes)

    def open(self) -> SlotReader:
        """Maps the memory for reading in the process that was started; once, as the descriptor is closed."""
        memory = mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ)
        os.close(self._descriptor)
        return SlotReader(memory, self._slot_bytes)


def _received(duplicate: Any, slot_bytes: int) -> SlotsHandle:
    return SlotsHandle(duplicate.detach(), slot_bytes)


class SlotReader:
    """The slots as a worker sees them: read-only."""

    def __init__(self, memory: mmap.mmap, slot_bytes: int) -> None:
        self._memory = memory
        self._slot_bytes = slot_bytes

    def pixels(self, slot: int, height: int, width: int) -> RgbImage:
        """Returns a read-only view of a slot as an image, (height, width, 3)."""
        return _view(self._memory, slot * self._slot_bytes, height, width)

    def unmap(self) -> None:
        """Unmaps what was read, so that this process does not count it as its own memory for ever."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


def _view(memory: mmap.mmap, offset: int, height: int, width: int) -> RgbImage:
    flat = np.frombuffer(memory, np.uint8, count=3 * height * width, offset=offset)
    return flat.reshape(height, width, 3)


class FreeSlots:
    """The slots that may be filled now, for one thread that fills and others that free them.

    Args:
        allowed: how many slots may be in use; see `allow`.
    """

    def __init__(self, slots: Slots, allowed: int) -> None:
        self._slots = slots
        self._free = deque(range(allowed))
        self._spare = deque(range(allowed, slots.count))
        self._surplus = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def __bool__(self) -> bool:
        return bool(self._free)

    def acquire(self) -> int | None:
        """Waits for a free slot, which is the caller's until it is released; None once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._is_closed)
            return None if self._is_closed else self._free.popleft()

    def release(self, slot: int) -> None:
        """Makes a slot free again, or gives its memory back where more are in use than is allowed."""
        with self._changed:
            self._free.append(slot)
            self._settle()

    def allow(self, count: int) -> None:
        """Lets so many slots be in use from now on; surplus ones go as soon as they are released."""
        with self._changed:
            in_use = self._slots.count - len(self._spare)
            self._surplus = in_use - min(count, self._slots.count)
            while self._surplus < 0:
                self._free.append(self._spare.popleft())
                self._surplus += 1
            self._settle()

    def close(self) -> None:
        """Wakes whoever waits for a slot; none is given out any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _settle(self) -> None:
        while self._surplus and self._free:
            slot = self._free.pop()
            self._slots.give_back(slot)
            self._spare.append(slot)
            self._surplus -= 1
        self._changed.notify_all()
