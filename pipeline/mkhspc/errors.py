"""The errors a user can meet, each with the exit code that `mkhspc` ends with.

An error says what is wrong, where, and what to do about it. `mkhspc.cli` turns it into one or
two lines on stderr and the exit code; nothing else in the package decides exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar


def printable(text: str) -> str:
    """A text as it may be shown on a terminal: a file's name can hold line ends and escape codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first few names of many, in a row."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


class MkhspcError(Exception):
    """Base of every error that a user can correct.

    Args:
        what: what is wrong, in one sentence without a trailing full stop.
        where: the file, option or cell concerned; printed first when given.
        fix: what to do about it; printed on a second line when given.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes; the place does so as text."""
        where = None if self.where is None else str(self.where)
        return partial(type(self), self.what, where=where, fix=self.fix), ()

    def __str__(self) -> str:
        head = self.what if self.where is None else f"{self.where}: {self.what}"
        return "\n  ".join(printable(line) for line in (head, self.fix) if line)


class CheckFailedError(MkhspcError):
    """A check said no: validation failed, or no cell was found."""

    exit_code = 1


class UsageError(MkhspcError):
    """The command line or an option's value is wrong."""

    exit_code = 2


class InputError(MkhspcError):
    """A slide, label, config, run or classifier file cannot be used as it is."""

    exit_code = 3


class IncompleteError(MkhspcError):
    """Tiles failed or are missing: what is there is kept, the rest is named."""

    exit_code = 4


class InterruptedRunError(MkhspcError):
    """Stopped at a tile border by a signal; running again goes on from there."""

    exit_code = 130


class HopelessError(MkhspcError):
    """Whatever stopped this task will stop every other."""

    exit_code = 4
