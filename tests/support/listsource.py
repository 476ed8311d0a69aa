"""Tasks for a pool without a feed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any


class ListSource:
    """A `TaskSource` of tasks that are all ready from the start."""

    def __init__(self, tasks: Iterable[Any]) -> None:
        self._waiting = deque(tasks)

    def take(self) -> Any | None:
        return self._waiting.popleft() if self._waiting else None

    @property
    def is_exhausted(self) -> bool:
        return not self._waiting

    def signals(self) -> Sequence[Connection | int]:
        return ()

    def finish(self, task: Any) -> None:
        pass
