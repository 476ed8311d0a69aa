"""The classical detectors on real marrow: what they find, from which compression, and how fast."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from plain_detection import find_hspc, find_mk, stains
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import regionprops
from skimage.segmentation import watershed
from threadpoolctl import threadpool_limits

from compare import Agreement, agreement
from marrow import MkMark, centroids, expert_dots, match_points, mk_by_eye, of_type
from mkhspc.config import CELL_TYPES, CellType, RunConfig
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk
from mkhspc.detect.contract import Detection, Window
from mkhspc.geometry import Box, RgbImage, mask_to_contour
from mkhspc.simulate.truth import Outlines
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.stains import calibrate
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc

Row = dict[str, object]
Found = dict[CellType, list[Detection]]
T = TypeVar("T")

TILE_PX = 4096
FLOOR = 0.003
"""All MK that are stored are looked at here, by their scores."""
SURE = 0.5
"""The score from which on two pictures of one place should hold the same MK: weak ones come and go."""
CALIBRATION_PX = 512
REPEATS = 3


def rows(shared: Path | None, full: bool) -> list[Row]:
    if shared is None:
        return []
    marrow = shared / "data" / "marrow"
    with tempfile.TemporaryDirectory() as scratch:
        zstd = segment(marrow / "marrow.czi", Path(scratch) / "zstd")
        jxr = segment(marrow / "marrow_jxr.czi", Path(scratch) / "jxr")
    return [
        *nuclei_found(shared, zstd),
        *megakaryocytes_found(shared, zstd),
        *same_from_both(zstd, jxr),
        *speed(real_tile(marrow / "marrow.czi")),
    ]


def segment(slide: Path, root: Path) -> pa.Table:
    """The cells of a run that have the filter's areas, under the slide id 'marrow'."""
    done = mkhspc("segment", "--czi-path", slide, "--output-dir", root, "--mk-min-score", FLOOR)
    if done.returncode:
        raise RuntimeError(done.stderr)
    layout = RunLayout(root)
    found = cells.read_cells(layout, manifests.read(layout), slide.stem)
    found = found.filter(found["in_filter"])
    return found.set_column(
        found.column_names.index("slide_id"), "slide_id", pa.array(["marrow"] * len(found))
    )


# What is found


def nuclei_found(shared: Path, found: pa.Table) -> list[Row]:
    dots = expert_dots(shared)
    ours = {scene: centroids(of_type(found, "hspc", scene)) for scene in dots}
    simple = {
        scene: otsu_and_watershed(rgb)
        for scene, rgb in scene_images(shared / "data" / "marrow" / "marrow.czi").items()
    }
    recall, per_dot = against_dots(dots, ours)
    simple_recall, simple_per_dot = against_dots(dots, simple)
    baseline = f"Otsu and watershed: {simple_recall:.3f} at {simple_per_dot:.2f} a dot"
    return [
        _row("HSPC: recall of the expert's dots", recall, "", baseline, ">= 0.94", recall >= 0.94),
        _row("HSPC: detections a dot", per_dot, "", baseline, "<= 1.25", per_dot <= 1.25),
    ]


def against_dots(
    dots: dict[int, NDArray[np.float64]], found: dict[int, NDArray[np.float64]]
) -> tuple[float, float]:
    """Recall, and detections a dot, over all scenes."""
    marked = sum(len(points) for points in dots.values())
    hits = sum(len(match_points(points, found[scene])) for scene, points in dots.items())
    return hits / marked, sum(len(points) for points in found.values()) / marked


def otsu_and_watershed(rgb: RgbImage) -> NDArray[np.float64]:
    """The baseline: what twenty lines find, as centroids x, y."""
    haematoxylin = gaussian(rgb2hed(rgb)[..., 0], 2.0)
    mask = haematoxylin > threshold_otsu(haematoxylin)
    depth = gaussian(ndimage.distance_transform_edt(mask), 1.0)
    peaks = peak_local_max(depth, min_distance=8, labels=mask.astype(np.int32), exclude_border=False)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = regionprops(watershed(-depth, markers, mask=mask))
    return np.array([region.centroid[::-1] for region in regions if region.area > 150])


@dataclass(frozen=True)
class Scored:
    """Candidates for MK of one patient.

    Attributes:
        true: the best score of a candidate on each MK marked by eye, of high or medium confidence; 0 without.
        false: the score of each candidate that is on none of them; those on marks of low confidence left out.
    """

    true: list[float]
    false: list[float]

    def at(self, score: float) -> tuple[int, int]:
        """MK found and false candidates from this score on."""
        return sum(one >= score for one in self.true), sum(one >= score for one in self.false)


