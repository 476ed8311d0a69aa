"""The classical detectors on simple drawn cells, on simulated marrow and on real marrow."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from marrow import expert_dots, match_points, mk_by_eye
from mkhspc.config import CellRange, CellType, RunConfig
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk, hspc, masks, mk, nuclei, outline, split
from mkhspc.detect.classical.blocks import BlockGrid, side_px
from mkhspc.detect.contract import Detection, Detector, NeededCells, Window
from mkhspc.geometry import BoolMask, Box, mask_centroid, mask_length_px, mask_to_contour, normalise_mask
from mkhspc.simulate import SlideSpec, match_truth, read_truth, write_demo_slides
from mkhspc.simulate.by_kind import score_mk
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.stains import SMOOTHING_UM, SceneCalibration, calibrate
from stained import NUCLEUS_OD, Field

DETECTORS: dict[CellType, Detector] = {"hspc": ClassicalHspc(), "mk": ClassicalMk()}
STORED = {t: RunConfig().stored(t) for t in DETECTORS}
FILTER = {t: RunConfig().cells(t).filter for t in DETECTORS}
BOTH = pytest.mark.parametrize("cell_type", list(DETECTORS))


def found(cell_type: CellType, window: Window) -> list[Detection]:
    return list(DETECTORS[cell_type].detect(window, STORED[cell_type]))


SURE = 0.5
"""The score of what is as likely a cell as not: weak candidates come and go with the noise."""


def in_filter(cell_type: CellType, window: Window, min_score: float = SURE) -> list[Detection]:
    """Cells of the default filter's areas with a score of at least `min_score`."""
    area = FILTER[cell_type]
    um2 = window.um_per_px**2
    fits = [d for d in found(cell_type, window) if area.min_um2 <= d.mask.sum() * um2 <= area.max_um2]
    return [d for d in fits if d.score >= min_score]


def centroids(cells: list[Detection]) -> np.ndarray:
    points = [mask_centroid(cell.mask) for cell in cells]
    corners = [(cell.box.x0, cell.box.y0) for cell in cells]
    return np.array(points).reshape(-1, 2) + np.array(corners).reshape(-1, 2)


def overlap(cell: Detection, truth: BoolMask) -> float:
    """IoU of a detection with a mask of the whole window (which begins at 0, 0)."""
    drawn = np.zeros_like(truth)
    drawn[cell.box.slices_in(Box(0, 0, truth.shape[1], truth.shape[0]))] = cell.mask
    return float((drawn & truth).sum() / (drawn | truth).sum())


# Drawn cells


@pytest.mark.parametrize("um_per_px", [0.1725, 0.22, 0.35, 0.5])
def test_a_nucleus_is_outlined(um_per_px):
    field = Field(60.0, 60.0, um_per_px)
    nucleus = field.nucleus(30.0, 28.0, 4.0, 3.0)
    cells = found("hspc", field.window())
    assert len(cells) == 1
    assert overlap(cells[0], nucleus) > 0.8


def test_touching_nuclei_are_two():
    field = Field(60.0, 60.0)
    first, second = field.nucleus(26.0, 28.0, 3.2), field.nucleus(31.5, 28.0, 3.2)
    cells = found("hspc", field.window())
    assert len(cells) == 2
    assert sorted(max(overlap(cell, one) for cell in cells) > 0.8 for one in (first, second)) == [True, True]


def test_a_pale_nucleus_with_a_dark_envelope_is_filled():
    field = Field(60.0, 60.0)
    nucleus = field.nucleus(30.0, 30.0, 4.5)
    field.nucleus(30.0, 30.0, 2.0, od=0.1)
    cells = found("hspc", field.window())
    assert len(cells) == 1
    assert overlap(cells[0], nucleus) > 0.8


