"""Reading CZI slides: facts from the directory, pixels from aicspylibczi, as RGB.

This is the only module that imports aicspylibczi. It reads single sub-blocks and puts them
together itself: libCZI's mosaics mix the scenes that overlap, and decode what two reads share
twice. BGR becomes RGB here and nowhere else.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from aicspylibczi import CziFile
from numpy.typing import NDArray

from pipeline.config import check_um_per_px
from pipeline.errors import InputError, UsageError
from pipeline.geometry import Box
from pipeline.slide.directory import CziDirectory, SubBlock, read_directory
from pipeline.slide.model import SceneInfo, SlideInfo
from pipeline.store.layout import slide_id_of

Rgb = NDArray[np.uint8]

WHITE = 255
XY_TOLERANCE = 0.01
"""A slide whose pixels are less square than this has no single pixel size."""
LOWRES_BYTES = 256 * 1024**2
"""A pyramid level is read at once up to this size, and in strips beyond it."""
ZOOM_MARGIN = 1e-4
"""libCZI takes the images whose zoom is at least the one asked for: ask for a little less."""


def read_slide_info(path: Path) -> SlideInfo:
    """Facts of a CZI file, without decoding a pixel.

    Raises:
        InputError: the file is missing, no CZI, cut short or damaged.
    """
    return _info(read_directory(path))


def _info(directory: CziDirectory) -> SlideInfo:
    root = _metadata_root(directory)
    um_per_px, fault = _pixel_size(root)
    blocks, level_0 = directory.sub_blocks, directory.level_0
    return SlideInfo(
        slide_id=slide_id_of(directory.path),
        path=directory.path,
        size_bytes=directory.size_bytes,
        um_per_px=um_per_px,
        scenes=_scenes(level_0),
        pixel_type="+".join(sorted({block.pixel_type for block in level_0})),
        channels=_channel_names(root, len({block.plane.get("C", 0) for block in level_0})),
        is_mosaic=any(block.mosaic_index > 0 for block in blocks),
        compressions=tuple(sorted({block.compression for block in blocks})),
        pyramid_levels=tuple(sorted({block.reduction for block in blocks})),
        pixel_size_fault=fault,
        planes=_planes(level_0),
    )


def _scenes(level_0: Sequence[SubBlock]) -> tuple[SceneInfo, ...]:
    boxes: dict[int, Box] = {}
    for block in level_0:
        boxes[block.scene] = _union(boxes.get(block.scene, block.box), block.box)
    return tuple(SceneInfo(index, boxes[index]) for index in sorted(boxes))


def _union(a: Box, b: Box) -> Box:
    return Box(min(a.x0, b.x0), min(a.y0, b.y0), max(a.x1, b.x1), max(a.y1, b.y1))


def _planes(level_0: Sequence[SubBlock]) -> tuple[tuple[str, int], ...]:
    indices: dict[str, set[int]] = {}
    for block in level_0:
        for name, index in block.plane.items():
            indices.setdefault(name, set()).add(index)
    return tuple((name, len(indices[name])) for name in sorted(indices) if len(indices[name]) > 1)


def _metadata_root(directory: CziDirectory) -> ET.Element | None:
    if not directory.metadata_xml:
        return None
    try:
        if "<!DOCTYPE" in directory.metadata_xml:
            raise ET.ParseError("it declares a document type")
        return ET.fromstring(directory.metadata_xml)
    except ET.ParseError as error:
        raise InputError(f"its metadata cannot be read ({error})", where=directory.path) from error


def _pixel_size(root: ET.Element | None) -> tuple[float | None, str]:
    """Pixel size in µm and '', or None and why there is none. The file states metres."""
    stated = {
        distance.get("Id"): distance.findtext("Value", "")
        for distance in ([] if root is None else root.iterfind("Metadata/Scaling/Items/Distance"))
    }
    if "X" not in stated or "Y" not in stated:
        return None, "the file states no pixel size"
    try:
        x_um, y_um = (round(float(stated[axis]) * 1e6, 9) for axis in "XY")
        check_um_per_px(x_um, "x")
        check_um_per_px(y_um, "y")
    except (ValueError, UsageError):
        return None, f"the file states a pixel size of {stated['X']!r} by {stated['Y']!r} metres"
    if abs(x_um - y_um) > XY_TOLERANCE * max(x_um, y_um):
        return None, f"the file's pixels are not square: {x_um:g} by {y_um:g} µm"
    return (x_um if x_um == y_um else math.sqrt(x_um * y_um)), ""


def _channel_names(root: ET.Element | None, count: int) -> tuple[str, ...]:
    path = "Metadata/Information/Image/Dimensions/Channels/Channel"
    stated = [] if root is None else [c.get("Name") or c.get("Id") or "" for c in root.iterfind(path)]
    return tuple(stated[i] if i < len(stated) and stated[i] else f"Channel:{i}" for i in range(count))


@dataclass(frozen=True)
class _SceneBlocks:
    """The sub-blocks of one scene in the plane that is read.

    Attributes:
        level_0: bottom to top.
        pyramid: blocks of the reduced levels, by nominal reduction.
        foreign: level-0 boxes of other scenes, (n, 4) as x0, y0, x1, y1.
    """

    origin: Box
    plane: Mapping[str, int]
    level_0: tuple[SubBlock, ...]
    pyramid: Mapping[int, tuple[SubBlock, ...]]
    foreign: NDArray[np.int64]

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """(n, 4) x0, y0, x1, y1 of `level_0`."""
        return _corners(self.level_0)

    @cached_property
    def is_overlaid(self) -> bool:
        """Whether a level-0 image of another scene lies over or under one of this scene."""
        return any(_meets(self.boxes, Box(*corners)).any() for corners in self.foreign.tolist())

    def meeting(self, box: Box) -> Iterator[SubBlock]:
        """Level-0 blocks that share a pixel with a box (mosaic coordinates), bottom to top."""
        for index in np.flatnonzero(_meets(self.boxes, box)):
            yield self.level_0[index]


def _corners(blocks: Sequence[SubBlock]) -> NDArray[np.int64]:
    return np.array([(b.box.x0, b.box.y0, b.box.x1, b.box.y1) for b in blocks], np.int64).reshape(-1, 4)


def _meets(corners: NDArray[np.int64], box: Box) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = corners.T
    meets: NDArray[np.bool_] = (x0 < box.x1) & (box.x0 < x1) & (y0 < box.y1) & (box.y0 < y1)
    return meets


class CziSlide:
    """An open slide. One thread at a time may use it: open one for each thread."""

    def __init__(self, directory: CziDirectory, um_per_px: float | None = None) -> None:
        self.info = _info(directory)
        self._directory = directory
        self._um_per_px = um_per_px
        self._scene_blocks: dict[int, _SceneBlocks] = {}
        self._file = directory.path.open("rb")
        try:
            self._czi = CziFile(self._file)
        except Exception as error:  # libCZI's errors share no narrower base
            self._file.close()
            raise InputError(f"cannot be opened ({error})", where=directory.path) from error

    @classmethod
    def open(cls, path: Path, um_per_px: float | None = None) -> CziSlide:
        """Opens a slide.

        Args:
            um_per_px: pixel size to use instead of the file's.

        Raises:
            InputError: the file is missing, no CZI, cut short or damaged.
            UsageError: `um_per_px` is no pixel size of a light microscope.
        """
        if um_per_px is not None:
            check_um_per_px(um_per_px, "--um-per-px")
        return cls(read_directory(path), um_per_px)

    def __enter__(self) -> CziSlide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; reading afterwards is an error."""
        self.__dict__.pop("_czi", None)
        self._file.close()

    @property
    def um_per_px(self) -> float:
        """Pixel size in µm: the one given when the slide was opened, or the file's.

        Raises:
            InputError: neither is there.
        """
        size = self.info.um_per_px if self._um_per_px is None else self._um_per_px
        if size is None:
            raise InputError(
                self.info.pixel_size_fault, where=self.info.path,
                fix="give the pixel size in µm with --um-per-px",
            )  # fmt: skip
        return size

    def scene(self, index: int) -> SceneInfo:
        """The scene of this number; `InputError` when there is none."""
        for scene in self.info.scenes:
            if scene.index == index:
                return scene
        raise InputError(
            f"has no scene {index}", where=self.info.path,
            fix=f"its scenes are {', '.join(str(s.index) for s in self.info.scenes)}",
        )  # fmt: skip

    def read(self, scene: int, box: Box) -> Rgb:
        """Pixels of a box at level 0.

        Args:
            scene: index of the scene.
            box: level-0 pixels in the scene's own coordinates; may reach outside the scene.

        Returns:
            (box.height, box.width, 3) uint8, RGB; white outside the scene and in its gaps.

        Raises:
            InputError: the slide is no RGB slide, has no such scene, or is damaged there.
        """
        blocks = self._blocks(scene)
        wanted = box.shifted(blocks.origin.x0, blocks.origin.y0)
        picture = np.full((box.height, box.width, 3), WHITE, np.uint8)
        for block in blocks.meeting(wanted):
            shared = block.box.clipped(wanted)
            picture[shared.slices_in(wanted)] = self._decode(block)[shared.slices_in(block.box)]
        return _rgb(picture)

    def read_lowres(self, scene: int, factor: int) -> Rgb:
        """The whole scene, reduced; from the stored pyramid where there is one.

        Args:
            factor: level-0 pixels per pixel of the result, along each axis.

        Returns:
            (ceil(height / factor), ceil(width / factor), 3) uint8, RGB. Pixel (i, j) is the mean of
            the scene's rows [i * factor, (i + 1) * factor) and columns [j * factor, ...), gaps
            counted as white. From a pyramid it may be displaced by less than a pixel of the stored level.

        Raises:
            InputError: as for `read`.
        """
        blocks = self._blocks(scene)
        grid = _Grid(blocks.origin, factor)
        covered = grid.covered(_corners(blocks.level_0))
        level = self._usable_level(blocks, grid, covered)
        if level is None:
            return self._mean_of_level_0(blocks, grid)
        picture = self._mean_of_level(blocks, grid, level)
        picture[~covered] = WHITE
        return picture

    def _blocks(self, scene: int) -> _SceneBlocks:
        if self.info.unreadable_because:
            raise InputError(self.info.unreadable_because, where=self.info.path)
        if scene not in self._scene_blocks:
            self._scene_blocks[scene] = self._gather(self.scene(scene))
        return self._scene_blocks[scene]

    def _gather(self, scene: SceneInfo) -> _SceneBlocks:
        own = [block for block in self._directory.sub_blocks if block.scene == scene.index]
        plane = _plane_to_read([block for block in own if block.is_level_0])
        own = [b for b in own if all(b.plane.get(name, index) == index for name, index in plane.items())]
        level_0 = sorted((b for b in own if b.is_level_0), key=lambda block: block.mosaic_index)
        if len({block.mosaic_index for block in level_0}) < len(level_0):
            raise InputError(
                f"several images of scene {scene.index} share one place in the mosaic", where=self.info.path,
                fix="save the slide again in ZEN",
            )  # fmt: skip
        pyramid: dict[int, tuple[SubBlock, ...]] = {}
        for block in own:
            if not block.is_level_0:
                pyramid[block.reduction] = (*pyramid.get(block.reduction, ()), block)
        others = _corners([b for b in self._directory.level_0 if b.scene != scene.index])
        return _SceneBlocks(
            scene.mosaic_box, plane, tuple(level_0), pyramid, others[_meets(others, scene.mosaic_box)]
        )

    def _decode(self, block: SubBlock) -> NDArray[np.uint8]:
        """(height, width, 3) BGR pixels of a level-0 block."""
        where = dict(block.plane)
        if block.has_scene:
            where["S"] = block.scene
        if self.info.is_mosaic:
            where["M"] = block.mosaic_index
        try:
            pixels, _ = self._czi.read_image(cores=1, **where)
            image: NDArray[np.uint8] = pixels.reshape(block.stored_height_px, block.stored_width_px, 3)
        except Exception as error:  # libCZI's errors share no narrower base
            raise self._undecodable(block.box, error) from error
        return image

    def _undecodable(self, box: Box, error: Exception) -> InputError:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return InputError(
            f"the image at x {box.x0}, y {box.y0} cannot be decoded ({reason})",
            where=self.info.path,
            fix="the file is damaged: copy it again from its source",
        )

    def _mean_of_level_0(self, blocks: _SceneBlocks, grid: _Grid) -> Rgb:
        """Every block decoded once and added to its cells."""
        sums = np.zeros((*grid.shape, 3), np.int32)
        counts = np.zeros(grid.shape, np.int32)
        for block in blocks.level_0:
            rows, columns = grid.edges(block.box)
            cells = grid.cells(block.box)
            # In 32 bits the running sums of a large block wrap around; their differences are exact.
            corners = cv2.integral(self._decode(block))[np.ix_(rows, columns)]
            sums[cells] += np.diff(np.diff(corners, axis=0), axis=1)
            counts[cells] += np.diff(rows)[:, None] * np.diff(columns)[None, :]
        gaps = np.maximum(grid.cell_areas() - counts, 0)
        total = counts + gaps
        means = (sums + WHITE * gaps[..., None] + total[..., None] // 2) // total[..., None]
        return _rgb(means.astype(np.uint8))

    def _usable_level(
        self, blocks: _SceneBlocks, grid: _Grid, covered: NDArray[np.bool_]
    ) -> tuple[SubBlock, ...] | None:
        """The coarsest stored level that is fine enough and complete, or None for level 0.

        Only libCZI's mosaics reach the pyramid, and they show the images of all scenes: where
        those of another scene lie over this one's, level 0 is the way.
        """
        is_large = min(blocks.origin.width, blocks.origin.height) >= 2 * grid.factor
        if not (self.info.is_mosaic and "C" in blocks.plane and is_large) or blocks.is_overlaid:
            return None
        for reduction in sorted(blocks.pyramid, reverse=True):
            level = blocks.pyramid[reduction]
            if reduction <= grid.factor and not (covered & ~grid.covered(_corners(level))).any():
                return level
        return None

    def _mean_of_level(self, blocks: _SceneBlocks, grid: _Grid, level: Sequence[SubBlock]) -> Rgb:
        zoom = min(block.zoom for block in level) * (1.0 - ZOOM_MARGIN)
        rows, columns = grid.shape
        strips = math.ceil(3 * blocks.origin.area_px * zoom * zoom / LOWRES_BYTES)
        bounds = np.linspace(0, rows, min(strips, max(1, rows // 2)) + 1).astype(int)
        picture = np.empty((rows, columns, 3), np.uint8)
        for top, bottom in zip(bounds[:-1], bounds[1:], strict=True):
            strip = grid.row_box(top, bottom)
            pixels = self._read_level(strip.clipped(blocks.origin), zoom, blocks.plane)
            picture[top:bottom] = _shrink(pixels, strip, blocks.origin, (columns, bottom - top))
        return _rgb(picture)

    def _read_level(self, box: Box, zoom: float, plane: Mapping[str, int]) -> NDArray[np.uint8]:
        """BGR pixels of a box in mosaic coordinates, (about height * zoom, width * zoom, 3)."""
        try:
            pixels: NDArray[np.uint8] = self._czi.read_mosaic(
                region=(box.x0, box.y0, box.width, box.height), scale_factor=zoom,
                background_color=(1.0, 1.0, 1.0), **plane,
            )[0]  # fmt: skip
        except Exception as error:  # libCZI's errors share no narrower base
            raise self._undecodable(box, error) from error
        return pixels


@dataclass(frozen=True)
class _Grid:
    """Cells of `factor` x `factor` level-0 pixels laid over a scene from its top-left corner."""

    scene: Box
    factor: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return -(-self.scene.height // self.factor), -(-self.scene.width // self.factor)

    def cells(self, box: Box) -> tuple[slice, slice]:
        """The rows and columns of cells that share a pixel with a box of the scene."""
        own = box.shifted(-self.scene.x0, -self.scene.y0)
        return (
            slice(own.y0 // self.factor, -(-own.y1 // self.factor)),
            slice(own.x0 // self.factor, -(-own.x1 // self.factor)),
        )

    def edges(self, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the cells of `cells(box)` begin and end along y and x, in pixels of the box."""
        rows, columns = self.cells(box)
        ys = np.arange(rows.start, rows.stop + 1) * self.factor + self.scene.y0 - box.y0
        xs = np.arange(columns.start, columns.stop + 1) * self.factor + self.scene.x0 - box.x0
        return np.clip(ys, 0, box.height), np.clip(xs, 0, box.width)

    def cell_areas(self) -> NDArray[np.int32]:
        """Pixels of the scene in every cell, (rows, columns): fewer along the far edges."""
        rows, columns = (np.diff(edges).astype(np.int32) for edges in self.edges(self.scene))
        return rows[:, None] * columns[None, :]

    def covered(self, corners: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Cells that share a pixel with any of the boxes (n, 4), in mosaic coordinates."""
        grid = np.zeros(self.shape, bool)
        for x0, y0, x1, y1 in corners.tolist():
            shared = Box(x0, y0, x1, y1).clipped(self.scene)
            if shared.area_px:
                grid[self.cells(shared)] = True
        return grid

    def row_box(self, top: int, bottom: int) -> Box:
        """Whole cells of rows [top, bottom), in mosaic coordinates; may reach beyond the scene."""
        y0 = self.scene.y0 + top * self.factor
        return Box(
            self.scene.x0, y0,
            self.scene.x0 + self.shape[1] * self.factor, y0 + (bottom - top) * self.factor,
        )  # fmt: skip


def _shrink(pixels: NDArray[np.uint8], strip: Box, scene: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Area means of a strip; cells that reach beyond the scene see its edge repeated."""
    inside = strip.clipped(scene)
    right = round((strip.width - inside.width) * pixels.shape[1] / inside.width)
    below = round((strip.height - inside.height) * pixels.shape[0] / inside.height)
    whole = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)


def _plane_to_read(level_0: Sequence[SubBlock]) -> dict[str, int]:
    """One index for every dimension: the middle of a focus stack, the first of all others."""
    indices: dict[str, set[int]] = {}
    for block in level_0:
        for name, index in block.plane.items():
            indices.setdefault(name, set()).add(index)
    return {name: sorted(found)[len(found) // 2 if name == "Z" else 0] for name, found in indices.items()}


def _rgb(bgr: NDArray[np.uint8]) -> Rgb:
    if bgr.size == 0:
        return bgr
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), np.uint8)
