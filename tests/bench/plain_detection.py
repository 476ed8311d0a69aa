"""The classical detectors' steps written plainly with scikit-image: images of floats, one cell at a time.

The baseline of their speed, and a check that being quick has not changed what is found. Constants
and the evidence for an MK come from the detectors, so that both sides do the same work. Where
scikit-image has a step of its own, that is taken: its watershed for the power diagram, its exact
distance for the chamfer, its quick decomposition of a disc for large footprints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.color import separate_stains
from skimage.draw import line, polygon2mask
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_local
from skimage.measure import label, regionprops
from skimage.morphology import closing, dilation, disk, opening
from skimage.segmentation import watershed
from skimage.transform import downscale_local_mean, warp_polar

from mkhspc.config import CellRange
from mkhspc.detect.classical import evidence, hspc, mk, nuclei, outline, split
from mkhspc.detect.classical.masks import fits, odd_size, tight
from mkhspc.detect.contract import Detection, Window
from mkhspc.geometry import normalise_mask, um_to_px
from mkhspc.slide.stains import OD_UNIT, SMOOTHING_UM, SceneCalibration, StainLevels

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Point = tuple[int, int]
"""Row and column."""


def stains(rgb: NDArray[np.uint8], calibration: SceneCalibration) -> tuple[Floats, Floats]:
    """Haematoxylin and eosin in 1/128 OD: `rgb2hed` with the scene's own white and vectors."""
    unmix = np.linalg.pinv(np.array([calibration.haematoxylin, calibration.eosin]))
    share = np.minimum(np.maximum(rgb, 1) / np.array(calibration.white), 1.0)
    amounts = separate_stains(share, unmix) * (np.log10(1e6) * OD_UNIT)  # its unit is an OD of 6
    return amounts[..., 0], amounts[..., 1]


def nuclear_pixels(haematoxylin: Floats, levels: StainLevels, um_per_px: float) -> Bools:
    smoothed = gaussian(haematoxylin, SMOOTHING_UM / um_per_px, truncate=3.0)
    local_mean = threshold_local(haematoxylin, odd_size(nuclei.SURROUNDINGS_UM / um_per_px), method="mean")
    typical = levels.haematoxylin_at(nuclei.NUCLEUS_SHARE)
    threshold = typical + nuclei.LOCAL_SHARE * (local_mean - typical)
    is_nuclear: Bools = smoothed >= np.maximum(threshold, levels.haematoxylin_at(nuclei.LOWEST_SHARE))
    return is_nuclear


def find_hspc(window: Window, haematoxylin: Floats, area: CellRange) -> list[Detection]:
    um, levels = window.um_per_px, window.calibration.levels
    mask = _holes_filled(nuclear_pixels(haematoxylin, levels, um), um)
    mask = opening(mask, disk(um_to_px(nuclei.TIP_UM, um)))
    depth = np.minimum(ndimage.distance_transform_edt(mask), split.MAX_DEPTH_UM / um)
    depth = gaussian(depth, split.SMOOTHING_UM / um, truncate=3.0)
    markers = np.zeros(mask.shape, np.int32)
    for number, place in enumerate(_seeds(depth, mask, um), start=1):
        markers[place] = number
    labels = watershed(-depth, markers, mask=dilation(mask, disk(um_to_px(hspc.RIM_UM, um))))
    found = []
    for region in regionprops(labels, haematoxylin):
        own = mask[region.slice] & region.image
        rim, amount = region.image & ~own, region.image_intensity
        outside = amount[rim].mean() if rim.any() else 0.0
        chromatin_um2 = (amount[own] - outside).sum() * um**2 / levels.nuclear_contrast
        if chromatin_um2 >= hspc.MIN_CHROMATIN_UM2:
            top, left, *_ = region.bbox
            box, cell = tight(normalise_mask(own), window.box.x0 + left, window.box.y0 + top)
            if fits(cell, area, um):
                found.append(Detection(box, cell, 1.0))
    return found


def _holes_filled(mask: Bools, um_per_px: float) -> Bools:
    filled = mask.copy()
    for hole in regionprops(label(~mask, connectivity=1)):
        top, left, bottom, right = hole.bbox
        is_short = max(bottom - top, right - left) * um_per_px <= nuclei.HOLE_SIDE_UM
        if is_short and hole.area * um_per_px**2 <= nuclei.HOLE_AREA_UM2:
            filled[hole.slice] |= hole.image
    return filled