def test_what_holds_little_haematoxylin_is_no_nucleus():
    """A shadow as large as a nucleus, and a speck as dark as one."""
    field = Field(60.0, 60.0)
    field.nucleus(20.0, 30.0, 2.2, od=0.35 * NUCLEUS_OD)
    field.nucleus(40.0, 30.0, 1.3)
    assert found("hspc", field.window()) == []


def test_sizes_and_lengths_outside_the_range_are_left_out():
    field = Field(120.0, 60.0)
    field.nucleus(20.0, 30.0, 3.0)
    field.nucleus(45.0, 30.0, 5.0)
    field.nucleus(90.0, 30.0, 9.0, 1.5)
    window = field.window()
    assert sorted(round(cell.box.x0 * 0.22 + 0.3) for cell in found("hspc", window)) == [17, 40, 81]
    only_small = ClassicalHspc().detect(window, CellRange(10.0, 50.0))  # none longer than 11 µm
    assert [round(cell.box.x0 * 0.22 + 0.3) for cell in only_small] == [17]


@pytest.mark.parametrize("rows", [1, 37, 100])
def test_nuclei_are_the_same_however_the_window_is_cut_into_bands(rows, monkeypatch):
    field = Field(60.0, 60.0)
    rng = np.random.default_rng(rows)
    for x, y in rng.uniform(0.0, 60.0, (40, 2)):
        field.nucleus(x, y, *rng.uniform(1.5, 4.5, 2))
    window = field.window()
    whole = found("hspc", window)
    assert len(whole) > 10
    assert window.box.height > max(2 * rows, 200)
    for module, name in ((masks, "BAND_ROWS"), (split, "BAND_ROWS"), (hspc, "CONTENT_ROWS")):
        monkeypatch.setattr(module, name, rows)
    cut = found("hspc", window)
    assert [(d.box, d.score) for d in cut] == [(d.box, d.score) for d in whole]
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(cut, whole, strict=True))


@pytest.mark.parametrize("um_per_px", [0.1725, 0.22, 0.35, 0.5])
def test_a_megakaryocyte_is_outlined_whole(um_per_px):
    field = Field(120.0, 120.0, um_per_px)
    body = field.body(60.0, 58.0, 12.0)
    for x, y in ((57.0, 56.0), (62.0, 57.0), (59.0, 62.0)):
        field.nucleus(x, y, 3.4, od=0.6 * NUCLEUS_OD)
    cells = found("mk", field.window())
    assert len(cells) == 1
    assert overlap(cells[0], body) > 0.85


@pytest.mark.parametrize("offset_um", [0.0, 4.0, 6.5])
def test_the_nucleus_may_lie_anywhere_in_the_cell(offset_um):
    field = Field(120.0, 120.0)
    body = field.body(60.0, 60.0, 12.0)
    field.nucleus(60.0 + offset_um, 60.0, 4.5)
    cells = found("mk", field.window())
    assert len(cells) == 1
    assert overlap(cells[0], body) > 0.85


def test_a_crowd_of_nuclei_without_a_body_of_its_own_is_no_megakaryocyte():
    field = Field(120.0, 120.0)
    for x in np.arange(48.0, 72.0, 5.6):
        for y in np.arange(48.0, 72.0, 5.6):
            field.nucleus(x, y, 2.6)
    assert found("mk", field.window()) == []


def test_a_ball_of_eosin_without_a_nucleus_is_no_megakaryocyte():
    field = Field(120.0, 120.0)
    field.body(60.0, 60.0, 12.0, od=0.6)
    assert found("mk", field.window()) == []


def test_a_large_nucleus_in_ordinary_tissue_is_no_megakaryocyte():
    field = Field(120.0, 120.0)
    field.nucleus(60.0, 60.0, 6.5)
    assert found("mk", field.window()) == []


# Windows


