"""SAM2's detector on the worker's side: what is asked, where, and what is made of the answers."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from conftest import need
from localmodels import LocalModels
from mkhspc.config import CellRange, RunConfig
from mkhspc.detect import contract, sam2
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk, blocks
from mkhspc.detect.classical.blocks import BlockGrid
from mkhspc.detect.classical.mk import BLOCK_UM
from mkhspc.detect.classical.proposals import PROPOSAL_REACH_UM
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.detect.mask_logits import enlarged, masks_of
from mkhspc.detect.sam2 import NEAR_UM, SAME_UM, EmbeddedDetection, Sam2Mk, prompts
from mkhspc.detect.window_grid import WindowGrid
from mkhspc.errors import MkhspcError
from mkhspc.geometry import Box, mask_centroid, normalise_mask, um_to_px
from mkhspc.measure.analysis import TileAnalysis
from mkhspc.models.sam2_masks import REASONS, Gate, SmallMask, cropped, one_of_each_cell
from mkhspc.models.service import Message, array_of
from mkhspc.run.tile_cells import TileSearch, detect, measure, with_crops
from mkhspc.simulate import SlideSpec, write_demo_slides
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.stains import SceneCalibration, Stain, calibrate
from mkhspc.slide.tiles import Tile
from mkhspc.slide.tissue import TissueMask
from stained import EOSIN_OD, Field

STORED = RunConfig().stored("mk")
LONGEST_UM = STORED.max_length_um


@dataclass
class DarkDiscs:
    """A double of SAM2: the mask of a prompt is the disc that the dark pixels around it fill.

    It sees the window in 256 x 256 pixels, as SAM2's decoder draws it, and depends on nothing else.
    """

    seen: list[dict[str, Any]] = field(default_factory=list)
    features: float = 1.0

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        return [self._answer(dict(request)) for request in requests]

    def _answer(self, request: dict[str, Any]) -> Message:
        self.seen.append(request)
        rgb, gate = request["rgb"], Gate.of(request)
        height, width = rgb.shape[:2]
        green = cv2.resize(rgb[..., 1], (256, 256), interpolation=cv2.INTER_AREA)
        pieces, _ = ndimage.label(green < 120)
        masks, places, unsure = [], [], 0
        for place, (x, y) in enumerate(request["points"].tolist()):
            piece = int(pieces[int(y * 256 / height), int(x * 256 / width)])
            mask = self._disc(pieces == piece, (height, width)) if piece else None
            if mask is None:
                unsure += 1
                continue
            masks.append(mask)
            places.append(place)
        kept = one_of_each_cell(masks, gate)
        shown = [masks[i] for i in kept]
        counts = dict.fromkeys(REASONS, 0) | {"unsure": unsure, "duplicate": len(masks) - len(kept)}
        return {
            "corners": np.array([mask.corner for mask in shown], np.int32).reshape(-1, 2),
            "shapes": np.array([mask.logits.shape for mask in shown], np.int32).reshape(-1, 2),
            "logits": np.concatenate([np.zeros(0, np.float32), *(mask.logits.ravel() for mask in shown)]),
            "side": 256,
            "prompt": np.array([places[i] for i in kept], np.int32),
            "score": np.array([mask.score for mask in shown], np.float32),
            "features": np.full((len(shown), 256), self.features, np.float32),
            **{f"rejected_{reason}": count for reason, count in counts.items()},
        }

    def _disc(self, piece: np.ndarray, shape: tuple[int, int]) -> SmallMask | None:
        rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
        if rows[0] == 0 or columns[0] == 0 or rows[-1] == 255 or columns[-1] == 255:
            return None
        y, x = (index.mean() + 0.5 for index in np.nonzero(piece))
        radius = np.sqrt(piece.sum() / np.pi)
        grid = np.arange(256) + 0.5
        logits = (radius - np.hypot(grid[:, None] - y, grid - x)).astype(np.float32)
        corner, part = cropped(logits)
        score = 0.9 - 0.1 * abs(x / 256 - 0.5)
        centre = (x * shape[1] / 256, y * shape[0] / 256)
        return SmallMask(corner, part, score, 1.0, centre, np.ones(256, np.float32))


def detector(double: DarkDiscs, longest_um: float = LONGEST_UM) -> Sam2Mk:
    return Sam2Mk(LocalModels({"sam2": double}), "abc", longest_um)


def marrow(width_um: float, height_um: float, step_um: float, um_per_px: float = 0.5) -> Window:
    """Large cells of many sizes with a nucleus each, or nothing but one, scattered about a loose grid."""
    rng = np.random.default_rng(12)
    field = Field(width_um, height_um, um_per_px)
    for x in np.arange(step_um / 2, width_um, step_um):
        for y in np.arange(step_um / 2, height_um, step_um):
            dx, dy, radius = rng.uniform(-6, 6), rng.uniform(-6, 6), rng.uniform(7, 14)
            if rng.random() < 0.25:
                field.nucleus(x + dx, y + dy, radius)
            else:
                field.body(x + dx, y + dy, radius, 2.2 * EOSIN_OD)
                field.nucleus(x + dx, y + dy, 0.55 * radius)
    return field.window()


@pytest.fixture(scope="module")
def scene() -> Window:
    return marrow(980.0, 940.0, 45.0)


def holds(box: Box, x: float, y: float) -> bool:
    return box.x0 <= x < box.x1 and box.y0 <= y < box.y1


# Windows


@pytest.mark.parametrize("um_per_px", [0.1725, 0.22, 0.5])
def test_a_cell_lies_whole_in_the_window_of_a_prompt_at_its_middle(um_per_px):
    grid = WindowGrid.of(LONGEST_UM, um_per_px)
    longest_px = LONGEST_UM / um_per_px
    for middle in np.random.default_rng(0).uniform(-9000, 9000, (300, 2)):
        ((column, row),) = grid.squares_of(middle[None]).tolist()
        square = grid.square(column, row)
        assert holds(square, *middle)
        window = square.grown(grid.margin_px)
        assert window.x0 <= middle[0] - longest_px / 2
        assert middle[1] + longest_px / 2 <= window.y1


@pytest.mark.parametrize("um_per_px", [0.1725, 0.22, 0.5])
def test_windows_have_one_physical_size(um_per_px):
    grid = WindowGrid.of(LONGEST_UM, um_per_px)
    assert (grid.cell_px + 2 * grid.margin_px) * um_per_px == pytest.approx(256.0, abs=1.0)


@pytest.mark.slow
def test_requests_are_whole_windows_of_the_scenes_grid(scene):
    double = DarkDiscs()
    part = scene.part(scene.box.grown(-33))
    detector(double).detect(part, STORED)
    grid = WindowGrid.of(LONGEST_UM, scene.um_per_px)
    side = grid.cell_px + 2 * grid.margin_px
    assert len(double.seen) > 3
    whole = {
        (i, j): scene.rgb[grid.square(i, j).grown(grid.margin_px).slices_in(scene.box)].tobytes()
        for i in range(1, 6)
        for j in range(1, 6)
    }
    for request in double.seen:
        assert request["rgb"].shape == (side, side, 3)
        assert request["rgb"].tobytes() in whole.values()
        # Prompts lie in the square itself.
        assert request["points"].min() >= grid.margin_px
        assert request["points"].max() <= grid.margin_px + grid.cell_px
        assert len(request["points"]) == len(request["prior_area_px"])
    assert len({request["key"] for request in double.seen}) == len(double.seen)


def test_a_window_without_prompts_is_not_asked_about():
    double = DarkDiscs()
    assert detector(double).detect(Field(700.0, 700.0, 0.5).window(), STORED) == []
    assert double.seen == []


def test_a_window_too_small_to_see_a_cell_whole_gives_none(scene):
    double = DarkDiscs()
    assert detector(double).detect(scene.part(Box(0, 0, 700, 700)), STORED) == []
    assert double.seen == []


# Prompts


def test_every_large_cell_gets_a_prompt_and_ordinary_tissue_none(scene):
    points, areas = prompts(scene, STORED)
    assert len(points) == len(areas)
    assert (areas[areas > 0] * scene.um_per_px**2 < 4 * STORED.max_um2).all()
    empty = Field(300.0, 300.0).window()
    assert len(prompts(empty, STORED)[0]) == 0


@pytest.mark.parametrize("min_um2", [50.0, 25.0])
def test_the_grid_is_no_coarser_than_the_smallest_cell(scene, min_um2):
    points, areas = prompts(scene, CellRange(min_um2, 4200.0))
    x = np.unique(points[areas == 0][:, 0])
    diameter_px = np.sqrt(4 * min_um2 / np.pi) / scene.um_per_px
    assert np.diff(x).min() <= diameter_px
    assert np.diff(x).min() > diameter_px / 2


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of a seed that nothing was tuned on, with their truth."""
    folder = tmp_path_factory.mktemp("simulated")
    specs = (
        SlideSpec("HELD_A", "F", "HU", sizes_um=((900.0, 800.0),)),
        SlideSpec("HELD_B", "M", "GC", um_per_px=0.1725, sizes_um=((700.0, 700.0),)),
    )
    write_demo_slides(folder, seed=77, specs=specs)
    return folder


