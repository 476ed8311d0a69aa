"""Deep features of cells by SAM2's image encoder: its embedding of the surroundings, pooled under the mask.

Cells that SAM2 found bring theirs along. For the others windows of one physical size are encoded, which lie
on a grid of the scene, as those do in which SAM2 looks for cells: what surrounds a cell there does not depend
on the tile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.contract import Detection, Window
from mkhspc.detect.sam2 import EmbeddedDetection
from mkhspc.detect.window_grid import WindowGrid
from mkhspc.geometry import Box
from mkhspc.measure.embed import Vectors, checked, place_of, refuse_zero_columns
from mkhspc.measure.regions import PackedMasks
from mkhspc.models.service import Message, ModelService, errors_at

SIZE = 256
"""A cell has this many features, the channels of the encoder's embedding."""


def column_names() -> list[str]:
    """`deep_sam2_0000` and so on."""
    return [f"deep_sam2_{index:04d}" for index in range(SIZE)]


def reach_um(longest_um: float) -> float:
    """From a cell's centroid to the far side of its window."""
    grid = WindowGrid.of(longest_um, 1.0)
    return float(grid.cell_px + grid.margin_px + 2)


def seen_box(core: Box, longest_um: float, um_per_px: float) -> Box:
    """The windows of all cells with centroids in a box."""
    grid = WindowGrid.of(longest_um, um_per_px)
    return grid.spanned(core).grown(grid.margin_px)


def embed(
    window: Window, detections: Sequence[Detection], longest_um: float, service: ModelService, where: str
) -> dict[str, Vectors]:
    """Deep features of cells that lie in a window, with `reach_um` around each.

    Args:
        longest_um: no cell is longer, `CellRange.max_length_um` of what is stored.
        where: for errors, such as the tile's id and the type of cell.

    Returns:
        (n,) float32 for each of `column_names`, in the order of the detections.

    Raises:
        IncompleteError: a vector is zero or not finite, or a column is zero for all cells: the encoder
            ends without a rectification.
        MkhspcError: the model could not answer.
    """
    vectors = np.empty((len(detections), SIZE), np.float32)
    without = []
    for place, detection in enumerate(detections):
        if isinstance(detection, EmbeddedDetection):
            vectors[place] = detection.features
        else:
            without.append(place)
    for places, request in _requests(window, detections, without, longest_um):
        with errors_at(place_of(where)):
            answer = service.ask("sam2", request)["features"]
        vectors[places] = checked(answer, (len(places), SIZE), "sam2", where)
    checked(vectors, vectors.shape, "sam2", where)
    refuse_zero_columns(vectors, 0.0, "sam2", where)
    return dict(zip(column_names(), np.ascontiguousarray(vectors.T), strict=True))


def _requests(
    window: Window, detections: Sequence[Detection], places: Sequence[int], longest_um: float
) -> Iterator[tuple[NDArray[np.intp], Message]]:
    """The cells of each square of the grid, by their places, and what is asked about them."""
    if not places:
        return
    grid = WindowGrid.of(longest_um, window.um_per_px)
    own = [detections[place] for place in places]
    squares = grid.squares_of(PackedMasks.from_detections(own, window.box).centroids_px)
    for column, row in np.unique(squares, axis=0).tolist():
        here = np.flatnonzero((squares == (column, row)).all(axis=1))
        seen = grid.square(column, row).grown(grid.margin_px)
        if seen.clipped(window.box) != seen:
            raise ValueError(f"the window does not hold {seen}, which its cells' features need")
        yield np.array(places)[here], _request(window, seen, [own[i] for i in here])


def _request(
    window: Window, seen: Box, cells: Sequence[Detection]
) -> Mapping[str, str | NDArray[np.generic]]:
    rgb = np.ascontiguousarray(window.rgb[seen.slices_in(window.box)])
    boxes = [cell.box.shifted(-seen.x0, -seen.y0) for cell in cells]
    return {
        "kind": "pool",
        "key": hashlib.blake2b(rgb.data, digest_size=16).hexdigest(),
        "rgb": rgb,
        "boxes": np.array([(b.x0, b.y0, b.x1, b.y1) for b in boxes], np.int32),
        "masks": np.concatenate([cell.mask.ravel() for cell in cells]),
    }