@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (3, 4), (60, 2), (30, 30)])
def test_a_window_of_any_size_can_be_searched(cell_type, shape):
    field = Field(60.0, 60.0)
    field.nucleus(3.0, 3.0, 4.0)
    whole = field.window()
    part = replace(
        whole,
        rgb=np.ascontiguousarray(whole.rgb[: shape[0], : shape[1]]),
        box=Box(-7, 3, shape[1] - 7, shape[0] + 3),
    )
    assert all(cell.box == cell.box.clipped(part.box) for cell in found(cell_type, part))


@BOTH
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (214, 120, 180)])
def test_an_even_window_holds_no_cell_inside(cell_type, colour):
    field = Field(100.0, 100.0)
    window = replace(field.window(), rgb=np.full((454, 454, 3), colour, np.uint8), box=Box(0, 0, 454, 454))
    inner = window.box.grown(-100)
    ends = [(cell.box.x1, cell.box.y1) for cell in found(cell_type, window)]
    assert not [(x, y) for x, y in ends if inner.x0 <= x < inner.x1 and inner.y0 <= y < inner.y1]


# Simulated marrow


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small simulated slides of 0.22 and 0.1725 µm/px, with their truth."""
    folder = tmp_path_factory.mktemp("simulated")
    specs = (
        SlideSpec("DEMO_A", "F", "HU", sizes_um=((420.0, 400.0),)),
        SlideSpec("DEMO_B", "M", "HU", um_per_px=0.1725, sizes_um=((380.0, 380.0),)),
    )
    write_demo_slides(folder, specs=specs)
    return folder


def scene_window(path: Path, scene: int) -> Window:
    """A whole scene, calibrated on a grid of windows over it."""
    with CziSlide.open(path) as slide:
        box = slide.scene(scene).box
        rgb = slide.read(scene, box)
        return Window(rgb, box, slide.um_per_px, calibrate(pieces(rgb), slide.um_per_px))


def pieces(rgb: np.ndarray, size: int = 400) -> list[np.ndarray]:
    height, width = rgb.shape[:2]
    corners = [(y, x) for y in range(0, height - size, size) for x in range(0, width - size, size)]
    return [rgb[y : y + size, x : x + size] for y, x in corners]


def table_of(slide_id: str, cell_type: CellType, cells: list[Detection]) -> pa.Table:
    at = centroids(cells)
    contours = [mask_to_contour(cell.mask, cell.box.x0, cell.box.y0).ravel() for cell in cells]
    count = len(cells)
    return pa.table(
        {
            "slide_id": [slide_id] * count,
            "scene": pa.array([0] * count, pa.int32()),
            "cell_type": [cell_type] * count,
            "x_px": at[:, 0],
            "y_px": at[:, 1],
            "contour_px": pa.array(contours, pa.list_(pa.int32())),
        }
    )


@pytest.mark.slow
def test_simulated_cells_are_found(simulated):
    tables = []
    for slide_id in ("DEMO_A", "DEMO_B"):
        window = scene_window(simulated / f"{slide_id}.czi", 0)
        tables += [table_of(slide_id, t, in_filter(t, window)) for t in DETECTORS]
    score = match_truth(read_truth(simulated / "truth.parquet"), pa.concat_tables(tables))
    assert score.hspc.f1 >= 0.98
    # Some thirty MK: one more or less is 0.015.
    assert score.mk.recall >= 0.95
    assert score.mk.f1 >= 0.95


@pytest.mark.slow
def test_weak_candidates_bring_every_simulated_mk_at_less_than_two_false_each(simulated):
    tables = []
    for slide_id in ("DEMO_A", "DEMO_B"):
        window = scene_window(simulated / f"{slide_id}.czi", 0)
        tables.append(table_of(slide_id, "mk", in_filter("mk", window, FILTER["mk"].min_score)))
    score = score_mk(read_truth(simulated / "truth.parquet"), pa.concat_tables(tables))
    assert score.recall == 1.0
    assert score.false_per_true <= 2.0


def test_a_lower_floor_adds_candidates_and_changes_none(simulated):
    window = scene_window(simulated / "DEMO_A.czi", 0)
    at = {
        floor: {(c.box, c.mask.tobytes(), c.score) for c in ClassicalMk().detect(window, stored)}
        for floor in (0.003, 0.02, 0.5)
        for stored in [replace(STORED["mk"], min_score=floor)]
    }
    for low, high in ((0.003, 0.02), (0.02, 0.5)):
        assert at[high] == {cell for cell in at[low] if cell[2] >= high}
        assert len(at[high]) < len(at[low])


@BOTH
def test_detections_keep_the_contract(simulated, cell_type):
    window = scene_window(simulated / "DEMO_A.czi", 0)
    cells = found(cell_type, window)
    assert len(cells) > 10
    for cell in cells:
        assert cell.mask.shape == (cell.box.height, cell.box.width)
        assert cell.box == cell.box.clipped(window.box)
        assert np.array_equal(normalise_mask(cell.mask), cell.mask)
        assert cell.mask[0].any()
        assert cell.mask[-1].any()
        assert cell.mask[:, 0].any()
        assert cell.mask[:, -1].any()
        assert (0.5 if cell_type == "hspc" else STORED["mk"].min_score) <= cell.score <= 1.0


@pytest.mark.parametrize("um_per_px", [0.1, 0.1725, 0.22, 0.35, 0.5, 1.0])
def test_no_mk_is_longer_than_the_detector_says(um_per_px):
    """Windows are no wider than that needs: the widest outline that rays allow is drawn here."""
    grid = BlockGrid.over(Box(0, 0, 2000, 2000), um_per_px, mk.BLOCK_UM)
    widest = outline.Rays.of(grid.um_per_block).dx.shape[1] - 1
    cell = mk._detection(grid, mk.Candidate((50, 50), np.full(outline.ANGLES, widest), 1.0))
    length_um = mask_length_px(cell.mask) * um_per_px
    assert 0.95 * 2 * outline.RAY_UM < length_um <= ClassicalMk().longest_um


# Invariance: any two windows with the detector's halo around a point of a cell find the same cell.


def same_inside(cell_type: CellType, scene: Window, first: Box, second: Box) -> int:
    """Asserts that both windows find the same cells where both see far enough; how many those are."""
    longest_um = min(STORED[cell_type].max_length_um, DETECTORS[cell_type].longest_um)
    halo_px = math.ceil(DETECTORS[cell_type].halo_um(NeededCells(longest_um)) / scene.um_per_px)
    common = first.clipped(second).grown(-halo_px)

    def inside(box: Box) -> set[tuple[Box, bytes]]:
        part = replace(scene, rgb=np.ascontiguousarray(scene.rgb[box.slices_in(scene.box)]), box=box)
        return {(c.box, c.mask.tobytes()) for c in found(cell_type, part) if has_a_point_in(c, common)}

    cells = inside(first)
    assert cells == inside(second)
    return len(cells)


def has_a_point_in(cell: Detection, box: Box) -> bool:
    shared = cell.box.clipped(box)
    return bool(shared.area_px) and bool(cell.mask[shared.slices_in(cell.box)].any())


offsets = st.tuples(*[st.integers(-90, 90)] * 4)
few_examples = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def shifted_pair(
    scene: Window, side_um: float, x_share: float, y_share: float, moves: tuple[int, ...]
) -> list[Box]:
    """Two boxes of about one side, anywhere in a scene, each corner moved by some pixels of its own."""
    side = min(round(side_um / scene.um_per_px), scene.box.width, scene.box.height)
    x = scene.box.x0 + round(x_share * (scene.box.width - side))
    y = scene.box.y0 + round(y_share * (scene.box.height - side))
    first = Box(x, y, x + side, y + side)
    second = Box(x + moves[0], y + moves[1], x + side + moves[2], y + side + moves[3])
    return [first, second.clipped(scene.box)]


@few_examples
@given(x=st.floats(0, 1), y=st.floats(0, 1), moves=offsets)
def test_simulated_nuclei_do_not_depend_on_the_window(simulated, x, y, moves):
    scene = cached_window(simulated / "DEMO_B.czi", 0)
    same_inside("hspc", scene, *shifted_pair(scene, 240.0, x, y, moves))


@pytest.mark.slow
@few_examples
@given(x=st.floats(0, 1), y=st.floats(0, 1), moves=offsets)
def test_simulated_megakaryocytes_do_not_depend_on_the_window(simulated, x, y, moves):
    scene = cached_window(simulated / "DEMO_A.czi", 0)
    same_inside("mk", scene, *shifted_pair(scene, 330.0, x, y, moves))


cached_window = cache(scene_window)


@pytest.mark.parametrize("um_per_px", [0.1, 0.15, 0.1725, 0.22, 0.25, 0.3, 0.35, 0.44, 0.5, 0.65, 0.8, 1.0])
@pytest.mark.parametrize("longest_um", [25.0, 66.0, 102.4])
def test_the_halo_of_mk_holds_all_steps_as_they_are_rounded_to_blocks(um_per_px, longest_um):
    """Pictures seldom need a third of it. From a point to the centre, to that of a rival, to where the rival
    was first sought, along the ray by which that was recentred, and what the body depends on there."""
    size = side_px(mk.BLOCK_UM, um_per_px)
    um = size * um_per_px

    def kernel(sigma_um: float) -> int:
        return math.ceil(3.0 * sigma_um / um)  # `smooth`

    smoothing, lobe = kernel(mk.SMOOTHING_UM), round(mk.LARGEST_LOBE_UM / 2 / um)
    local_mean = masks.odd_size(nuclei.SURROUNDINGS_UM / um) // 2
    nuclear = smoothing + max(kernel(SMOOTHING_UM), local_mean)
    body = nuclear + max(1, round(mk.NUCLEAR_EDGE_UM / um)) + 2 * lobe + smoothing
    samples = outline.Rays.of(um).dx.shape[1]
    rivals = int(mk.SAME_CELL_UM / um) + mk.RECENTRINGS * round(mk.RECENTRE_UM / um) + samples - 1
    to_centre_px = min(samples * size, longest_um / um_per_px)
    needed_um = um_per_px * (to_centre_px + size * (rivals + body) + 1.5 * size)  # to whole blocks
    assert needed_um <= ClassicalMk().halo_um(NeededCells(longest_um)) < needed_um + 14.0


@pytest.mark.shared
@few_examples
@given(scene=st.integers(0, 2), x=st.floats(0, 1), y=st.floats(0, 1), moves=offsets)
def test_real_nuclei_do_not_depend_on_the_window(shared, scene, x, y, moves):
    window = real_scene(shared, scene)
    assert same_inside("hspc", window, *shifted_pair(window, 240.0, x, y, moves)) > 0


@pytest.mark.slow
@pytest.mark.shared
def test_real_megakaryocytes_are_found_alike_where_no_more_than_their_halo_is_seen(shared):
    halo_um = ClassicalMk().halo_um(NeededCells(ClassicalMk().longest_um))
    seen = 0
    for number in range(3):
        scene = doubled(real_scene(shared, number))
        halo_px = math.ceil(halo_um / scene.um_per_px)
        for cell in found("mk", scene):
            (row, column), *_ = np.argwhere(cell.mask)
            x, y = cell.box.x0 + int(column), cell.box.y0 + int(row)
            box = Box(x, y, x + 1, y + 1).grown(halo_px).clipped(scene.box)
            part = replace(scene, rgb=np.ascontiguousarray(scene.rgb[box.slices_in(scene.box)]), box=box)
            assert any(c.box == cell.box and np.array_equal(c.mask, cell.mask) for c in found("mk", part))
            seen += 1
    assert seen >= 14


def doubled(once: Window) -> Window:
    """A scene laid out twice, one above the other: alone the real ones are too low for the halo of MK."""
    rgb = np.concatenate([once.rgb, once.rgb[::-1]])
    return replace(once, rgb=rgb, box=Box(0, 0, once.box.width, 2 * once.box.height))


@pytest.mark.shared
@few_examples
@given(scene=st.integers(0, 2), x=st.floats(0, 1), moves=offsets)
def test_real_megakaryocytes_do_not_depend_on_the_window(shared, scene, x, moves):
    window = doubled(real_scene(shared, scene))
    same_inside("mk", window, *shifted_pair(window, 400.0, x, 0.5, moves))


# Real marrow


@cache
def real_cells(shared: Path, scene: int, cell_type: CellType, name: str = "marrow.czi") -> list[Detection]:
    """Cells of the default filter's areas that are more likely cells than not."""
    return in_filter(cell_type, real_scene(shared, scene, name))


