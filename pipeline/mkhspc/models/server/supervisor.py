"""The model servers of a run, as their parent starts, watches, restarts and ends them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType

from mkhspc.errors import MkhspcError
from mkhspc.models.device import LOOK_AT_GPU
from mkhspc.models.server.activity import Activity, StuckClock
from mkhspc.models.server.client import ModelsAddress
from mkhspc.models.server.main import ServerSettings, run_server
from mkhspc.models.server.reports import (
    SPARE_MEMORY,
    ExitReport,
    Loaded,
    ServerLostError,
    ServerState,
    write_states,
)
from mkhspc.models.service import Loader
from mkhspc.process.children import cause_of_death
from mkhspc.process.memory import peak_bytes
from mkhspc.process.spawned import OwnProcess

RESTARTS = 2
"""How often the server of a device is started again with no request answered in between, before the device is
given up."""
LONGEST_TEMP_BYTES = 75
"""The longest path, in bytes, of a folder of temporary files that sockets are put in: a socket's whole path
has room for 108 on Linux and 104 on macOS."""
CLOSE_S = 5.0
"""The seconds that a process gets to end, and again after it has been killed: one that is stuck in a driver
never ends."""
LOOK_S = 1.0
"""Seconds between two looks at servers that are loading."""


@dataclass(frozen=True)
class Patience:
    """How long a server may be busy with one thing before it counts as stuck and is killed, in seconds.

    Many times what the slowest machine should take: too short a time would kill what works.

    Attributes:
        loading_s: for all models; torch and 1.2 GB of weights take minutes from a cluster's busy file system.
        gpu_request_s: for a request; the largest, 256 blocks of Cellpose, takes a GPU a minute or two.
        cpu_request_s: on two cores the same takes two hours.
    """

    loading_s: float = 1_800.0
    gpu_request_s: float = 1_800.0
    cpu_request_s: float = 21_600.0

    def request_s(self, device: str) -> float:
        return self.cpu_request_s if device.startswith("cpu") else self.gpu_request_s


class ModelServers:
    """One server per device, each with all models. To be closed, or used in `with`.

    Args:
        loaders: of the models; their names differ.
        devices: one or more, as `mkhspc.models.device.device_names` gives them.

    Attributes:
        address: for workers, who open their clients with it.

    Raises:
        MkhspcError: a model's own, when it does not load.
        ServerLostError: a server died, or was stuck, while it loaded.
    """

    def __init__(
        self, loaders: Sequence[Loader], devices: Sequence[str], patience: Patience | None = None
    ) -> None:
        directory = _private_directory()
        self.address = ModelsAddress(directory)
        self._servers: list[_Server] = []
        atexit.register(self.close)  # else an end without `close` would wait for the processes for ever
        try:
            for index, device in enumerate(devices):
                place = directory / str(index)
                self._servers.append(_Server(loaders, device, place, patience or Patience()))
            self._wait_until_loaded()
            self._publish()
        except BaseException:
            self.close()
            raise

    def _wait_until_loaded(self) -> None:
        loading = self._servers
        while loading:
            wait([server.connection for server in loading], timeout=LOOK_S)
            loading = [server for server in loading if not server.next_report()]

    def _publish(self) -> None:
        write_states(self.address.directory, [server.state for server in self._servers])

    @property
    def loaded(self) -> list[Loaded]:
        """What the servers reported when they were ready, those of devices given up left out."""
        return [server.loaded for server in self._servers if server.loaded and not server.state.is_given_up]

    @property
    def peak_bytes(self) -> int:
        """The most memory that each present process has had, added up; 0 where the system does not say."""
        return sum(server.peak_bytes for server in self._servers)

    def watch(self) -> list[str]:
        """Restarts servers that died; returns a line for each thing that happened. To be called often."""
        lines = [line for server in self._servers for line in server.news()]
        if lines:
            self._publish()
        return lines

    def close(self) -> None:
        """Ends the processes, in the middle of whatever they do."""
        for server in self._servers:
            server.connection.close()  # all of them notice, before any is waited for
        for server in self._servers:
            server.close()
        self._servers.clear()
        shutil.rmtree(self.address.directory, ignore_errors=True)  # a server may be removing it too
        atexit.unregister(self.close)

    def __enter__(self) -> ModelServers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _ServerProcess(OwnProcess):
    """A server's process, for which nobody waits once it has been left behind.

    At Python's end multiprocessing joins every child that is there, without a limit.
    """

    is_left_behind = False

    def join(self, timeout: float | None = None) -> None:
        super().join(0.0 if self.is_left_behind else timeout)


class _Server:
    """The parent's view of the server of one device, whichever process that is at present.

    Args:
        place: how the paths of its sockets begin.
    """

    def __init__(self, loaders: Sequence[Loader], device: str, place: Path, patience: Patience) -> None:
        self.state = ServerState(device)
        self.loaded: Loaded | None = None
        self._loaders = loaders
        self._place = place
        self._patience = patience
        self._starts = 0
        self._deaths = 0  # since a request was answered
        self._start()

    def _start(self) -> None:
        self._starts += 1
        self._settings = ServerSettings(
            self.state.device,
            self._loaders,
            self._place.with_name(f"{self._place.name}-{self._starts}"),
            self._patience.request_s(self.state.device),
        )
        self._activity = Activity()
        self._activity.begin(self._patience.loading_s)
        self._stuck_clock = StuckClock(self._activity)
        self.connection, theirs = multiprocessing.Pipe()
        self._process = _ServerProcess(
            target=run_server, args=(self._settings, theirs, self._activity), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def peak_bytes(self) -> int:
        return peak_bytes(pid=self._process.pid) or 0

    def next_report(self) -> Loaded | str | None:
        """What the process has reported: that it is ready, or a line for the log; None if nothing new.

        Raises:
            MkhspcError: a model does not load.
            ServerLostError: the process has died, says that it must, or was stuck and has been killed.
        """
        if stuck_s := self._stuck_clock.exceeded_s():
            self._process.kill()
            self.wait_for_end()
            raise ServerLostError(
                f"the model server was stuck for more than {stuck_s:.0f} s and was killed",
                where=self.state.device,
                fix=SPARE_MEMORY if self.state.device.startswith("cpu") else LOOK_AT_GPU,
            )
        return self._receive() if self.connection.poll() else None

    def _receive(self) -> Loaded | str:
        try:
            report: Loaded | str | MkhspcError = self.connection.recv()
        except (EOFError, ConnectionError):
            what = f"the model server died ({self.wait_for_end()})"
            raise ServerLostError(what, where=self.state.device, fix=SPARE_MEMORY) from None
        if isinstance(report, ServerLostError):
            self.wait_for_end()
        if isinstance(report, MkhspcError):
            raise report
        if isinstance(report, Loaded):
            self.loaded = report
            self.state = replace(self.state, socket=str(self._settings.socket))
        return report

    def news(self) -> Iterator[str]:
        """A line for each thing that happened, after what had to be done about it."""
        while not self.state.is_given_up and (line := self._next_line()):
            yield f"{self.state.device}: {line}"

    def _next_line(self) -> str | None:
        try:
            report = self.next_report()
        except ServerLostError as error:
            return self._restart_or_give_up(error)
        except MkhspcError as error:
            reason = error.what if error.where is None else f"{error.where}: {error.what}"
            return self._give_up(ExitReport(reason, error.fix))
        if isinstance(report, Loaded):
            return f"the models are there again after {report.load_s:.0f} s"
        return report

    def _restart_or_give_up(self, error: ServerLostError) -> str:
        has_answered = self._activity.read()[-1]
        self._deaths = 1 if has_answered else self._deaths + 1
        if self._deaths > RESTARTS:
            often = f"{self._deaths} times with no request done in between"
            return self._give_up(ExitReport(f"{error.what}, {often}", error.fix))
        self.state = replace(self.state, socket="", last_exit=ExitReport(error.what, error.fix))
        self.connection.close()
        self._activity.close()
        self._start()
        return f"{error.what}; it is started again"

    def _give_up(self, report: ExitReport) -> str:
        self.state = replace(self.state, socket="", is_given_up=True, last_exit=report)
        return f"{report.reason}; the device is given up"

    def wait_for_end(self) -> str:
        """Waits for the end of a process that ends, kills it if it does not; returns what it died of.

        Never waits long: a process that a driver does not let go cannot be killed, and is left behind.
        """
        self._process.join(CLOSE_S)
        if not self._process.is_alive():
            return cause_of_death(self._process.exitcode)
        self._process.kill()
        self._process.join(CLOSE_S)
        self._process.is_left_behind = self._process.is_alive()
        return "it did not end by itself"

    def close(self) -> None:
        """Waits for the process, whose connection is closed, or leaves it behind."""
        self.wait_for_end()
        self._activity.close()


def _private_directory() -> Path:
    """A folder that only this user may enter, with a short path, for the servers' sockets."""
    usual = tempfile.gettempdir()
    is_short = len(os.fsencode(usual)) <= LONGEST_TEMP_BYTES
    return Path(tempfile.mkdtemp(prefix="mkhspc-", dir=usual if is_short else "/tmp"))