def _seeds(depth: Floats, mask: Bools, um_per_px: float) -> list[Point]:
    """Peaks of the depth that lie behind a saddle."""
    radius_px = round(split.SUMMIT_RADIUS_UM / um_per_px)
    peaks = peak_local_max(depth, min_distance=radius_px, labels=mask.astype(np.int32), exclude_border=False)
    height = depth[tuple(peaks.T)]
    is_bump = np.zeros(len(peaks), bool)
    for one, two in cKDTree(peaks).query_pairs(split.SADDLE_RADIUS_UM / um_per_px):
        low, high = (one, two) if height[one] < height[two] else (two, one)
        saddle = depth[line(*peaks[low], *peaks[high])].min()
        is_bump[low] |= bool(saddle >= split.SADDLE_SHARE * height[low])
    return [(row, column) for row, column in peaks[~is_bump].tolist()]


_STEPS = np.array([0, -1, 1])
"""What the options of a path's next radius are, in the order in which they are tried."""


class PlainMk:
    """The steps to the megakaryocytes of one window."""

    def __init__(self, window: Window, amounts: tuple[Floats, Floats]) -> None:
        self.window = window
        self.size = round(mk.BLOCK_UM / window.um_per_px)
        self.um = self.size * window.um_per_px
        levels = window.calibration.levels
        self.typical_eosin = levels.cytoplasm_eosin
        haematoxylin, eosin = (
            self._smooth(downscale_local_mean(amount, (self.size, self.size)), mk.SMOOTHING_UM)
            for amount in amounts
        )
        self.nuclei = nuclear_pixels(haematoxylin, levels, self.um)
        self.eosin = np.clip(np.rint(eosin), 0, 255).astype(np.uint8)
        hidden = dilation(self.nuclei, disk(round(mk.NUCLEAR_EDGE_UM / self.um)))
        filled_in = closing(np.where(hidden, 0.0, eosin), self._disk(mk.LARGEST_LOBE_UM / 2))
        self.body = self._smooth(np.where(hidden, filled_in, eosin), mk.SMOOTHING_UM)

    def find(self, area: CellRange) -> list[Detection]:
        centres = self._plateaus()
        for _ in range(mk.RECENTRINGS):
            centres = sorted({self._recentred(centre) for centre in centres})
        outlines = [(self._score(centre), centre, self._trace(centre)) for centre in centres]
        likely = sorted((one for one in outlines if one[0] >= 0.5), key=lambda one: -one[0])
        kept = [
            one
            for i, one in enumerate(likely)
            if not any(self._is_same(one, better) for better in likely[:i])
        ]
        cells = [self._detection(centre, radii) for _, centre, radii in kept]
        return [cell for cell in cells if fits(cell.mask, area, self.window.um_per_px)]

    def _smooth(self, image: Floats, sigma_um: float) -> Floats:
        smoothed: Floats = gaussian(image, sigma_um / self.um, truncate=3.0)
        return smoothed

    def _disk(self, radius_um: float) -> tuple[tuple[NDArray[np.uint8], int], ...]:
        footprint: tuple[tuple[NDArray[np.uint8], int], ...] = disk(
            round(radius_um / self.um), decomposition="sequence"
        )
        return footprint

    def _plateaus(self) -> list[Point]:
        height = self._smooth(opening(self.body, self._disk(mk.PLATEAU_UM / 2)), mk.PLATEAU_SMOOTHING_UM)
        peaks = peak_local_max(
            height,
            min_distance=round(mk.SUMMIT_RADIUS_UM / self.um),
            threshold_abs=mk.PLATEAU_LEVEL * self.typical_eosin,
            exclude_border=False,
        )
        return [(row, column) for row, column in peaks.tolist()]

    def _trace(self, centre: Point) -> NDArray[np.int64]:
        """(ANGLES,) radii in blocks of the best closed path."""
        samples = int(outline.RAY_UM / self.um)
        shape = (outline.ANGLES, samples)
        gain = self._gain(warp_polar(self.body, centre, radius=samples, output_shape=shape))
        best, came_from = gain[0].copy(), []
        never = np.array([-np.inf])
        for turn in range(1, 2 * outline.ANGLES):  # the middle of two turns is free of their ends
            options = np.stack([best, np.append(never, best[:-1]), np.append(best[1:], never)])
            came_from.append(_STEPS[options.argmax(axis=0)])
            best = options.max(axis=0) + gain[turn % outline.ANGLES]
        radius = int(best.argmax())
        radii = np.zeros(outline.ANGLES, np.int64)
        for turn in range(2 * outline.ANGLES - 1, outline.ANGLES // 2 - 1, -1):
            if turn < outline.ANGLES // 2 + outline.ANGLES:
                radii[turn % outline.ANGLES] = radius
            radius += int(came_from[turn - 1][radius])
        return radii

    def _gain(self, polar: Floats) -> Floats:
        """What an outline gains at each radius (columns) of each ray (rows)."""
        samples = polar.shape[1]
        edge, core, least = (
            max(1, round(length / self.um))
            for length in (outline.EDGE_UM, outline.CORE_UM, outline.MIN_RADIUS_UM)
        )
        level = np.median(polar[:, :core])
        gaps = np.cumsum(polar < outline.GAP_SHARE * level, axis=1)
        gain = np.full_like(polar, -1e6)
        for radius in range(least, samples - edge):
            fall = polar[:, max(radius - edge, 0) : radius].sum(1) - polar[:, radius : radius + edge].sum(1)
            cost = gaps[:, radius - 1] * level * outline.GAP_COST_PER_UM * self.um * edge
            gain[:, radius] = fall - cost
        return gain

    def _corners(self, centre: Point, radii: NDArray[np.int64]) -> Floats:
        """(ANGLES, 2) row, column of an outline."""
        turn = 2.0 * np.pi * np.arange(outline.ANGLES) / outline.ANGLES
        return np.array(centre) + radii[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1)

    def _recentred(self, centre: Point) -> Point:
        radii = self._trace(centre)
        rows, columns = np.nonzero(polygon2mask(self.body.shape, self._corners(centre, radii)))
        limit = round(mk.RECENTRE_UM / self.um)
        moves = (np.rint(values.mean() - own) for values, own in zip((rows, columns), centre, strict=True))
        row, column = (
            int(own + np.clip(move, -limit, limit)) for own, move in zip(centre, moves, strict=True)
        )
        return row, column

    def _log_odds(self, centre: Point) -> float:
        reach = int(outline.RAY_UM / self.um) + round(evidence.SURROUNDINGS_UM / self.um) + 1
        (top, bottom), (left, right) = (
            (max(0, at - reach), min(size, at + reach + 1))
            for at, size in zip(centre, self.body.shape, strict=True)
        )
        corners = self._corners(centre, self._trace(centre)) - (top, left)
        cell = polygon2mask((bottom - top, right - left), corners)
        part = np.s_[top:bottom, left:right]
        patch = evidence.Patch(cell, self.nuclei[part], self.eosin[part], self.um)
        found = evidence.gather(patch, self.typical_eosin)
        return -evidence.SUREST if found is None else found.log_odds

    def _score(self, centre: Point) -> float:
        own = self._log_odds(centre)
        if own <= mk.HOPELESS:
            return 0.0
        turn = 2.0 * np.pi * np.arange(mk.STARTS) / mk.STARTS
        ring = np.rint(mk.START_RING_UM / self.um * np.stack([np.sin(turn), np.cos(turn)], axis=1))
        last = np.array(self.body.shape) - 1
        starts = np.clip(np.array(centre) + ring, 0, last).astype(int).tolist()
        mean = np.mean([own, *(self._log_odds((row, column)) for row, column in starts)])
        return float(1.0 / (1.0 + np.exp(-mean)))

    def _is_same(
        self, one: tuple[float, Point, NDArray[np.int64]], two: tuple[float, Point, NDArray[np.int64]]
    ) -> bool:
        (_, a, radii_a), (_, b, radii_b) = one, two
        apart = np.hypot(a[0] - b[0], a[1] - b[1])
        towards = round(np.arctan2(b[0] - a[0], b[1] - a[1]) / (2.0 * np.pi) * outline.ANGLES)
        back = towards + outline.ANGLES // 2
        holds = apart <= max(radii_a[towards % outline.ANGLES], radii_b[back % outline.ANGLES])
        return bool(holds and apart * self.um <= mk.SAME_CELL_UM)

    def _detection(self, centre: Point, radii: NDArray[np.int64]) -> Detection:
        reach = (int(radii.max()) + 2) * self.size
        corner = (np.array(centre) * self.size - reach).tolist()
        around = (np.array(centre) + 0.5) * self.size
        corners = (self._corners(centre, radii) - centre) * self.size + around - corner - 0.5
        mask = normalise_mask(polygon2mask((2 * reach, 2 * reach), corners))
        return Detection(*tight(mask, self.window.box.x0 + corner[1], self.window.box.y0 + corner[0]), 1.0)


def find_mk(window: Window, amounts: tuple[Floats, Floats], area: CellRange) -> list[Detection]:
    return PlainMk(window, amounts).find(area)