@cache
def real_scene(shared: Path, scene: int, name: str = "marrow.czi") -> Window:
    return scene_window(shared / "data" / "marrow" / name, scene)


@pytest.mark.shared
def test_the_experts_nuclei_are_found(shared):
    hits = marks = cells = 0
    for scene, dots in expert_dots(shared).items():
        at = centroids(real_cells(shared, scene, "hspc"))
        hits, marks, cells = hits + len(match_points(dots, at)), marks + len(dots), cells + len(at)
    assert hits / marks >= 0.95
    assert cells / marks <= 1.23


@pytest.mark.shared
@pytest.mark.parametrize(
    ("min_score", "medium", "most_false"), [(SURE, 0, 1), (FILTER["mk"].min_score, 1, 16)]
)
def test_the_megakaryocytes_marked_by_eye_are_found(shared, min_score, medium, most_false):
    hits = {"high": 0, "medium": 0, "low": 0}
    false = 0
    for scene, marks in mk_by_eye(shared).items():
        cells = in_filter("mk", real_scene(shared, scene), min_score)
        held = [[holds(cell, mark.x_px, mark.y_px) for cell in cells] for mark in marks]
        for mark, row in zip(marks, held, strict=True):
            hits[mark.confidence] += any(row)
        false += sum(not any(row[i] for row in held) for i in range(len(cells)))
    assert hits["high"] == 7
    assert hits["medium"] >= medium
    assert false <= most_false


