"""A real Slurm of one node, for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPTS = Path(__file__).parent / "slurm"
NOT_INSTALLED = 77


class NotInstalledError(Exception):
    """Slurm is not here, and this user cannot install it."""


@contextmanager
def running_slurm() -> Iterator[Path]:
    """The folder of a running Slurm, with its logs; the environment points Slurm's commands at it.

    Raises:
        NotInstalledError: there is none.
    """
    folder = Path(tempfile.mkdtemp(prefix="mkhspc-slurm-"))  # a socket's path has to be short
    before = os.environ.get("SLURM_CONF")
    try:
        up = subprocess.run(
            [SCRIPTS / "up.sh", folder, str(_three_free_ports())], capture_output=True, text=True, check=False
        )
        if up.returncode == NOT_INSTALLED:
            raise NotInstalledError(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield folder
    finally:
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        subprocess.run([SCRIPTS / "down.sh", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def slurm(*words: str) -> str:
    """What a command of Slurm's prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _three_free_ports() -> int:
    for first in range(16800, 20000, 3):
        with socket.socket() as a, socket.socket() as b, socket.socket() as c:
            try:
                for number, held in enumerate((a, b, c)):
                    held.bind(("127.0.0.1", first + number))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")
