"""All measurements of cells, for every cell type alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mkhspc.detect.contract import Detection, Window
from mkhspc.measure.colour import COLOUR_NAMES, colour_features
from mkhspc.measure.context import CONTEXT_NAMES, context_features, ring_means, ring_reach_px
from mkhspc.measure.regions import Floats, PackedMasks
from mkhspc.measure.shape import SHAPE_NAMES, perimeters_px, shape_features
from mkhspc.measure.strips import Strip, over_strips, strips
from mkhspc.measure.texture import TEXTURE_NAMES, texture_features, texture_reach_px

FEATURE_NAMES: tuple[str, ...] = (*SHAPE_NAMES, *COLOUR_NAMES, *CONTEXT_NAMES, *TEXTURE_NAMES)
"""The feature columns of `cells`, in their order; units are in the names where there are any."""


_PERIMETER = "perimeter_px"


def reach_um(um_per_px: float) -> float:
    """How far from a cell its measurements look: what a window must hold around the cells it owns."""
    return max(ring_reach_px(um_per_px), texture_reach_px(um_per_px)) * um_per_px


def measure(window: Window, detections: Sequence[Detection]) -> dict[str, Floats]:
    """Measures cells.

    A cell's numbers depend on its mask, the pixels within `reach_um` of it and the scene's
    calibration: any two windows that hold these give the same bits, whatever else is measured with
    it. All are finite, for cells of a single pixel too. Definitions: `shape_features`,
    `colour_features`, `context_features`, `texture_features`.

    Returns:
        (n,) float64 for each of `FEATURE_NAMES`, in the order of the detections.

    Raises:
        ValueError: see `PackedMasks.from_detections`.
    """
    if not detections:
        return {name: np.empty(0) for name in FEATURE_NAMES}
    um_per_px = window.um_per_px

    def of_strip(strip: Strip) -> dict[str, Floats]:
        return {
            _PERIMETER: perimeters_px(strip),
            **colour_features(window, strip),
            **texture_features(window, strip),
        }

    masks = PackedMasks.from_detections(detections, window.box)
    columns = over_strips(of_strip, strips(window.box, detections, texture_reach_px(um_per_px)))
    rings = over_strips(partial(ring_means, window), strips(window.box, detections, ring_reach_px(um_per_px)))
    columns |= shape_features(masks, columns[_PERIMETER], um_per_px)
    columns |= context_features(rings, columns)
    return {name: columns[name] for name in FEATURE_NAMES}
