"""HSPC candidates by Cellpose 4: the worker's side. The network runs elsewhere, and torch with it.

The scene is thought of as resampled to the scale of Cellpose's training, and covered by fields of two by two
overlapping blocks, which lie on a grid of the scene. Labels are found in each field as if it were an image
of its own, and a cell belongs to the field whose core holds its centroid. Both the network, which looks at a
whole block at once, and the dynamics, which depend on where in the image a pixel lies, thus see the same
pixels whatever the tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mkhspc.config import CellRange, CellType
from mkhspc.detect.classical.masks import fits, label_boxes, tight
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.errors import UsageError
from mkhspc.geometry import BoolMask, Box, close_pairs, iou, mask_centroid, normalise_mask, um_to_px
from mkhspc.models.cellpose import BLOCK_PX, NATIVE_DIAMETER_PX
from mkhspc.models.service import Message, ModelService, array_of

TYPICAL_DIAMETER_UM = 10.0
"""The diameter of a typical HSPC in µm: the middle of the stored areas, 5 to 300 µm², on a scale of lengths.
Cellpose-SAM was trained on cells from a quarter to four times its native diameter, so the others are in its
range too."""
UM_PER_NATIVE_PX = TYPICAL_DIAMETER_UM / NATIVE_DIAMETER_PX
"""The size in µm of the pixels that Cellpose sees, its native pixels."""

STEP_PX = 208
"""The distance between blocks in native pixels. They overlap by 48, a little more than the 43 of Cellpose's
own tiling of a large image."""
FIELD_PX = BLOCK_PX + STEP_PX
"""The side of a field of two by two blocks, in native pixels."""
CORE_START_PX = (FIELD_PX - STEP_PX) // 2
"""Where a field's core begins, in native pixels from the field's corner: it is one step wide and lies in the
middle."""
MARGIN_PX = 64
"""Labels are found in the core and so many native pixels around it, which holds cells up to twice as long. No
block of another field reaches there, so the blocks of all fields can be laid on one canvas."""
SLACK_PX = 4
"""Cells are taken up to so many native pixels outside the core, since a cell seen by two fields may differ
between them and have its centroid in neither's core, or in both. Of two that are the same one is left."""
SAME_IOU = 0.5
"""Two fields show the same cell if their masks have more than this intersection over union."""
CANVAS_BLOCKS = 64
"""The most blocks on the canvas of a request, two batches of a GPU: what a worker sends and gets, 13 and 22
MB, does not grow with the tile. Blocks that two of its requests share go through the network once."""

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int32]
Place = tuple[int, int]


@dataclass(frozen=True)
class CellposeHspc:
    """Finds cells by Cellpose; see the module.

    Attributes:
        service: answers for the model 'cellpose'.
        weights: names the weights, so that a run keeps to one set of them: a digest of the file.
    """

    service: ModelService
    weights: str
    name: str = "cellpose"
    cell_type: CellType = "hspc"
    longest_um: float = math.inf

    @property
    def revision(self) -> str:
        return f"1 {self.weights}"

    def halo_um(self, needed: NeededCells) -> float:
        """From a cell's far end to that of a field that may own it, and the resampling's own reach."""
        field_um = (FIELD_PX - CORE_START_PX + SLACK_PX + 1) * UM_PER_NATIVE_PX
        return needed.longest_um + field_um + 2.0 + needed.point_um

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        return core.grown(um_to_px(self.halo_um(needed), um_per_px))

    def detect(self, window: Window, stored: CellRange) -> list[Detection]:
        """Cells of the window; see `Detector.detect`.

        Raises:
            UsageError: as `refuse_too_long`.
        """
        refuse_too_long(stored)
        grid = _Grid(UM_PER_NATIVE_PX / window.um_per_px)
        fields = [
            place for place in grid.fields_in(window.box) if _may_hold_cells(window, grid, place, stored)
        ]
        cells: list[_NativeCell] = []
        for part in _parts(fields):
            answer = self.service.ask("cellpose", request_of(window, grid, part))
            cells += [cell for cell in _owned(answer, part) if not cell.is_cut]
        detections = (_at_level_0(cell, grid) for cell in _without_doubles(cells))
        return [d for d in detections if d is not None and fits(d.mask, stored, window.um_per_px)]


def refuse_too_long(stored: CellRange) -> None:
    """Raises `UsageError` where cells may be longer than a field can hold."""
    limit_um = 2 * MARGIN_PX * UM_PER_NATIVE_PX
    if stored.max_length_um > limit_um:
        raise UsageError(
            f"cells of {stored.max_um2:.0f} µm² may be {stored.max_length_um:.0f} µm long, "
            f"and Cellpose looks for cells up to {limit_um:.0f} µm",
            fix="lower the largest area, or use another detector",
        )


