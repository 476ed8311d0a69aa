"""The checksum of a table's footer: Parquet protects its pages with one, and its footer with none.

The footer says where columns lie, what they are called and of what type they are; a flipped bit in it can
rename a column or move a value. So a table has two more keys in its footer: one with a CRC-32 in a fixed
width, put in place when the file is complete, and one that says that the first is there.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_CRC_KEY, _MARK_KEY = "mkhspc:footer_crc32", "mkhspc:checksums"
_BLANK = b"0" * 8
KEYS = {_CRC_KEY: _BLANK.decode(), _MARK_KEY: "pages and footer"}
"""Keys that a table to be sealed has in its footer. Two: no single fault destroys both names."""
_BEFORE_CRC = _CRC_KEY.encode() + b"\x18\x08"
"""What stands before the CRC: its key, and as Thrift has it, that a text of 8 bytes follows."""
_END = 8
"""Bytes after the footer: its length and the magic number."""
_LOOKED_THROUGH = 1 << 20
"""Bytes at the end of a file in which the keys are looked for when they are not in its footer."""


class FooterError(ValueError):
    """A footer is not as it was written; the text says in what."""


@dataclass(frozen=True)
class _Footer:
    """A footer with the length and the magic number that follow it, and where it begins in the file."""

    start: int
    data: bytes

    @property
    def crc_at(self) -> int:
        """Where in `data` the CRC stands; -1 without one."""
        at = self.data.find(_BEFORE_CRC)
        return at if at < 0 else at + len(_BEFORE_CRC)

    @property
    def stored_crc(self) -> bytes:
        return self.data[self.crc_at : self.crc_at + len(_BLANK)]

    @property
    def crc(self) -> bytes:
        """8 hexadecimal digits: of where the footer begins, so that no file is longer or shorter, and of all
        of it but these digits.
        """
        at = self.crc_at
        blanked = self.data[:at] + _BLANK + self.data[at + len(_BLANK) :]
        return b"%08x" % zlib.crc32(blanked, zlib.crc32(self.start.to_bytes(8, "little")))


def seal(path: Path) -> None:
    """Puts the checksum of its footer into a table that was written with `KEYS`."""
    with path.open("r+b") as file:
        footer = _read(file)
        file.seek(footer.start + footer.crc_at)
        file.write(footer.crc)


def verify(path: Path) -> None:
    """Compares the footer of a table with its checksum; a table of before there were any passes.

    Raises:
        FooterError: it is damaged.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        footer = _read(file)
        if not _is_sealed(file, footer):
            return
    if footer.crc_at < 0 or footer.stored_crc != footer.crc:
        raise FooterError("its footer is not as it was written: the checksum differs")


def _read(file: BinaryIO) -> _Footer:
    size = os.fstat(file.fileno()).st_size
    end = os.pread(file.fileno(), _END, max(0, size - _END))
    length = int.from_bytes(end[:4], "little") + _END
    if end[4:] != b"PAR1" or length > size:
        raise FooterError("it does not end as a Parquet file does: it is cut off, or its end is damaged")
    return _Footer(size - length, os.pread(file.fileno(), length, size - length))


def _is_sealed(file: BinaryIO, footer: _Footer) -> bool:
    """Whether a key is there; before what seems to be the footer where the footer's length is damaged."""
    keys = [key.encode() for key in KEYS]
    if any(key in footer.data for key in keys):
        return True
    size = footer.start + len(footer.data)
    last = os.pread(file.fileno(), _LOOKED_THROUGH, max(0, size - _LOOKED_THROUGH))
    return any(key in last for key in keys)
