"""The windows in which SAM2 sees a scene: of one physical size, on a grid that belongs to the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mkhspc.geometry import Box, um_to_px

WINDOW_PER_LENGTH = 2.5
"""A window is this many times as wide as the longest cell. With the default sizes it is 256 µm wide, so that
the model, which sees 1024 x 1024, gets about the scanner's own pixels."""
MIN_WINDOW_UM = 180.0
"""The least width of a window in µm: the model sees pixels of 0.18 µm in it."""


@dataclass(frozen=True)
class WindowGrid:
    """Windows of a scene; each is a square of `cell_px` with a margin of `margin_px` on every side.

    Squares lie side by side from the scene's corner on; a prompt belongs to the window whose square holds it.
    A cell no longer than twice the margin lies whole in the window of a prompt at its centre.
    """

    cell_px: int
    margin_px: int

    @classmethod
    def of(cls, longest_um: float, um_per_px: float) -> WindowGrid:
        """The grid for cells up to a length."""
        margin_px = um_to_px(longest_um / 2, um_per_px)
        return cls(um_to_px(window_um(longest_um), um_per_px) - 2 * margin_px, margin_px)

    @property
    def window_bytes(self) -> int:
        """The size of a window's pixels, three bytes each."""
        return 3 * (self.cell_px + 2 * self.margin_px) ** 2

    def square(self, column: int, row: int) -> Box:
        """The window without its margin, in level-0 pixels of the scene."""
        x, y = column * self.cell_px, row * self.cell_px
        return Box(x, y, x + self.cell_px, y + self.cell_px)

    def squares_that_meet(self, box: Box) -> list[Box]:
        """The squares that share a pixel with a box; column after column."""
        columns = range(box.x0 // self.cell_px, -(-box.x1 // self.cell_px))
        rows = range(box.y0 // self.cell_px, -(-box.y1 // self.cell_px))
        return [self.square(column, row) for column in columns for row in rows]

    def spanned(self, box: Box) -> Box:
        """The squares that share a pixel with a box."""
        squares = self.squares_that_meet(box)
        return squares[0].joined(squares[-1])

    def squares_of(self, points_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n, 2) column and row of the squares that hold (n, 2) points."""
        return np.floor(points_px / self.cell_px).astype(np.int64)


def window_um(longest_um: float) -> float:
    """The width of a window for cells up to a length."""
    return max(MIN_WINDOW_UM, WINDOW_PER_LENGTH * longest_um)