@dataclass(frozen=True)
class _Grid:
    """Native pixels of a scene, and the blocks and fields that lie on them at whole steps from its corner.

    Attributes:
        scale: level-0 pixels a native pixel; native pixel i covers [i * scale, (i + 1) * scale).
    """

    scale: float

    def needed(self, start_px: int, size_px: int) -> tuple[int, int]:
        """Level-0 pixels, from and to, that resampling native pixels from `start_px` on looks at."""
        margin = math.ceil(max(1.0, self.scale)) + 1
        first, last = start_px * self.scale, (start_px + size_px) * self.scale
        return math.floor(first) - margin, math.ceil(last) + margin

    def fields_in(self, box: Box) -> list[Place]:
        """Columns and rows of the fields of which a box holds all that they look at; row after row."""
        columns, rows = self._within(box.x0, box.x1), self._within(box.y0, box.y1)
        return [(column, row) for row in rows for column in columns]

    def _within(self, start: int, end: int) -> list[int]:
        step = STEP_PX * self.scale
        about = range(math.floor(start / step) - 1, math.ceil(end / step) + 1)
        spans = {index: self.needed(index * STEP_PX, FIELD_PX) for index in about}
        return [index for index, (first, last) in spans.items() if start <= first and last <= end]

    def block(self, window: Window, place: Place) -> Bytes:
        """The block at a column and row, resampled with an anti-aliasing filter (Pillow's bilinear).

        It is cut out at whole pixels of the scene first, so that it is the same from any window.
        """
        (x0, x1), (y0, y1) = (self.needed(index * STEP_PX, BLOCK_PX) for index in place)
        seen = Image.fromarray(np.ascontiguousarray(window.rgb[Box(x0, y0, x1, y1).slices_in(window.box)]))
        left, top = (
            index * STEP_PX * self.scale - start for index, start in zip(place, (x0, y0), strict=True)
        )
        side = BLOCK_PX * self.scale
        native = seen.resize(
            (BLOCK_PX, BLOCK_PX), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
        )
        return np.asarray(native)


def _parts(fields: Sequence[Place]) -> Iterator[list[Place]]:
    """The fields, which are in reading order, in parts whose canvases are no larger than one may be."""
    part: list[Place] = []
    for field in fields:
        columns, rows = np.ptp([*part, field], axis=0) + 2  # a field begins at its first block of two by two
        if part and columns * rows > CANVAS_BLOCKS:
            yield part
            part = []
        part.append(field)
    if part:
        yield part


def request_of(window: Window, grid: _Grid, fields: Sequence[Place]) -> Message:
    """What the model is asked: the blocks of the fields, on a canvas that begins at the first of them."""
    blocks = sorted({(x + i, y + j) for x, y in fields for i in (0, 1) for j in (0, 1)}, key=_reading_order)
    first = np.min(blocks, axis=0)
    corners = (np.array(fields) - first) * STEP_PX + CORE_START_PX - MARGIN_PX
    low, high = window.calibration.intensity_range
    return {
        "blocks": np.stack([grid.block(window, place) for place in blocks]),
        "places": ((np.array(blocks) - first) * STEP_PX).astype(np.int32),
        "fields": np.hstack([corners, corners + STEP_PX + 2 * MARGIN_PX]).astype(np.int32),
        # Cellpose takes these percentiles of the image, which would be of the window.
        "lowhigh": np.stack([low, np.maximum(high, np.array(low) + 1.0)], axis=1).astype(np.float64),
    }


def _reading_order(place: Place) -> Place:
    return place[1], place[0]


def _may_hold_cells(window: Window, grid: _Grid, place: Place, stored: CellRange) -> bool:
    """Whether a field has haematoxylin enough for the smallest cell; glass and fat skip the network."""
    (x0, x1), (y0, y1) = (
        grid.needed(index * STEP_PX + CORE_START_PX - MARGIN_PX, STEP_PX + 2 * MARGIN_PX) for index in place
    )
    stain = window.haematoxylin[Box(x0, y0, x1, y1).slices_in(window.box)]
    nuclear = np.count_nonzero(stain >= window.calibration.levels.haematoxylin_at(0.5))
    return bool(nuclear * window.um_per_px**2 >= stored.min_um2)


