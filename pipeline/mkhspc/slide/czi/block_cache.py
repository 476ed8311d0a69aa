"""A bounded cache of decoded blocks, for windows that are read in a known order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class BlockKey(NamedTuple):
    """A level-0 sub-block: its place in the stack of its scene, and the strip for which it is decoded."""

    scene: int
    strip: int
    nth: int


class BlockCache(Generic[Value]):
    """Decoded blocks, bounded in bytes, when it is known which window will need which.

    A block is kept while a later window needs it. When room is short the one needed last goes first
    (Belady's rule, which no other order of eviction beats).

    Args:
        steps: the blocks that each window will ask for.
        bytes_of: each block's size as it is loaded.
        kept_bytes: of each window and block that a later one asks for again, what is kept of it.

    Attributes:
        loaded_bytes: of all blocks loaded so far.
        held_bytes: of what is held now; never more than `room_bytes`.
        most_held_bytes: the highest that it was.
    """

    def __init__(
        self,
        steps: Sequence[Sequence[BlockKey]],
        bytes_of: Mapping[BlockKey, int],
        kept_bytes: Sequence[Mapping[BlockKey, int]],
        room_bytes: int,
    ) -> None:
        self.loaded_bytes = 0
        self.held_bytes = 0
        self.most_held_bytes = 0
        self._bytes_of = bytes_of
        self._kept_bytes = kept_bytes
        self._room_bytes = room_bytes
        self._held: dict[BlockKey, tuple[Value, int]] = {}
        self._step = -1
        self._uses: dict[BlockKey, deque[int]] = {}
        for step, keys in enumerate(steps):
            for key in keys:
                self._uses.setdefault(key, deque()).append(step)

    def get(self, key: BlockKey, step: int, load: Callable[[], Value]) -> Value:
        """The block for a window; windows may be left out, but their order holds."""
        self._forget_before(step)
        if key in self._held:
            value = self._drop(key)
        else:
            value = load()
            self.loaded_bytes += self._bytes_of[key]
        if self._next_use(key, step + 1) is not None:
            self._hold(key, value, self._kept_bytes[step][key])
            while self.held_bytes > self._room_bytes:
                self._drop(max(self._held, key=lambda held: self._uses[held][0]))
            self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)
        return value

    def _forget_before(self, step: int) -> None:
        """Drops what was kept for windows that were left out."""
        if step > self._step:
            self._step = step
            for key in [held for held in self._held if self._next_use(held, step) is None]:
                self._drop(key)

    def _next_use(self, key: BlockKey, step: int) -> int | None:
        """The first window from `step` on that needs a block."""
        uses = self._uses[key]
        while uses and uses[0] < step:
            uses.popleft()
        return uses[0] if uses else None

    def _hold(self, key: BlockKey, value: Value, size_bytes: int) -> None:
        self._held[key] = value, size_bytes
        self.held_bytes += size_bytes

    def _drop(self, key: BlockKey) -> Value:
        value, size_bytes = self._held.pop(key)
        self.held_bytes -= size_bytes
        return value
