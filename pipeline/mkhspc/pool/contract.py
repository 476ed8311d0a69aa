"""What the pool is given, as protocols: claims on tiles, and slides whose windows can be read.

The pool knows neither how claims are kept nor what a slide is: `cluster.claims.ClaimFiles` and
`slide.tile_windows.TileWindows` are the real ones, and its own tests use a few lines in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Protocol

from mkhspc.geometry import Box, RgbImage

RENEW_EVERY_S = 20.0
"""Seconds between two renewals of a process's claims. Others take a claim for abandoned after several of
these times, so that one late renewal costs nothing."""


class ClaimResult(Enum):
    """Whose a tile is, as the answer to a claim on it."""

    OURS = "this process may do it"
    DONE = "its result is there"
    THEIRS = "another living process works on it"


class TileClaims(Protocol):
    """Claims of this process on tiles, which keep two processes from doing the same tile side by side."""

    def claim(self, slide_id: str, tile_id: str) -> ClaimResult:
        """Claims a tile unless it is done or another process's."""
        ...

    def release(self, slide_id: str, tile_id: str) -> None:
        """Ends the claim on a tile, if there is one."""
        ...

    def release_all(self) -> None:
        """Ends every claim of this process."""
        ...

    def renew(self) -> None:
        """Shows other processes that this one lives; is called every `RENEW_EVERY_S`."""
        ...


class WindowReader(Protocol):
    """An open slide, whose windows are read one after the other."""

    def next_window(self) -> int | None:
        """Returns the index of the next wanted window, which `read_into` will read; None after the last."""
        ...

    def read_into(self, picture: RgbImage) -> None:
        """Reads that window into an image of its size.

        Raises:
            MkhspcError: this window is damaged, but the next can be read; any other error ends the slide.
        """
        ...


class SlideWindows(Protocol):
    """The windows of one slide's tiles, in the order in which they are read."""

    @property
    def slide_id(self) -> str: ...

    @property
    def tile_ids(self) -> Sequence[str]:
        """Returns the tile of each window."""
        ...

    @property
    def windows(self) -> Sequence[Box]:
        """Returns the pixels of each window: a box in level-0 pixels of its scene."""
        ...

    def only(self, indices: Sequence[int]) -> SlideWindows:
        """Returns some of these windows, in the order of `indices`."""
        ...

    def open(
        self, *, threads: int, is_wanted: Callable[[int], bool], has_place: Callable[[], bool]
    ) -> AbstractContextManager[WindowReader]:
        """Opens the slide for reading.

        Args:
            threads: how many threads decode.
            is_wanted: is asked shortly before a window is read; a window that is not wanted is left out.
            has_place: says whether a window could be shown now; while it cannot, nothing is decoded ahead.

        Raises:
            MkhspcError: the slide is gone, damaged, or another than the one that was planned for.
        """
        ...
