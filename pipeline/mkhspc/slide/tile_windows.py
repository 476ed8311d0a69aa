"""The windows of a slide's tiles, in the order in which they are read, and the slide opened for reading them.

It is what the pool's feed reads from: see `pool.contract.SlideWindows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide.czi.directory import read_directory
from mkhspc.slide.czi.read_order import ReadCost, SceneBox, mosaics_of, order_windows
from mkhspc.slide.czi.slide import CziSlide, read_slide_info
from mkhspc.slide.czi.stream import WindowStream, always
from mkhspc.slide.tiles import Tile


@dataclass(frozen=True)
class TileWindows:
    """The tiles of a slide that are to be read, in the order of reading.

    Attributes:
        fingerprint: of the file that the tiles were planned for; see `CziDirectory`.
        scene_windows: what is read for each tile.
        cost: of reading all of them.
        channel: the one that is read; None for the first RGB channel of each scene.
    """

    slide_id: str
    path: Path
    fingerprint: str
    um_per_px: float
    tiles: Sequence[Tile]
    scene_windows: Sequence[SceneBox]
    cost: ReadCost
    channel: int | None = None

    @cached_property
    def tile_ids(self) -> list[str]:
        """Ids of the tiles, in this order."""
        return [tile.tile_id for tile in self.tiles]

    @cached_property
    def windows(self) -> list[Box]:
        """The box that is read for each tile, in level-0 pixels of its scene."""
        return [window.box for window in self.scene_windows]

    def only(self, indices: Sequence[int]) -> TileWindows:
        """Some of these tiles, in the order of `indices`."""
        tiles, windows = [self.tiles[i] for i in indices], [self.scene_windows[i] for i in indices]
        return replace(self, tiles=tiles, scene_windows=windows)

    def open(
        self,
        *,
        threads: int,
        is_wanted: Callable[[int], bool] = always,
        has_place: Callable[[], bool] = always,
    ) -> WindowStream:
        """Opens the slide; `WindowStream` says what the arguments mean.

        Raises:
            InputError: the slide cannot be opened, or another file has its name since its tiles were planned.
        """
        if read_slide_info(self.path).fingerprint != self.fingerprint:
            raise InputError(
                "this is another scan than the one that the run began with (its fingerprint differs)",
                where=self.path,
                fix="put the first scan back under this name",
            )
        return WindowStream(
            CziSlide(read_directory(self.path), self.um_per_px, self.channel),
            self.scene_windows,
            room_bytes=self.cost.room_bytes,
            threads=threads,
            is_wanted=is_wanted,
            has_place=has_place,
        )


def order_tiles(
    slide_id: str,
    path: Path,
    um_per_px: float,
    tiles: Sequence[Tile],
    window_of: Callable[[Box], Box],
    room_bytes: int,
    *,
    channel: int | None = None,
) -> TileWindows:
    """Orders the tiles of a slide as their windows are read.

    Args:
        window_of: returns what is read for the core of a tile.
        room_bytes: how much decoded pixels may take that are kept for later windows.
        channel: the one to read; None for the first RGB channel of each scene.
    """
    windows = [SceneBox(tile.scene, window_of(tile.core)) for tile in tiles]
    with CziSlide.open(path, um_per_px, channel) as slide:
        order = order_windows(mosaics_of(slide, windows), windows, room_bytes)
        fingerprint = slide.info.fingerprint
    in_order = [tiles[index] for index in order.indices]
    return TileWindows(slide_id, path, fingerprint, um_per_px, in_order, order.windows, order.cost, channel)
