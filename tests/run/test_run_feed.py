"""The pool's feed with real slides and real claims."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from czifiles import Block, write_czi
from mkhspc.cluster.claims import ClaimFiles
from mkhspc.geometry import Box
from mkhspc.pool.feed import NO_SLOT, TileTask, WindowFeed
from mkhspc.pool.pool import Outcome
from mkhspc.pool.slots import Slots
from mkhspc.process.identity import host_token
from mkhspc.slide.czi.directory import SubBlock
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.czi.unpack import Image
from mkhspc.slide.tile_windows import TileWindows, order_tiles
from mkhspc.slide.tiles import Tile
from mkhspc.store.layout import RunLayout

CORE_PX, HALO_PX = 64, 16


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    (tmp_path / "run").mkdir()  # claims and parts are put where a run is, and make none
    return RunLayout(tmp_path / "run")


def slide(tmp_path: Path, name: str = "a", side: int = 4, images: int = 1) -> TileWindows:
    """A slide of noise, in `side` x `side` tiles and `images` x `images` sub-blocks."""
    rng = np.random.default_rng(len(name))
    size = CORE_PX * side
    tmp_path.mkdir(exist_ok=True)
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    step = size // images
    corners = [(x, y) for y in range(0, size, step) for x in range(0, size, step)]
    blocks = [Block(pixels[y : y + step, x : x + step], x, y) for x, y in corners]
    path = write_czi(tmp_path / f"{name}.czi", blocks)
    cores = [
        Box(x, y, x + CORE_PX, y + CORE_PX) for y in range(0, size, CORE_PX) for x in range(0, size, CORE_PX)
    ]
    tiles = [Tile(f"s0_{c.x0}_{c.y0}", 0, c, 1.0, 1.0, rank) for rank, c in enumerate(cores)]
    return order_tiles(name, path, 0.25, tiles, grown, 10**8)


@contextmanager
def feeding(
    layout: RunLayout, *slides: TileWindows, slots: int = 2, use: int = 0
) -> Iterator[tuple[WindowFeed, Slots]]:
    memory = Slots(slots, 3 * (CORE_PX + 2 * HALO_PX) ** 2)
    feed = WindowFeed(slides, memory, ClaimFiles(layout), use_slots=use or slots, threads=2)
    try:
        yield feed, memory
    finally:
        feed.close()


def grown(core: Box) -> Box:
    return core.grown(HALO_PX)


def all_of(feed: WindowFeed, timeout_s: float = 20.0) -> Iterator[TileTask | Outcome]:
    """Takes until the feed is exhausted; whoever asks finishes each task."""
    until_s = time.monotonic() + timeout_s
    while not feed.is_exhausted:
        assert time.monotonic() < until_s, "the feed hangs"
        task = feed.take()
        if task is None:
            time.sleep(0.005)
        else:
            yield task


def finish(layout: RunLayout, feed: WindowFeed, task: TileTask) -> None:
    part = layout.part(task.slide_id, task.tile_id)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    feed.finish(task)


def test_every_tile_comes_once_with_its_pixels(tmp_path: Path, layout: RunLayout) -> None:
    slides = [slide(tmp_path, "a"), slide(tmp_path, "bb", side=2)]
    seen = []
    with feeding(layout, *slides) as (feed, slots):
        for task in all_of(feed):
            assert isinstance(task, TileTask)
            path = tmp_path / f"{task.slide_id}.czi"
            with CziSlide.open(path) as reader:
                expected = reader.read(0, task.window)
            found = slots.pixels(task.slot, task.window.height, task.window.width)
            np.testing.assert_array_equal(found, expected)
            seen.append((task.slide_id, task.tile_id))
            finish(layout, feed, task)
    assert sorted(seen) == sorted((s.slide_id, tile.tile_id) for s in slides for tile in s.tiles)
    assert not list((layout.root / "parts").rglob("*.claim"))


def test_nothing_is_decoded_for_a_window_without_a_slot(
    tmp_path: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Box] = []
    plainly = CziSlide.decode

    def noted(reader: CziSlide, block: SubBlock) -> Image:
        decoded.append(block.box)
        return plainly(reader, block)

    monkeypatch.setattr(CziSlide, "decode", noted)
    with feeding(layout, slide(tmp_path, images=8), slots=2) as (feed, _):
        tasks = taken(feed, 2)
        time.sleep(0.3)
        seen = [task.window for task in tasks]
        assert decoded
        assert all(any(box.clipped(window).area_px for window in seen) for box in decoded)
        before = len(decoded)
        finish(layout, feed, tasks[0])
        taken(feed, 1)
        assert len(decoded) > before


def taken(feed: WindowFeed, count: int, timeout_s: float = 20.0) -> list[TileTask]:
    """Takes so many tasks as they get ready, and sees that no more do."""
    tasks: list[TileTask] = []
    until_s = time.monotonic() + timeout_s
    while len(tasks) < count and time.monotonic() < until_s:
        if isinstance(task := feed.take(), TileTask):
            tasks.append(task)
        else:
            time.sleep(0.02)
    assert len(tasks) == count
    time.sleep(0.2)
    assert feed.take() is None
    return tasks


def test_tiles_done_before_their_turn_are_not_read(tmp_path: Path, layout: RunLayout) -> None:
    reads = slide(tmp_path)
    done = {reads.tiles[0].tile_id, reads.tiles[7].tile_id}
    for tile_id in done:
        layout.part("a", tile_id).parent.mkdir(parents=True, exist_ok=True)
        layout.part("a", tile_id).touch()
    elsewhere, here = set(), set()
    with feeding(layout, reads) as (feed, _):
        for task in all_of(feed):
            if isinstance(task, Outcome):
                assert task.facts == {"elsewhere": True}
                assert task.task.slot == NO_SLOT
                elsewhere.add(task.task.tile_id)
            else:
                here.add(task.tile_id)
                finish(layout, feed, task)
    assert elsewhere == done
    assert len(here) == 14


def test_a_tile_of_another_process_is_waited_for_and_done_when_that_dies(
    tmp_path: Path, layout: RunLayout
) -> None:
    reads = slide(tmp_path, side=2)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    claim = layout.claim("a", reads.tiles[1].tile_id)
    claim.parent.mkdir(parents=True)
    claim.write_text(f"{host_token()} {other.pid}", encoding="utf-8")
    order = []
    with feeding(layout, reads) as (feed, _):
        for task in all_of(feed):
            assert isinstance(task, TileTask)
            order.append(task.tile_id)
            finish(layout, feed, task)
            if len(order) == 3:
                assert claim.exists()
                other.kill()
                other.wait()
    assert order[-1] == reads.tiles[1].tile_id
    assert len(order) == 4


def test_closing_early_leaves_no_claim_and_does_not_hang(tmp_path: Path, layout: RunLayout) -> None:
    with feeding(layout, slide(tmp_path), slots=1) as (feed, _):
        time.sleep(0.3)
        assert isinstance(feed.take(), TileTask)
    assert not list(layout.root.rglob("*.claim"))
    assert not (layout.root / "parts" / "a").exists(), "no empty directory"


def ends(layout: RunLayout, feed: WindowFeed) -> tuple[set[str], dict[str, str]]:
    """Takes and ends all tasks: slides and tiles that came with pixels, and why the others failed."""
    read, failed = set(), {}
    for task in all_of(feed):
        if isinstance(task, Outcome):
            failed[f"{task.task.slide_id}/{task.task.tile_id}"] = str(task.error)
            feed.finish(task.task)
        else:
            read.add(f"{task.slide_id}/{task.tile_id}")
            finish(layout, feed, task)
    return read, failed


def tiles_of(reads: TileWindows) -> set[str]:
    return {f"{reads.slide_id}/{tile.tile_id}" for tile in reads.tiles}


def test_a_slide_that_vanished_fails_its_tiles_and_the_others_go_on(
    tmp_path: Path, layout: RunLayout
) -> None:
    gone, there = slide(tmp_path, "a"), slide(tmp_path, "bb", side=2)
    gone.path.unlink()
    with feeding(layout, gone, there) as (feed, _):
        read, failed = ends(layout, feed)
    assert read == tiles_of(there)
    assert set(failed) == tiles_of(gone)
    assert all("no such file" in reason for reason in failed.values()), failed
    assert not list(layout.root.rglob("*.claim"))


def test_another_scan_in_a_slides_place_is_not_measured(tmp_path: Path, layout: RunLayout) -> None:
    replaced, there = slide(tmp_path, "a"), slide(tmp_path, "bb", side=2)
    slide(tmp_path / "other", "a")
    (tmp_path / "other" / "a.czi").rename(replaced.path)
    with feeding(layout, replaced, there) as (feed, _):
        read, failed = ends(layout, feed)
    assert read == tiles_of(there)
    assert set(failed) == tiles_of(replaced)
    assert all("another scan" in reason for reason in failed.values()), failed


def test_a_reader_without_memory_fails_what_its_slide_has_left(
    tmp_path: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = slide(tmp_path, "a"), slide(tmp_path, "bb", side=2)
    decode, decoded = CziSlide.decode, []

    def seldom(self: CziSlide, *arguments: Any) -> Any:
        decoded.append(self.info.path.stem)
        if decoded == ["a"]:
            raise MemoryError
        return decode(self, *arguments)

    monkeypatch.setattr(CziSlide, "decode", seldom)
    with feeding(layout, first, second) as (feed, _):
        read, failed = ends(layout, feed)
    assert read == tiles_of(second)
    assert set(failed) == tiles_of(first)
    assert set(failed.values()) == {"MemoryError: "}


def test_a_window_that_cannot_be_read_fails_its_tile_alone(tmp_path: Path, layout: RunLayout) -> None:
    rng = np.random.default_rng(0)
    blocks = [Block(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), x, 0) for x in (0, 64, 128, 192)]
    path = write_czi(tmp_path / "a.czi", blocks)
    tiles = [Tile(f"s0_{x}_0", 0, Box(x, 0, x + 64, 64), 1.0, 1.0, x) for x in (0, 64, 128, 192)]
    reads = order_tiles("a", path, 0.25, tiles, lambda core: core.grown(4), 10**8)
    with CziSlide.open(path) as reader:
        position = reader.mosaic(0).level_0[2].position_bytes
    data = bytearray(path.read_bytes())
    data[position : position + 14] = b"ZISRAWRUBBISH!"
    path.write_bytes(data)
    failed = []
    with feeding(layout, reads) as (feed, _):
        for task in all_of(feed):
            if isinstance(task, Outcome):
                failed.append(task.task.tile_id)
                assert "cannot be decoded" in str(task.error)
                feed.finish(task.task)
            else:
                finish(layout, feed, task)
    assert failed == ["s0_64_0", "s0_128_0", "s0_192_0"], "those whose windows meet the third block"