def scene_of(path: Path) -> Window:
    with CziSlide.open(path) as slide:
        box = slide.scene(0).box
        rgb = slide.read(0, box)
        tiles = [rgb[y : y + 400, x : x + 400] for y in range(0, 2000, 400) for x in range(0, 2000, 400)]
        return Window(rgb, box, slide.um_per_px, calibrate(tiles, slide.um_per_px))


def default_grid(tile_px: int, box: Box) -> np.ndarray:
    """SAM2's own 32 x 32 points on every tile of a side."""
    step = tile_px / 32
    x, y = (np.arange(step / 2, length, step) for length in (box.width, box.height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def share_with_a_point(contours: list[np.ndarray], points: np.ndarray) -> float:
    hit = [
        any(cv2.pointPolygonTest(contour, (float(x), float(y)), False) > 0 for x, y in near)
        for contour in contours
        for near in [points[(np.abs(points - contour.mean(axis=0)) < 400).all(axis=1)]]
    ]
    return sum(hit) / len(hit)


@pytest.mark.slow
def test_simulated_megakaryocytes_get_a_prompt_inside(simulated):
    """Of 100 µm² and more; SAM2's default grid on a tile of 4096 px is the baseline."""
    truth = pq.read_table(simulated / "truth.parquet").to_pylist()
    ours, default, count, points_count, area_mm2 = 0.0, 0.0, 0, 0, 0.0
    for slide_id in ("HELD_A", "HELD_B"):
        window = scene_of(simulated / f"{slide_id}.czi")
        contours = [
            np.array(each["contour_px"], np.float32).reshape(-1, 2)
            for each in truth
            if each["slide_id"] == slide_id
            and each["target"] == "mk"
            and each["clear"]
            and each["area_um2"] >= 100
        ]
        points, _ = prompts(window, STORED)
        ours += len(contours) * share_with_a_point(contours, points)
        default += len(contours) * share_with_a_point(contours, default_grid(4096, window.box))
        count, points_count = count + len(contours), points_count + len(points)
        area_mm2 += window.box.area_px * window.um_per_px**2 / 1e6
    print(f"prompts: {ours / count:.3f}, default grid {default / count:.3f} of {count}")
    print(f"{points_count / area_mm2:.0f} prompts a mm²")
    assert count > 100
    assert ours / count >= 0.99
    assert ours > default
    # A grid of the same step everywhere would be 15,700 a mm², a tenth of them at most is asked.
    assert points_count / area_mm2 < 1500


# Masks


@pytest.mark.models
@pytest.mark.parametrize("shape", [(380, 300), (64, 512), (256, 256), (1164, 1163)])
@pytest.mark.parametrize("middle", [(100.0, 90.0), (2.0, 3.0), (254.0, 250.0), (128.3, 255.0)])
def test_a_mask_is_enlarged_as_the_whole_image_would_be(shape, middle):
    """Against `interpolate` of all logits, as SAM2's own postprocessing does it."""
    torch = need("torch")
    grid = np.arange(256) + 0.5
    noise = np.random.default_rng(3).normal(0, 1.5, (256, 256))
    away = np.hypot(grid[:, None] - middle[1], grid - middle[0])
    logits = np.where(away < 15, 12 - away + noise, -9.0).astype(np.float32)
    corner, part = cropped(logits)
    box, mask = enlarged(part, corner, 256, shape)
    interpolate = torch.nn.functional.interpolate
    whole = interpolate(torch.tensor(logits)[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
    drawn = np.zeros(shape, np.bool_)
    drawn[box.slices_in(Box(0, 0, shape[1], shape[0]))] = mask
    assert mask.shape == (box.height, box.width)
    # Rounding may differ where the value is 0 to seven digits.
    assert ((drawn != (whole.numpy() > 0)) & (np.abs(whole.numpy()) > 1e-5)).sum() == 0


@pytest.mark.parametrize("um_per_px", [0.8, 1.0, 2.0])
def test_a_mask_that_no_pixels_centre_meets_is_empty(um_per_px):
    """Of a single logit, at every place: a window of 128 µm has fewer pixels than the 256 logits a side."""
    length = um_to_px(128.0, um_per_px)
    sizes = []
    for at in range(256):
        logits = np.full((256, 256), -1.0, np.float32)
        logits[at, at] = 2.0
        corner, part = cropped(logits)
        box, mask = enlarged(part, corner, 256, (length, length))
        assert mask.shape == (box.height, box.width)
        sizes.append(int(mask.sum()))
    assert min(sizes) == 0


@pytest.mark.parametrize("um_per_px", [0.8, 1.0])
def test_a_mask_that_holds_no_pixel_is_counted_as_empty(um_per_px):
    class Thin(DarkDiscs):
        def _answer(self, request):
            answer = dict(super()._answer(request))
            count = len(answer["prompt"])
            answer["corners"] = np.full((count, 2), 127, np.int32)
            answer["shapes"] = np.ones((count, 2), np.int32)
            answer["logits"] = np.ones(count, np.float32)
            return answer

    looking = detector(Thin())
    assert looking.detect(marrow(800.0, 760.0, 45.0, um_per_px), STORED) == []
    assert looking.outcomes["empty"] > 0


def test_cells_are_the_discs_of_the_picture(scene):
    double = DarkDiscs()
    cells = detector(double).detect(scene, STORED)
    assert len(cells) > 60
    green = scene.rgb[..., 1] < 120
    for cell in cells:
        assert isinstance(cell, EmbeddedDetection)
        assert cell.features.shape == (256,)
        assert cell.mask.shape == (cell.box.height, cell.box.width)
        assert np.array_equal(normalise_mask(cell.mask), cell.mask)
        edges = cell.mask[0], cell.mask[-1], cell.mask[:, 0], cell.mask[:, -1]
        assert all(edge.any() for edge in edges)
        dark = green[cell.box.slices_in(scene.box)]
        assert (dark & cell.mask).sum() / (dark | cell.mask).sum() > 0.85
        assert 0.8 < cell.score <= 0.9


def test_a_cell_on_the_seam_of_two_windows_is_one(scene):
    """Prompts on both sides of a seam find it in both windows: the better one stays."""
    double = DarkDiscs()
    cells = detector(double).detect(scene, STORED)
    boxes = np.array([(c.box.x0, c.box.y0, c.box.x1, c.box.y1) for c in cells])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = np.hypot(*(middles[:, None] - middles[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    assert apart.min() * scene.um_per_px > 15.0
    grid = WindowGrid.of(LONGEST_UM, scene.um_per_px)
    seams = (boxes[:, :2] // grid.cell_px != boxes[:, 2:] // grid.cell_px).any(axis=1)
    assert seams.sum() > 5


def test_rejected_prompts_are_counted_by_reason(scene):
    double = DarkDiscs()
    found = detector(double)
    cells = found.detect(scene, STORED)
    asked = sum(len(request["points"]) for request in double.seen)
    assert found.outcomes["duplicate"] > 0
    assert found.outcomes["seen_twice"] > 0
    assert set(found.outcomes) <= {*REASONS, *sam2.REASONS}
    assert asked == len(cells) + found.outcomes.total()


def test_a_mask_that_no_pixel_lies_in_is_counted(scene, monkeypatch):
    double = DarkDiscs()
    run = double.run

    def thinned(requests: Sequence[Message]) -> list[Message]:
        """Every mask a single one of the decoder's pixels, hardly above 0."""
        answers = [dict(answer) for answer in run(requests)]
        for answer in answers:
            logits = np.full(len(answer["logits"]), -9.0, np.float32)
            starts = np.cumsum([0, *np.prod(answer["shapes"], axis=1)[:-1]])
            middles = answer["shapes"] // 2
            logits[starts + middles[:, 0] * answer["shapes"][:, 1] + middles[:, 1]] = 1e-3
            answer["logits"] = logits
        return answers

    monkeypatch.setattr(double, "run", thinned)
    found = detector(double)
    assert found.detect(scene, STORED) == []
    assert found.outcomes["empty"] > 60


def test_a_piece_away_from_its_prompt_is_no_cell(scene, monkeypatch):
    double = DarkDiscs()
    usual = detector(double).detect(scene, STORED)
    run = double.run

    def swapped(requests: Sequence[Message]) -> list[Message]:
        answers = [dict(answer) for answer in run(requests)]
        for answer in answers:
            answer["prompt"] = np.roll(answer["prompt"], 1)
        return answers

    monkeypatch.setattr(double, "run", swapped)
    assert NEAR_UM < 30  # the cells lie 33 µm apart at least
    found = detector(double)
    assert len(found.detect(scene, STORED)) < len(usual) / 5
    assert found.outcomes["piece_astray"] > len(usual) / 2


def test_sizes_outside_the_range_are_left_out(scene):
    found = detector(DarkDiscs())
    um2 = scene.um_per_px**2
    sizes = [cell.mask.sum() * um2 for cell in found.detect(scene, STORED)]
    assert min(sizes) < 300 < 500 < max(sizes)
    found.outcomes.clear()
    assert all(300 <= c.mask.sum() * um2 <= 500 for c in found.detect(scene, CellRange(300.0, 500.0)))
    assert found.outcomes["unfit"] > 0


def test_the_models_error_is_the_detectors(scene):
    class Broken:
        def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
            return [MkhspcError("SAM2 answered with values that are not numbers")]

    with pytest.raises(MkhspcError, match="not numbers"):
        Sam2Mk(LocalModels({"sam2": Broken()}), "abc", LONGEST_UM).detect(scene, STORED)


def test_other_weights_are_another_revision():
    local = LocalModels({})
    first, second = (Sam2Mk(local, weights, LONGEST_UM).revision for weights in ("abc", "abd"))
    assert first != second
    assert first != ClassicalMk().revision


# Invariance: any two windows that reach far enough around a cell's centroid find the same cell.


def cells_inside(part: Window, common: Box) -> set[tuple[Box, bytes]]:
    cells: list[Detection] = list(detector(DarkDiscs()).detect(part, STORED))
    return {(cell.box, cell.mask.tobytes()) for cell in cells if cell.box.clipped(common) == cell.box}


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(cut=st.tuples(*[st.integers(0, 120)] * 8))
def test_cells_do_not_depend_on_the_tile(scene, cut):
    whole = scene.box
    first, second = (
        Box(whole.x0 + a, whole.y0 + b, whole.x1 - c, whole.y1 - d) for a, b, c, d in (cut[:4], cut[4:])
    )
    reach_px = int(np.ceil(detector(DarkDiscs()).halo_um(NeededCells(LONGEST_UM)) / scene.um_per_px))
    common = first.clipped(second).grown(-reach_px)
    parts = [
        replace(scene, rgb=np.ascontiguousarray(scene.rgb[box.slices_in(whole)]), box=box)
        for box in (first, second)
    ]
    cells = cells_inside(parts[0], common)
    assert cells == cells_inside(parts[1], common)
    if min(common.width, common.height) * scene.um_per_px > 120:
        assert cells


@pytest.mark.slow
def test_two_tiles_own_each_cell_once():
    """As the engine does it: windows with a halo, cells to the tile whose core holds the centroid."""
    longest_um = 46.0
    scene = marrow(1150.0, 700.0, 50.0)
    area = CellRange(50.0, 900.0)
    owner = detector(DarkDiscs(), longest_um)
    halo = int(np.ceil(owner.halo_um(NeededCells(area.max_length_um)) / scene.um_per_px))
    core = scene.box.grown(-halo)
    assert core.width > 100
    middle = (core.x0 + core.x1) // 2
    halves = [replace_x(core, core.x0, middle), replace_x(core, middle, core.x1)]

    def owned(core: Box) -> list[tuple[Box, bytes]]:
        cells = detector(DarkDiscs(), longest_um).detect(scene.part(core.grown(halo)), area)
        at = [mask_centroid(cell.mask) for cell in cells]
        return [
            (cell.box, cell.mask.tobytes())
            for cell, (x, y) in zip(cells, at, strict=True)
            if holds(core, cell.box.x0 + x, cell.box.y0 + y)
        ]

    whole = owned(core)
    assert len(whole) > 5
    assert sorted(owned(halves[0]) + owned(halves[1])) == sorted(whole)


def analysis_of(area: CellRange) -> TileAnalysis:
    stored = {"mk": area, "hspc": RunConfig().stored("hspc")}
    mk = detector(DarkDiscs(), area.max_length_um)
    return TileAnalysis({"mk": mk, "hspc": ClassicalHspc()}, stored)


def table_of(scene: Window, core: Box, analysis: TileAnalysis) -> pa.Table:
    """What the engine finds of a core, in a window of the size that it reads."""
    tile = Tile("tile", 0, core, 1.0, 1.0, 0)
    box = analysis.read_box(tile.core, scene.um_per_px)
    assert box.clipped(scene.box) == box
    everywhere = np.ones((-(-scene.box.height // 8), -(-scene.box.width // 8)), np.bool_)
    tissue = TissueMask(everywhere, everywhere, 8, scene.um_per_px, scene.box.width, scene.box.height)
    window = scene.apart(box)
    search = TileSearch("S", window, tissue, tile, analysis)
    return pa.concat_tables(with_crops(measure(detect(search), search), window))


@pytest.mark.slow
def test_a_tiles_table_does_not_depend_on_the_tiling():
    """Cells at a core's border, and HSPC there in an MK of another tile, are the same from either side."""
    scene = marrow(960.0, 720.0, 42.0)
    analysis = analysis_of(CellRange(50.0, 900.0))
    core = scene.box.grown(-analysis.halo_px(scene.um_per_px))
    middle = (core.x0 + core.x1) // 2
    whole = table_of(scene, core, analysis)
    held = whole.filter(pc.is_valid(whole["inside_mk_id"]))
    at_seam = pc.less(pc.abs(pc.subtract(held["x_px"], middle)), 20 / scene.um_per_px)
    assert pc.sum(at_seam).as_py() > 0
    for x in (middle, middle + 31):
        halves = [replace_x(core, core.x0, x), replace_x(core, x, core.x1)]
        both = pa.concat_tables([table_of(scene, half, analysis) for half in halves])
        assert both.sort_by("cell_id").equals(whole.sort_by("cell_id"))


@pytest.mark.parametrize("um_per_px", [0.1, 0.1725, 0.22, 0.5])
def test_a_tiles_window_shows_every_square_that_matters_to_its_core(um_per_px):
    analysis = analysis_of(STORED)
    owner = analysis.detectors["mk"]
    assert isinstance(owner, Sam2Mk)
    grid = WindowGrid.of(LONGEST_UM, um_per_px)
    surroundings_px = um_to_px(max(LONGEST_UM / 2, PROPOSAL_REACH_UM), um_per_px)
    read_px = []
    for x, y in np.random.default_rng(5).integers(-9000, 90000, (200, 2)).tolist():
        core = Box(x, y, x + 1024, y + 1024)
        window = analysis.read_box(core, um_per_px)
        most = core.grown(analysis.halo_px(um_per_px))
        assert window.clipped(most) == window
        read_px.append(window.area_px / most.area_px)
        asked = analysis.wanted("mk", core, um_per_px).grown(um_to_px(NEAR_UM + SAME_UM, um_per_px))
        for square in grid.squares_that_meet(asked):
            seen = square.grown(surroundings_px)
            assert seen.clipped(window) == seen
    assert np.mean(read_px) < 0.9


def test_squares_that_no_wanted_cell_depends_on_are_not_asked_about(scene):
    everything, some = DarkDiscs(), DarkDiscs()
    wanted = Box(820, 860, 1100, 1080)
    cells = detector(everything).detect(scene, STORED)
    near = detector(some).detect(replace(scene, wanted=wanted), STORED)

    def in_wanted(cells: Sequence[Detection]) -> list[tuple[Box, bytes]]:
        at = [(cell, *mask_centroid(cell.mask)) for cell in cells]
        return [(c.box, c.mask.tobytes()) for c, x, y in at if holds(wanted, c.box.x0 + x, c.box.y0 + y)]

    assert len(in_wanted(cells)) > 2
    assert in_wanted(near) == in_wanted(cells)
    assert 0 < len(some.seen) <= len(everything.seen) / 2
    keys = {request["key"]: request["points"].tobytes() for request in everything.seen}
    assert all(keys[request["key"]] == request["points"].tobytes() for request in some.seen)


def test_what_is_asked_about_a_square_does_not_depend_on_how_much_else_is_seen(scene):
    owner = detector(DarkDiscs())

    def asked(window: Window) -> dict[Box, tuple[str, bytes, bytes]]:
        names = ("points", "prior_area_px")
        return {
            square: (str(request["key"]), *(array_of(request, name).tobytes() for name in names))
            for square, request in owner.requests(window, STORED)
        }

    of_scene = asked(scene)
    assert len({square.x0 for square in of_scene}) > 2
    surroundings_px = owner._surroundings_px(scene.um_per_px)
    for square, request in of_scene.items():
        assert asked(scene.part(square.grown(surroundings_px)))[square] == request


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("stained", [None, Box(400, 300, 901, 640), Box(0, 0, 500, 2000), Box(0, 0, 9, 9)])
def test_prompts_do_not_depend_on_the_bands_in_which_stains_are_separated(scene, rows, stained, monkeypatch):
    part = scene.apart(Box(13, 7, 1411, 901))
    grid = BlockGrid.over(part.box, part.um_per_px, BLOCK_UM)
    haematoxylin, eosin = grid.mean(part.haematoxylin, part.box), grid.mean(part.eosin, part.box)
    usual = prompts(part, STORED)
    monkeypatch.setattr(blocks, "_BAND_ROWS", rows)
    kept = replace(part, stained=stained and scene.apart(stained))
    found = grid.means(kept)
    assert np.array_equal(found.haematoxylin, haematoxylin)
    assert np.array_equal(found.eosin, eosin)
    for one, other in zip(prompts(kept, STORED), usual, strict=True):
        assert np.array_equal(one, other)


def test_stains_that_are_kept_are_not_separated_again(scene, monkeypatch):
    kept = scene.apart(Box(400, 300, 901, 640))
    assert kept.haematoxylin.size == kept.eosin.size == kept.box.area_px
    separated_px = 0
    separate = contract.separate

    def watched(rgb: np.ndarray, calibration: SceneCalibration, stain: Stain) -> np.ndarray:
        nonlocal separated_px
        separated_px += rgb.shape[0] * rgb.shape[1]
        return separate(rgb, calibration, stain)

    monkeypatch.setattr(contract, "separate", watched)
    grid = BlockGrid.over(scene.box, scene.um_per_px, BLOCK_UM)
    grid.means(replace(scene.apart(scene.box), stained=kept))
    assert separated_px == 2 * (grid.box.area_px - grid.inside(kept.box).box.area_px)


def test_the_stains_of_a_window_are_never_all_separated(scene, monkeypatch):
    largest = 0
    separate = contract.separate

    def watched(rgb: np.ndarray, calibration: SceneCalibration, stain: Stain) -> np.ndarray:
        nonlocal largest
        largest = max(largest, rgb.shape[0] * rgb.shape[1])
        return separate(rgb, calibration, stain)

    monkeypatch.setattr(contract, "separate", watched)
    assert detector(DarkDiscs()).detect(scene.apart(scene.box), STORED)
    assert 0 < largest < scene.box.area_px / 8


def replace_x(box: Box, x0: int, x1: int) -> Box:
    return Box(x0, box.y0, x1, box.y1)


# Memory


def test_nothing_as_large_as_the_tile_is_made_of_masks(scene):
    """Masks of 100 cells in full-size float images would be 370 MB; what is made is a cell's size."""
    double = DarkDiscs()
    found = detector(double)
    asked = [request for _, request in found.requests(scene, STORED)]
    answers = [dict(answer) for answer in double.run(asked)]
    cells = sum(len(answer["prompt"]) for answer in answers)
    assert cells > 60
    shape = asked[0]["rgb"].shape[:2]
    largest = 0
    for answer in answers:
        tracemalloc.start()
        for _, mask in masks_of(answer, shape):
            largest = max(largest, mask.size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Six floats and indices a pixel of the largest cell; an image of the window would be 1 MB.
        assert peak < 40 * largest + 60_000
    assert largest < shape[0] * shape[1] / 20


def test_the_detector_never_imports_torch():
    code = "import sys, mkhspc.detect.sam2; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
