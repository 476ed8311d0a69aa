from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from czifiles import Block, write_czi
from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide.czi import packed, read_order
from mkhspc.slide.czi.packed import BAND_ROWS, PackedImage
from mkhspc.slide.czi.read_order import BlockKey, Foreseen, Visit, mosaics_of, plan_reads
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.czi.stream import AHEAD_PER_THREAD, WindowStream
from mkhspc.slide.czi.unpack import Image

BLOCK_PX = 40


def mosaic(tmp_path: Path, across: int = 6, down: int = 5) -> Path:
    """A slide of square blocks that overlap by 4 px, each of its own noise."""
    rng = np.random.default_rng(1)
    step = BLOCK_PX - 4
    blocks = [
        Block(rng.integers(0, 256, (BLOCK_PX, BLOCK_PX, 3), dtype=np.uint8), x * step - 50, y * step + 7)
        for y in range(down)
        for x in range(across)
    ]
    return write_czi(tmp_path / "mosaic.czi", blocks)


def tiled(width: int, height: int, core: int, halo: int) -> list[Visit]:
    return [
        Visit(0, Box(x, y, min(x + core, width), min(y + core, height)).grown(halo))
        for y in range(0, height, core)
        for x in range(0, width, core)
    ]


def read_all(path: Path, visits: list[Visit], **settings: int) -> tuple[list[NDArray[np.uint8]], int]:
    pictures = []
    with WindowStream(path, 0.22, visits, **settings) as stream:
        while (step := stream.next_window()) is not None:
            box = visits[step].box
            picture = np.empty((box.height, box.width, 3), np.uint8)
            stream.read_into(picture)
            pictures.append(picture)
        return pictures, stream.decoded_bytes


@pytest.mark.parametrize("band_rows", [0, 7, BAND_ROWS])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room_bytes", [0, 20_000, 10**9])
@pytest.mark.parametrize("worth_cutting_bytes", [1, 10**9])
def test_windows_are_those_of_a_plain_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    room_bytes: int,
    worth_cutting_bytes: int,
    band_rows: int,
) -> None:
    """Kept as they are, or packed in bands of so many rows."""
    monkeypatch.setattr(packed, "BAND_ROWS", band_rows)
    monkeypatch.setattr(read_order, "WORTH_CUTTING_BYTES", worth_cutting_bytes)
    path = mosaic(tmp_path)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 50, 20)
        expected = [slide.read(0, visit.box) for visit in visits]
    found, _ = read_all(path, visits, room_bytes=room_bytes, threads=threads, packs=band_rows > 0)
    assert len(found) == len(expected)
    for picture, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(picture, other)


def test_with_room_each_block_is_decoded_once(tmp_path: Path) -> None:
    path = mosaic(tmp_path)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 50, 20)
        plan = plan_reads(mosaics_of(slide, visits), visits, 10**9)
    _, decoded = read_all(path, [visits[i] for i in plan.order], room_bytes=10**9, threads=2)
    assert decoded == plan.decoded_bytes == plan.touched_bytes == 30 * 3 * BLOCK_PX**2
    without, _ = plan_of(path, visits, 0)
    assert without > 2 * decoded, "the windows overlap enough for the cache to matter"


def plan_of(path: Path, visits: list[Visit], room_bytes: int) -> tuple[int, int]:
    with CziSlide.open(path, 0.22) as slide:
        plan = plan_reads(mosaics_of(slide, visits), visits, room_bytes)
    return plan.decoded_bytes, plan.held_bytes


def test_the_plan_says_what_reading_decodes_and_holds(tmp_path: Path) -> None:
    path = mosaic(tmp_path, 12, 9)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 60, 20)
        for room_bytes in (0, 40_000, 80_000, 160_000):
            plan = plan_reads(mosaics_of(slide, visits), visits, room_bytes)
            assert sorted(plan.order) == list(range(len(visits)))
            assert plan.held_bytes <= room_bytes
            _, decoded = read_all(path, [visits[i] for i in plan.order], room_bytes=room_bytes, threads=2)
            assert decoded == plan.decoded_bytes


