"""What every detector takes and gives: the classical ones today, SAM2 and Cellpose alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AreaRange, CellType
from pipeline.geometry import BoolMask, Box
from pipeline.slide.stains import SceneCalibration, Stains, separate


@dataclass(frozen=True)
class Window:
    """A piece of a scene to search, with all that is known of it.

    Attributes:
        rgb: (height, width, 3) uint8, channels red, green, blue; white outside the scan.
        box: where it lies, in level-0 pixels of the scene; `rgb` covers exactly this box.
        um_per_px: pixel size.
        calibration: stain vectors and thresholds of the scene.
    """

    rgb: NDArray[np.uint8]
    box: Box
    um_per_px: float
    calibration: SceneCalibration

    @cached_property
    def stains(self) -> Stains:
        """Haematoxylin and eosin of every pixel, separated once for all who need them."""
        return separate(self.rgb, self.calibration)

    def part(self, box: Box) -> Window:
        """The part of this window inside `box`: views of its pixels and stains, not copies."""
        box = box.clipped(self.box)
        here = box.slices_in(self.box)
        part = replace(self, rgb=self.rgb[here], box=box)
        part.__dict__["stains"] = self.stains.part(here)  # the place that `cached_property` looks at first
        return part


@dataclass(frozen=True)
class Detection:
    """One cell: a mask no larger than its bounding box.

    Attributes:
        box: bounding box in level-0 pixels of the scene.
        mask: (box.height, box.width) bool, normalised (one 4-connected piece without holes) and
            tight: every border row and column holds a pixel.
        score: the detector's confidence, 0 to 1.
    """

    box: Box
    mask: BoolMask
    score: float


class Detector(Protocol):
    """Finds the cells of one type in a window.

    A detector's answer for a cell may depend on nothing farther than `reach_um` from the cell, so
    that any two windows which contain a cell with that margin find the same cell. It uses the
    thresholds of the window's calibration, never statistics of the window itself.

    Its `revision` changes with every change of the cells that it finds. A run keeps it, so that no
    table holds cells of two revisions.
    """

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def cell_type(self) -> CellType: ...

    @property
    def reach_um(self) -> float: ...

    def detect(self, window: Window, area: AreaRange) -> Sequence[Detection]:
        """Cells of `area`'s sizes and at most `area.max_length_um` long, in any order.

        Cells that touch the window's border may be missing or cut: the window that holds their
        centroid in its core sees them whole.
        """
        ...
