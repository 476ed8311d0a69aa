"""Names of processes that other hosts can tell apart, and whether such a process still runs."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@cache
def host_token() -> str:
    """Names the place where this process's number means something: `<host>~<8 digits>`.

    The digits come from the boot and from the namespace of process numbers (Linux): containers may share
    the name of a host, and a host that was started again gives the numbers anew.
    """
    facts = [_text(Path("/proc/sys/kernel/random/boot_id"))]
    with suppress(OSError):  # not Linux: then the name of the host has to do
        facts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return f"{socket.gethostname()}~{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:8]}"


def process_start_ticks(pid: int) -> str:
    """When a process began, in clock ticks since the boot; empty where the kernel does not say (not Linux).

    With its number and its host's token it names a process for ever: the numbers of processes come again.
    """
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 else ""


@dataclass(frozen=True)
class ProcessId:
    """A process on any host.

    Attributes:
        host_token: as `host_token` gives it where the process runs.
    """

    host_token: str
    pid: int

    @property
    def host(self) -> str:
        """The name of the host alone."""
        return self.host_token.partition("~")[0]

    @property
    def is_on_this_host(self) -> bool:
        """Whether its number is one of those that can be looked for from this process."""
        return self.host_token == host_token()

    @property
    def is_running(self) -> bool:
        """Whether a process of its number runs on this host; says nothing about a process of another host."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it is another user's
            return True
        return _stat_fields(self.pid)[:1] != ["Z"]  # a zombie has ended, and its parent has not asked how


def _stat_fields(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the third, the state, on; see proc(5)."""
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _text(path: Path) -> str:
    """The text of a file of the kernel's; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
