"""SAM2's small logits become masks in pixels of the window, each within its own box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mkhspc.geometry import BoolMask, Box
from mkhspc.models.sam2_masks import Floats
from mkhspc.models.service import Message, array_of


def enlarged(
    logits: Floats, corner: tuple[int, int], side: int, shape: tuple[int, int]
) -> tuple[Box, BoolMask]:
    """The pixels of a window that a mask holds: bilinear interpolation of its logits is above 0.

    As SAM2's own `postprocess_masks` (pixel centres at halves, no aligned corners), but in a box only.

    Args:
        logits: (h, w) in a box whose outermost rows and columns are not above 0, but at the image's border.
        corner: x, y of the box in the (side, side) image of logits.
        shape: height and width of the window.

    Returns:
        A box in pixels of the window that holds the mask, and the mask in it; an empty one where no
        pixel's centre lies between the logits, as may be of a thin mask where pixels are large.
    """
    x0, x1, across = _interpolation(corner[0], logits.shape[1], side, shape[1])
    y0, y1, down = _interpolation(corner[1], logits.shape[0], side, shape[0])
    rows = logits[down.low] * (1.0 - down.share)[:, None] + logits[down.high] * down.share[:, None]
    values = rows[:, across.low] * (1.0 - across.share) + rows[:, across.high] * across.share
    return Box(x0, y0, x1, y1), values > 0


@dataclass(frozen=True)
class _Interpolation:
    """Of pixels along one axis: the two logits that each lies between, and the share of the second."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: Floats


def _interpolation(start: int, count: int, side: int, length: int) -> tuple[int, int, _Interpolation]:
    """The first pixel, the one past the last, and the weights of those whose logits all lie in the box.

    Where there is none the first is also the one past the last.
    """
    scale = np.float32(side / length)
    at = np.maximum((np.arange(length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, side - 1)
    held = (low >= start) & (high < start + count)  # in one run, for `low` never falls
    first = int(np.argmax(held))
    last = first + int(np.count_nonzero(held))
    low, high, at = low[first:last], high[first:last], at[first:last]
    return first, last, _Interpolation(low - start, high - start, (at - low).astype(np.float32))


def masks_of(answer: Message, shape: tuple[int, int]) -> Iterator[tuple[Box, BoolMask]]:
    """The masks of an answer, each in a box of the window of this height and width; not normalised."""
    logits, side = array_of(answer, "logits"), answer["side"]
    if not isinstance(side, int):
        raise ValueError("the side of the logits must be a whole number")
    start = 0
    for (x, y), (height, width) in zip(
        array_of(answer, "corners").tolist(), array_of(answer, "shapes").tolist(), strict=True
    ):
        end = start + height * width
        yield enlarged(logits[start:end].reshape(height, width), (x, y), side, shape)
        start = end
