"""Slides as programs write them: what is odd and harmless is read, what would mislead is refused or said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from czifiles import (
    Block,
    bend_entry,
    block_means,
    make_reduced,
    mosaic_blocks,
    noise,
    replace_metadata,
    substitute,
    write_czi,
)
from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide.czi.slide import CziSlide, read_slide_info
from mkhspc.slide.oddities import oddities

WIDE = 60


def whole(slide: CziSlide, scene: int = 0) -> NDArray[np.uint8]:
    return slide.read(scene, slide.scene(scene).box)


def quartered(rgb: NDArray[np.uint8], plane: dict[str, int], scene: int = 0) -> list[Block]:
    return [Block(b.pixels, b.x, b.y, scene, plane) for b in mosaic_blocks(rgb, (0, 0), 40, 0)]


class TestParts:
    """The positions of another file's images mean nothing in this one."""

    @pytest.mark.parametrize("nth", [0, 3])
    @pytest.mark.parametrize("part", [1, 2, -1])
    def test_a_directory_that_lists_images_of_another_file_is_refused(
        self, tmp_path: Path, nth: int, part: int
    ) -> None:
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(noise(80, 80), (0, 0), 40))
        bend_entry(path, nth, part=part)
        words = rf"is one of several files of one scan: its directory lists images of part {part}\n"
        with pytest.raises(InputError, match=words + ".*single CZI file"):
            read_slide_info(path)


