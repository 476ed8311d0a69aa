"""Small files that unpack to, or claim, far more than they are: read in the memory given, or refused."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mkhspc.config import RunSection
from mkhspc.config.identity import DRAW_BY_TISSUE
from mkhspc.errors import InputError
from mkhspc.geometry import Box, uncovered
from mkhspc.slide.calibration import ROOM_BYTES, calibrate_scenes
from mkhspc.slide.czi.directory import SubBlock, read_directory
from mkhspc.slide.czi.mosaic import MAX_OVERLAPS, MAX_PIECES, corners_of, overlapping_pairs
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.czi.unpack import Image
from mkhspc.slide.tissue import tissue_by_scene
from mkhspc.units import GB
from processes import with_peak
from rawczi import Part, RawBlock, claim, packed, write_raw

SIDE = 600
SMALL = packed(SIDE, SIDE)


def at(*places: tuple[int, int]) -> list[RawBlock]:
    return [RawBlock(x, y, SIDE, SIDE, SMALL) for x, y in places]


def one_huge(path: Path) -> Path:
    return write_raw(path, [RawBlock(0, 0, 16_000, 16_000, packed(16_000, 16_000))])


def far_apart(path: Path) -> Path:
    return write_raw(path, at((0, 0), (500_000, 500_000)))


def as_far_as_it_goes(path: Path) -> Path:
    return write_raw(path, at((0, 0), (1_999_000, 1_999_000)))


@pytest.mark.parametrize(
    ("written", "needed_gb", "enough_gb"),
    [(one_huge, "2.7", "9"), (far_apart, "29.1", "30"), (as_far_as_it_goes, "460.6", "461")],
)
@pytest.mark.parametrize("command", ["segment", "plan"])
def test_a_run_that_would_not_fit_is_refused_with_the_memory_that_will_do(
    tmp_path: Path, command: str, written: Callable[[Path], Path], needed_gb: str, enough_gb: str
) -> None:
    slide = written(tmp_path / "a.czi")
    assert slide.stat().st_size < 200_000
    out = ["--output-dir", tmp_path / "run"] if command == "segment" else []
    done, peak = with_peak(command, "--czi-path", slide, "--memory-gb", 1, *out)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        f"mkhspc: the run needs at least {needed_gb} GB of memory and the limit is 1 GB, set by --memory-gb",
        f"  give it more memory: {enough_gb} GB will do",
    ]
    assert peak < 0.3 * GB
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("written", "needed_gb"), [(one_huge, "2.7"), (far_apart, "29.1"), (as_far_as_it_goes, "460.6")]
)
def test_a_look_that_would_not_fit_is_refused_with_the_number(
    tmp_path: Path, written: Callable[[Path], Path], needed_gb: str
) -> None:
    slide = written(tmp_path / "a.czi")
    done, peak = with_peak("inspect", slide, "--memory-gb", 1)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"mkhspc: {slide}: finding its tissue and stains takes {needed_gb} GB of memory and"
        " the limit is 1 GB, set by --memory-gb",
        "  give it more with --memory-gb; or is the place of an image wrong in the file?",
    ]
    assert peak < 0.3 * GB


def test_inspect_takes_no_more_of_its_own_accord_than_a_scan_of_glass_needs(tmp_path: Path) -> None:
    done, peak = with_peak("inspect", far_apart(tmp_path / "a.czi"))
    assert done.returncode == 2
    assert "takes 29.1 GB of memory and the limit is" in done.stderr
    assert peak < 0.3 * GB


@pytest.mark.slow
def test_a_huge_image_is_read_within_the_memory_that_it_asks_for(tmp_path: Path) -> None:
    done, peak = with_peak("inspect", one_huge(tmp_path / "a.czi"), "--memory-gb", 2.7)
    assert done.returncode == 0
    assert "16,000 x 16,000 px" in done.stdout
    assert 3 * 16_000**2 < peak < 2.5 * GB


def test_an_image_larger_than_all_that_is_kept_is_decoded_once_for_all_calibration_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = math.isqrt(ROOM_BYTES // 3) + 100
    path = write_raw(tmp_path / "a.czi", [RawBlock(0, 0, side, side, packed(side, side))])
    decoded: list[Box] = []
    plainly = CziSlide.decode

    def noted(reader: CziSlide, block: SubBlock) -> Image:
        decoded.append(block.box)
        return plainly(reader, block)

    with CziSlide.open(path) as slide:
        tissue = tissue_by_scene(slide)
        monkeypatch.setattr(CziSlide, "decode", noted)
        calibrate_scenes(slide, tissue, RunSection(), DRAW_BY_TISSUE)
    assert decoded == [Box(0, 0, side, side)]


def with_half_size_images(path: Path) -> Path:
    """A slide whose pyramid has one level, so that its overview is read in strips of 250 MB."""
    side, stored = 20_480, packed(2048, 2048)
    blocks = [
        RawBlock(x, y, 2048, 2048, stored, reduction)
        for reduction in (1, 2)
        for y in range(0, side, 2048 * reduction)
        for x in range(0, side, 2048 * reduction)
    ]
    return write_raw(path, blocks)


@pytest.mark.slow
@pytest.mark.parametrize("written", [one_huge, with_half_size_images])
def test_the_number_that_a_refused_look_names_is_enough(
    tmp_path: Path, written: Callable[[Path], Path]
) -> None:
    slide = written(tmp_path / "a.czi")
    refused, _ = with_peak("inspect", slide, "--memory-gb", 0.5)
    (needed_gb,) = re.findall(r"takes ([0-9.]+) GB", refused.stderr)
    done, peak = with_peak("inspect", slide, "--memory-gb", needed_gb)
    assert done.returncode == 0, done.stderr
    assert 0.3 < peak / GB / float(needed_gb) < 1


@pytest.mark.parametrize(
    ("part", "name", "most_mb"),
    [("header", "file header", 1), ("directory", "directory of images", 34), ("metadata", "metadata", 25)],
)
def test_a_part_that_claims_gigabytes_is_refused_by_its_size(
    tmp_path: Path, part: Part, name: str, most_mb: int
) -> None:
    slide = write_raw(tmp_path / "a.czi", at((0, 0)))
    claim(slide, part, 5 * GB)
    done, peak = with_peak("inspect", slide)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"mkhspc: {slide}: its {name} would take 5,000 MB; at most {most_mb} MB are read",
        "  the file is cut short or damaged: copy it again from its source",
    ]
    assert peak < 0.3 * GB


def test_an_image_that_claims_more_than_its_pixels_can_take_is_not_read(tmp_path: Path) -> None:
    noise = SMALL + bytes(10_000_000)
    slide = write_raw(tmp_path / "a.czi", [RawBlock(0, 0, SIDE, SIDE, noise)])
    with CziSlide.open(slide) as opened, pytest.raises(InputError, match="more than its pixels can take"):
        opened.read(0, Box(0, 0, 9, 9))


@pytest.mark.parametrize("size", [2_000_000, 15_000_000])
def test_metadata_of_empty_elements_is_read_within_a_gigabyte_or_refused(tmp_path: Path, size: int) -> None:
    slide = write_raw(tmp_path / "a.czi", at((0, 0)), f"<ImageDocument>{'<a/>' * size}</ImageDocument>")
    begun_s = time.monotonic()
    done, peak = with_peak("inspect", slide)
    assert time.monotonic() - begun_s < 10
    assert peak < 1 * GB
    if size > 6_000_000:
        assert "its metadata would take 60 MB; at most 25 MB are read" in done.stderr
    else:
        assert "states no pixel size" in done.stdout


def test_entries_that_share_an_image_are_refused(tmp_path: Path) -> None:
    shared = [RawBlock(SIDE * n, 0, SIDE, SIDE, None if n else SMALL) for n in range(20_000)]
    done, peak = with_peak("inspect", write_raw(tmp_path / "a.czi", shared))
    assert done.returncode == 3
    assert "19,999 of its images lie where another one does" in done.stderr
    assert peak < 0.3 * GB


@pytest.mark.parametrize("spread", [(7, 5), (400, 400)])
def test_images_in_a_heap_are_refused_at_once(tmp_path: Path, spread: tuple[int, int]) -> None:
    heap = at(*((n * 37 % spread[0], n * 91 % spread[1]) for n in range(3000)))
    done, peak = with_peak("inspect", write_raw(tmp_path / "a.czi", heap))
    assert done.returncode == 3
    assert done.stderr.splitlines()[-2:] == [
        f"mkhspc: {tmp_path / 'a.czi'}: the images of scene 0 lie on one another,"
        f" more than {MAX_OVERLAPS} on each",
        "  save the slide again in ZEN",
    ]
    assert peak < 0.3 * GB


def test_a_merged_picture_under_its_images_is_no_heap(tmp_path: Path) -> None:
    tiles = at(*((x * 100, y * 100) for y in range(4) for x in range(4)))
    merged = RawBlock(0, 0, 900, 900, packed(900, 900))
    with CziSlide.open(write_raw(tmp_path / "a.czi", [merged, *tiles])) as slide:
        assert slide.read(0, Box(0, 0, 900, 900)).shape == (900, 900, 3)
        assert slide.mosaic(0).visible_parts(0) == []


def test_an_image_in_too_many_pieces_is_refused(tmp_path: Path) -> None:
    side, dot = 4 * 40, packed(1, 1)
    dots = [RawBlock(4 * x + 1, 4 * y + 1, 1, 1, dot) for y in range(40) for x in range(40)]
    slide = write_raw(tmp_path / "a.czi", [RawBlock(0, 0, side, side, packed(side, side)), *dots])
    with CziSlide.open(slide) as opened, pytest.raises(InputError) as refused:
        opened.read_lowres(0, 16)
    assert str(refused.value).splitlines() == [
        f"{slide}: an image of scene 0 cannot be shown: more than {MAX_PIECES:,} parts of it are left",
        "  save the slide again in ZEN",
    ]


boxes = st.builds(
    lambda x, y, width, height: Box(x, y, x + width, y + height),
    st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9), st.integers(1, 9),
)  # fmt: skip


@given(st.lists(boxes, max_size=12))
def test_pairs_that_overlap_are_all_pairs_that_share_a_pixel(drawn: list[Box]) -> None:
    corners = np.array([(b.x0, b.y0, b.x1, b.y1) for b in drawn], np.int64).reshape(-1, 4)
    found = overlapping_pairs(corners, 1000)
    expected = {(i, j) for j in range(len(drawn)) for i in range(j) if drawn[i].clipped(drawn[j]).area_px > 0}
    assert found is not None
    assert set(map(tuple, found.tolist())) == expected
    assert overlapping_pairs(corners, len(expected) - 1) is None or not expected


def test_what_is_seen_of_an_image_is_what_no_later_one_hides(tmp_path: Path) -> None:
    heap = at(*((n * 370 % 1900, n * 910 % 2300) for n in range(30)))
    directory = read_directory(write_raw(tmp_path / "a.czi", heap))
    with CziSlide(directory) as slide:
        mosaic = slide.mosaic(0)
        for nth, block in enumerate(mosaic.level_0):
            later = [Box(*corners) for corners in corners_of(mosaic.level_0[nth + 1 :]).tolist()]
            assert set(mosaic.visible_parts(nth)) == set(uncovered(block.box, later))