def megakaryocytes_found(shared: Path, found: pa.Table) -> list[Row]:
    patients = {
        scene: scored(marks, of_type(found, "mk", scene)) for scene, marks in mk_by_eye(shared).items()
    }
    marked = sum(len(one.true) for one in patients.values())
    usual, held = RunConfig().mk.min_score, [0, 0]
    for scene, patient in patients.items():
        cut = chosen_score([one for other, one in patients.items() if other != scene])
        held = [total + more for total, more in zip(held, patient.at(cut), strict=True)]
    hits, false = (sum(counts) for counts in zip(*(one.at(usual) for one in patients.values()), strict=True))
    sure = sum(one.at(0.5)[0] for one in patients.values())
    what = f"{sure} of {marked} from a score of 0.5 on"
    return [
        _row(f"MK of a patient left out: found, of {marked}", held[0], "", what, ">= 8", held[0] >= 8),
        _row(
            "... false for each true one", held[1] / max(1, held[0]), "", what, "<= 2", held[1] <= 2 * held[0]
        ),
        _row(f"MK in the default filter: found, of {marked}", hits, "", what, ">= 8", hits >= 8),
        _row("... false for each true one", false / max(1, hits), "", what, "<= 2", false <= 2 * hits),
    ]


def scored(marks: list[MkMark], candidates: pa.Table) -> Scored:
    outlines, scores = Outlines.of(candidates), candidates["detector_score"].to_numpy()
    holders = [(mark, outlines.holds(mark.x_px, mark.y_px)) for mark in marks]
    true = [float(scores[those].max(initial=0.0)) for mark, those in holders if mark.confidence != "low"]
    on_marks = {int(index) for _, those in holders for index in those}
    return Scored(true, [float(score) for i, score in enumerate(scores) if i not in on_marks])


def chosen_score(patients: list[Scored]) -> float:
    """The lowest score at which candidates hold at most one false for each true one."""
    scores = sorted({score for one in patients for score in (*one.true, *one.false)}, reverse=True)
    counts = {
        score: [sum(n) for n in zip(*(one.at(score) for one in patients), strict=True)] for score in scores
    }
    return min(score for score, (true, false) in counts.items() if false <= true)


def same_from_both(zstd: pa.Table, jxr: pa.Table) -> list[Row]:
    both = [table.filter(pc.greater_equal(table["detector_score"], SURE)) for table in (zstd, jxr)]
    by_type = {cell_type: agreement(*both, cell_type, min_iou=0.5) for cell_type in CELL_TYPES}
    return [
        _row(
            f"{name}: the same from JPEG-XR as from zstd",
            agreed.f1,
            "F1 at IoU 0.5",
            f"{agreed.paired} pairs, {agreed.only_first} and {agreed.only_second} alone",
            ">= 0.97",
            agreed.f1 >= 0.97,
        )
        for name, agreed in _named(by_type)
    ]


def _named(by_type: dict[CellType, Agreement]) -> list[tuple[str, Agreement]]:
    parts = by_type.values()
    pooled = Agreement(
        sum(part.paired for part in parts),
        sum(part.only_first for part in parts),
        sum(part.only_second for part in parts),
    )
    return [*((cell_type.upper(), part) for cell_type, part in by_type.items()), ("both types", pooled)]


# How fast


def scene_images(slide: Path) -> dict[int, RgbImage]:
    with CziSlide.open(slide) as czi:
        return {scene.index: czi.read(scene.index, scene.box) for scene in czi.info.scenes}


def real_tile(slide: Path) -> Window:
    """A tile full of real marrow: the scenes one below the other, and mirrored where they end."""
    rgb = np.concatenate(list(scene_images(slide).values()))
    missing = [(0, TILE_PX - length) for length in rgb.shape[:2]]
    rgb = np.pad(rgb, [*missing, (0, 0)], mode="symmetric")
    corners = range(0, TILE_PX, CALIBRATION_PX)
    pieces = [rgb[y : y + CALIBRATION_PX, x : x + CALIBRATION_PX] for y in corners for x in corners]
    with CziSlide.open(slide) as czi:
        um_per_px = czi.um_per_px
    return Window(rgb, Box(0, 0, TILE_PX, TILE_PX), um_per_px, calibrate(pieces, um_per_px))


