"""Tiles cover the tissue once, samples are nested, and a plan is frozen by whoever comes first."""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide.calibration import calibration_boxes, draw_key
from mkhspc.slide.model import SceneInfo
from mkhspc.slide.stains import SceneCalibration, calibrate
from mkhspc.slide.tiles import (
    Tile,
    TilePlan,
    load_tile_plan,
    plan_tiles,
    sampled,
    save_tile_plan,
)
from mkhspc.slide.tissue import TissueMask
from mkhspc.store.layout import RunLayout

FACTOR = 8


def scene(index: int, width_px: int, height_px: int) -> SceneInfo:
    return SceneInfo(index, Box(-500, 90_000, width_px - 500, 90_000 + height_px))


def mask(width_px: int, height_px: int, seed: int = 0, share: float = 0.5) -> TissueMask:
    """Tissue in blotches, some of it fat."""
    rows, columns = -(-height_px // FACTOR), -(-width_px // FACTOR)
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-rows // 20), -(-columns // 20))) < share
    tissue = np.kron(coarse, np.ones((20, 20), bool))[:rows, :columns]
    return TissueMask(tissue, tissue & (rng.random((rows, columns)) < 0.7), FACTOR, 0.5, width_px, height_px)


def calibration() -> SceneCalibration:
    rng = np.random.default_rng(0)
    window = np.full((200, 200, 3), (230, 170, 205), np.uint8)
    for y, x in rng.integers(20, 180, (40, 2)):
        window[y - 8 : y + 8, x - 8 : x + 8] = (90, 60, 130)
    return calibrate([window], 0.5)


def plan(seed: int = 0) -> TilePlan:
    tissue = {0: mask(2300, 1700, 1), 2: mask(900, 900, 2), 5: mask(300, 300, share=0.0)}
    scenes = [scene(index, m.width_px, m.height_px) for index, m in tissue.items()]
    tiles = plan_tiles("FGC1", scenes, tissue, 512, seed)
    return TilePlan(tiles, tissue, {0: calibration(), 2: calibration()})


def same(a: TilePlan, b: TilePlan) -> bool:
    return (
        a.tiles == b.tiles
        and a.calibration == b.calibration
        and {s: m.to_bytes() for s, m in a.tissue.items()} == {s: m.to_bytes() for s, m in b.tissue.items()}
    )


class TestPlanning:
    @settings(deadline=None, max_examples=40)
    @given(
        width=st.integers(1, 1500), height=st.integers(1, 1500),
        size=st.integers(64, 700), seed=st.integers(0, 99),
    )  # fmt: skip
    def test_every_pixel_of_tissue_lies_in_one_core(
        self, width: int, height: int, size: int, seed: int
    ) -> None:
        tissue = mask(width, height, seed)
        tiles = plan_tiles("s", [scene(0, width, height)], {0: tissue}, size, 0)
        owners = np.zeros((height, width), int)
        for tile in tiles:
            owners[tile.core.slices_in(tissue.scene_box)] += 1
        full = np.kron(tissue.tissue, np.ones((FACTOR, FACTOR), bool))[:height, :width]
        assert (owners[full] == 1).all()
        assert owners.max(initial=0) <= 1
        assert all(tile.tissue_area_um2 > 0 for tile in tiles)

    def test_areas_of_all_tiles_make_the_scene(self) -> None:
        found = plan()
        for index, tissue in found.tissue.items():
            tiles = [tile for tile in found.tiles if tile.scene == index]
            assert sum(t.tissue_area_um2 for t in tiles) == tissue.area_um2(tissue.scene_box)[0]
            assert sum(t.fat_free_area_um2 for t in tiles) == tissue.area_um2(tissue.scene_box)[1]

    def test_cores_lie_on_a_grid_from_the_scene_s_corner(self) -> None:
        for tile in plan().tiles:
            assert (tile.core.x0 % 512, tile.core.y0 % 512) == (0, 0)
            assert tile.tile_id == f"s{tile.scene}_{tile.core.x0}_{tile.core.y0}"

    def test_ranks_count_from_zero_in_the_order_given(self) -> None:
        assert [tile.rank for tile in plan().tiles] == list(range(len(plan().tiles)))

    def test_the_order_depends_on_the_seed_and_the_slide_alone(self) -> None:
        tissue = {0: mask(2300, 1700, 1), 1: mask(900, 900, 2)}
        scenes = [scene(0, 2300, 1700), scene(1, 900, 900)]

        def order(slide_id: str, seed: int, *, backwards: bool = False) -> list[str]:
            given_scenes = scenes[::-1] if backwards else scenes
            return [tile.tile_id for tile in plan_tiles(slide_id, given_scenes, tissue, 256, seed)]

        assert order("a", 0) == order("a", 0, backwards=True)
        assert sorted(order("a", 0)) == sorted(order("a", 1))
        assert len({tuple(order("a", 0)), tuple(order("a", 1)), tuple(order("b", 0))}) == 3

    def test_a_scene_left_out_changes_no_other_tile_s_place(self) -> None:
        tissue = {0: mask(2300, 1700, 1), 1: mask(900, 900, 2)}
        scenes = [scene(0, 2300, 1700), scene(1, 900, 900)]
        both = plan_tiles("a", scenes, tissue, 256, 0)
        one = plan_tiles("a", scenes, {0: tissue[0]}, 256, 0)
        assert [tile.tile_id for tile in both if tile.scene == 0] == [tile.tile_id for tile in one]


class TestSampling:
    def tiles(self, count: int) -> list[Tile]:
        return [Tile(f"s0_{i}_0", 0, Box(i, 0, i + 1, 1), 1.0, 1.0, i) for i in range(count)]

    @given(n=st.integers(1, 400), fractions=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=2))
    def test_a_larger_share_holds_the_smaller(self, n: int, fractions: list[float]) -> None:
        small, large = (sampled(self.tiles(n), fraction) for fraction in sorted(fractions))
        assert large[: len(small)] == small

    @pytest.mark.parametrize(
        ("n", "fraction", "count"),
        [
            (30, 0.1, 3),
            (10, 0.7, 7),
            (1000, 0.07, 70),
            (31, 0.1, 4),
            (5, 0.02, 1),
            (64, 1.0, 64),
            (0, 0.5, 0),
        ],
    )
    def test_a_share_is_rounded_up_as_written(self, n: int, fraction: float, count: int) -> None:
        assert len(sampled(self.tiles(n), fraction)) == count

    def test_the_first_by_rank_are_taken_whatever_their_order(self) -> None:
        assert [tile.rank for tile in sampled(self.tiles(20)[::-1], 0.25)] == [0, 1, 2, 3, 4]


