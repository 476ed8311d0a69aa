"""The models, once a device: a process each owns them, and the workers ask it.

The parent starts the owners, tells their clients what became of one that died, and starts it again.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from mkhspc.errors import MkhspcError
from mkhspc.models.device import LOOK_AT_GPU
from mkhspc.models.server.client import (
    FIX,
    Fate,
    OwnerClient,
    OwnerLostError,
    address_path,
    fate_path,
    pid_path,
)
from mkhspc.models.server.mailbox import Fault, LostGpu, Note
from mkhspc.models.server.server import Deadline, Loaded, own
from mkhspc.models.service import Loader
from mkhspc.process.children import FRUGAL, cause_of_death, environment
from mkhspc.process.memory import peak_bytes
from mkhspc.store import atomic

RESTARTS = 2
"""How often the owner of a device is started again with no request done in between; then it is given up."""
LONGEST_TEMP_BYTES = 80
"""The path of a socket has room for 108 bytes on Linux and 104 on macOS."""
CLOSE_S = 5.0
"""For a process to end in, and once more when it has been killed: one that is stuck in a driver stays."""
LOOK_S = 1.0


@dataclass(frozen=True)
class Patience:
    """How long a process may be busy with one thing before it is taken for stuck and killed.

    Many times what the slowest machine should take: too short a time would kill what works.

    Attributes:
        loading_s: all models; torch and 1.2 GB of weights take minutes from a busy file system of a cluster.
        gpu_request_s: a request; the largest, 256 blocks of Cellpose, takes a GPU a minute or two.
        cpu_request_s: on two cores the same takes two hours.
    """

    loading_s: float = 1_800.0
    gpu_request_s: float = 1_800.0
    cpu_request_s: float = 21_600.0

    def request_s(self, device: str) -> float:
        return self.cpu_request_s if device.startswith("cpu") else self.gpu_request_s


class Owners:
    """One process a device, each with all models.

    Pickled to a process being started it becomes an `OwnerClient`, each time with another device to begin
    with. To be closed, or used in `with`.

    Args:
        loaders: of the models; their names differ.
        devices: one or more, as `mkhspc.models.device.device_names` gives them.

    Raises:
        MkhspcError: a model's own, when it does not load.
        OwnerLostError: a process died while it loaded, or did not come to an end with it.
    """

    def __init__(
        self, loaders: Sequence[Loader], devices: Sequence[str], patience: Patience | None = None
    ) -> None:
        self._directory = _private_directory()
        self._numbers = itertools.count()
        self._owners: list[_Owner] = []
        atexit.register(self.close)  # else an end without `close` would wait for the processes for ever
        try:
            for place, device in enumerate(devices):
                self._owners.append(_Owner(loaders, device, self._directory, place, patience or Patience()))
            self._wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def _wait_until_loaded(self) -> None:
        loading = {owner.connection: owner for owner in self._owners}
        while loading:
            said = wait(list(loading), timeout=LOOK_S)
            for connection, owner in list(loading.items()):
                stuck_s = owner.stuck_s()
                if stuck_s or connection in said:
                    del loading[connection]
                    owner.hear(stuck_s)

    @property
    def loaded(self) -> list[Loaded]:
        """What the owners told when they were ready, those of devices given up left out."""
        return [owner.loaded for owner in self._owners if owner.loaded and not owner.is_given_up]

    @property
    def peak_bytes(self) -> int:
        """The most that the processes there are now had in memory, added up; 0 if nobody knows."""
        return sum(owner.peak_bytes for owner in self._owners)

    def watch(self) -> list[str]:
        """Starts owners again that died; returns a line for each thing that happened. To be called often."""
        return [line for owner in self._owners for line in owner.look()]

    def client(self) -> OwnerClient:
        """A way to ask, for one thread of one process."""
        return OwnerClient(*self._for_next_client())

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnerClient, self._for_next_client()

    def _for_next_client(self) -> tuple[Path, Sequence[str], int]:
        return self._directory, [owner.device for owner in self._owners], next(self._numbers)

    def close(self) -> None:
        """Ends the processes, in the middle of whatever they do."""
        for owner in self._owners:
            owner.connection.close()
        for owner in self._owners:
            owner.end()
        shutil.rmtree(self._directory, ignore_errors=True)  # an owner may be removing it too
        atexit.unregister(self.close)

    def __enter__(self) -> Owners:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Process(SpawnProcess):
    """An owner's process, for which nobody waits once it has been left behind.

    At Python's end multiprocessing joins every child that is there, without a limit.
    """

    is_left_behind = False

    def join(self, timeout: float | None = None) -> None:
        super().join(0.0 if self.is_left_behind else timeout)


class _Owner:
    """The parent's view of one process.

    The listening socket is the parent's, so that workers who connect while there is no process wait in
    its queue: for the next process, or for the parent to give the device up.
    """

    def __init__(
        self, loaders: Sequence[Loader], device: str, directory: Path, place: int, patience: Patience
    ) -> None:
        self.device = device
        self.loaded: Loaded | None = None
        self.is_given_up = False
        self._loaders = loaders
        self._directory = directory
        self._fate = fate_path(directory, place)
        self._pid = pid_path(directory, place)
        self._address = address_path(directory, place)
        self._loading_s = patience.loading_s
        self._deadline = Deadline(patience.request_s(device))
        self._deaths = 0  # since a request was done
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self._address))
        self._listening.listen()
        self._start()

    def _start(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self._process = _Process(
            target=own,
            args=(theirs, self._listening, self._loaders, self.device, self._directory, self._deadline),
            daemon=True,
        )
        self._deadline.allow(self._loading_s)
        with environment(FRUGAL):
            self._process.start()
        theirs.close()
        atomic.write_json(self._pid, self._process.pid)

    @property
    def peak_bytes(self) -> int:
        return peak_bytes(pid=self._process.pid) or 0

    def stuck_s(self) -> float:
        """What the process was allowed for the one thing that it has been busy with for too long; else 0."""
        return self._deadline.exceeded_s()

    def hear(self, stuck_s: float) -> Loaded | Note | None:
        """Waits for what the process has to say: first that it is ready, later that it has done a request.

        Args:
            stuck_s: what `stuck_s` has told; a process that is stuck is killed.

        Returns:
            None for a request that is done.

        Raises:
            MkhspcError: a model does not load.
            OwnerLostError: the process has died, says that it must, or was stuck.
        """
        if stuck_s:
            self._process.kill()
            self._ended()
            raise OwnerLostError(
                f"the process that owns the models was stuck for more than {stuck_s:.0f} s and was killed",
                where=self.device,
                fix=FIX if self.device.startswith("cpu") else LOOK_AT_GPU,
            )
        try:
            said: Loaded | Note | Fault | LostGpu | str = self.connection.recv()
        except (EOFError, ConnectionError):
            raise OwnerLostError(
                f"the process that owns the models died ({self._ended()})",
                where=self.device,
                fix=FIX,
            ) from None
        if isinstance(said, Fault):
            raise said.error()
        if isinstance(said, LostGpu):
            self._ended()
            raise OwnerLostError(f"the GPU was lost ({said.reason})", where=self.device, fix=LOOK_AT_GPU)
        if isinstance(said, Loaded):
            self.loaded = said
        if isinstance(said, Loaded | Note):
            return said
        self._deaths = 0
        return None

    def look(self) -> Iterator[str]:
        while not self.is_given_up and ((stuck_s := self.stuck_s()) or self.connection.poll()):
            try:
                if said := self.hear(stuck_s):
                    yield f"{self.device}: {_told(said)}"
            except OwnerLostError as error:
                self._deaths += 1
                if self._deaths > RESTARTS:
                    often = f"{self._deaths} times with no request done in between"
                    yield self._give_up(Fate(f"{error.what}, {often}", error.fix))
                else:
                    yield self._restart(Fate(error.what, error.fix))
            except MkhspcError as error:
                reason = error.what if error.where is None else f"{error.where}: {error.what}"
                yield self._give_up(Fate(reason, error.fix))

    def _restart(self, fate: Fate) -> str:
        fate.write(self._fate)
        self.connection.close()
        self._start()
        return f"{self.device}: {fate.reason}; it is started again"

    def _give_up(self, fate: Fate) -> str:
        self.is_given_up = True
        fate.write(self._fate)
        self._pid.unlink(missing_ok=True)  # there is nobody any more
        self._turn_away()  # only now: who is turned away reads why
        return f"{self.device}: {fate.reason}; the device is given up"

    def _turn_away(self) -> None:
        """Lets nobody connect any more, though a process left behind keeps its copy of the socket."""
        with suppress(OSError):  # macOS shuts down no socket that listens
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._address.unlink(missing_ok=True)

    def _ended(self) -> str:
        """Waits for the end of a process that ends, kills it if it does not, and tells what it died of.

        Never waits long: what a driver does not give back cannot be killed, and is left behind.
        """
        self._process.join(CLOSE_S)
        if not self._process.is_alive():
            return cause_of_death(self._process.exitcode)
        self._process.kill()
        self._process.join(CLOSE_S)
        self._process.is_left_behind = self._process.is_alive()
        return "it did not end by itself"

    def end(self) -> None:
        self._listening.close()
        self._ended()
        self._deadline.close()


def _told(said: Loaded | Note) -> str:
    if isinstance(said, Note):
        return said.text
    return f"the models are there again after {said.load_s:.0f} s"


def _private_directory() -> Path:
    """A folder that nobody else may enter, for the names of sockets, which must be short."""
    usual = tempfile.gettempdir()
    is_short = len(os.fsencode(usual)) <= LONGEST_TEMP_BYTES
    return Path(tempfile.mkdtemp(prefix="mkhspc-", dir=usual if is_short else "/tmp"))
