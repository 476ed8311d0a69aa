"""A pool of worker processes that does one tile at a time each, and survives what kills them.

The parent knows which tile every worker holds. A worker that dies (a crash in a library, or the
kernel's out-of-memory killer) costs its tile one retry; a tile that kills twice, or raises, is
reported as failed, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from pipeline.errors import MkhspcError

TRIES = 2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Work(Protocol):
    """What a worker process does; it is pickled to the process and made ready there."""

    def prepare(self) -> None:
        """Called once in the worker before the first task."""
        ...

    def run(self, task: Any) -> dict[str, Any]:
        """Does one task and returns small facts about it; results themselves go to files."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `facts` of a finished one, or the `error` of a failed one."""

    task: Any
    facts: dict[str, Any] | None
    error: str | None = None


@dataclass
class StopFlag:
    """Set by a signal: no further task is begun, those under way are finished."""

    signal_name: str = ""

    @property
    def is_set(self) -> bool:
        return bool(self.signal_name)

    def install(self) -> Callable[[], None]:
        """Catches SIGINT, SIGTERM and SIGUSR1; returns what puts the old handlers back."""
        old = {number: signal.signal(number, self._caught) for number in STOP_SIGNALS}

        def restore() -> None:
            for number, handler in old.items():
                signal.signal(number, handler)

        return restore

    def _caught(self, number: int, _frame: object) -> None:
        self.signal_name = signal.Signals(number).name


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Any = None


@dataclass
class Pool:
    """Runs tasks in `size` processes started by 'spawn', so no lock or handle is inherited."""

    work: Work
    size: int
    stop: StopFlag
    _workers: list[_Worker] = field(default_factory=list)

    def outcomes(self, tasks: Sequence[Any]) -> Iterator[Outcome]:
        """Yields an outcome per task as they end; stops early, at a task's end, when told to."""
        waiting: deque[Any] = deque(tasks)
        deaths: dict[int, int] = {}
        try:
            for _ in range(min(self.size, len(waiting))):
                self._workers.append(self._start())
            while self._feed(waiting):
                for worker in self._ready():
                    outcome = self._collect(worker, deaths)
                    if outcome is None:
                        waiting.appendleft(worker.task)
                    else:
                        yield outcome
                    worker.task = None
        finally:
            self._close()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _feed(self, waiting: deque[Any]) -> bool:
        """Gives idle workers a task each; returns whether any worker is busy."""
        for worker in self._workers:
            if worker.task is None and waiting and not self.stop.is_set:
                worker.task = waiting.popleft()
                with suppress(BrokenPipeError):  # it died idle: its end is seen in `_collect`
                    worker.connection.send(worker.task)
        return any(worker.task is not None for worker in self._workers)

    def _ready(self) -> list[_Worker]:
        busy = {w.connection: w for w in self._workers if w.task is not None}
        return [busy[connection] for connection in wait(list(busy)) if connection in busy]

    def _collect(self, worker: _Worker, deaths: dict[int, int]) -> Outcome | None:
        """The outcome of a worker's task, or None when it died and the task is to be retried."""
        try:
            facts, error = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode
            self._workers[self._workers.index(worker)] = self._start()
            deaths[id(worker.task)] = deaths.get(id(worker.task), 0) + 1
            if deaths[id(worker.task)] < TRIES:
                return None
            return Outcome(worker.task, None, f"the worker process died {TRIES} times ({_cause(code)})")
        return Outcome(worker.task, facts, error)

    def _close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.terminate()
        self._workers.clear()


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {exit_code}"


def _serve(connection: Connection, work: Work) -> None:
    """Life of a worker: tasks in, facts out, until the parent closes its end or is gone."""
    for number in STOP_SIGNALS:  # the parent decides; a Ctrl-C reaches the whole process group
        signal.signal(number, signal.SIG_IGN)
    work.prepare()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[dict[str, Any] | None, str | None] = (work.run(task), None)
        except MkhspcError as error:
            answer = (None, str(error).replace("\n", " "))
        except Exception as error:  # any fault of one tile must not take the others with it
            answer = (None, f"{type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