def test_no_more_is_held_of_a_block_than_later_windows_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mosaic(tmp_path, 12, 9)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 60, 10)
    held = {}
    for worth_bytes in (1, 10**9):
        monkeypatch.setattr(read_order, "WORTH_CUTTING_BYTES", worth_bytes)
        with CziSlide.open(path, 0.22) as slide:
            plan = plan_reads(mosaics_of(slide, visits), visits, 10**9)
        held[worth_bytes] = most_held(path, [visits[i] for i in plan.order])
        assert 0 < held[worth_bytes] <= plan.held_bytes + AHEAD_PER_THREAD * plan.block_bytes
    assert held[1] < 0.8 * held[10**9]


def most_held(path: Path, visits: list[Visit]) -> int:
    """Bytes of the memory that decoded pixels keep between windows, at most."""
    most = 0
    with WindowStream(path, 0.22, visits, room_bytes=10**9, threads=1) as stream:
        while (step := stream.next_window()) is not None:
            box = visits[step].box
            stream.read_into(np.empty((box.height, box.width, 3), np.uint8))
            needed_later = [key for key, uses in stream._cache._uses.items() if uses and uses[-1] > step]
            kept = [stream._cache._held.get(key) for key in needed_later]
            images = [block._image for block in kept if block is not None]
            most = max(most, sum(whole_bytes(one.stored) for one in images if isinstance(one, Image)))
    return most


def whole_bytes(array: NDArray[np.uint8]) -> int:
    """Of the memory that an array keeps alive."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.nbytes


def test_what_is_kept_is_packed_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mosaic(tmp_path, 12, 9)
    packing = Mock(wraps=PackedImage.of)
    monkeypatch.setattr(PackedImage, "of", packing)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
    visits = tiled(scene.width_px, scene.height_px, 60, 10)
    for some, packs in ((visits, False), (visits[:1], True)):
        read_all(path, some, room_bytes=10**9, threads=2, packs=packs)
        assert not packing.called
    read_all(path, visits, room_bytes=10**9, threads=2, packs=True)
    assert packing.called


@pytest.mark.parametrize("has_place", [False, True])
def test_no_block_is_decoded_for_a_window_that_has_no_place_yet(tmp_path: Path, has_place: bool) -> None:
    path = mosaic(tmp_path, 12, 9)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 60, 10)
        first = plan_reads(mosaics_of(slide, visits[:1]), visits[:1], 10**9)
    settings = {"room_bytes": 10**9, "threads": 1}
    with WindowStream(path, 0.22, visits, **settings, has_place=lambda: has_place) as stream:
        assert stream.next_window() == 0
        assert (stream.decoded_bytes > 0) == has_place
        stream.read_into(np.empty((visits[0].box.height, visits[0].box.width, 3), np.uint8))
        assert (stream.decoded_bytes > first.touched_bytes) == has_place
        assert stream.next_window() == 1


@given(
    height=st.integers(1, 3 * BAND_ROWS),
    width=st.integers(1, 40),
    missing=st.integers(0, 70),
    corners=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 250)), min_size=2, max_size=6),
    seed=st.integers(0, 9),
)
def test_packing_loses_nothing(
    height: int, width: int, missing: int, corners: list[tuple[int, int]], seed: int
) -> None:
    """Of an image without its lowest rows, and of smaller and smaller parts of it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image(pixels, Box(3, -4, 3 + width, -4 + height + missing))
    box = image.box
    held = None
    for x, y in corners:
        inside = Box(box.x0 + x % box.width, box.y0 + y % box.height, box.x1, box.y1)
        later = inside if x % 2 else Box(box.x0, box.y0, inside.x0 + 1, inside.y0 + 1)
        held = held.part(later) if held else PackedImage.of(image, later)
        seen = later.clipped(replace(image.box, y1=-4 + height))
        found, expected = np.zeros((2, seen.height, seen.width, 3), np.uint8)
        for piece in held.pieces([seen]):
            piece.show(seen, found, seen)
        image.show(seen, expected, seen)
        np.testing.assert_array_equal(found, expected)
        assert later.clipped(held.box) == later
        assert held.box.width == later.width
        assert held.box.height < later.height + 2 * BAND_ROWS
        box = later