@dataclass(frozen=True)
class _NativeCell:
    """A label of a field, in native pixels of the scene.

    Attributes:
        centre: x, y of its centroid.
        place: column and row of the field.
        is_cut: it reaches the border of what labels are found in.
    """

    box: Box
    mask: BoolMask
    score: float
    centre: tuple[float, float]
    place: Place
    is_cut: bool

    def outside_px(self) -> float:
        """How far its centroid lies outside the field's core; negative inside, by how far."""
        starts = (index * STEP_PX + CORE_START_PX for index in self.place)
        return max(
            max(start - at, at - (start + STEP_PX)) for start, at in zip(starts, self.centre, strict=True)
        )

    def beats(self, other: _NativeCell) -> bool:
        """Whether the other is the same cell, and this one's field sees it better or comes first."""
        if self.place == other.place or self._rank() > other._rank():
            return False
        return iou(self.box, self.mask, other.box, other.mask) > SAME_IOU

    def _rank(self) -> tuple[bool, Place]:
        return self.outside_px() >= 0, _reading_order(self.place)


def _owned(answer: Message, fields: Sequence[Place]) -> Iterator[_NativeCell]:
    """The labels whose centroids lie in the cores of their fields, or nearly."""
    labels, counts, scores = (array_of(answer, name) for name in ("labels", "counts", "scores"))
    start = 0
    for place, image, count in zip(fields, labels, counts.tolist(), strict=True):
        logits = scores[start : start + count].tolist()
        start += count
        for cell in _cells_of(image, logits, place):
            if cell.outside_px() < SLACK_PX:
                yield cell


def _cells_of(labels: Labels, logits: Sequence[float], place: Place) -> Iterator[_NativeCell]:
    x0, y0 = (index * STEP_PX + CORE_START_PX - MARGIN_PX for index in place)
    height, width = labels.shape
    boxes = label_boxes(labels, len(logits)).tolist()
    for label, ((left, top, right, bottom), logit) in enumerate(zip(boxes, logits, strict=True), 1):
        if not right:
            continue
        mask = labels[top:bottom, left:right] == label
        x, y = mask_centroid(mask)
        yield _NativeCell(
            box=Box(left, top, right, bottom).shifted(x0, y0),
            mask=mask,
            score=1.0 / (1.0 + math.exp(-logit)),
            centre=(x0 + left + x, y0 + top + y),
            place=place,
            is_cut=left == 0 or top == 0 or right == width or bottom == height,
        )


def _without_doubles(cells: Sequence[_NativeCell]) -> list[_NativeCell]:
    """Every cell once: only those near a core's edge can have been found by two fields."""
    doubtful = [cell for cell in cells if abs(cell.outside_px()) <= 2 * SLACK_PX]
    if not doubtful:
        return list(cells)
    x, y = np.array([cell.centre for cell in doubtful]).T
    near = close_pairs(x, y, MARGIN_PX).tolist()
    beaten: set[int] = set()
    for one, other in ((doubtful[i], doubtful[j]) for i, j in near):
        beaten |= {id(loser) for winner, loser in ((one, other), (other, one)) if winner.beats(loser)}
    return [cell for cell in cells if id(cell) not in beaten]


def _at_level_0(cell: _NativeCell, grid: _Grid) -> Detection | None:
    """The cell in level-0 pixels: those where the mask, interpolated bilinearly, is above one half."""
    padded = np.pad(cell.mask, 1).astype(np.float32)
    x0, low_x, share_x = _between(cell.box.x0 - 1, padded.shape[1], grid.scale)
    y0, low_y, share_y = _between(cell.box.y0 - 1, padded.shape[0], grid.scale)
    rows = padded[low_y] * (1.0 - share_y)[:, None] + padded[low_y + 1] * share_y[:, None]
    values = rows[:, low_x] * (1.0 - share_x) + rows[:, low_x + 1] * share_x
    mask = values > 0.5
    if not mask.any():
        return None
    return Detection(*tight(normalise_mask(mask), x0, y0), cell.score)


def _between(start: int, count: int, scale: float) -> tuple[int, NDArray[np.int64], NDArray[np.float64]]:
    """Level-0 pixels along an axis with their centres between those of `count` native ones from `start` on.

    Returns:
        The first of them; and for each, the native pixel before its centre, counted from `start`, and
        the share of the one after it. Where pixels are large there may be none.
    """
    pixels = np.arange(math.floor(start * scale), math.ceil((start + count) * scale))
    at = (pixels + 0.5) / scale - 0.5 - start
    held = (at >= 0.0) & (at < count - 1)
    low = np.floor(at[held]).astype(np.int64)
    return int(pixels[np.argmax(held)]), low, at[held] - low
