"""Deep features of cells: masked pictures of one physical size, and what a network makes of them.

The network lives elsewhere (see `pipeline.models`); nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import CellType
from pipeline.detect.contract import Detection, Window
from pipeline.errors import IncompleteError
from pipeline.measure.crops import RgbImage, crop_box, cut_crop
from pipeline.measure.regions import PackedMasks
from pipeline.models.embedders import ARCHITECTURES, INPUT_SIDE_PX
from pipeline.models.service import Asker

MAX_ASKED = 512
"""Crops in one request: 25 MB, so that a tile of ten thousand nuclei never holds all of them."""

Vectors = NDArray[np.float32]


def column_names(embedder: str) -> list[str]:
    """The columns of an embedder, `deep_<embedder>_0000` and so on."""
    return [f"deep_{embedder}_{index:04d}" for index in range(ARCHITECTURES[embedder].size)]


def embed(
    window: Window,
    detections: Sequence[Detection],
    cell_type: CellType,
    embedder: str,
    asker: Asker,
    tile_id: str,
) -> dict[str, Vectors]:
    """Deep features of cells that lie in a window.

    A cell's vector depends on its own pixels alone, to the last bits in which a network's answer
    depends on the batch.

    Args:
        embedder: a name of `ARCHITECTURES`, by which `asker` knows it.
        tile_id: for errors.

    Returns:
        (n,) float32 for each of `column_names`, in the order of the detections.

    Raises:
        IncompleteError: a vector is zero or not finite, or vectors are missing. A single feature may
            well be zero for all cells of a tile: networks have units that few pictures excite.
        MkhspcError: the model could not answer.
    """
    architecture = ARCHITECTURES[embedder]
    vectors = np.empty((len(detections), architecture.size), np.float32)
    for start in range(0, len(detections), MAX_ASKED):
        some = detections[start : start + MAX_ASKED]
        crops = np.stack(list(masked_crops(window, some, cell_type, architecture.background)))
        answer = asker.ask(embedder, {"crops": crops})["vectors"]
        vectors[start : start + len(some)] = checked(
            answer, (len(some), architecture.size), embedder, f"{cell_type} of tile {tile_id}"
        )
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
        raise IncompleteError(
            f"the {embedder} embedding {fault}",
            where=f"{where}, stage embed",
            fix="check its weights with `mkhspc models verify`; the tile is not written",
        )
    return cast(Vectors, answer)


def _fault(answer: object, shape: tuple[int, ...]) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if not isinstance(answer, np.ndarray) or answer.shape != shape or answer.dtype != np.float32:
        return f"is not {shape[0]} vectors of {shape[1]} numbers"
    bad = int(np.count_nonzero(~np.isfinite(answer).all(axis=1)))
    if bad:
        return f"is not finite (NaN or infinite) for {bad} of {shape[0]} cells"
    empty = int(np.count_nonzero(~answer.any(axis=1)))
    return f"is all zeros for {empty} of {shape[0]} cells" if empty else ""
