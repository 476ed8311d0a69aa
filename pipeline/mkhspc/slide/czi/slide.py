"""Reading the pixels of CZI slides, as RGB.

This is the only module that imports aicspylibczi, which reads the pyramid. Level 0 is decoded one
sub-block at a time (`unpack`) and put together here, because libCZI's mosaics mix scenes that
overlap and decode a sub-block again for every window.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from aicspylibczi import CziFile
from numpy.typing import NDArray

from mkhspc.config import check_um_per_px
from mkhspc.errors import InputError
from mkhspc.geometry import Box, RgbImage
from mkhspc.slide.czi.content import content_of
from mkhspc.slide.czi.directory import (
    COPY_AGAIN,
    CziDirectory,
    Extent,
    SubBlock,
    read_directory,
    stored_pixels,
)
from mkhspc.slide.czi.metadata import channel_of, describe, read_blocks
from mkhspc.slide.czi.mosaic import Grid, SceneMosaic, corners_of, scene_mosaic
from mkhspc.slide.czi.strips import bands, shrink, split, to_rgb
from mkhspc.slide.czi.unpack import Image, unpack
from mkhspc.slide.model import RGB, SceneInfo, SlideInfo
from mkhspc.units import MIB

WHITE = 255
"""The grey level of places that no image covers."""
STRIP_BYTES = 256 * 1024**2
"""A pyramid level is read at once up to this many bytes, and in strips beyond."""

MOST_STORED_SHARE = 2
"""The most bytes of a stored image for each byte of its pixels: noise that is packed grows by less."""

LIBCZI_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    IndexError,
    OSError,
    *(
        found
        for found in vars(importlib.import_module("_aicspylibczi")).values()
        if isinstance(found, type) and issubclass(found, Exception)
    ),
)
"""What aicspylibczi raises for a damaged file: its own errors share no base but `Exception`."""


def read_slide_info(path: Path) -> SlideInfo:
    """Facts of a CZI file, without decoding a pixel.

    Raises:
        InputError: the file is missing, cut short, damaged or not a CZI.
    """
    return describe(read_directory(path))


class CziSlide:
    """An open slide. One thread at a time may use it, but for `decode`."""

    def __init__(
        self, directory: CziDirectory, um_per_px: float | None = None, channel: int | None = None
    ) -> None:
        self.info = describe(directory, channel)
        self.directory = directory
        self._um_per_px = um_per_px
        self._mosaics: dict[int, SceneMosaic] = {}
        self._file = directory.path.open("rb")

    @cached_property
    def _libczi(self) -> CziFile:
        """Opened when first needed: it reads the whole directory again, and level 0 does not need it."""
        try:
            return CziFile(self._file)
        except LIBCZI_ERRORS as error:
            where = self.directory.path
            raise InputError(f"cannot be opened ({error})", where=where, fix=COPY_AGAIN) from error

    @classmethod
    def open(cls, path: Path, um_per_px: float | None = None, channel: int | None = None) -> CziSlide:
        """Opens a slide.

        Args:
            path: the CZI file.
            um_per_px: pixel size to use instead of the file's.
            channel: the one to read; None for the first RGB channel of each scene.

        Raises:
            InputError: the file is missing, cut short, damaged or not a CZI.
            UsageError: `um_per_px` is not a pixel size that a light microscope can have.
        """
        if um_per_px is not None:
            check_um_per_px(um_per_px, "--um-per-px")
        slide = cls(read_directory(path), um_per_px, channel)
        try:
            slide._libczi  # noqa: B018 - a file that it cannot open is refused here, not in mid-run
        except InputError:
            slide.close()
            raise
        return slide

    def __enter__(self) -> CziSlide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; reading afterwards is an error."""
        self.__dict__.pop("_libczi", None)
        self._file.close()

    @property
    def known_um_per_px(self) -> float | None:
        """Pixel size in µm: the one given when the slide was opened, or the file's, or None."""
        return self.info.um_per_px if self._um_per_px is None else self._um_per_px

    @property
    def um_per_px(self) -> float:
        """`known_um_per_px`; raises `InputError` when there is none."""
        size = self.known_um_per_px
        if size is None:
            raise InputError(
                self.info.pixel_size_fault,
                where=self.info.path,
                fix="give the pixel size in µm with --um-per-px",
            )
        return size

    def require_rgb(self) -> None:
        """Raises `InputError`, with the reason, unless the pixels can be read as an H&E slide."""
        if self.info.unreadable_because:
            raise InputError(self.info.unreadable_because, where=self.info.path, fix=self.info.remedy)

    def readable_scene(self, index: int) -> SceneInfo:
        """The scene of this number; `InputError` when there is none, or nothing in it can be read."""
        self.require_rgb()
        scene = self.scene(index)
        if scene.channel is None:
            types = ", ".join(f"{kind} in channel {channel}" for channel, kind in scene.pixel_types)
            there = ", ".join(str(other.index) for other in self.info.read_scenes)
            raise InputError(
                f"scene {index} is not RGB{self._in_channel}: it holds {types}",
                where=self.info.path,
                fix=f"the scenes that can be read are {there}",
            )
        return scene

    @property
    def _in_channel(self) -> str:
        asked = self.info.channel_asked
        return "" if asked is None else f" in channel {asked}"

    def scene(self, index: int) -> SceneInfo:
        """The scene of this number; `InputError` when there is none."""
        for scene in self.info.scenes:
            if scene.index == index:
                return scene
        there = ", ".join(str(scene.index) for scene in self.info.scenes)
        raise InputError(f"has no scene {index}", where=self.info.path, fix=f"its scenes are {there}")

    def blocks_read(self) -> list[SubBlock]:
        """The level-0 blocks of all scenes that are read, in stored order."""
        return read_blocks(self.directory.level_0, self.info.read_scenes)

    def rgb_blocks(self, channel: int) -> list[SubBlock]:
        """The RGB blocks of a channel at level 0, whether or not it is read."""
        return [b for b in self.directory.level_0 if b.pixel_type == RGB and channel_of(b) == channel]

    @cached_property
    def content(self) -> str:
        """What a copy has the same, and hardly another slide; see `content_of`."""
        return content_of(self.directory)

    def read(self, scene: int, box: Box) -> RgbImage:
        """Pixels of a box at level 0; every sub-block that it meets is decoded once.

        Args:
            scene: index of the scene; nothing of another scene is read or shown.
            box: level-0 pixels in the scene's own coordinates; may reach outside the scene.

        Returns:
            (box.height, box.width, 3) uint8, RGB; white outside the scene and in its gaps.

        Raises:
            InputError: the slide is not RGB, has no such scene, or is damaged there.
        """
        mosaic = self.mosaic(scene)
        wanted = box.shifted(mosaic.box.x0, mosaic.box.y0)
        picture = np.full((box.height, box.width, 3), WHITE, np.uint8)
        for block in (mosaic.level_0[nth] for nth in mosaic.meeting(wanted)):
            self.decode(block).show(block.box.clipped(wanted), picture, wanted)
        return picture

    def read_lowres(self, scene: int, factor: int) -> RgbImage:
        """The whole scene, reduced; from the stored pyramid where there is one.

        Args:
            scene: index of the scene.
            factor: level-0 pixels per pixel of the result, along each axis.

        Returns:
            (ceil(height / factor), ceil(width / factor), 3) uint8, RGB. Pixel (i, j) is the mean of
            the scene's rows [i * factor, (i + 1) * factor) and columns [j * factor, (j + 1) * factor),
            gaps counted as white. From a pyramid it may lie off by less than a pixel of the level used.

        Raises:
            InputError: as for `read`.
        """
        mosaic = self.mosaic(scene)
        grid = Grid(mosaic.box, factor)
        covered = grid.covered(corners_of(mosaic.level_0))
        level = self._usable_level(mosaic, grid, covered)
        if level is None:
            return self._mean_of_level_0(mosaic, grid)
        picture = self._mean_of_level(mosaic, grid, level)
        picture[~covered] = WHITE
        return picture

    def mosaic(self, scene: int) -> SceneMosaic:
        """The sub-blocks of a scene; errors as for `read`."""
        if scene not in self._mosaics:
            mosaic = scene_mosaic(self.directory, self.readable_scene(scene))
            mosaic.refuse_confusion()
            self._mosaics[scene] = mosaic
        return self._mosaics[scene]

    def decode(self, block: SubBlock) -> Image:
        """The pixels of a level-0 block; `InputError` when it is damaged. Threads may decode side by side."""
        try:
            extent = self._extent(block)
            if extent.length_bytes > MOST_STORED_SHARE * block.unpacked_bytes + MIB:
                raise ValueError(f"it has {extent.length_bytes:,} bytes, more than its pixels can take")
            stored = os.pread(self._file.fileno(), extent.length_bytes, extent.position_bytes)
            if len(stored) < extent.length_bytes:
                raise ValueError("the file was cut short meanwhile")
            return unpack(stored, block)
        except (ValueError, OSError) as error:  # no image, or a disk or a server that does not answer
            raise self._undecodable(block.box, str(error)) from error

    def _extent(self, block: SubBlock) -> Extent:
        """Where a block's pixels lie; `InputError` if its sizes are wrong."""
        extent = stored_pixels(self._file, block, self.info.size_bytes)
        if extent is None:
            raise self._undecodable(block.box, "its sizes are wrong")
        return extent

    def read_lowres_around_damage(self, scene: int, factor: int) -> tuple[RgbImage, list[Box]]:
        """As `read_lowres`, from level 0 alone, with the images left white that cannot be decoded.

        Returns:
            The picture, and what of those images nothing else shows, in the scene's coordinates.

        Raises:
            InputError: as for `read`, but for damage; also when a disk or a server does not answer.
        """
        mosaic = self.mosaic(scene)
        damaged: list[Box] = []
        picture = self._mean_of_level_0(mosaic, Grid(mosaic.box, factor), damaged)
        return picture, [box.shifted(-mosaic.box.x0, -mosaic.box.y0) for box in damaged]

    def _mean_of_level_0(self, mosaic: SceneMosaic, grid: Grid, damaged: list[Box] | None = None) -> RgbImage:
        """Means of what is seen of every block, each decoded once.

        Args:
            damaged: takes what is seen of blocks that cannot be decoded; None makes them an error.
        """
        sums = np.zeros((*grid.shape, 3), np.int32)
        areas = grid.areas(mosaic.box)
        gaps = areas.copy()
        for nth, block in enumerate(mosaic.level_0):
            parts = mosaic.visible_parts(nth)
            if not parts:
                continue
            try:
                image = self.decode(block)
            except InputError as error:
                if damaged is None or not is_damage(error):
                    raise
                damaged += parts
                continue
            for part in itertools.chain.from_iterable(map(bands, parts)):
                rows, columns = grid.edges(part)
                running = cv2.integral(image.pixels[part.slices_in(image.box)])
                corners = running[np.ix_(rows - part.y0, columns - part.x0)]
                sums[grid.cells(part)] += np.diff(np.diff(corners, axis=0), axis=1)
                gaps[grid.cells(part)] -= grid.areas(part)
        # In place: the sums of a whole slide are large. Rounded to the nearest.
        gaps *= WHITE
        gaps += areas // 2
        for channel in np.moveaxis(sums, 2, 0):
            channel += gaps
            channel //= areas
        del gaps, areas
        return sums.astype(np.uint8)

    def _usable_level(
        self, mosaic: SceneMosaic, grid: Grid, covered: NDArray[np.bool_]
    ) -> tuple[SubBlock, ...] | None:
        """The coarsest stored level that is fine enough and complete, or None for level 0.

        Only libCZI's mosaics reach the pyramid. They need a channel and one pixel type, show the images of
        all scenes and give nothing for a scene smaller than their pixels: there level 0 is the way.
        """
        is_large = min(mosaic.box.width, mosaic.box.height) >= 2 * grid.factor
        if "C" not in mosaic.plane or not is_large or mosaic.is_mixed or mosaic.is_overlaid:
            return None
        for reduction in sorted(mosaic.pyramid, reverse=True):
            level = mosaic.pyramid[reduction]
            if reduction <= grid.factor and not (covered & ~grid.covered(corners_of(level))).any():
                return level
        return None

    def _mean_of_level(self, mosaic: SceneMosaic, grid: Grid, level: Sequence[SubBlock]) -> RgbImage:
        for block in level:
            self._extent(block)
        zoom = min(block.zoom for block in level)  # libCZI takes blocks of at least the zoom asked for
        rows, columns = grid.shape
        strips = math.ceil(3 * mosaic.box.area_px * zoom * zoom / STRIP_BYTES)
        picture = np.empty((rows, columns, 3), np.uint8)
        # Strips begin where a pixel of the level does, so that none is displaced against its neighbour.
        step = level[0].reduction // math.gcd(level[0].reduction, grid.factor)
        for top, bottom in itertools.pairwise(split(rows, strips, step)):
            band = grid.band(top, bottom)
            inside = band.clipped(mosaic.box)
            stored = self._read_mosaic(inside, zoom, mosaic.plane)
            picture[top:bottom] = shrink(stored, inside, band, (columns, bottom - top))
        return to_rgb(picture)

    def _read_mosaic(self, box: Box, zoom: float, plane: Mapping[str, int]) -> RgbImage:
        """BGR pixels of a box in mosaic coordinates, (height * zoom, width * zoom, 3) rounded down.

        Shows the images of all scenes.
        """
        try:
            stored = self._libczi.read_mosaic(
                region=(box.x0, box.y0, box.width, box.height),
                scale_factor=zoom,
                background_color=(1.0, 1.0, 1.0),
                **plane,
            )
            image: RgbImage = stored.reshape(stored.shape[-3:])
        except LIBCZI_ERRORS as error:
            raise self._undecodable(box, str(error)) from error
        return image

    def _undecodable(self, box: Box, reason: str) -> InputError:
        line = reason.strip().partition("\n")[0] or "no reason given"
        return InputError(
            f"the image at x {box.x0}, y {box.y0} cannot be decoded ({line})",
            where=self.info.path,
            fix=COPY_AGAIN,
        )


def is_damage(error: InputError) -> bool:
    """Whether an image cannot be decoded for good: a disk or a server may answer the next time."""
    return not isinstance(error.__cause__, OSError)
