"""What the directory and the XML metadata of a CZI file say about the slide."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from mkhspc.config import check_um_per_px
from mkhspc.errors import InputError, UsageError
from mkhspc.geometry import Box
from mkhspc.slide.czi.directory import COPY_AGAIN, CziDirectory, SubBlock
from mkhspc.slide.model import SceneInfo, SlideInfo
from mkhspc.store.layout import slide_id_of

XY_TOLERANCE = 0.01
"""The largest difference between pixel width and height, as a share, of a slide with a single pixel size."""

MAX_SIDE_PX = 2_000_000
"""The longest side of a scene: more than a 75 mm glass slide at 0.04 µm a pixel. In a directory with a longer
one a number is damaged."""

_DISTANCES = "Metadata/Scaling/Items/Distance"
_CHANNELS = (
    "Metadata/Information/Image/Dimensions/Channels/Channel",
    "Metadata/DisplaySetting/Channels/Channel",
)


def describe(directory: CziDirectory) -> SlideInfo:
    """Facts of a slide from its directory and metadata.

    Raises:
        InputError: the metadata is not XML, or the file's name gives no slide id.
    """
    root = _root(directory)
    um_per_px, fault = _pixel_size(root)
    blocks, level_0 = directory.sub_blocks, directory.level_0
    counts = index_counts(level_0)
    return SlideInfo(
        slide_id=slide_id_of(directory.path),
        path=directory.path,
        size_bytes=directory.size_bytes,
        fingerprint=directory.fingerprint,
        um_per_px=um_per_px,
        scenes=_scenes(directory),
        pixel_type="+".join(sorted({block.pixel_type for block in level_0})),
        channels=_channel_names(root, len(counts.get("C", ("only",)))),
        is_mosaic=any(block.mosaic_index > 0 for block in blocks),
        compressions=tuple(sorted({block.compression for block in blocks})),
        pyramid_levels=tuple(sorted({block.reduction for block in blocks})),
        pixel_size_fault=fault,
        planes=tuple(
            (name, len(counts[name])) for name in sorted(counts) if len(counts[name]) > 1 and name != "C"
        ),
    )


def index_counts(blocks: Sequence[SubBlock]) -> dict[str, list[int]]:
    """The indices in use along every dimension but X, Y, S and M, sorted."""
    indices: dict[str, set[int]] = {}
    for block in blocks:
        for name, index in block.plane.items():
            indices.setdefault(name, set()).add(index)
    return {name: sorted(found) for name, found in indices.items()}


def _scenes(directory: CziDirectory) -> tuple[SceneInfo, ...]:
    boxes: dict[int, list[Box]] = {}
    for block in directory.level_0:
        boxes.setdefault(block.scene, []).append(block.box)
    scenes = tuple(SceneInfo(index, _hull(boxes[index])) for index in sorted(boxes))
    for scene in scenes:
        if max(scene.width_px, scene.height_px) > MAX_SIDE_PX:
            raise InputError(
                f"scene {scene.index} cannot be {scene.width_px} by {scene.height_px} pixels large",
                where=directory.path,
                fix=COPY_AGAIN,
            )
    return scenes


def _hull(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.x0 for box in boxes), min(box.y0 for box in boxes),
        max(box.x1 for box in boxes), max(box.y1 for box in boxes),
    )  # fmt: skip


def _root(directory: CziDirectory) -> ET.Element | None:
    if not directory.metadata_xml:
        return None
    try:
        if "<!DOCTYPE" in directory.metadata_xml:  # entities can make a small text huge
            raise ET.ParseError("it declares a document type")
        return ET.fromstring(directory.metadata_xml)
    except ET.ParseError as error:
        raise InputError(
            f"its metadata cannot be read ({error})", where=directory.path, fix=COPY_AGAIN
        ) from error


def _pixel_size(root: ET.Element | None) -> tuple[float | None, str]:
    """Pixel size in µm and '', or None and why there is none. The file states metres."""
    distances = [] if root is None else root.findall(_DISTANCES)
    stated = {distance.get("Id"): distance.findtext("Value", "") for distance in distances}
    if "X" not in stated or "Y" not in stated:
        return None, "states no pixel size"
    try:
        x_um, y_um = (round(float(stated[axis]) * 1e6, 9) for axis in "XY")
        check_um_per_px(x_um, "x")
        check_um_per_px(y_um, "y")
    except (ValueError, UsageError):
        return None, f"states a pixel size of {stated['X']!r} by {stated['Y']!r} metres"
    if abs(x_um - y_um) > XY_TOLERANCE * max(x_um, y_um):
        return None, f"states pixels that are not square: {x_um:g} by {y_um:g} µm"
    return (x_um if x_um == y_um else math.sqrt(x_um * y_um)), ""


def _channel_names(root: ET.Element | None, count: int) -> tuple[str, ...]:
    """Names in the order of the channels: of the image, else of its display, else 'Channel:0' and so on."""
    names = [f"Channel:{i}" for i in range(count)]
    for path in reversed(_CHANNELS if root is not None else ()):
        for i, element in enumerate(root.findall(path)[:count] if root is not None else ()):
            names[i] = element.get("Name") or names[i]
    return tuple(names)
