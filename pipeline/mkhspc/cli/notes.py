"""Lines on stderr: nothing is wrong, but not as the user may think."""

from __future__ import annotations

import logging

import click

from mkhspc.errors import printable


def note(line: str) -> None:
    """Writes a line to stderr."""
    click.echo(f"mkhspc: {printable(line)}", err=True)


class NotesOnStderr(logging.Handler):
    """Shows what the functions of `mkhspc.api` log."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())
