"""How a worker asks the models that other processes own."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mkhspc.errors import HopelessError, MkhspcError
from mkhspc.models.server.mailbox import Fault, Letter, Mailbox, Question
from mkhspc.models.service import Message
from mkhspc.store import atomic

TRIES = 2
"""A request over which so many owners died is not tried again."""
LOOK_S = 5.0
"""How often a worker that waits looks whether its owner was left behind: one that is stuck in a driver cannot
be killed, and keeps its end of the line open."""
FIX = "out of memory? fewer --num-workers, a larger --memory-gb or a smaller model; what is done is kept"


class OwnerLostError(MkhspcError):
    """A process that owned the models of a device has died."""

    exit_code = 4


class NoDeviceError(OwnerLostError, HopelessError):
    """Every device is given up, or the run has ended."""


@dataclass(frozen=True)
class Fate:
    """What became of an owner, and what to do about it."""

    reason: str
    fix: str

    @classmethod
    def read(cls, path: Path) -> Fate:
        """As the parent wrote it; where it wrote nothing, the run is over."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls("it ended with the run", FIX)

    def write(self, path: Path) -> None:
        """Told before anybody is let in or refused."""
        atomic.write_json(path, asdict(self))


class OwnerClient:
    """Asks the owners' models from a worker process: a `mkhspc.models.service.ModelService`.

    It keeps to one owner and goes to the next when that one's device is given up. Not for several threads.

    Args:
        number: the client's, counted from 0; which owner it begins with.

    Attributes:
        asked_s: how long it has waited for answers so far.
    """

    asked_s: float = 0.0

    def __init__(self, directory: Path, devices: Sequence[str], number: int) -> None:
        self._directory = directory
        self._devices = devices
        first = number % len(devices)
        self._order = [*range(first, len(devices)), *range(first)]
        self._line: _Line | None = None

    def ask(self, model: str, request: Message) -> Message:
        """The model's answer.

        A request whose owner dies is repeated; where the death may be its doing, only once and alone.

        Raises:
            MkhspcError: the model's own error for this request.
            OwnerLostError: two owners died of it.
            NoDeviceError: no device is left.
        """
        begun_s = time.monotonic()
        try:
            return self._answer(model, request)
        finally:
            self.asked_s += time.monotonic() - begun_s

    def _answer(self, model: str, request: Message) -> Message:
        deaths: list[int] = []
        while True:
            line = self.connect()
            if len(deaths) == TRIES:  # said only now, when the parent has told what became of the last
                fate = self._fate(deaths[-1])
                raise OwnerLostError(
                    f"{TRIES} owners of the models died over one request: {fate.reason}", fix=fate.fix
                )
            letter = line.mailbox.post(request)
            try:
                answer = line.ask(Question(model, letter, is_repeated=bool(deaths)))
            except (EOFError, ConnectionError):
                self.close()
                if line.is_in_hand:
                    deaths.append(line.place)
                continue
            if isinstance(answer, Fault):
                raise answer.error()
            return line.mailbox.fetch(answer)

    def connect(self) -> _Line:
        """Waits for an owner that is ready; `ask` does so by itself.

        Raises:
            NoDeviceError: there is none and will be none.
            MkhspcError: it has no room for another worker.
        """
        if self._line is None:
            reached = (_reach(place, address_path(self._directory, place)) for place in self._order)
            self._line = next((line for line in reached if line), None)
        if self._line is None:
            fates = [self._fate(place) for place in sorted(self._order)]
            raise NoDeviceError(
                f"no device is left: {'; '.join(fate.reason for fate in fates)}",
                fix="; ".join(dict.fromkeys(fate.fix for fate in fates if fate.fix)),
            )
        return self._line

    def close(self) -> None:
        """Hangs up; the next request connects again."""
        if self._line:
            self._line.close()
            self._line = None

    def _fate(self, place: int) -> Fate:
        """Of the owner that died last at a place, whose device is named."""
        fate = Fate.read(fate_path(self._directory, place))
        return Fate(f"{self._devices[place]}: {fate.reason}", fate.fix)


class _Line:
    """A connection to an owner.

    Args:
        current_pid: tells which process owns the models at that place now; None when none ever will.

    Attributes:
        place: the owner's, among all.
        is_in_hand: whether the owner has begun with the last request; until then it cannot die of it.
    """

    def __init__(self, place: int, plug: socket.socket, current_pid: Callable[[], int | None]) -> None:
        self.place = place
        self._current_pid = current_pid
        self._pid: int | None = None
        self.is_in_hand = False
        self.mailbox = Mailbox()
        self._connection = Connection(plug.detach())

    def introduce(self) -> None:
        """Hands the memory over, and waits until the owner has it.

        Raises:
            MkhspcError: the owner cannot take it.
        """
        reduction.send_handle(self._connection, self.mailbox.descriptor, 0)
        said: int | Fault = self._hear()
        if isinstance(said, Fault):
            raise said.error()
        self._pid = said

    def ask(self, question: Question) -> Letter | Fault:
        self.is_in_hand = False
        self._connection.send(question)
        self.is_in_hand = self._hear()
        answer: Letter | Fault = self._hear()
        return answer

    def _hear(self) -> Any:
        """What the owner says next.

        Raises:
            EOFError, ConnectionError: it is dead, or another has taken its place, or nobody.
        """
        while not self._connection.poll(LOOK_S):
            current = self._current_pid()
            is_replaced = self._pid is not None and current != self._pid
            if current is None or is_replaced:
                raise EOFError("the owner was left behind")
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()
        self.mailbox.close()


def _reach(place: int, address: Path) -> _Line | None:
    """A line to an owner, as soon as there is one; None when its device is given up, or the run has ended."""
    while True:
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plug.connect(str(address))
        except (ConnectionRefusedError, FileNotFoundError):
            plug.close()
            return None
        line = _Line(place, plug, partial(_read_pid, pid_path(address.parent, place)))
        try:
            line.introduce()
        except (EOFError, ConnectionError):  # it died, or the device was given up: the next try will tell
            line.close()
            continue
        except MkhspcError:
            line.close()
            raise
        return line


def address_path(directory: Path, place: int) -> Path:
    """The socket of an owner, by its place among all."""
    return directory / f"{place}"


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # the device was given up, or the run has ended
        return None


def pid_path(directory: Path, place: int) -> Path:
    """Where the parent writes which process is the owner now."""
    return directory / f"{place}.pid"


def fate_path(directory: Path, place: int) -> Path:
    """Where the parent writes what became of an owner."""
    return directory / f"{place}.fate"
