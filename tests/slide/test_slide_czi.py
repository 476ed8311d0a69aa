"""Real CZI files are read back to the pixel, and bad ones are refused with a reason."""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from czifiles import (
    ZSTD,
    Block,
    block_means,
    make_reduced,
    mosaic_blocks,
    noise,
    rename_dimension,
    substitute,
    write_czi,
)
from mkhspc.errors import InputError, UsageError
from mkhspc.geometry import Box
from mkhspc.slide.czi import slide as czi_module, strips
from mkhspc.slide.czi.directory import SubBlock, read_directory
from mkhspc.slide.czi.slide import CziSlide, read_slide_info
from mkhspc.slide.czi.unpack import Image

FAR = (-700, 90_000)


def whole(slide: CziSlide, scene: int = 0) -> NDArray[np.uint8]:
    return slide.read(scene, slide.scene(scene).box)


def decoded(slide: CziSlide, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, Box]]:
    """Counts the sub-blocks that a slide decodes from now on, by scene and box."""
    counts: Counter[tuple[int, Box]] = Counter()
    decode = slide.decode

    def counting(block: SubBlock) -> Image:
        counts[block.scene, block.box] += 1
        return decode(block)

    monkeypatch.setattr(slide, "decode", counting)
    return counts


class TestRealSlides:
    @pytest.mark.shared
    @pytest.mark.parametrize(("name", "worst"), [("marrow.czi", 0), ("marrow_jxr.czi", 8)])
    def test_marrow_reads_back_as_its_images(self, shared: Path, name: str, worst: int) -> None:
        folder = shared / "data" / "marrow"
        with CziSlide.open(folder / name) as slide:
            for scene in range(3):
                halves = [cv2.imread(str(folder / f"BM_GRAZ_HE_000{scene + 1}_0{i}.png")) for i in (1, 2)]
                expected = np.concatenate(halves, axis=1)[..., ::-1].astype(int)
                assert np.abs(whole(slide, scene) - expected).max() <= worst

    @pytest.mark.shared
    def test_the_stored_pyramid_shows_what_level_0_shows(self, shared: Path) -> None:
        with CziSlide.open(shared / "data" / "marrow" / "marrow_jxr.czi") as slide:
            lowres = slide.read_lowres(1, 16)
            assert np.abs(lowres - block_means(whole(slide, 1), 16)).max() < 2.5

    @pytest.mark.shared
    @pytest.mark.parametrize(
        ("name", "um_per_px", "pixel_type", "sizes", "compression", "levels", "is_mosaic"),
        [
            (
                "czi/aicspylibczi__RGB-8bit.czi",
                1.083333333, "bgr24", [(924, 624)], "uncompressed", (1,), False,
            ),
            (
                "czi/aicspylibczi__mosaic_test.czi",
                1.083333333, "gray16", [(1756, 624)], "uncompressed", (1,), True,
            ),
            ("czi/aicspylibczi__tiles.czi", 0.830265821, "gray8", [(510, 512)], "uncompressed", (1,), True),
            (
                "czi/czitools__S3_1Pos_2Mosaic_T1_Z1_CH1.czi",
                1.6, "gray16", [(295, 122), (64, 64), (352, 237)], "zstd1", (1,), True,
            ),
            ("czi/czitools__newCZI_compressed.czi", None, "gray16", [(512, 512)], "zstd0", (1,), False),
            ("czi/czitools__DAPI_GFP.czi", None, "gray8", [(640, 640)], "uncompressed", (1,), False),
            ("marrow/marrow.czi", 0.22, "bgr24", [(2400, 1200)] * 3, "zstd1", (1,), True),
            ("marrow/marrow_jxr.czi", 0.22, "bgr24", [(2400, 1200)] * 3, "jpeg-xr", (1, 2), True),
        ],
    )  # fmt: skip
    def test_facts_are_true(
        self, shared: Path, name: str, um_per_px: float | None, pixel_type: str,
        sizes: list[tuple[int, int]], compression: str, levels: tuple[int, ...], is_mosaic: bool,
    ) -> None:  # fmt: skip
        info = read_slide_info(shared / "data" / name)
        assert info.um_per_px == um_per_px
        assert info.pixel_type == pixel_type
        assert [(scene.width_px, scene.height_px) for scene in info.scenes] == sizes
        assert info.compressions == (compression,)
        assert info.pyramid_levels == levels
        assert info.is_mosaic is is_mosaic

    @pytest.mark.shared
    def test_origins_and_channels_are_true(self, shared: Path) -> None:
        tiles = read_slide_info(shared / "data" / "czi" / "aicspylibczi__tiles.czi")
        assert (tiles.scenes[0].mosaic_box.x0, tiles.scenes[0].mosaic_box.y0) == (-127, -128)
        assert [channel.name for channel in tiles.channels] == ["Ch1", "T PMT"]
        two = read_slide_info(shared / "data" / "czi" / "czitools__DAPI_GFP.czi")
        assert [channel.name for channel in two.channels] == ["DAPI", "GFP"]

    @pytest.mark.shared
    def test_a_colour_file_that_is_no_mosaic_is_read(self, shared: Path) -> None:
        with CziSlide.open(shared / "data" / "czi" / "aicspylibczi__RGB-8bit.czi") as slide:
            picture = whole(slide)
            assert picture.shape == (624, 924, 3)
            assert (slide.read(0, Box(100, 50, 300, 90)) == picture[50:90, 100:300]).all()