def holds(cell: Detection, x: float, y: float) -> bool:
    box = cell.box
    is_inside = box.x0 <= x < box.x1 and box.y0 <= y < box.y1
    return is_inside and bool(cell.mask[int(y) - box.y0, int(x) - box.x0])


@pytest.mark.slow
@pytest.mark.shared
@BOTH
def test_jpeg_xr_gives_the_same_cells(shared, cell_type):
    paired = alone = 0
    for scene in range(3):
        first, second = (
            real_cells(shared, scene, cell_type, name) for name in ("marrow.czi", "marrow_jxr.czi")
        )
        pairs = paired_by_overlap(first, second)
        paired, alone = paired + pairs, alone + len(first) + len(second) - 2 * pairs
    assert 2 * paired / (2 * paired + alone) >= 0.97


def mirrored(cells: list[Detection], width_px: int) -> list[Detection]:
    """Cells of a scene that begins at 0 and was mirrored left to right, as they lie in the scene itself."""
    return [
        replace(
            cell,
            box=Box(width_px - cell.box.x1, cell.box.y0, width_px - cell.box.x0, cell.box.y1),
            mask=cell.mask[:, ::-1],
        )
        for cell in cells
    ]


@pytest.mark.slow
@pytest.mark.shared
@BOTH
@pytest.mark.parametrize("change", ["noise", "mirrored"])
def test_what_tells_nothing_of_a_cell_hardly_matters(shared, cell_type, change):
    paired = alone = 0
    for number in range(3):
        scene = real_scene(shared, number)
        if change == "noise":
            noise = np.random.default_rng(number).normal(0.0, 3.0, scene.rgb.shape)
            rgb = np.clip(np.rint(scene.rgb + noise), 0, 255).astype(np.uint8)
        else:
            rgb = np.ascontiguousarray(scene.rgb[:, ::-1])
        calibration = calibrate(pieces(rgb), scene.um_per_px)
        changed = in_filter(cell_type, replace(scene, rgb=rgb, calibration=calibration))
        if change == "mirrored":
            changed = mirrored(changed, scene.box.width)
        usual = real_cells(shared, number, cell_type)
        pairs = paired_by_overlap(usual, changed)
        paired, alone = paired + pairs, alone + len(usual) + len(changed) - 2 * pairs
    assert 2 * paired / (2 * paired + alone) >= 0.97


