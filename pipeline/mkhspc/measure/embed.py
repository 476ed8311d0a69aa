"""Deep features of cells: masked pictures of one physical size, and what a network makes of them.

The network lives elsewhere (see `mkhspc.models`); nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellType
from mkhspc.detect.contract import Detection, Window
from mkhspc.errors import IncompleteError
from mkhspc.geometry import RgbImage
from mkhspc.measure.crops import crop_box, cut_crop
from mkhspc.measure.regions import PackedMasks
from mkhspc.models.embedders import ARCHITECTURES, INPUT_SIDE_PX
from mkhspc.models.service import ModelService, errors_at

MAX_ASKED = 256
"""The most crops in one request, 13 MB: a tile of ten thousand nuclei never holds all of them."""
ENOUGH_CELLS = 8
"""The least number of cells from which columns that are zero for all of them say something of the network."""
MOST_ZERO_COLUMNS = 0.95
"""The largest share of columns that may be zero for all cells of a tile. These networks end with a
rectification, so some are: 0.47 to 0.62 of EfficientNet-Lite0's for 8 cells of a simulated slide, and 0.88
for pictures of nothing."""

Vectors = NDArray[np.float32]


def column_names(embedder: str) -> list[str]:
    """The columns of an embedder, `deep_<embedder>_0000` and so on."""
    return [f"deep_{embedder}_{index:04d}" for index in range(ARCHITECTURES[embedder].size)]


def embed(
    window: Window,
    detections: Sequence[Detection],
    cell_type: CellType,
    embedder: str,
    service: ModelService,
    tile_id: str,
) -> dict[str, Vectors]:
    """Deep features of cells that lie in a window.

    A cell's vector depends on its own pixels alone, to the last bits in which a network's answer
    depends on the batch.

    Args:
        embedder: a name of `ARCHITECTURES`, which `service` is asked for.
        tile_id: for errors.

    Returns:
        (n,) float32 for each of `column_names`, in the order of the detections.

    Raises:
        IncompleteError: a vector is zero or not finite, or vectors are missing; or so many columns are
            zero for all cells that the network cannot have looked at them. A single one may well be.
        MkhspcError: the model could not answer.
    """
    architecture = ARCHITECTURES[embedder]
    where = f"{cell_type} of tile {tile_id}"
    vectors = np.empty((len(detections), architecture.size), np.float32)
    for start in range(0, len(detections), MAX_ASKED):
        some = detections[start : start + MAX_ASKED]
        crops = np.empty((len(some), INPUT_SIDE_PX, INPUT_SIDE_PX, 3), np.uint8)
        for nth, crop in enumerate(masked_crops(window, some, cell_type, architecture.background)):
            crops[nth] = crop
        with errors_at(place_of(where)):
            answer = service.ask(embedder, {"crops": crops})["vectors"]
        vectors[start : start + len(some)] = checked(answer, (len(some), architecture.size), embedder, where)
    refuse_zero_columns(vectors, MOST_ZERO_COLUMNS, embedder, where)
    return dict(zip(column_names(embedder), np.ascontiguousarray(vectors.T), strict=True))


def masked_crops(
    window: Window, detections: Sequence[Detection], cell_type: CellType, background: tuple[int, int, int]
) -> Iterator[RgbImage]:
    """The cells alone, each (side, side, 3) uint8 of `INPUT_SIDE_PX` around its centroid.

    They show as many µm as the crops of the gallery. What is not the cell has the background's
    colour: the answer must tell of the cell and not of its neighbours, nor where the tile ends.
    """
    centroids = PackedMasks.from_detections(detections, window.box).centroids_px.tolist()
    for (x_px, y_px), detection in zip(centroids, detections, strict=True):
        box = crop_box(x_px, y_px, cell_type, window.um_per_px)
        seen = detection.box.clipped(box)
        cell = np.zeros((box.height, box.width), np.bool_)
        cell[seen.slices_in(box)] = detection.mask[seen.slices_in(detection.box)]
        crop = cut_crop(window, box)
        crop[~cell] = background
        shrinks = box.width > INPUT_SIDE_PX
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        yield np.asarray(cv2.resize(crop, (INPUT_SIDE_PX, INPUT_SIDE_PX), interpolation=how), np.uint8)


def checked(answer: object, shape: tuple[int, ...], embedder: str, where: str) -> Vectors:
    """An embedder's answer, when it is one vector a cell and none of them is nothing.

    Raises:
        IncompleteError: it is not.
    """
    fault = _fault(answer, shape)
    if fault:
        raise _refusal(fault, embedder, where)
    return cast(Vectors, answer)


def refuse_zero_columns(vectors: Vectors, most: float, embedder: str, where: str) -> None:
    """Refuses the vectors of a tile's cells when too many columns are zero for all of them.

    Args:
        most: the largest share of columns that may be.

    Raises:
        IncompleteError: there are more, and cells enough to tell.
    """
    count, size = vectors.shape
    zero = size - int(np.count_nonzero(vectors.any(axis=0)))
    if count >= ENOUGH_CELLS and zero > most * size:
        raise _refusal(f"is zero for all of {count} cells in {zero} of {size} columns", embedder, where)


def _refusal(fault: str, embedder: str, where: str) -> IncompleteError:
    return IncompleteError(
        f"the {embedder} embedding {fault}",
        where=place_of(where),
        fix="check its weights with `mkhspc models verify`; the tile is not written",
    )


def place_of(where: str) -> str:
    """The cells' tile, with what was done there."""
    return f"{where}, stage embed"


def _fault(answer: object, shape: tuple[int, ...]) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if not isinstance(answer, np.ndarray) or answer.shape != shape or answer.dtype != np.float32:
        return f"is not {shape[0]} vectors of {shape[1]} numbers"
    bad = int(np.count_nonzero(~np.isfinite(answer).all(axis=1)))
    if bad:
        return f"is not finite (NaN or infinite) for {bad} of {shape[0]} cells"
    empty = int(np.count_nonzero(~answer.any(axis=1)))
    return f"is all zeros for {empty} of {shape[0]} cells" if empty else ""