class TestPixels:
    def test_colours_are_rgb(self, tmp_path: Path) -> None:
        red = np.zeros((30, 40, 3), np.uint8)
        red[..., 0] = 200
        with CziSlide.open(write_czi(tmp_path / "a.czi", [Block(red, 0, 0)])) as slide:
            assert whole(slide)[0, 0].tolist() == [200, 0, 0]
            assert slide.read_lowres(0, 10)[0, 0].tolist() == [200, 0, 0]

    @pytest.mark.parametrize("compression", [None, ZSTD])
    @pytest.mark.parametrize("origin", [(0, 0), FAR, (1_500_000_000, -1_500_000_000)])
    def test_a_mosaic_is_put_together_wherever_it_lies(
        self, tmp_path: Path, compression: str | None, origin: tuple[int, int]
    ) -> None:
        rgb = noise(170, 230)
        blocks = mosaic_blocks(rgb, origin, 64, overlap_px=9)
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks, compression=compression)) as slide:
            assert (whole(slide) == rgb).all()

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_box_is_a_cut_of_the_scene_on_white(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "boxes.czi"
        rgb = noise(90, 120)
        if not path.exists():
            write_czi(path, mosaic_blocks(rgb, FAR, 50, overlap_px=7))
        x0, y0 = data.draw(st.integers(-80, 160)), data.draw(st.integers(-80, 130))
        width, height = data.draw(st.integers(0, 150)), data.draw(st.integers(0, 150))
        paper = np.full((520, 520, 3), 255, np.uint8)
        paper[200:290, 200:320] = rgb
        with CziSlide.open(path) as slide:
            found = slide.read(0, Box(x0, y0, x0 + width, y0 + height))
        assert (found == paper[200 + y0 : 200 + y0 + height, 200 + x0 : 200 + x0 + width]).all()

    def test_a_box_far_outside_is_white(self, tmp_path: Path) -> None:
        with CziSlide.open(write_czi(tmp_path / "a.czi", [Block(noise(40, 40), *FAR)])) as slide:
            assert (slide.read(0, Box(10_000, -9_000, 10_020, -8_990)) == 255).all()

    def test_where_blocks_overlap_the_later_one_is_seen(self, tmp_path: Path) -> None:
        below, above = np.full((40, 40, 3), 60, np.uint8), np.full((40, 40, 3), 180, np.uint8)
        with CziSlide.open(write_czi(tmp_path / "a.czi", [Block(below, 0, 0), Block(above, 20, 0)])) as slide:
            assert whole(slide)[0, :, 0].tolist() == [60] * 20 + [180] * 40

    def test_gaps_are_white(self, tmp_path: Path) -> None:
        blocks = [Block(noise(30, 30), 0, 0), Block(noise(30, 30, 1), 50, 40)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            picture = whole(slide)
        assert picture.shape == (70, 80, 3)
        assert (picture[:30, 30:] == 255).all()
        assert (picture[40:, 50:] == blocks[1].pixels).all()

    def test_a_scene_shows_nothing_of_its_neighbour(self, tmp_path: Path) -> None:
        ours, theirs = noise(60, 100), np.full((60, 100, 3), 7, np.uint8)
        blocks = [
            *mosaic_blocks(ours, (0, 0), 40),
            *mosaic_blocks(theirs, (30, 20), 40, scene=1),
            Block(ours[:10, :10], 90, 90),
        ]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            picture = whole(slide, 0)
            assert (picture[:60, :100] == ours).all()
            assert (picture[60:90] == 255).all()
            assert (whole(slide, 1) == theirs).all()
            lowres = slide.read_lowres(0, 10)
        assert np.abs(lowres[:6] - block_means(ours, 10)).max() <= 0.5
        assert (lowres[6:9] == 255).all()

    def test_scenes_of_one_image_each_are_read(self, tmp_path: Path) -> None:
        blocks = [Block(noise(30, 50), 0, 0, 0), Block(noise(80, 20, 1), 400, -90, 1)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            assert not slide.info.is_mosaic
            for scene in (0, 1):
                assert (whole(slide, scene) == blocks[scene].pixels).all()

    def test_a_block_larger_than_the_first_is_read(self, tmp_path: Path) -> None:
        blocks = [Block(noise(9, 9), -50, 0), *mosaic_blocks(noise(600, 700), (0, 0), 500, 50)]
        path = write_czi(tmp_path / "a.czi", blocks)
        assert read_directory(path).level_0[0].box.area_px == 81
        with CziSlide.open(path) as slide:
            assert (whole(slide)[:, 50:] == noise(600, 700)).all()
            assert np.abs(slide.read_lowres(0, 25)[:, 2:] - block_means(noise(600, 700), 25)).max() <= 0.5

    def test_a_large_block_under_another_scene_is_read(self, tmp_path: Path) -> None:
        blocks = [Block(noise(9, 9), -50, 0), Block(noise(9, 9), 20, 20), Block(noise(60, 60), 0, 0, 1)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            assert (whole(slide, 1) == blocks[2].pixels).all()

    def test_of_a_focus_stack_the_middle_is_read(self, tmp_path: Path) -> None:
        blocks = [
            Block(np.full((20, 20, 3), 10 * z, np.uint8), x, 0, plane={"Z": z, "T": t})
            for z in range(5) for t in range(2) for x in (0, 20)
        ]  # fmt: skip
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            assert slide.info.planes == (("T", 2), ("Z", 5))
            assert (whole(slide) == 20).all()

    @pytest.mark.parametrize("renamed", [{"T": "B", "Z": "H"}, {"T": "V", "Z": "I"}, {"C": "V"}])
    def test_unusual_dimensions_are_no_trouble(self, tmp_path: Path, renamed: dict[str, str]) -> None:
        rgb = noise(90, 120)
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(rgb, FAR, 50, 10))
        for old, new in renamed.items():
            rename_dimension(path, old, new)
        with CziSlide.open(path) as slide:
            assert slide.info.is_mosaic
            assert (whole(slide) == rgb).all()
            assert np.abs(slide.read_lowres(0, 10) - block_means(rgb, 10)).max() <= 0.5

    def test_a_scene_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0, 0), Block(noise(9, 9), 20, 0, 3)])
        with CziSlide.open(path) as slide, pytest.raises(InputError, match=r"no scene 1\n.*0, 3"):
            slide.read(1, Box(0, 0, 5, 5))

    def test_threads_with_a_handle_each_see_the_same(self, tmp_path: Path) -> None:
        rgb = noise(300, 400)
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(rgb, FAR, 60, 10), compression=ZSTD)
        same: list[bool] = []

        def read() -> None:
            with CziSlide.open(path) as slide:
                same.extend(bool((whole(slide) == rgb).all()) for _ in range(5))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert same == [True] * 20

    def test_a_closed_slide_leaves_no_file_open(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with CziSlide.open(path) as slide:
                whole(slide)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestDecoding:
    def test_a_block_is_decoded_once_and_only_where_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = [
            *mosaic_blocks(noise(120, 120), (0, 0), 50, 10),
            *mosaic_blocks(noise(120, 120), (60, 60), 50, 10, scene=1),
        ]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            counts = decoded(slide, monkeypatch)
            slide.read(0, Box(0, 0, 45, 30))
            assert counts == {(0, Box(0, 0, 50, 50)): 1, (0, Box(40, 0, 90, 50)): 1}
            counts.clear()
            slide.read_lowres(0, 7)
            assert set(counts.values()) == {1}
            assert {scene for scene, _ in counts} == {0}

    def test_a_hidden_block_is_not_decoded_for_an_overview(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks = [Block(noise(20, 20), 10, 10), Block(noise(60, 60), 0, 0), Block(noise(20, 20), 70, 0)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            counts = decoded(slide, monkeypatch)
            slide.read_lowres(0, 8)
            assert (0, Box(10, 10, 30, 30)) not in counts


class TestOverview:
    @settings(max_examples=40, deadline=None)
    @given(factor=st.integers(1, 140), seed=st.integers(0, 9))
    def test_it_is_the_mean_of_what_is_seen(
        self, tmp_path_factory: pytest.TempPathFactory, factor: int, seed: int
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"overview{seed}.czi"
        if not path.exists():
            random = np.random.default_rng(seed)
            places = random.integers(0, 90, (6, 4))
            blocks = [Block(noise(10 + h, 10 + w, i), x - 300, y) for i, (x, y, w, h) in enumerate(places)]
            write_czi(path, blocks)
        with CziSlide.open(path) as slide:
            means = block_means(whole(slide), factor)
            lowres = slide.read_lowres(0, factor)
        assert lowres.shape == means.shape
        assert np.abs(lowres - means).max() <= 0.5

    def test_a_large_image_is_summed_in_bands(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(strips, "BAND_PX", 500)
        rgb = noise(130, 170)
        with CziSlide.open(write_czi(tmp_path / "a.czi", [Block(rgb, 3, 5)])) as slide:
            assert np.abs(slide.read_lowres(0, 12) - block_means(rgb, 12)).max() <= 0.5

    def pyramid(self, path: Path, *, level_px: tuple[int, int] = (128, 96)) -> NDArray[np.uint8]:
        """A mosaic with a level of a quarter of its size; returns the stored level."""
        smooth = cv2.resize(noise(6, 8), (128, 96), interpolation=cv2.INTER_CUBIC)
        level = smooth[: level_px[1], : level_px[0]]
        full = np.repeat(np.repeat(smooth, 4, axis=0), 4, axis=1)
        reduced = Block(level, *FAR)
        write_czi(path, [*mosaic_blocks(full, FAR, 200, 20), reduced])
        make_reduced(path, reduced, 4)
        return level

    def test_it_comes_from_the_stored_pyramid(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        level = self.pyramid(tmp_path / "a.czi")
        with CziSlide.open(tmp_path / "a.czi") as slide:
            assert slide.info.pyramid_levels == (1, 4)
            counts = decoded(slide, monkeypatch)
            assert (slide.read_lowres(0, 4) == level).all()
            assert np.abs(slide.read_lowres(0, 16) - block_means(level, 4)).max() <= 0.5
            assert not counts

    def test_a_level_coarser_than_asked_for_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.pyramid(tmp_path / "a.czi")
        with CziSlide.open(tmp_path / "a.czi") as slide:
            counts = decoded(slide, monkeypatch)
            slide.read_lowres(0, 3)
            assert counts

    def test_an_incomplete_pyramid_is_left_alone(self, tmp_path: Path) -> None:
        self.pyramid(tmp_path / "a.czi", level_px=(100, 96))
        with CziSlide.open(tmp_path / "a.czi") as slide:
            assert np.abs(slide.read_lowres(0, 8) - block_means(whole(slide), 8)).max() <= 0.5

    @pytest.mark.parametrize(("factor", "worst"), [(4, 0), (16, 0), (24, 0), (7, 9)])
    def test_strips_join_without_a_seam(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, worst: int
    ) -> None:
        self.pyramid(tmp_path / "a.czi")
        with CziSlide.open(tmp_path / "a.czi") as slide:
            at_once = slide.read_lowres(0, factor).astype(int)
            monkeypatch.setattr(czi_module, "STRIP_BYTES", 5000)
            in_strips = slide.read_lowres(0, factor).astype(int)
        assert np.abs(at_once - in_strips).max() <= worst

    def test_a_pyramid_shows_nothing_of_an_overlapping_scene(self, tmp_path: Path) -> None:
        bright, dark = np.full((64, 64, 3), 200, np.uint8), np.full((64, 64, 3), 20, np.uint8)
        level = Block(bright[:32, :32], 0, 0)
        blocks = [Block(bright, 0, 0), Block(dark, 32, 0, 1), Block(dark, 96, 0, 1), level]
        write_czi(tmp_path / "a.czi", blocks)
        make_reduced(tmp_path / "a.czi", level, 2)
        with CziSlide.open(tmp_path / "a.czi") as slide:
            assert (slide.read_lowres(0, 8) == 200).all()

    def test_a_pyramid_leaves_the_place_of_a_neighbour_white(self, tmp_path: Path) -> None:
        bright, dark = np.full((64, 64, 3), 200, np.uint8), np.full((64, 64, 3), 20, np.uint8)
        level = Block(np.full((70, 70, 3), 200, np.uint8), 0, 0)
        blocks = [Block(bright, 0, 0), Block(bright, 76, 76), Block(dark, 76, 0, 1), level]
        write_czi(tmp_path / "a.czi", blocks)
        make_reduced(tmp_path / "a.czi", level, 2)
        with CziSlide.open(tmp_path / "a.czi") as slide:
            lowres = slide.read_lowres(0, 4)
        assert (lowres[:16, :16] == 200).all()
        assert (lowres[:16, 19:] == 255).all()


class TestPixelSize:
    @pytest.mark.parametrize("um_per_px", [0.1725, 0.22, 1.0])
    def test_it_is_the_file_s(self, tmp_path: Path, um_per_px: float) -> None:
        with CziSlide.open(write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)], um_per_px)) as slide:
            assert slide.um_per_px == um_per_px

    @pytest.mark.parametrize(
        ("stated", "why"),
        [
            (None, "states no pixel size"),
            (0.0, "states a pixel size of '0'"),
            (500.0, "states a pixel size of '0.0005"),
            (0.001, "states a pixel size of '1"),
            ((0.2, 0.3), "not square: 0.2 by 0.3 µm"),
        ],
    )
    def test_without_one_it_is_asked_for(
        self, tmp_path: Path, stated: float | tuple[float, float] | None, why: str
    ) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)], stated)
        assert read_slide_info(path).um_per_px is None
        with CziSlide.open(path) as slide, pytest.raises(InputError, match=f"{why}(.|\n)*--um-per-px"):
            _ = slide.um_per_px
        with CziSlide.open(path, um_per_px=0.25) as slide:
            assert slide.um_per_px == 0.25

    def test_nearly_square_pixels_count_as_square(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)], (0.200, 0.201))
        assert read_slide_info(path).um_per_px == pytest.approx(0.2005, abs=1e-6)

    def test_an_absurd_one_on_the_command_line_is_refused(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        with pytest.raises(UsageError):
            CziSlide.open(path, um_per_px=0.0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("pixels", "name"),
        [
            (np.zeros((9, 9), np.uint8), "gray8"),
            (np.zeros((9, 9), np.uint16), "gray16"),
            (np.zeros((9, 9, 3), np.uint16), "bgr48"),
        ],
    )
    def test_what_is_no_rgb_slide_is_described_but_not_read(
        self, tmp_path: Path, pixels: NDArray[np.uint8], name: str
    ) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(pixels, 0, 0)])
        assert read_slide_info(path).pixel_type == name
        with CziSlide.open(path) as slide:
            for attempt in (lambda: slide.read(0, Box(0, 0, 5, 5)), lambda: slide.read_lowres(0, 2)):
                with pytest.raises(InputError, match=f"is not an H&E brightfield slide: pixel type {name}"):
                    attempt()

    def test_a_file_cut_anywhere_is_refused(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(noise(40, 60), (0, 0), 25), compression=ZSTD)
        data = path.read_bytes()
        cut = tmp_path / "cut.czi"
        # The last bytes are padding, without which the file is whole.
        for length in [*range(0, 700, 13), *range(700, len(data) - 32, 97)]:
            cut.write_bytes(data[:length])
            with pytest.raises(InputError, match=r"cut\.czi") as caught, CziSlide.open(cut) as slide:
                whole(slide)
            assert caught.value.exit_code == 3
            assert caught.value.fix

    def test_a_block_with_a_wrong_length_is_refused_before_libczi_sees_it(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(30, 30), 0, 0), Block(noise(30, 30), 30, 0)])
        data = bytearray(path.read_bytes())
        start = data.index(b"ZISRAWSUBBLOCK")
        data[start + 44] = 0x99  # the pixels' length, which libCZI trusts and crashes on
        path.write_bytes(data)
        with CziSlide.open(path) as slide, pytest.raises(InputError, match="x 0, y 0 cannot be decoded"):
            whole(slide)

    def test_a_disk_that_does_not_answer_is_an_image_that_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> bytes:
            raise OSError(5, "Input/output error")

        with CziSlide.open(write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])) as slide:
            monkeypatch.setattr(czi_module.os, "pread", broken)
            with pytest.raises(InputError, match=r"x 0, y 0 cannot be decoded.*Input/output error"):
                whole(slide)

    def test_an_image_damaged_inside_is_named(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(noise(40, 60), (0, 0), 30), compression=ZSTD)
        data = bytearray(path.read_bytes())
        start = data.index(b"ZISRAWSUBBLOCK") + 300
        data[start : start + 200] = bytes(200)
        path.write_bytes(data)
        with CziSlide.open(path) as slide:
            with pytest.raises(InputError, match="the image at x 0, y 0 cannot be decoded"):
                whole(slide)
            assert slide.read(0, Box(31, 31, 40, 40)).shape == (9, 9, 3)

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"", "is empty"),
            (b"\x89PNG\r\n\x1a\n" + bytes(1000), "is not a CZI file"),
            (b"ZISRAWFILE", "cannot be read"),
            (b"ZISRAWFILE" + bytes(2000), "cannot be read"),
            (b"ZISRAWFILE" + b"\xff" * 2000, "cannot be read"),
        ],
    )
    def test_what_is_no_czi_is_refused(self, tmp_path: Path, content: bytes, what: str) -> None:
        (tmp_path / "a.czi").write_bytes(content)
        with pytest.raises(InputError, match=what):
            CziSlide.open(tmp_path / "a.czi")

    def test_missing_files_folders_and_pipes_are_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.czi")
        for name, what in (
            ("none.czi", "no such file"),
            (".", "is a folder"),
            ("pipe.czi", "device or pipe"),
        ):
            with pytest.raises(InputError, match=what):
                CziSlide.open(tmp_path / name)

    def test_a_file_without_permission_is_refused(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        path.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # root may read everything
                os.seteuid(65534)
            with pytest.raises(InputError, match="may not be read"):
                CziSlide.open(path)
        finally:
            os.seteuid(user)

    def test_one_part_of_several_is_refused(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        data = bytearray(path.read_bytes())
        data[32 + 48] = 1
        path.write_bytes(data)
        with pytest.raises(InputError, match="spread over several files"):
            read_slide_info(path)

    def test_an_impossible_scene_number_is_refused_before_libczi_counts_to_it(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        old, new = (struct.pack("<4siifi", b"S", index, 1, 0.0, 1) for index in (0, 2**30))
        substitute(path, old, new)
        with pytest.raises(InputError, match="directory of images cannot be read"):
            CziSlide.open(path)

    def test_a_scene_of_impossible_size_is_refused(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0), Block(noise(9, 9), 1_000_000_000, 0)])
        with pytest.raises(InputError, match="cannot be 1000000009 by 9 pixels large"):
            read_slide_info(path)