class TestCalibrationBoxes:
    def test_they_are_drawn_from_the_tissue_and_the_seed_alone(self) -> None:
        tissue = mask(3000, 3000, 3)
        again = TissueMask.from_bytes(tissue.to_bytes())
        first = calibration_boxes(tissue, 12, 200, draw_key(7, 0))
        assert first == calibration_boxes(again, 12, 200, draw_key(7, 0))
        assert first[:5] == calibration_boxes(tissue, 5, 200, draw_key(7, 0))
        others = [calibration_boxes(tissue, 12, 200, draw_key(*key)) for key in ((8, 0), (7, 1))]
        assert first not in others

    def test_the_rules_are_those_that_runs_were_made_by(self) -> None:
        """These corners are written down: another draw would be other cells in every run."""
        tissue = mask(3000, 3000, share=1.0)
        corners = {
            name: [(box.x0, box.y0) for box in calibration_boxes(tissue, 3, 200, draw_key(7, 0, name))]
            for name in (None, "a", "b")
        }
        assert corners == {
            None: [(624, 472), (824, 552), (1128, 864)],
            "a": [(0, 2752), (2712, 2800), (792, 1784)],
            "b": [(816, 2800), (1240, 2736), (176, 752)],
        }

    @settings(deadline=None)
    @given(size=st.integers(10, 900), seed=st.integers(0, 50), share=st.sampled_from([0.1, 0.5, 1.0]))
    def test_they_lie_apart_inside_the_scene_on_tissue_with_cells(
        self, size: int, seed: int, share: float
    ) -> None:
        tissue = mask(1000, 950, seed, share)
        boxes = calibration_boxes(tissue, 10, size, draw_key(seed, 0))
        assert bool(boxes) == bool(tissue.tissue.any())
        for i, box in enumerate(boxes):
            assert box.clipped(tissue.scene_box) == box
            assert (box.width, box.height) == (size, size)
            assert tissue.area_um2(box)[1] > 0
            assert all(box.clipped(other).area_px == 0 for other in boxes[:i])

    def test_a_scene_smaller_than_a_window_gives_one_from_its_corner(self) -> None:
        assert calibration_boxes(mask(160, 160, share=1.0), 10, 400, draw_key(0, 0)) == [Box(0, 0, 400, 400)]

    def test_no_tissue_gives_none(self) -> None:
        assert calibration_boxes(mask(500, 500, share=0.0), 10, 100, draw_key(0, 0)) == []


