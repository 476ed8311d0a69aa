"""A pool of worker processes that does one task at a time each, and survives what kills them.

The parent knows which task every worker holds. A worker that dies (a crash in a library, or the
kernel's out-of-memory killer) costs its task one retry; a task that kills twice, or raises, is
reported as failed, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mkhspc.errors import HopelessError, MkhspcError
from mkhspc.pool.tasks import Outcome, TaskSource, Work
from mkhspc.process.children import cause_of_death
from mkhspc.process.disk import NO_ROOM
from mkhspc.process.signals import STOP_SIGNALS, StopFlag
from mkhspc.process.spawned import OwnProcess

TRIES = 2
"""A task is tried so many times when workers die of it."""
TICK_S = 0.5
"""Seconds after which the pool calls `on_tick` although no task has ended, unless `tick_s` is set."""


def _nothing(*_: object) -> None:
    pass


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Any = None
    begun_s: float = 0.0


@dataclass
class Pool:
    """Runs tasks in up to `size` processes started by 'spawn', so no lock or handle is inherited.

    `size` may be changed at any time: missing workers are started at once, and surplus ones end when
    their task does.

    Attributes:
        on_tick: is called every `tick_s` or more often.
        is_short: whether memory is short: then an idle worker gets no task while another is at work.
    """

    work: Work
    size: int
    stop: StopFlag
    on_tick: Callable[[], object] = _nothing
    tick_s: float = TICK_S
    is_short: bool = False
    _workers: list[_Worker] = field(default_factory=list)
    _again: deque[Any] = field(default_factory=deque)
    _deaths: dict[Any, int] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """How many processes there are now."""
        return len(self._workers)

    def stop_newest(self) -> Any | None:
        """Kills the worker whose task was begun last, unless it is the only one at work; returns the task.

        Another worker does the task later. This death does not count against it.
        """
        busy = [w for w in self._workers if w.task is not None]
        if len(busy) < 2:
            return None
        newest = max(busy, key=lambda worker: worker.begun_s)
        newest.process.kill()
        newest.process.join()
        newest.connection.close()
        self._workers.remove(newest)
        self._again.append(newest.task)
        return newest.task

    def outcomes(self, source: TaskSource) -> Generator[Outcome, None, None]:
        """Yields an outcome for each task that ends or will be tried again; ends early once `stop` is set."""
        try:
            while True:
                yield from self._hand_out(source)
                if not any(w.task is not None for w in self._workers) and (
                    self.stop.is_set or (source.is_exhausted and not self._again)
                ):
                    return
                for worker in self._answering(source):
                    outcome = self._collect(worker)
                    worker.task = None
                    if outcome.will_retry:
                        self._again.append(outcome.task)
                    else:
                        source.finish(outcome.task)
                    yield outcome
                self.stop.report()
                self.on_tick()
        finally:
            self._close()

    def _hand_out(self, source: TaskSource) -> Iterator[Outcome]:
        """Gives idle workers a task each; yields tasks that failed before they began."""
        self._resize(source)
        for worker in self._workers:
            while worker.task is None and not self.stop.is_set and not self._must_wait:
                task = self._again.popleft() if self._again else source.take()
                if task is None:
                    return
                if isinstance(task, Outcome):
                    source.finish(task.task)
                    yield task
                    continue
                worker.task, worker.begun_s = task, time.monotonic()
                with suppress(BrokenPipeError):  # it died idle: its end is seen in `_collect`
                    worker.connection.send(task)

    @property
    def _must_wait(self) -> bool:
        return self.is_short and any(w.task is not None for w in self._workers)

    def _resize(self, source: TaskSource) -> None:
        """Starts missing workers and ends idle ones that are surplus."""
        while len(self._workers) < self.size and not (source.is_exhausted or self.stop.is_set):
            self._workers.append(self._start())
        for worker in [w for w in self._workers if w.task is None][: max(0, len(self._workers) - self.size)]:
            worker.connection.close()
            worker.process.join()
            self._workers.remove(worker)

    def _start(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process = OwnProcess(target=_serve, args=(theirs, self.work), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _answering(self, source: TaskSource) -> list[_Worker]:
        busy = {w.connection: w for w in self._workers if w.task is not None}
        is_anyone_free = len(busy) < len(self._workers) and not self.stop.is_set and not self._must_wait
        signals = list(source.signals()) if is_anyone_free else []
        found = wait([*busy, *signals], timeout=self.tick_s)
        return [busy[one] for one in found if isinstance(one, Connection) and one in busy]

    def _collect(self, worker: _Worker) -> Outcome:
        """Returns how a worker's task ended; replaces a worker that died."""
        try:
            facts, error, is_fatal = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            cause = cause_of_death(worker.process.exitcode)
            self._workers[self._workers.index(worker)] = self._start()
            deaths = self._deaths[worker.task] = self._deaths.get(worker.task, 0) + 1
            if deaths < TRIES:
                return Outcome(worker.task, None, f"the worker process died ({cause})", will_retry=True)
            return Outcome(worker.task, None, f"the worker process died {TRIES} times ({cause})")
        return Outcome(worker.task, facts, error, is_fatal=is_fatal)

    def _close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()  # it ignores the milder signals, which are the parent's
        self._workers.clear()


def _serve(connection: Connection, work: Work) -> None:
    """Life of a worker: tasks in, facts out, until the parent closes its end or is gone."""
    for number in STOP_SIGNALS:  # the parent decides; a Ctrl-C reaches the whole process group
        signal.signal(number, signal.SIG_IGN)
    work.prepare()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):  # the latter where the parent had not read the last answer
            return
        answer = _answer(work, task)
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _answer(work: Work, task: Any) -> tuple[dict[str, Any] | None, str | None, bool]:
    """Returns the facts of a finished task, or its error and whether that will stop every other task too."""
    try:
        return work.run(task), None, False
    except MkhspcError as error:
        return None, str(error).replace("\n", " "), isinstance(error, HopelessError)
    except OSError as error:
        return None, str(error), error.errno in NO_ROOM
    except Exception as error:  # any fault of one tile must not take the others with it
        return None, f"{type(error).__name__}: {error}", False