def test_rows_that_were_not_decoded_are_not_shown_as_if_they_were() -> None:
    image = Image(np.zeros((3, 5, 3), np.uint8), Box(0, 0, 5, 8))
    picture = np.zeros((8, 5, 3), np.uint8)
    image.show(Box(0, 0, 5, 3), picture, image.box)
    with pytest.raises(ValueError, match="were not decoded"):
        image.show(Box(0, 0, 5, 4), picture, image.box)


def test_no_band_is_unpacked_that_is_not_shown() -> None:
    pixels = np.zeros((10 * BAND_ROWS, 5, 3), np.uint8)
    whole = Box(0, 0, 5, 10 * BAND_ROWS)
    held = PackedImage.of(Image(pixels, whole), whole)
    empty = Box(0, 9 * BAND_ROWS, 5, 9 * BAND_ROWS)
    parts = [Box(0, 0, 5, 1), Box(2, BAND_ROWS - 1, 4, BAND_ROWS + 1), empty]
    assert [piece.box.y0 for piece in held.pieces(parts)] == [0, BAND_ROWS]


def test_tissue_takes_less_memory_packed() -> None:
    rows, columns = np.mgrid[:300, :300]
    tissue = 160 + 60 * np.sin(rows / 9) * np.cos(columns / 11)
    grain = np.random.default_rng(0).normal(0, 4, (300, 300))
    pixels = np.clip(tissue[..., None] * (0.9, 0.6, 0.8) + grain[..., None], 0, 255).astype(np.uint8)
    box = Box(0, 0, 300, 300)
    assert sum(map(len, PackedImage.of(Image(pixels, box), box).bands)) < 0.6 * pixels.nbytes


def test_less_room_never_decodes_less(tmp_path: Path) -> None:
    path = mosaic(tmp_path, 12, 9)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 60, 20)
    rooms = (0, 20_000, 40_000, 80_000, 160_000, 10**9)
    decoded = [plan_of(path, visits, room)[0] for room in rooms]
    assert decoded == sorted(decoded, reverse=True)


def test_no_more_is_held_than_decodes_next_to_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mosaic(tmp_path, 24, 18)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 120, 6)
        mosaics = mosaics_of(slide, visits)
        all_of_it = plan_reads(mosaics, visits, 10**9)
        assert all_of_it.decoded_bytes == all_of_it.touched_bytes
        monkeypatch.setattr(read_order, "LEAST_ROOM_BYTES", 1)
        less = plan_reads(mosaics, visits, 10**9)
    assert less.held_bytes < 0.9 * all_of_it.held_bytes
    assert less.touched_bytes < less.decoded_bytes <= read_order.ENOUGH * less.touched_bytes
    _, decoded = read_all(path, [visits[i] for i in less.order], room_bytes=less.room_bytes, threads=2)
    assert decoded == less.decoded_bytes


def test_windows_that_are_not_wanted_are_left_out(tmp_path: Path) -> None:
    path = mosaic(tmp_path)
    with CziSlide.open(path, 0.22) as slide:
        visits = tiled(slide.scene(0).width_px, slide.scene(0).height_px, 50, 20)
        expected = slide.read(0, visits[7].box)
    with WindowStream(
        path, 0.22, visits, room_bytes=10**9, threads=1, is_wanted=lambda step: step == 7
    ) as stream:
        assert stream.next_window() == 7
        picture = np.empty_like(expected)
        stream.read_into(picture)
        assert stream.next_window() is None
    np.testing.assert_array_equal(picture, expected)