def _freeze(root: Path, seed: int, results: multiprocessing.Queue[tuple[str, ...]]) -> None:
    frozen = save_tile_plan(RunLayout(root), "FGC1", plan(seed), "hash")
    results.put(tuple(tile.tile_id for tile in frozen.tiles))


class TestFreezing:
    def test_a_plan_is_read_back_as_it_was(self, tmp_path: Path) -> None:
        layout, original = RunLayout(tmp_path), plan()
        assert save_tile_plan(layout, "FGC1", original, "hash") is original
        assert same(load_tile_plan(layout, "FGC1", "hash"), original)

    def test_the_first_plan_stands(self, tmp_path: Path) -> None:
        layout = RunLayout(tmp_path)
        first = save_tile_plan(layout, "FGC1", plan(0), "hash")
        assert same(save_tile_plan(layout, "FGC1", plan(1), "hash"), first)

    def test_of_several_processes_all_go_on_with_the_same(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        results: multiprocessing.Queue[tuple[str, ...]] = context.Queue()
        processes = [context.Process(target=_freeze, args=(tmp_path, seed, results)) for seed in range(3)]
        for process in processes:
            process.start()
        frozen = {results.get(timeout=60) for _ in processes}
        for process in processes:
            process.join()
        assert len(frozen) == 1
        assert [path.name for path in (tmp_path / "tiles").iterdir()] == ["FGC1.parquet"]

    def test_the_same_plan_gives_the_same_bytes(self, tmp_path: Path) -> None:
        layouts = [RunLayout(tmp_path / name) for name in ("a", "b")]
        for layout in layouts:
            layout.root.mkdir()
            save_tile_plan(layout, "FGC1", plan(), "hash")
        one, other = (layout.plan("FGC1").read_bytes() for layout in layouts)
        assert one == other

    def test_a_plan_of_another_run_is_refused(self, tmp_path: Path) -> None:
        layout = RunLayout(tmp_path)
        save_tile_plan(layout, "FGC1", plan(), "hash")
        with pytest.raises(InputError, match="another configuration"):
            load_tile_plan(layout, "FGC1", "other")

    def test_a_damaged_or_missing_plan_is_refused(self, tmp_path: Path) -> None:
        layout = RunLayout(tmp_path)
        with pytest.raises(InputError, match="is missing"):
            load_tile_plan(layout, "FGC1", "hash")
        save_tile_plan(layout, "FGC1", plan(), "hash")
        path = layout.plan("FGC1")
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match="is damaged"):
            load_tile_plan(layout, "FGC1", "hash")

    def test_a_plan_without_tiles_is_a_plan(self, tmp_path: Path) -> None:
        empty = replace(plan(), tiles=(), calibration={})
        layout = RunLayout(tmp_path)
        save_tile_plan(layout, "FGC1", empty, "hash")
        assert load_tile_plan(layout, "FGC1", "hash").tiles == ()

    def test_areas_survive_to_the_last_bit(self, tmp_path: Path) -> None:
        odd = replace(plan().tiles[0], tissue_area_um2=math.pi, fat_free_area_um2=0.1 + 0.2)
        layout = RunLayout(tmp_path)
        save_tile_plan(layout, "FGC1", replace(plan(), tiles=(odd,)), "hash")
        assert load_tile_plan(layout, "FGC1", "hash").tiles == (odd,)
