"""Errors (errno) of a disk that have nothing to do with what is written."""

from __future__ import annotations

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""The disk is full, over a quota, or read-only: it takes nothing more, whatever is written."""
FAULTS = (*NO_ROOM, errno.EIO, errno.ESTALE)
"""The disk or its file server is at fault, whatever is read or written."""
