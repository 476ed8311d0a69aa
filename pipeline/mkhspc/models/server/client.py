"""How a worker asks the models that the servers of its run have loaded."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import reduction
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from mkhspc.errors import MkhspcError
from mkhspc.models.server.message import MessageHeader, MessageMemory, Request
from mkhspc.models.server.reports import NoDeviceError, ServerLostError, ServerState, read_states
from mkhspc.models.service import Message

TRIES = 2
"""A request of which this many servers died is not tried again."""
RETRY_S = 0.1
"""Seconds between two looks whether a server is ready."""
CHECK_S = 5.0
"""Seconds between two looks, while an answer is awaited, whether the server was left behind: one that is
stuck in a driver cannot be killed, and keeps its end of the connection open."""


@dataclass(frozen=True)
class ModelsAddress:
    """Where the model servers of a run are found; picklable, and the same for every worker."""

    directory: Path

    def open(self) -> ModelClient:
        """A client of those servers, for one thread of one process."""
        return ModelClient(self.directory)


class ModelClient:
    """Asks the model servers of a run: a `mkhspc.models.service.ModelService`.

    It keeps to the server of one device and goes to the next when that device is given up. Clients begin with
    different devices. Not for several threads.

    Attributes:
        asked_s: how many seconds it has waited for answers so far.
    """

    asked_s: float = 0.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connection: _Connection | None = None

    def ask(self, model: str, request: Message) -> Message:
        """The model's answer.

        A request whose server dies is repeated, alone if the death may be its doing.

        Raises:
            MkhspcError: the model's own error for this request.
            ServerLostError: `TRIES` servers died of it.
            NoDeviceError: no device is left.
        """
        begun_s = time.monotonic()
        try:
            return self._answer(model, request)
        finally:
            self.asked_s += time.monotonic() - begun_s

    def _answer(self, model: str, request: Message) -> Message:
        deaths: list[int] = []  # the indices of devices whose server died after it had begun with the request
        while True:
            connection = self.connect()
            if len(deaths) == TRIES:  # only now has the parent reported why the last one ended
                last = self._states()[deaths[-1]]
                what = f"{TRIES} model servers died of this request: {last.device}: {last.last_exit.reason}"
                raise ServerLostError(what, fix=last.last_exit.fix)
            header = connection.memory.write(request)
            try:
                answer = connection.ask(Request(model, header, runs_alone=bool(deaths)))
            except (EOFError, ConnectionError):
                self.close()
                if connection.has_begun:
                    deaths.append(connection.index)
                continue
            if isinstance(answer, MkhspcError):
                raise answer
            return connection.memory.read(answer)

    def connect(self) -> _Connection:
        """The connection to a server; waits until one is ready. `ask` does so by itself.

        Raises:
            NoDeviceError: no server is left, and none will be started.
            MkhspcError: the server cannot take another worker.
        """
        while self._connection is None:
            self._connection = self._try_to_connect()
            if self._connection is None:
                time.sleep(RETRY_S)
        return self._connection

    def _try_to_connect(self) -> _Connection | None:
        """A connection to the server of the client's present device; None while that is not ready."""
        index, state = self._choose()
        if not state.socket:
            return None
        try:
            return _Connection(index, state.socket, lambda: self._states()[index].socket == state.socket)
        except (EOFError, ConnectionError, FileNotFoundError):  # it has just died
            return None

    def _choose(self) -> tuple[int, ServerState]:
        """The first device that is not given up, counted from the one that this client begins with."""
        states = list(enumerate(self._states()))
        first = self._number % len(states)
        for index, state in states[first:] + states[:first]:
            if not state.is_given_up:
                return index, state
        reasons = "; ".join(f"{state.device}: {state.last_exit.reason}" for _, state in states)
        fixes = dict.fromkeys(state.last_exit.fix for _, state in states if state.last_exit.fix)
        raise NoDeviceError(f"no device is left: {reasons}", fix="; ".join(fixes))

    def _states(self) -> list[ServerState]:
        """What the parent has published last.

        Raises:
            NoDeviceError: the run has ended.
        """
        parent = multiprocessing.parent_process()
        with _ended_with_run():
            if parent and not parent.is_alive():  # nor may there be a server to remove the folder
                raise FileNotFoundError("the process that published them is gone")
            return read_states(self._directory)

    @cached_property
    def _number(self) -> int:
        """Which client of the run this is, counted from 0."""
        with _ended_with_run():
            return next(n for n in itertools.count() if _is_new(self._directory / f"client-{n}"))

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._connection:
            self._connection.close()
            self._connection = None


def _is_new(path: Path) -> bool:
    """Makes an empty file, unless there is one."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def _ended_with_run() -> Iterator[None]:
    """Turns a missing file of the servers into the error that says why: the run has ended."""
    try:
        yield
    except FileNotFoundError as error:
        what = "the model servers ended with the run"
        raise NoDeviceError(what, fix="run the same command again to go on") from error


class _Connection:
    """A connection to a server, which holds this side's message memory too.

    Args:
        index: of the server's device, among all.
        socket: the path where the server listens.
        is_current: whether the parent still counts on this server.

    Attributes:
        has_begun: whether the server has begun with the last request; until then it cannot die of it.

    Raises:
        EOFError, ConnectionError, FileNotFoundError: the server has ended.
        MkhspcError: the server cannot take another worker.
    """

    def __init__(self, index: int, socket: str, is_current: Callable[[], bool]) -> None:
        self.index = index
        self.has_begun = False
        self._is_current = is_current
        self._connection = Client(socket, family="AF_UNIX")
        self.memory = MessageMemory()
        try:
            reduction.send_handle(self._connection, self.memory.descriptor, 0)
            refusal: MkhspcError | None = self._receive()
            if refusal:
                raise refusal
        except BaseException:
            self.close()
            raise

    def ask(self, request: Request) -> MessageHeader | MkhspcError:
        """Sends a request and waits for its answer."""
        self.has_begun = False
        self._connection.send(request)
        self.has_begun = self._receive()
        answer: MessageHeader | MkhspcError = self._receive()
        return answer

    def _receive(self) -> Any:
        """What the server sends next.

        Raises:
            EOFError, ConnectionError: it has died, or its parent has given it up.
        """
        while not self._connection.poll(CHECK_S):
            if not self._is_current():
                raise EOFError("the server was left behind")
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()
        self.memory.close()