class TestEmptyEntries:
    @pytest.mark.parametrize("size", [(0, 0), (0, 40), (40, 0)])
    def test_an_image_of_no_size_is_left_out_and_said(self, tmp_path: Path, size: tuple[int, int]) -> None:
        rgb = noise(80, 80)
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(rgb, (0, 0), 40))
        bend_entry(path, 3, size_px=size, stored_px=size)
        with CziSlide.open(path) as slide:
            picture = whole(slide)
            assert oddities(slide) == ["1 entry of its directory without width or height is left out"]
        assert (picture[:40] == rgb[:40]).all()
        assert (picture[40:, :40] == rgb[40:, :40]).all()
        assert (picture[40:, 40:] == 255).all()

    def test_several_are_counted(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(noise(80, 80), (0, 0), 40))
        for nth in (0, 2):
            bend_entry(path, nth, size_px=(0, 0), stored_px=(0, 0))
        with CziSlide.open(path) as slide:
            assert oddities(slide) == ["2 entries of its directory without width or height are left out"]

    def test_a_file_of_nothing_else_holds_no_image(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        bend_entry(path, 0, size_px=(0, 0))
        with pytest.raises(InputError, match="holds no image"):
            read_slide_info(path)

    def test_a_negative_size_is_damage(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        bend_entry(path, 0, size_px=(-9, 9))
        with pytest.raises(InputError, match="directory of images cannot be read"):
            read_slide_info(path)

    def test_a_stored_size_of_0_says_that_an_image_is_not_reduced(self, tmp_path: Path) -> None:
        rgb = noise(80, 80)
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(rgb, (0, 0), 40))
        for nth in range(4):
            bend_entry(path, nth, stored_px=(0, 0))
        with CziSlide.open(path) as slide:
            assert (whole(slide) == rgb).all()
            assert oddities(slide) == []


class TestMetadata:
    """What is odd in a free text takes nothing away from the pixel size beside it."""

    def slide(self, folder: Path, old: bytes, new: bytes) -> Path:
        path = write_czi(
            folder / "a.czi", [Block(noise(9, 9), 0, 0)], channel="Brightfield", name="A slide of bone marrow"
        )
        replace_metadata(path, lambda xml: xml.replace(old, new))
        assert new in path.read_bytes()
        return path

    @pytest.mark.parametrize(
        "text",
        [
            b"\x00", b"\x02", b"\x0b", b"\x1f\x7f", b"\xb5", b"\xc3", b"\xed\xa0\x80", b"\xef\xbf\xbf",
            b"\xff\xfe", b"&#2;", b"&#0;", b"&#x1;", b"&#xD800;", b"&#9999999;", b"&", b"&a;", b"&#",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("field", [b"A slide of bone marrow", b"Brightfield"])
    def test_odd_characters_in_a_free_text_are_no_trouble(
        self, tmp_path: Path, field: bytes, text: bytes
    ) -> None:
        path = self.slide(tmp_path, field, b"x" + text)
        info = read_slide_info(path)
        assert (info.um_per_px, info.pixel_size_fault) == (0.25, "")
        assert len(info.channels) == 1

    def test_characters_that_xml_can_hold_are_kept(self, tmp_path: Path) -> None:
        path = self.slide(tmp_path, b"Brightfield", b"&#956;&lt;")
        assert read_slide_info(path).channels[0].name == "μ<"

    @pytest.mark.parametrize("tail", [b"\0", b"\0 \n\0\0", b"\xff left over"])
    def test_what_comes_after_the_end_is_no_trouble(self, tmp_path: Path, tail: bytes) -> None:
        path = self.slide(tmp_path, b"A slide of bone marrow", b"")
        replace_metadata(path, lambda xml: xml + tail)
        assert read_slide_info(path).um_per_px == 0.25

    @pytest.mark.parametrize("value", [b"2.5\0e-07", b"2.5\xb5e-07", b"2.5&#1;e-07", b"2,5e-07"])
    def test_no_number_is_read_from_what_is_left_of_one(self, tmp_path: Path, value: bytes) -> None:
        path = self.slide(tmp_path, b"A slide of bone marrow", b"")
        replace_metadata(path, lambda xml: xml.replace(b"2.5e-07", value, 1))
        info = read_slide_info(path)
        assert info.um_per_px is None
        assert info.pixel_size_fault.startswith("states a pixel size of '2")

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            (b"</ImageDocument>", b"<ImageDocument/>", r"has metadata that cannot be read \(.*line"),
            (
                b"<Metadata>",
                b"<!DOCTYPE>",
                r"has metadata that cannot be read \(it declares a document type\)",
            ),
            (b"<ImageDocument>", b"ImageDocument>>", r"has metadata that cannot be read \("),
        ],
    )
    def test_beyond_repair_a_pixel_size_that_is_given_goes_on(
        self, tmp_path: Path, old: bytes, new: bytes, why: str
    ) -> None:
        rgb = noise(9, 9)
        path = write_czi(tmp_path / "a.czi", [Block(rgb, 0, 0)])
        substitute(path, old, new)
        with CziSlide.open(path) as slide, pytest.raises(InputError, match=f"{why}(.|\n)*--um-per-px"):
            _ = slide.um_per_px
        with CziSlide.open(path, um_per_px=0.25) as slide:
            assert slide.um_per_px == 0.25
            assert (whole(slide) == rgb).all()


class TestChannels:
    def two(self, path: Path, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Path:
        return write_czi(
            path, [*quartered(first, {"C": 0}), *quartered(second, {"C": 1})], channel="Overview"
        )

    def test_the_first_is_read_and_named(self, tmp_path: Path) -> None:
        rgb = [noise(80, 80, seed) for seed in (0, 1)]
        with CziSlide.open(self.two(tmp_path / "a.czi", *rgb)) as slide:
            assert (whole(slide) == rgb[0]).all()
            assert oddities(slide) == [
                "channel 0 (Overview) is read; there are 0 (Overview, bgr24), 1 (Channel:1, bgr24):"
                " choose another RGB one with --channel"
            ]

    def test_another_can_be_chosen(self, tmp_path: Path) -> None:
        rgb = [noise(80, 80, seed) for seed in (0, 1)]
        path = self.two(tmp_path / "a.czi", *rgb)
        for channel in (0, 1):
            with CziSlide.open(path, channel=channel) as slide:
                assert (whole(slide) == rgb[channel]).all()
                assert np.abs(slide.read_lowres(0, 10) - block_means(rgb[channel], 10)).max() <= 0.5
                assert slide.scene(0).channel == channel
                assert oddities(slide)[0].startswith(f"channel {channel} (")

    @pytest.mark.parametrize("dark", [0, 1])
    def test_a_dark_one_is_warned_of_where_it_is_read(self, tmp_path: Path, dark: int) -> None:
        rgb = [noise(80, 80, seed) // (4 if seed == dark else 1) for seed in (0, 1)]
        path = self.two(tmp_path / "a.czi", *rgb)
        with CziSlide.open(path, channel=1 - dark) as slide:
            assert not any("dark" in line for line in oddities(slide))
        with CziSlide.open(path, channel=dark) as slide:
            (line,) = (line for line in oddities(slide) if "dark" in line)
        name = ("Overview", "Channel:1")[dark]
        assert line.startswith(f"channel {dark} ({name}) is dark: nine tenths of it lie below ")
        assert line.endswith(f"if it is not the H&E scan, choose another: --channel {1 - dark}")

    def test_black_where_nothing_was_scanned_makes_no_channel_dark(self, tmp_path: Path) -> None:
        rgb = noise(80, 80)
        rgb[:, 20:] = 0
        with CziSlide.open(self.two(tmp_path / "a.czi", rgb, rgb)) as slide:
            assert not any("dark" in line for line in oddities(slide))

    def test_one_that_is_not_there_is_refused_with_those_that_are(self, tmp_path: Path) -> None:
        path = self.two(tmp_path / "a.czi", noise(80, 80), noise(80, 80))
        words = (
            r"has no channel 2; its channels are 0 \(Overview, bgr24\), 1 \(Channel:1, bgr24\)\n"
            "  give an RGB channel with --channel: 0, 1"
        )
        with CziSlide.open(path, channel=2) as slide, pytest.raises(InputError, match=words):
            whole(slide)

    @pytest.mark.parametrize("gray", [0, 1])
    def test_a_gray_one_beside_does_not_refuse_the_rgb_one(self, tmp_path: Path, gray: int) -> None:
        rgb, dim = noise(80, 80), np.full((80, 80), 900, np.uint16)
        blocks = [*quartered(rgb, {"C": 1 - gray}), Block(dim, 0, 0, 0, {"C": gray})]
        path = write_czi(tmp_path / "a.czi", blocks)
        with CziSlide.open(path) as slide:
            assert (whole(slide) == rgb).all()
            (line,) = oddities(slide)
        assert line.startswith(f"channel {1 - gray} (")
        assert f"{gray} (Channel:{gray}, gray16)" in line
        with CziSlide.open(path, channel=gray) as slide, pytest.raises(InputError) as refused:
            whole(slide)
        assert refused.value.what.startswith(f"has no RGB image in channel {gray}; its channels are 0 (")
        assert refused.value.fix == f"give an RGB channel with --channel: {1 - gray}"

    def test_scenes_whose_channels_have_other_numbers_are_all_read(self, tmp_path: Path) -> None:
        blocks = [Block(noise(40, 40, s), 100 * s, 0, s, {"C": s}) for s in (0, 1)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            for scene in (0, 1):
                assert (whole(slide, scene) == blocks[scene].pixels).all()
            assert (
                "channel 0 (Channel:0) of scene 0 and 1 (Channel:1) of scene 1 are read" in oddities(slide)[0]
            )

    def test_the_place_of_a_scene_does_not_depend_on_the_channel(self, tmp_path: Path) -> None:
        blocks = [Block(noise(40, 40), 0, 0, 0, {"C": 0}), Block(noise(40, 40, 1), 30, 20, 0, {"C": 1})]
        path = write_czi(tmp_path / "a.czi", blocks)
        with CziSlide.open(path, channel=1) as slide:
            picture = whole(slide)
        assert picture.shape == (60, 70, 3)
        assert (picture[20:, 30:] == blocks[1].pixels).all()
        assert (picture[:20] == 255).all()


class TestPixelTypes:
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_a_gray_scene_beside_the_rgb_one_is_left_out(self, tmp_path: Path, kind: type) -> None:
        rgb = noise(80, 80)
        gray = np.full((30, 30), 90, kind)
        path = write_czi(tmp_path / "a.czi", [*quartered(rgb, {}), Block(gray, 900, 0, 1)])
        name = f"gray{8 * gray.itemsize}"
        with CziSlide.open(path) as slide:
            assert (whole(slide) == rgb).all()
            assert slide.info.unreadable_because == ""
            assert oddities(slide) == [f"scene 1 is left out: it has no RGB image (pixel type {name})"]
            assert oddities(slide, [0]) == []
            with pytest.raises(
                InputError, match=f"scene 1 is not RGB: it holds {name} in channel 0\n.*are 0"
            ):
                whole(slide, 1)

    def test_a_gray_scene_under_the_rgb_one_is_not_shown(self, tmp_path: Path) -> None:
        rgb = noise(80, 80)
        blocks = [Block(np.zeros((80, 80), np.uint8), 0, 0, 0), *quartered(rgb, {}, scene=1)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            assert (whole(slide, 1) == rgb).all()
            assert np.abs(slide.read_lowres(1, 10) - block_means(rgb, 10)).max() <= 0.5

    @pytest.mark.parametrize("gray", [(0, 0), (0, 1), (2, 1)])
    def test_a_pyramid_beside_gray_images_is_not_needed(self, tmp_path: Path, gray: tuple[int, int]) -> None:
        """libCZI composes images of the type of a file's first image alone."""
        full = np.repeat(np.repeat(noise(24, 32), 4, axis=0), 4, axis=1)
        scene, channel = gray
        reduced = Block(full[::4, ::4], 0, 0, 1, {"C": 0})
        dim = Block(np.zeros((30, 30), np.uint16), 900, 0, scene, {"C": channel})
        path = write_czi(tmp_path / "a.czi", [dim, replace(reduced, pixels=full), reduced])
        make_reduced(path, reduced, 4)
        with CziSlide.open(path) as slide:
            assert slide.info.pyramid_levels == (1, 4)
            assert np.abs(slide.read_lowres(1, 8) - block_means(full, 8)).max() <= 0.5

    def test_images_of_two_types_in_one_channel_of_a_scene_are_refused(self, tmp_path: Path) -> None:
        blocks = [Block(noise(40, 40), 0, 0), Block(np.zeros((40, 40), np.uint8), 40, 0)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            assert slide.info.unreadable_because == (
                "is not an H&E brightfield slide: pixel type bgr24+gray8"
            )


class TestScenesOverOneAnother:
    def lines(self, path: Path, blocks: list[Block], scenes: tuple[int, ...] = ()) -> list[str]:
        with CziSlide.open(write_czi(path, blocks)) as slide:
            return oddities(slide, scenes)

    def test_a_merged_picture_as_a_second_scene_is_warned_of(self, tmp_path: Path) -> None:
        rgb = noise(400, 400)
        merged = [*mosaic_blocks(rgb, (0, 0), 200, 20), Block(rgb, 0, 0, 1)]
        assert self.lines(tmp_path / "a.czi", merged) == [
            "scenes 0 and 1 lie over one another: 0.01 mm² is in both (100% of scene 0), and cells there"
            " count twice; choose one with --scene 0 or --scene 1"
        ]

    @pytest.mark.parametrize(("scenes", "count"), [((0,), 0), ((1,), 0), ((0, 1), 1), ((1, 2), 0)])
    def test_only_scenes_that_are_asked_for_are(
        self, tmp_path: Path, scenes: tuple[int, ...], count: int
    ) -> None:
        blocks = [Block(noise(40, 40), x, 0, s) for s, x in enumerate((0, 0, 500))]
        assert len(self.lines(tmp_path / "a.czi", blocks, scenes)) == count

    @pytest.mark.parametrize(("shift", "share"), [(0, "100%"), (200, "50%"), (300, "25%"), (396, "1%")])
    def test_a_part_in_common_is_measured(self, tmp_path: Path, shift: int, share: str) -> None:
        blocks = [Block(noise(400, 400), 0, 0, 0), Block(noise(400, 400, 1), shift, 0, 1)]
        (line,) = self.lines(tmp_path / "a.czi", blocks)
        assert f"({share} of scene 0)" in line

    def test_scenes_side_by_side_are_no_trouble(self, tmp_path: Path) -> None:
        blocks = [Block(noise(400, 400), 0, 0, 0), Block(noise(400, 400, 1), 400, 0, 1)]
        assert self.lines(tmp_path / "a.czi", blocks) == []

    def test_scenes_whose_frames_alone_overlap_are_no_trouble(self, tmp_path: Path) -> None:
        """Two pieces of tissue, one lying in the hollow of the other."""
        hollow = [(0, 0), (0, 1500), (1500, 0), (3000, 3000)]
        blocks = [Block(noise(40, 40), x, y, 0) for x, y in hollow]
        blocks += [Block(noise(40, 40), x + 41, y + 3, 1) for x, y in hollow]
        assert self.lines(tmp_path / "a.czi", blocks) == []

    def test_one_pixel_in_common_is_found_on_a_large_slide(self, tmp_path: Path) -> None:
        blocks = [Block(noise(40, 40), x, x, s) for s in (0, 1) for x in (39 * s, 90_000 + 500 * s)]
        (line,) = self.lines(tmp_path / "a.czi", blocks)
        assert "(0% of scene" in line

    @pytest.mark.parametrize("um_per_px", [None, 0.25])
    def test_without_a_pixel_size_it_is_measured_in_pixels(
        self, tmp_path: Path, um_per_px: float | None
    ) -> None:
        blocks = [Block(noise(40, 40), 0, 0, 0), Block(noise(40, 40), 0, 0, 1)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks, um_per_px)) as slide:
            (line,) = oddities(slide)
        assert (": 1,600 px is in both" in line) == (um_per_px is None)


class TestKept:
    """Unusual, and right already."""

    @pytest.mark.parametrize("factor", [8, 16])
    def test_a_pyramid_whose_sizes_are_rounded_up(self, tmp_path: Path, factor: int) -> None:
        smooth = np.asarray(
            np.repeat(np.repeat(noise(20, 20) // 4 + 150, 31, axis=0), 31, axis=1), np.uint8
        )  # 620 x 620, no multiple of the factor
        blocks = mosaic_blocks(smooth, (0, 0), 301, 40)
        tiles = [(y, x, smooth[y : y + 311, x : x + 311]) for y in (0, 311) for x in (0, 311)]
        reduced = [Block(block_means(tile, factor).astype(np.uint8), x, y) for y, x, tile in tiles]
        path = write_czi(tmp_path / "a.czi", [*blocks, *reduced])
        for nth, (_, _, tile) in enumerate(tiles, start=len(blocks)):
            bend_entry(path, nth, size_px=(tile.shape[1], tile.shape[0]))
        with CziSlide.open(path) as slide:
            assert (whole(slide) == smooth).all()
            lowres = slide.read_lowres(0, 2 * factor).astype(float)
        # Off by less than a pixel of the level, which is a small share of a smooth patch.
        assert np.abs(lowres - block_means(smooth, 2 * factor)).mean() < 4

    def test_a_tile_far_away(self, tmp_path: Path) -> None:
        rgb, far = noise(80, 80), noise(30, 30, 1)
        blocks = [*mosaic_blocks(rgb, (0, 0), 40), Block(far, 150_000, 120_000)]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            assert (slide.scene(0).width_px, slide.scene(0).height_px) == (150_030, 120_030)
            assert (slide.read(0, Box(0, 0, 80, 80)) == rgb).all()
            assert (slide.read(0, Box(150_000, 120_000, 150_030, 120_030)) == far).all()
            assert (slide.read(0, Box(70_000, 60_000, 70_030, 60_030)) == 255).all()
            assert oddities(slide) == []

    @pytest.mark.parametrize(("dimension", "count", "read"), [("Z", 5, 2), ("T", 2, 0)])
    def test_planes(self, tmp_path: Path, dimension: str, count: int, read: int) -> None:
        rgb = [noise(80, 80, n) for n in range(count)]
        blocks = [block for n in range(count) for block in quartered(rgb[n], {"C": 0, dimension: n})]
        with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
            assert slide.info.planes == ((dimension, count),)
            assert (whole(slide) == rgb[read]).all()


@pytest.mark.parametrize("count", [1, 300])
def test_many_scenes_are_looked_at_soon(tmp_path: Path, count: int) -> None:
    blocks = [Block(noise(4, 4), 3 * n, 0, n) for n in range(count)]
    with CziSlide.open(write_czi(tmp_path / "a.czi", blocks)) as slide:
        assert len(oddities(slide)) == min(10, count - 1)


@pytest.mark.parametrize(
    "change",
    [lambda slide: slide.read_lowres(0, 8), whole],
)
def test_a_clean_slide_has_nothing_odd(tmp_path: Path, change: Callable[[CziSlide], object]) -> None:
    with CziSlide.open(write_czi(tmp_path / "a.czi", mosaic_blocks(noise(80, 80), (0, 0), 40, 5))) as slide:
        change(slide)
        assert oddities(slide) == []
