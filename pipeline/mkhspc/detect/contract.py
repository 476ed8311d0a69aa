"""What every detector takes and gives, whether classical or by SAM2 or Cellpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellRange, CellType
from mkhspc.geometry import BoolMask, Box, um_to_px
from mkhspc.slide.stains import SceneCalibration, Stain, separate

MIDDLE_SHARE = 2 / 3
"""The largest distance between a cell's centroid and any of its points, as a share of the cell's length. It
holds for convex cells: a centroid divides no chord worse than 1 to 2 (Minkowski and Radon)."""


@dataclass(frozen=True)
class Window:
    """A piece of a scene in which cells are sought.

    Attributes:
        rgb: (height, width, 3) uint8, channels red, green, blue; white outside the scan.
        box: where it lies, in level-0 pixels of the scene; `rgb` covers exactly this box.
        um_per_px: pixel size.
        calibration: stain vectors and thresholds of the scene.
        wanted: only cells with centroids in this box are wanted; what lies outside it matters only as far as
            they depend on it. None where all cells of the window are wanted.
        stained: a window inside this one whose stains are separated already and kept; None without one.
    """

    rgb: NDArray[np.uint8]
    box: Box
    um_per_px: float
    calibration: SceneCalibration
    wanted: Box | None = None
    stained: Window | None = None
    _whole: Window | None = field(default=None, init=False, repr=False, compare=False)

    @cached_property
    def haematoxylin(self) -> NDArray[np.uint8]:
        """(height, width) uint8 in 1/128 optical density; separated when it is first asked for, and kept."""
        return self._amounts("haematoxylin")

    @cached_property
    def eosin(self) -> NDArray[np.uint8]:
        """(height, width) uint8, like `haematoxylin`."""
        return self._amounts("eosin")

    def amounts(self, stain: Stain) -> NDArray[np.uint8]:
        """`haematoxylin` or `eosin`."""
        return self.haematoxylin if stain == "haematoxylin" else self.eosin

    def _amounts(self, stain: Stain) -> NDArray[np.uint8]:
        if self._whole is None:
            return separate(self.rgb, self.calibration, stain)
        return self._whole.amounts(stain)[self.box.slices_in(self._whole.box)]

    def part(self, box: Box, wanted: Box | None = None) -> Window:
        """The part of this window inside `box`, which shares its pixels and its stains.

        Args:
            wanted: see `Window`; this window's by default.
        """
        part = replace(self.apart(box), wanted=wanted or self.wanted)
        object.__setattr__(part, "_whole", self)
        return part

    def apart(self, box: Box) -> Window:
        """The part of this window inside `box`, which shares its pixels; its stains are its own."""
        box = box.clipped(self.box)
        return replace(self, rgb=self.rgb[box.slices_in(self.box)], box=box)


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


@dataclass(frozen=True)
class NeededCells:
    """Which cells of one type a tile has to know: its own, and some of its neighbours'.

    Each has its centroid near the tile's core and a point nearer still. A detector goes by whichever of the
    two lets it see less.

    Attributes:
        longest_um: none of them is longer.
        centroid_um: their centroids lie no farther outside the core than this; 0 for the tile's own cells.
        point_um: nor does the nearest point of each lie farther outside the core than this.
    """

    longest_um: float
    centroid_um: float = 0.0
    point_um: float = 0.0

    def centroids(self, core: Box, um_per_px: float) -> Box:
        """Where their centroids lie, in level-0 pixels of the scene as the core."""
        return core.grown(um_to_px(self.centroid_um, um_per_px))


class Detector(Protocol):
    """Finds the cells of one type in a window.

    A detector itself says what it must see to find a tile's cells: `seen_box`. So any two windows that
    hold what it asks for find the same cell. It uses the thresholds of the window's calibration, never
    statistics of the window itself.

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
    def longest_um(self) -> float:
        """No cell of the sizes that a run stores is found longer: `math.inf` where these alone decide."""
        ...

    def halo_um(self, needed: NeededCells) -> float:
        """How far outside a core the answers for these cells depend on the scene, wherever the core lies."""
        ...

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        """All that the answers for these cells depend on, in level-0 pixels of the scene.

        No side lies farther from the core than `halo_um`.
        """
        ...

    def detect(self, window: Window, stored: CellRange) -> Sequence[Detection]:
        """Cells of the sizes and scores that are stored, at most `stored.max_length_um` long, in any order.

        Cells that touch the window's border may be missing or cut, and so may those with centroids
        outside `window.wanted`: the window that holds their centroid in its core sees them whole.
        """
        ...


@runtime_checkable
class CountsOutcomes(Protocol):
    """A detector that counts what became of a model's outlines; a tile's counts go to the run's journal."""

    @property
    def outcomes(self) -> Counter[str]:
        """Prompts or cells so far by what became of them; whoever reads it may clear it."""
        ...
