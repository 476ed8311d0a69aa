"""What model servers report to their parent, and what the parent reports to the workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mkhspc.errors import HopelessError, MkhspcError
from mkhspc.store import atomic

STATES_NAME = "servers.json"
SPARE_MEMORY = (
    "if memory was short, use fewer --num-workers, a larger --memory-gb or a smaller model; "
    "finished tiles are kept"
)


class ServerLostError(MkhspcError):
    """A model server died, or was stuck and killed."""

    exit_code = 4


class NoDeviceError(ServerLostError, HopelessError):
    """Every device is given up, or the run has ended."""


@dataclass(frozen=True)
class Loaded:
    """A server has loaded its models.

    Attributes:
        rss_bytes: the memory of its process, before the first request.
        load_s: how long loading took, the start of the process not counted.
        precision: what each model computes in, by its name.
    """

    device: str
    rss_bytes: int
    load_s: float
    precision: Mapping[str, str]


@dataclass(frozen=True)
class ExitReport:
    """Why a server ended, and what the user can do about it."""

    reason: str
    fix: str


@dataclass(frozen=True)
class ServerState:
    """What workers need to know of the server of one device.

    Attributes:
        socket: the path where it listens, another for each process; empty while none is ready.
        is_given_up: no server will be started on this device any more.
        last_exit: of the process that ended last.
    """

    device: str
    socket: str = ""
    is_given_up: bool = False
    last_exit: ExitReport = ExitReport("no server has ended", "")


def write_states(directory: Path, states: Sequence[ServerState]) -> None:
    """Publishes the states of all servers of a run, in the order of their devices."""
    atomic.write_json(directory / STATES_NAME, [asdict(state) for state in states])


def read_states(directory: Path) -> list[ServerState]:
    """The states as last published.

    Raises:
        FileNotFoundError: the run has ended, and its servers with it.
    """
    entries = json.loads((directory / STATES_NAME).read_text(encoding="utf-8"))
    return [ServerState(**entry | {"last_exit": ExitReport(**entry["last_exit"])}) for entry in entries]
