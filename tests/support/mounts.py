"""File systems in memory: small, full, or read-only disks for as long as a test needs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import skip_or_fail


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mounts one on a folder, which is made if it is not there.

    Args:
        options: of `mount`, such as `size=1m,ro`.
    """
    if os.geteuid() != 0:  # installing Slurm takes root as well
        skip_or_fail("REQUIRE_SLURM", "only root can mount a file system")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "mkhspc-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