def speed(tile: Window) -> list[Row]:
    """One thread each, in CPU time, so that what else the machine does matters little."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            ours = [timed(lambda: by_detectors(replace(tile))) for _ in range(REPEATS)]
            plain = timed(lambda: plainly(tile))
            weak_s, sure_s = (mk_s(tile, score) for score in (FLOOR, SURE))
    finally:
        cv2.setNumThreads(threads)
    found, (plain_found, plain_nuclei_s) = ours[0][1], plain[1]
    ours_s = statistics.median(taken_s for taken_s, _ in ours)
    by_type = {
        cell_type: agreement(table_of(plain_found, cell_type), table_of(found, cell_type), cell_type, 0.5)
        for cell_type in CELL_TYPES
    }
    counts = " and ".join(f"{table_of(found, t).num_rows} {t.upper()}" for t in CELL_TYPES)
    ratio, nuclei_ratio = plain[0] / ours_s, plain_nuclei_s / ours_s
    return [
        _row(f"both types on a {TILE_PX} px tile: CPU time", 1000.0 * ours_s, "ms", counts, None, None),
        _row(
            "both types: speed against the same steps in plain scikit-image",
            ratio,
            "x",
            f"{plain[0]:.1f} s",
            ">= 4",
            ratio >= 4.0,
        ),
        _row(
            "both types: speed against the plain steps to nuclei alone",
            nuclei_ratio,
            "x",
            f"{plain_nuclei_s:.1f} s",
            ">= 4",
            nuclei_ratio >= 4.0,
        ),
        _row(
            "MK down to the floor over MK from 0.5 on: CPU time",
            weak_s / sure_s,
            "x",
            f"{1000.0 * sure_s:.0f} ms",
            "<= 1.3",
            weak_s <= 1.3 * sure_s,
        ),
        *(_same_as_plain(name, agreed) for name, agreed in _named(by_type)),
    ]


def mk_s(tile: Window, min_score: float) -> float:
    """CPU seconds to find the MK of a tile from a score on, the median of some."""
    stored = replace(RunConfig().stored("mk"), min_score=min_score)
    return statistics.median(
        timed(lambda: ClassicalMk().detect(replace(tile), stored))[0] for _ in range(REPEATS)
    )


def _same_as_plain(name: str, agreed: Agreement) -> Row:
    """A target for all cells together: of a dozen MK, one more or less is 0.04."""
    has_target = name == "both types"
    return _row(
        f"{name}: the same cells as the plain steps find",
        agreed.f1,
        "F1 at IoU 0.5",
        f"{agreed.paired} pairs, {agreed.only_first} plain and {agreed.only_second} ours alone",
        ">= 0.98" if has_target else None,
        agreed.f1 >= 0.98 if has_target else None,
    )


def timed(run: Callable[[], T]) -> tuple[float, T]:
    begun_s = time.process_time()
    result = run()
    return time.process_time() - begun_s, result


def by_detectors(tile: Window) -> Found:
    config = RunConfig()
    return {
        detector.cell_type: list(detector.detect(tile, config.stored(detector.cell_type)))
        for detector in (ClassicalHspc(), ClassicalMk())
    }


def plainly(tile: Window) -> tuple[Found, float]:
    """What the plain steps find, and the time to the nuclei."""
    config = RunConfig()
    begun_s = time.process_time()
    amounts = stains(tile.rgb, tile.calibration)
    nuclei = find_hspc(tile, amounts[0], config.stored("hspc"))
    nuclei_s = time.process_time() - begun_s
    return {"hspc": nuclei, "mk": find_mk(tile, amounts, config.stored("mk"))}, nuclei_s


def table_of(found: Found, cell_type: CellType) -> pa.Table:
    sure = [cell for cell in found[cell_type] if cell.score >= SURE]
    outlines = [mask_to_contour(cell.mask, cell.box.x0, cell.box.y0).ravel() for cell in sure]
    count = len(outlines)
    return pa.table(
        {
            "slide_id": ["tile"] * count,
            "scene": [0] * count,
            "cell_type": [cell_type] * count,
            "contour_px": pa.array(outlines, pa.list_(pa.int32())),
        }
    )


def _row(
    name: str, value: float, unit: str, baseline: str | None, target: str | None, ok: bool | None
) -> Row:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "target": target, "ok": ok}
