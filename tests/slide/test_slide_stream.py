from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from czifiles import Block, write_czi
from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide.czi import read_order
from mkhspc.slide.czi.block_cache import BlockCache, BlockKey
from mkhspc.slide.czi.read_order import ReadOrder, SceneBox, mosaics_of, order_windows
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


def tiled(width: int, height: int, core: int, halo: int) -> list[SceneBox]:
    return [
        SceneBox(0, Box(x, y, min(x + core, width), min(y + core, height)).grown(halo))
        for y in range(0, height, core)
        for x in range(0, width, core)
    ]


def tiles_of(path: Path, core: int, halo: int) -> list[SceneBox]:
    """The windows of a whole slide."""
    with CziSlide.open(path, 0.22) as slide:
        scene = slide.scene(0)
    return tiled(scene.width_px, scene.height_px, core, halo)


def ordered(path: Path, windows: Sequence[SceneBox], room_bytes: int = 10**9) -> ReadOrder:
    with CziSlide.open(path, 0.22) as slide:
        return order_windows(mosaics_of(slide, windows), windows, room_bytes)


def read_all(path: Path, windows: Sequence[SceneBox], **settings: int) -> tuple[list[NDArray[np.uint8]], int]:
    pictures = []
    with WindowStream(CziSlide.open(path, 0.22), windows, **settings) as stream:
        while (step := stream.next_window()) is not None:
            box = windows[step].box
            picture = np.empty((box.height, box.width, 3), np.uint8)
            stream.read_into(picture)
            pictures.append(picture)
        return pictures, stream.decoded_bytes


