"""Memory without a name that processes share by its descriptor."""

from __future__ import annotations

import os
import tempfile


def anonymous_file(name: str) -> int:
    """A descriptor of a file without a path, in memory where the system can do so."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
