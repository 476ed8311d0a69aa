"""Tasks of the worker processes: where they come from, who does them, how each of them ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol


class Work(Protocol):
    """What a worker process does with tasks (any hashable values); it is pickled to the process."""

    def prepare(self) -> None:
        """Is called once in the worker before the first task."""
        ...

    def run(self, task: Any) -> dict[str, Any]:
        """Does one task and returns small facts about it; results themselves go to files."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a task ended: the `facts` of a finished one, or the `error` of a failed one.

    Attributes:
        will_retry: the worker died of the task, and another worker will try it again.
        is_fatal: what stopped this task will stop every other too: the disk is full, or no device is left.
    """

    task: Any
    facts: dict[str, Any] | None
    error: str | None = None
    will_retry: bool = False
    is_fatal: bool = False


class TaskSource(Protocol):
    """Where tasks come from, one by one, as they get ready."""

    def take(self) -> Any | None:
        """Returns a task that is ready now, or None; an `Outcome` for one that failed before it began."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether no further task will ever get ready."""
        ...

    def signals(self) -> Sequence[Connection | int]:
        """Connections or file descriptors that become readable when a task gets ready."""
        ...

    def finish(self, task: Any) -> None:
        """Is called when a task will not be tried again, whether it is done or failed."""
        ...