@pytest.fixture(params=[10**9, 100])
def strip_px(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The whole slide as one strip, and several strips."""
    width: int = request.param
    monkeypatch.setattr(read_order, "STRIP_PX", width)
    return width


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room_bytes", [0, 20_000, 10**9])
def test_windows_are_those_of_a_plain_read(
    tmp_path: Path, strip_px: int, threads: int, room_bytes: int
) -> None:
    path = mosaic(tmp_path)
    windows = ordered(path, tiles_of(path, 50, 20)).windows
    with CziSlide.open(path, 0.22) as slide:
        expected = [slide.read(0, window.box) for window in windows]
    found, _ = read_all(path, windows, room_bytes=room_bytes, threads=threads)
    assert len(found) == len(expected)
    for picture, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(picture, other)


def test_with_room_each_block_is_decoded_once(tmp_path: Path) -> None:
    path = mosaic(tmp_path)
    windows = tiles_of(path, 50, 20)
    order = ordered(path, windows)
    _, decoded = read_all(path, order.windows, room_bytes=10**9, threads=2)
    assert decoded == order.cost.decoded_bytes == order.cost.touched_bytes == 30 * 3 * BLOCK_PX**2
    without = ordered(path, windows, 0).cost.decoded_bytes
    assert without > 2 * decoded, "the windows overlap enough for the cache to matter"


@pytest.mark.parametrize("room_bytes", [0, 40_000, 80_000, 160_000])
def test_the_cost_is_what_reading_decodes_and_holds(tmp_path: Path, strip_px: int, room_bytes: int) -> None:
    path = mosaic(tmp_path, 12, 9)
    windows = tiles_of(path, 60, 20)
    order = ordered(path, windows, room_bytes)
    assert sorted(order.indices) == list(range(len(windows)))
    assert [window.box for window in order.windows] == [windows[i].box for i in order.indices]
    assert order.cost.held_bytes <= room_bytes
    _, decoded = read_all(path, order.windows, room_bytes=room_bytes, threads=2)
    assert decoded == order.cost.decoded_bytes


def test_of_a_wide_slide_no_more_is_held_than_of_a_narrow_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what lies at the borders of strips is decoded twice."""
    monkeypatch.setattr(read_order, "STRIP_PX", 500)
    cost = {}
    for across in (12, 48):
        (tmp_path / str(across)).mkdir()
        path = mosaic(tmp_path / str(across), across, 9)
        cost[across] = ordered(path, tiles_of(path, 60, 10)).cost
    assert cost[12].decoded_bytes == cost[12].touched_bytes
    assert cost[48].held_bytes < 1.2 * cost[12].held_bytes
    assert cost[48].touched_bytes < cost[48].decoded_bytes < 1.2 * cost[48].touched_bytes


def test_no_more_is_held_than_the_cost_says(tmp_path: Path, strip_px: int) -> None:
    path = mosaic(tmp_path, 12, 9)
    order = ordered(path, tiles_of(path, 60, 10))
    held = most_held(path, order.windows)
    assert 0 < held <= order.cost.held_bytes + AHEAD_PER_THREAD * order.cost.block_bytes


def test_of_a_block_no_more_is_held_than_later_windows_need(tmp_path: Path) -> None:
    """The windows of the second row show the lowest sixth of the blocks."""
    path = mosaic(tmp_path, 48, 1)
    width = 48 * BLOCK_PX
    windows = [SceneBox(0, Box(x, y, x + 60, y + 33)) for y in (0, 33) for x in range(0, width, 60)]
    order = ordered(path, windows)
    assert most_held(path, order.windows) < 0.4 * 48 * 3 * BLOCK_PX**2


def most_held(path: Path, windows: Sequence[SceneBox]) -> int:
    """Bytes of the memory that decoded pixels keep between windows, at most."""
    most = 0
    with WindowStream(CziSlide.open(path, 0.22), windows, room_bytes=10**9, threads=1) as stream:
        while (step := stream.next_window()) is not None:
            box = windows[step].box
            stream.read_into(np.empty((box.height, box.width, 3), np.uint8))
            needed_later = [key for key, uses in stream._cache._uses.items() if uses and uses[-1] > step]
            kept = [stream._cache._held.get(key) for key in needed_later]
            most = max(most, sum(whole_bytes(block.image().pixels) for block, _ in filter(None, kept)))
    return most


def whole_bytes(array: NDArray[np.uint8]) -> int:
    """Of the memory that an array keeps alive."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.nbytes


@pytest.mark.parametrize("has_place", [False, True])
def test_no_block_is_decoded_for_a_window_that_has_no_place_yet(tmp_path: Path, has_place: bool) -> None:
    path = mosaic(tmp_path, 12, 9)
    windows = tiles_of(path, 60, 10)
    first = ordered(path, windows[:1]).cost
    with WindowStream(
        CziSlide.open(path, 0.22), windows, room_bytes=10**9, threads=1, has_place=lambda: has_place
    ) as stream:
        assert stream.next_window() == 0
        assert (stream.decoded_bytes > 0) == has_place
        stream.read_into(np.empty((windows[0].box.height, windows[0].box.width, 3), np.uint8))
        assert (stream.decoded_bytes > first.touched_bytes) == has_place
        assert stream.next_window() == 1


def test_less_room_never_decodes_less(tmp_path: Path, strip_px: int) -> None:
    path = mosaic(tmp_path, 12, 9)
    windows = tiles_of(path, 60, 20)
    rooms = (0, 20_000, 40_000, 80_000, 160_000, 10**9)
    decoded = [ordered(path, windows, room).cost.decoded_bytes for room in rooms]
    assert decoded == sorted(decoded, reverse=True)


def test_windows_that_are_not_wanted_are_left_out(tmp_path: Path) -> None:
    path = mosaic(tmp_path)
    windows = tiles_of(path, 50, 20)
    with CziSlide.open(path, 0.22) as slide:
        expected = slide.read(0, windows[7].box)
    with WindowStream(
        CziSlide.open(path, 0.22), windows, room_bytes=10**9, threads=1, is_wanted=lambda step: step == 7
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
        windows = tiled(scene.width_px, scene.height_px, 50, 5)
        block = slide.mosaic(0).level_0[0]
        hurt = {
            step
            for step, window in enumerate(windows)
            if 0 in slide.mosaic(0).meeting(window.box.shifted(scene.mosaic_box.x0, scene.mosaic_box.y0))
        }
    data = bytearray(path.read_bytes())
    data[block.position_bytes : block.position_bytes + 14] = b"ZISRAWRUBBISH!"
    path.write_bytes(data)
    assert 0 < len(hurt) < len(windows)
    with WindowStream(CziSlide.open(path, 0.22), windows, room_bytes=10**9, threads=2) as stream:
        while (step := stream.next_window()) is not None:
            box = windows[step].box
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
    keys = [[BlockKey(0, 0, n) for n in step] for step in steps]
    bytes_of = {BlockKey(0, 0, n): 1 for n in range(8)}
    cache: BlockCache[int] = BlockCache(keys, bytes_of, [bytes_of] * len(keys), room)
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
    windows = [SceneBox(0, Box(0, 0, 60, 60)), SceneBox(0, Box(100, 100, 130, 130))]
    show = Image.show

    def failing(self: Image, part: Box, picture: NDArray[np.uint8], place: Box) -> None:
        if self.box.x0 < 0:  # a block of the first window alone
            raise MemoryError("no room")
        show(self, part, picture, place)

    monkeypatch.setattr(Image, "show", failing)
    with WindowStream(CziSlide.open(path, 0.22), windows, room_bytes=10**9, threads=2) as stream:
        assert stream.next_window() == 0
        with pytest.raises(MemoryError):
            stream.read_into(np.empty((60, 60, 3), np.uint8))
        assert stream.next_window() == 1
        stream.read_into(np.empty((30, 30, 3), np.uint8))


def test_a_fault_while_a_block_is_kept_for_later_fails_its_windows_and_hangs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mosaic(tmp_path, 12, 9)
    windows = tiles_of(path, 60, 10)

    def without_memory(*_: object) -> Image:
        raise MemoryError("no room")

    monkeypatch.setattr(Image, "part", without_memory)
    failed = 0
    with WindowStream(CziSlide.open(path, 0.22), windows, room_bytes=10**9, threads=2) as stream:
        while (step := stream.next_window()) is not None:
            box = windows[step].box
            try:
                stream.read_into(np.empty((box.height, box.width, 3), np.uint8))
            except MemoryError:
                failed += 1
    assert 0 < failed < len(windows)


def test_closing_in_mid_window_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    path = mosaic(tmp_path, 12, 9)
    before = threading.active_count()
    with WindowStream(
        CziSlide.open(path, 0.22), tiles_of(path, 60, 10), room_bytes=10**9, threads=3
    ) as stream:
        assert stream.next_window() == 0
        assert threading.active_count() > before
    assert threading.active_count() == before
    assert str(path) not in [str(entry.resolve()) for entry in Path("/proc/self/fd").iterdir()]