def paired_by_overlap(first: list[Detection], second: list[Detection]) -> int:
    """How many cells of one list have one in the other at an IoU of at least 0.5 (then at most one)."""
    boxes = np.array([(c.box.x0, c.box.y0, c.box.x1, c.box.y1) for c in second]).reshape(-1, 4)
    paired = 0
    for cell in first:
        box = cell.box
        near = (
            (boxes[:, 0] < box.x1) & (boxes[:, 2] > box.x0) & (boxes[:, 1] < box.y1) & (boxes[:, 3] > box.y0)
        )
        paired += any(overlap_of(cell, second[i]) > 0.5 for i in np.flatnonzero(near).tolist())
    return paired


def overlap_of(first: Detection, second: Detection) -> float:
    around = Box(
        min(first.box.x0, second.box.x0),
        min(first.box.y0, second.box.y0),
        max(first.box.x1, second.box.x1),
        max(first.box.y1, second.box.y1),
    )
    masks = np.zeros((2, around.height, around.width), np.bool_)
    for mask, cell in zip(masks, (first, second), strict=True):
        mask[cell.box.slices_in(around)] = cell.mask
    return float(masks.all(axis=0).sum() / masks.any(axis=0).sum())


@pytest.mark.shared
@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_the_strength_of_the_stain_hardly_matters(shared, strength):
    """The same field as if it had been stained longer or shorter: its optical density scaled."""
    scene = real_scene(shared, 0)
    white = np.array(scene.calibration.white)
    rgb = np.clip(np.rint(white * (np.maximum(scene.rgb, 1) / white) ** strength), 0, 255).astype(np.uint8)
    other = replace(scene, rgb=rgb, calibration=calibrate(pieces(rgb), scene.um_per_px))
    dots = expert_dots(shared)[0]
    usual, changed = real_cells(shared, 0, "hspc"), in_filter("hspc", other)
    hits, hits_changed = (len(match_points(dots, centroids(cells))) for cells in (usual, changed))
    assert hits_changed >= 0.98 * hits
    assert len(changed) <= 1.05 * len(usual)


@pytest.mark.shared
@pytest.mark.parametrize("um_per_px", [0.1725, 0.35])
def test_the_same_field_at_another_pixel_size_holds_the_same_cells(shared, um_per_px):
    scene = real_scene(shared, 0)
    scale = scene.um_per_px / um_per_px
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    rgb = np.asarray(cv2.resize(scene.rgb, None, fx=scale, fy=scale, interpolation=how), np.uint8)
    calibration: SceneCalibration = calibrate(pieces(rgb), um_per_px)
    other = Window(rgb, Box(0, 0, rgb.shape[1], rgb.shape[0]), um_per_px, calibration)
    dots = expert_dots(shared)[0]
    hits = len(match_points(dots, centroids(in_filter("hspc", other)) / scale))
    assert hits >= 0.95 * len(dots)
    listed = [(mark.x_px * scale, mark.y_px * scale) for mark in mk_by_eye(shared)[0]]
    cells = in_filter("mk", other)
    assert sum(any(holds(cell, x, y) for cell in cells) for x, y in listed) >= 4
