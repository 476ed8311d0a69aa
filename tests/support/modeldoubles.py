"""Doubles of SAM2 and Cellpose in whole numbers, for the worker's side of their detectors; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mkhspc.errors import MkhspcError
from mkhspc.models.cellpose import BLOCK_PX
from mkhspc.models.sam2_masks import REASONS
from mkhspc.models.service import Message, array_of

SIDE = 256
DARK = 150
"""Of red, below which a pixel is a nucleus."""


class DiscsAtPrompts:
    """A double of SAM2: a disc at every point, of its proposal's area, and in every box."""

    precision = "float32"

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Message) -> Message:
        side_px = array_of(request, "rgb").shape[0]
        scale = SIDE / side_px
        x, y, radius = (values * scale for values in _discs(request, side_px))
        parts: list[NDArray[np.float32]] = []
        corners: list[tuple[int, int]] = []
        for middle_x, middle_y, size in zip(x, y, radius, strict=True):
            left, top = (max(0, int(middle - size) - 1) for middle in (middle_x, middle_y))
            right, bottom = (min(SIDE, int(middle + size) + 2) for middle in (middle_x, middle_y))
            rows, columns = np.arange(top, bottom) + 0.5, np.arange(left, right) + 0.5
            away = (rows[:, None] - middle_y) ** 2 + (columns - middle_x) ** 2
            parts.append((size**2 - away).astype(np.float32))
            corners.append((left, top))
        return {
            "corners": np.array(corners, np.int32).reshape(-1, 2),
            "shapes": np.array([part.shape for part in parts], np.int32).reshape(-1, 2),
            "logits": np.concatenate([np.zeros(0, np.float32), *(part.ravel() for part in parts)]),
            "side": SIDE,
            "prompt": np.arange(len(parts), dtype=np.int32),
            "score": (0.9 - 0.001 * np.arange(len(parts))).astype(np.float32),
            "features": np.ones((len(parts), 256), np.float32),
            **{f"rejected_{reason}": 0 for reason in REASONS},
        }


def _discs(request: Message, side_px: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """x, y and radius of each, in pixels of the window."""
    if "boxes" in request:
        x0, y0, x1, y1 = array_of(request, "boxes").T
        return (x0 + x1) / 2, (y0 + y1) / 2, np.sqrt((x1 - x0) * (y1 - y0)) / 2
    x, y = array_of(request, "points").T
    area_px = np.maximum(array_of(request, "prior_area_px"), (side_px / 20) ** 2)
    return x, y, np.sqrt(area_px / np.pi)


class DarkPieces:
    """A double of Cellpose: every dark piece of a field is a cell."""

    precision = "float32"

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Message) -> Message:
        places = array_of(request, "places")
        width, height = places.max(axis=0) + BLOCK_PX
        canvas = np.full((height, width), 255, np.uint8)
        for block, (x, y) in zip(array_of(request, "blocks"), places.tolist(), strict=True):
            canvas[y : y + BLOCK_PX, x : x + BLOCK_PX] = block[..., 0]
        fields = array_of(request, "fields").tolist()
        labelled = [ndimage.label(canvas[y0:y1, x0:x1] < DARK) for x0, y0, x1, y1 in fields]
        counts = [count for _, count in labelled]
        return {
            "labels": np.stack([labels for labels, _ in labelled]).astype(np.int32),
            "counts": np.array(counts, np.int32),
            "scores": np.ones(sum(counts), np.float32),
        }
