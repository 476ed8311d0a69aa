"""Tissue, fat and glass are told apart, and areas add up to the last pixel."""

from __future__ import annotations

import itertools
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from marrow import expert_dots
from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide import tissue
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.tissue import (
    MASK_FACTORS,
    MASK_UM_PER_PX,
    TissueMask,
    find_tissue,
    mask_factor,
    tissue_by_scene,
)

UM = 4.0
"""Side of a pixel of the pictures below, so 25 pixels are 100 µm."""
FACTOR = 16
GLASS = (236, 232, 238)
FLESH = (190, 120, 175)


def glass(height: int = 200, width: int = 300, colour: tuple[int, int, int] = GLASS) -> NDArray[np.uint8]:
    """Clear glass with the camera's noise."""
    noise = np.random.default_rng(0).normal(0, 1.5, (height, width, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def disc(picture: NDArray[np.uint8], x: int, y: int, radius: int, colour: tuple[int, int, int]) -> None:
    cv2.circle(picture, (x, y), radius, colour, -1)


def found_in(picture: NDArray[np.uint8]) -> TissueMask:
    height, width = picture.shape[:2]
    return find_tissue(picture, FACTOR, UM / FACTOR, Box(0, 0, width * FACTOR, height * FACTOR))


class TestFinding:
    def test_bands_of_rows_leave_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        picture = glass()
        disc(picture, 150, 100, 60, FLESH)
        disc(picture, 150, 100, 10, (20, 20, 20))
        whole = found_in(picture)
        monkeypatch.setattr(tissue, "BAND_PX", 7 * picture.shape[1])
        banded = found_in(picture)
        assert 0 < whole.fat_free.sum() < whole.tissue.size
        assert (banded.tissue == whole.tissue).all()
        assert (banded.fat_free == whole.fat_free).all()

    def test_glass_holds_no_tissue(self) -> None:
        assert not found_in(glass()).tissue.any()

    def test_uneven_light_on_glass_is_no_tissue(self) -> None:
        shade = np.linspace(0.95, 1.0, 300)[None, :, None]
        assert not found_in((glass() * shade).astype(np.uint8)).tissue.any()

    def test_gaps_in_the_scan_do_not_make_the_glass_look_stained(self) -> None:
        picture = glass(colour=(224, 220, 226))
        picture[:, :150] = 255
        disc(picture, 220, 100, 50, FLESH)
        mask = found_in(picture)
        assert not mask.tissue[:, :150].any()
        assert mask.tissue.sum() == pytest.approx(np.pi * 50**2, rel=0.03)

    @pytest.mark.parametrize("colour", [FLESH, (226, 196, 222), (120, 70, 140), (235, 170, 200)])
    def test_a_piece_is_found_pale_or_dark(self, colour: tuple[int, int, int]) -> None:
        picture = glass()
        disc(picture, 150, 100, 60, colour)
        mask = found_in(picture)
        assert mask.tissue.sum() == pytest.approx(np.pi * 60**2, rel=0.03)
        assert (mask.fat_free == mask.tissue).all()

    def test_vacuoles_are_tissue_without_cells_also_at_the_border(self) -> None:
        picture = np.full((200, 300, 3), FLESH, np.uint8)
        for x, y, radius in ((100, 100, 20), (0, 60, 15), (200, 199, 12), (299, 0, 18), (220, 90, 8)):
            disc(picture, x, y, radius, GLASS)
        white = (picture == GLASS).all(axis=2)
        mask = found_in(picture)
        assert mask.tissue.all()
        fat = ~mask.fat_free
        assert not (fat & ~white).any()
        assert fat.sum() == pytest.approx(white.sum(), rel=0.03)

    def test_a_hole_too_wide_for_fat_is_glass(self) -> None:
        picture = np.full((200, 300, 3), FLESH, np.uint8)
        disc(picture, 80, 100, 40, GLASS)  # 320 µm across
        disc(picture, 220, 100, 20, GLASS)  # 160 µm across
        mask = found_in(picture)
        assert not mask.tissue[100, 80]
        assert mask.tissue[100, 220]
        assert not mask.fat_free[100, 220]

    def test_a_rim_of_glass_along_the_border_is_no_fat(self) -> None:
        picture = np.full((200, 300, 3), FLESH, np.uint8)
        picture[:, :12] = GLASS
        mask = found_in(picture)
        assert not mask.tissue[:, :12].any()
        assert mask.tissue[:, 12:].all()

    def test_narrow_gaps_between_cells_stay_fat_free(self) -> None:
        picture = np.full((200, 300, 3), FLESH, np.uint8)
        picture[::10, :] = GLASS
        picture[:, ::15] = GLASS
        assert found_in(picture).fat_free.all()

    def test_dust_and_single_cells_on_glass_are_no_tissue(self) -> None:
        picture = glass()
        for x in range(20, 280, 40):
            disc(picture, x, 100, 3, FLESH)
            disc(picture, x, 40, 5, (60, 60, 60))
        assert not found_in(picture).tissue.any()

    @pytest.mark.parametrize("ink", [(30, 30, 35), (40, 150, 90), (50, 90, 200)])
    def test_ink_on_glass_is_no_tissue(self, ink: tuple[int, int, int]) -> None:
        picture = glass()
        cv2.line(picture, (10, 20), (290, 30), ink, 12)
        disc(picture, 150, 120, 50, FLESH)
        mask = found_in(picture)
        assert not mask.tissue[:45].any()
        assert mask.tissue.sum() == pytest.approx(np.pi * 50**2, rel=0.03)

    def test_pigment_inside_tissue_stays_tissue(self) -> None:
        picture = np.full((200, 300, 3), FLESH, np.uint8)
        disc(picture, 150, 100, 2, (40, 40, 40))
        assert found_in(picture).fat_free.all()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2)])
    def test_tiny_scenes_are_no_trouble(self, shape: tuple[int, int]) -> None:
        for colour in (GLASS, FLESH, (255, 255, 255), (0, 0, 0)):
            assert found_in(np.full((*shape, 3), colour, np.uint8)).tissue.shape == shape

    @given(um_per_px=st.floats(0.02, 2.5))
    def test_mask_pixels_are_about_4_um(self, um_per_px: float) -> None:
        factor = mask_factor(um_per_px)
        assert factor in MASK_FACTORS
        assert 1 / 1.5 < factor * um_per_px / MASK_UM_PER_PX < 1.5