def test_a_damaged_block_fails_its_windows_alone(tmp_path: Path) -> None:
    path = mosaic(tmp_path)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
        visits = tiled(scene.width_px, scene.height_px, 50, 5)
        block = slide.mosaic(0).level_0[0]
        hurt = {
            step
            for step, visit in enumerate(visits)
            if 0 in slide.mosaic(0).meeting(visit.box.shifted(scene.mosaic_box.x0, scene.mosaic_box.y0))
        }
    data = bytearray(path.read_bytes())
    data[block.position_bytes : block.position_bytes + 14] = b"ZISRAWRUBBISH!"
    path.write_bytes(data)
    assert 0 < len(hurt) < len(visits)
    with WindowStream(path, 0.22, visits, room_bytes=10**9, threads=2) as stream:
        while (step := stream.next_window()) is not None:
            box = visits[step].box
            picture = np.empty((box.height, box.width, 3), np.uint8)
            if step in hurt:
                with pytest.raises(InputError, match="cannot be decoded"):
                    stream.read_into(picture)
            else:
                stream.read_into(picture)


@given(
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True), max_size=12),
    st.integers(0, 8),
)
def test_what_is_held_fits_and_a_value_is_that_of_its_key(steps: list[list[int]], room: int) -> None:
    keys = [[BlockKey(0, n) for n in step] for step in steps]
    bytes_of = {BlockKey(0, n): 1 for n in range(8)}
    cache: Foreseen[int] = Foreseen(keys, bytes_of, [bytes_of] * len(keys), room)
    for step, wanted in enumerate(keys):
        for key in wanted:
            assert cache.get(key, step, partial(getattr, key, "nth")) == key.nth
            assert cache.held_bytes <= room
    distinct = len({n for step in steps for n in step})
    assert distinct <= cache.loaded_bytes <= sum(map(len, steps))
    if room == 8:
        assert cache.loaded_bytes == distinct
    assert cache.held_bytes == 0, "nothing is kept that no step needs"


def test_a_fault_while_a_block_is_shown_fails_its_window_and_hangs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mosaic(tmp_path)
    visits = [Visit(0, Box(0, 0, 60, 60)), Visit(0, Box(100, 100, 130, 130))]
    show = Image.show

    def failing(self: Image, part: Box, picture: NDArray[np.uint8], place: Box) -> None:
        if self.box.x0 < 0:  # a block of the first window alone
            raise MemoryError("no room")
        show(self, part, picture, place)

    monkeypatch.setattr(Image, "show", failing)
    with WindowStream(path, 0.22, visits, room_bytes=10**9, threads=2) as stream:
        assert stream.next_window() == 0
        with pytest.raises(MemoryError):
            stream.read_into(np.empty((60, 60, 3), np.uint8))
        assert stream.next_window() == 1
        stream.read_into(np.empty((30, 30, 3), np.uint8))


@pytest.mark.parametrize(
    ("kind", "name", "packs"),
    [
        (Image, "part", False),
        (PackedImage, "of", True),
        (PackedImage, "part", True),
        (PackedImage, "pieces", True),
    ],
)
def test_a_fault_while_a_block_is_kept_for_later_fails_its_windows_and_hangs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, packs: bool
) -> None:
    path = mosaic(tmp_path, 12, 9)
    monkeypatch.setattr(read_order, "WORTH_CUTTING_BYTES", 1)
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
    visits = tiled(scene.width_px, scene.height_px, 60, 10)

    def without_memory(*_: object) -> Image:
        raise MemoryError("no room")

    monkeypatch.setattr(kind, name, without_memory)
    failed = 0
    with WindowStream(path, 0.22, visits, room_bytes=10**9, threads=2, packs=packs) as stream:
        while (step := stream.next_window()) is not None:
            box = visits[step].box
            try:
                stream.read_into(np.empty((box.height, box.width, 3), np.uint8))
            except MemoryError:
                failed += 1
    assert failed
