"""How long work tells whoever watches: a stage, how much is done, how much there is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called after every step; must be cheap, and is called from one thread."""

    def __call__(self, stage: str, done: int, total: int, **facts: str | int | float) -> None: ...


def silent(stage: str, done: int, total: int, **facts: str | int | float) -> None:
    """A `Progress` that says nothing."""