class TestRealMarrow:
    @pytest.mark.shared
    def test_pictures_full_of_marrow_are_all_tissue_with_fat_inside(self, shared: Path) -> None:
        with CziSlide.open(shared / "data" / "marrow" / "marrow.czi") as slide:
            masks = tissue_by_scene(slide)
        assert sorted(masks) == [0, 1, 2]
        for mask in masks.values():
            tissue, fat_free = mask.area_um2(mask.scene_box)
            assert tissue > 0.99 * mask.scene_box.area_px * 0.22**2
            assert 0.55 < fat_free / tissue < 0.85

    @pytest.mark.shared
    def test_the_expert_s_cells_lie_in_fat_free_tissue(self, shared: Path) -> None:
        with CziSlide.open(shared / "data" / "marrow" / "marrow.czi") as slide:
            masks = tissue_by_scene(slide)
        for scene, dots in expert_dots(shared).items():
            cells = dots[(dots[:, 0] < masks[scene].width_px) & (dots[:, 1] < masks[scene].height_px)]
            column, row = (cells // masks[scene].factor).astype(int).T
            assert masks[scene].fat_free[row, column].mean() > 0.97

    @pytest.mark.shared
    def test_compression_and_pyramid_hardly_change_the_mask(self, shared: Path) -> None:
        folder = shared / "data" / "marrow"
        with (
            CziSlide.open(folder / "marrow.czi") as plain,
            CziSlide.open(folder / "marrow_jxr.czi") as reduced,
        ):
            for scene in range(3):
                ours, theirs = (tissue_by_scene(slide, [scene])[scene].fat_free for slide in (plain, reduced))
                assert (ours == theirs).mean() > 0.995


@st.composite
def masks(draw: st.DrawFn) -> TissueMask:
    factor, width, height = draw(st.integers(1, 9)), draw(st.integers(1, 70)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (-(-height // factor), -(-width // factor))
    tissue = rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    return TissueMask(tissue, tissue & (rng.random(shape) < 0.7), factor, 0.5, width, height)


def level_0(mask: TissueMask, plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask at the scene's full size."""
    return np.kron(plane, np.ones((mask.factor, mask.factor), bool))[: mask.height_px, : mask.width_px]


def cuts(draw: st.DrawFn, length: int) -> list[int]:
    inner = draw(st.lists(st.integers(1, max(1, length - 1)), max_size=4, unique=True))
    return [0, *sorted(c for c in inner if c < length), length]


class TestMask:
    @settings(deadline=None)
    @given(mask=masks(), data=st.data())
    def test_an_area_counts_the_pixels_in_the_box(self, mask: TissueMask, data: st.DataObject) -> None:
        x0, x1 = sorted(data.draw(st.lists(st.integers(-20, 90), min_size=2, max_size=2)))
        y0, y1 = sorted(data.draw(st.lists(st.integers(-20, 90), min_size=2, max_size=2)))
        inside = Box(x0, y0, x1, y1).clipped(mask.scene_box).slices_in(mask.scene_box)
        expected = [level_0(mask, plane)[inside].sum() * 0.25 for plane in (mask.tissue, mask.fat_free)]
        assert list(mask.area_um2(Box(x0, y0, x1, y1))) == expected

    @settings(deadline=None)
    @given(mask=masks(), data=st.data())
    def test_areas_of_a_partition_add_up(self, mask: TissueMask, data: st.DataObject) -> None:
        xs, ys = (data.draw(st.composite(cuts)(n)) for n in (mask.width_px, mask.height_px))
        parts = [
            mask.area_um2(Box(x0, y0, x1, y1))
            for x0, x1 in itertools.pairwise(xs)
            for y0, y1 in itertools.pairwise(ys)
        ]
        assert tuple(map(sum, zip(*parts, strict=True))) == mask.area_um2(mask.scene_box)

    @settings(deadline=None)
    @given(mask=masks(), seed=st.integers(0, 2**32 - 1))
    def test_a_point_is_in_tissue_when_its_pixel_is(self, mask: TissueMask, seed: int) -> None:
        x, y = np.random.default_rng(seed).uniform(-10, 80, (2, 50))
        full = np.zeros((100, 100), bool)
        full[10 : 10 + mask.height_px, 10 : 10 + mask.width_px] = level_0(mask, mask.tissue)
        expected = full[np.floor(y).astype(int) + 10, np.floor(x).astype(int) + 10]
        assert (mask.contains(x, y) == expected).all()

    @settings(deadline=None)
    @given(mask=masks(), data=st.data())
    def test_a_box_is_near_an_edge_when_it_meets_one(self, mask: TissueMask, data: st.DataObject) -> None:
        corner = st.tuples(st.integers(-5, 75), st.integers(-5, 75))
        boxes = [
            Box(x, y, x + w, y + h)
            for (x, y), w, h in data.draw(
                st.lists(st.tuples(corner, st.integers(1, 20), st.integers(1, 20)), max_size=8)
            )
        ]
        f = mask.factor
        expected = [
            box.x0 <= 0 or box.y0 <= 0 or box.x1 >= mask.width_px or box.y1 >= mask.height_px
            or not mask.tissue[box.y0 // f : -(-box.y1 // f), box.x0 // f : -(-box.x1 // f)].all()
            for box in boxes
        ]  # fmt: skip
        assert mask.near_edge(boxes).tolist() == expected

    @settings(deadline=None)
    @given(mask=masks(), data=st.data())
    def test_a_part_answers_as_the_whole_does_and_about_nothing_else(
        self, mask: TissueMask, data: st.DataObject
    ) -> None:
        (x0, y0), width, height = data.draw(
            st.tuples(
                st.tuples(st.integers(-9, 69), st.integers(-9, 69)), st.integers(9, 40), st.integers(9, 40)
            )
        )
        known = Box(x0, y0, x0 + width, y0 + height)
        part = mask.part(known)
        inner = [
            Box(known.x0 + a, known.y0 + b, known.x1 - c, known.y1 - d)
            for a, b, c, d in data.draw(st.lists(st.tuples(*[st.integers(0, 4)] * 4), min_size=1, max_size=8))
        ]
        assert [part.area_um2(box) for box in inner] == [mask.area_um2(box) for box in inner]
        assert part.near_edge(inner).tolist() == mask.near_edge(inner).tolist()
        x, y = np.random.default_rng(1).uniform((known.x0, known.y0), (known.x1, known.y1), (20, 2)).T
        assert part.contains(x, y).tolist() == mask.contains(x, y).tolist()
        assert part.part(inner[0]).area_um2(inner[0]) == mask.area_um2(inner[0])

    def test_nothing_is_said_of_places_outside_a_part(self) -> None:
        mask = TissueMask(np.ones((9, 9), bool), np.ones((9, 9), bool), 4, 0.5, 36, 36)
        part = mask.part(Box(8, 8, 20, 20))
        assert part.area_um2(Box(8, 8, 20, 20)) == mask.area_um2(Box(8, 8, 20, 20)) != (0.0, 0.0)
        far = Box(4, 8, 12, 12)
        for ask in (
            lambda: part.area_um2(far),
            lambda: part.near_edge([far]),
            lambda: part.contains(np.array([5.0]), np.array([9.0])),
        ):
            with pytest.raises(ValueError, match="this part of the mask does not hold"):
                ask()

    @settings(deadline=None)
    @given(mask=masks())
    def test_bytes_bring_the_mask_back(self, mask: TissueMask) -> None:
        back = TissueMask.from_bytes(mask.to_bytes())
        assert (back.tissue == mask.tissue).all()
        assert (back.fat_free == mask.fat_free).all()
        assert (back.factor, back.um_per_px, back.scene_box) == (mask.factor, mask.um_per_px, mask.scene_box)
        assert back.to_bytes() == mask.to_bytes()

    def test_damaged_bytes_are_refused(self) -> None:
        whole = found_in(glass()).to_bytes()
        for damaged in (
            b"",
            whole[:30],
            whole[:-3],
            b"x" + whole[1:],
            whole.replace(b'"factor": 16', b'"factor": 15'),
            b"mkhspc-tissue-1\n" + b"[" * 100_000 + b"\n",
        ):
            with pytest.raises(InputError, match="tissue mask is damaged"):
                TissueMask.from_bytes(damaged)

    def test_no_more_is_unpacked_than_the_size_of_the_mask_asks_for(self) -> None:
        magic, head, _ = found_in(glass()).to_bytes().split(b"\n", 2)
        bomb = b"\n".join((magic, head, zlib.compress(bytes(400_000_000), 1)))
        tracemalloc.start()
        with pytest.raises(InputError, match="it has another size"):
            TissueMask.from_bytes(bomb)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()
