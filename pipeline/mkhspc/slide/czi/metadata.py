"""What the directory and the XML metadata of a CZI file say about the slide."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from mkhspc.config import check_um_per_px
from mkhspc.errors import InputError, UsageError
from mkhspc.geometry import Box
from mkhspc.slide.czi.directory import COPY_AGAIN, CziDirectory, SubBlock
from mkhspc.slide.model import RGB, ChannelInfo, SceneInfo, SlideInfo
from mkhspc.store.layout import slide_id_of

XY_TOLERANCE = 0.01
"""The largest difference between pixel width and height, as a share, of a slide with a single pixel size."""

MAX_SIDE_PX = 2_000_000
"""The longest side of a scene: more than a 75 mm glass slide at 0.04 µm a pixel. In a directory with a longer
one a number is damaged."""

ONLY_CHANNEL = 0
"""The number by which the channel of a file without channels is called."""

_DISTANCES = "Metadata/Scaling/Items/Distance"
_CHANNELS = (
    "Metadata/Information/Image/Dimensions/Channels/Channel",
    "Metadata/DisplaySetting/Channels/Channel",
)

_NO_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 allows nowhere (section 2.2): control characters, halves of surrogates."""
_REFERENCE = re.compile("&#(?:x([0-9a-fA-F]+)|([0-9]+));")
_BARE_AMPERSAND = re.compile("&(?!(?:#x[0-9a-fA-F]+|#[0-9]+|amp|lt|gt|quot|apos);)")
_REPLACEMENT = "\ufffd"
"""Stands where a character was that no XML can hold, so that no number is read from what is left."""
_MOST_DIGITS = 8
"""The most digits of a reference to a character; with more it refers to nothing."""


def describe(directory: CziDirectory, channel: int | None = None) -> SlideInfo:
    """Facts of a slide from its directory and metadata.

    Args:
        channel: the one to read; None for the first RGB channel of each scene.

    Raises:
        InputError: the file's name gives no slide id.
    """
    root, fault = _root(directory)
    um_per_px, fault = (None, fault) if fault else _pixel_size(root)
    blocks, level_0 = directory.sub_blocks, directory.level_0
    scenes = _scenes(directory, channel)
    read = read_blocks(blocks, scenes)
    counts = index_counts([block for block in read if block.is_level_0] or level_0)
    return SlideInfo(
        slide_id=slide_id_of(directory.path),
        path=directory.path,
        size_bytes=directory.size_bytes,
        fingerprint=directory.fingerprint,
        um_per_px=um_per_px,
        scenes=scenes,
        pixel_type=_types(level_0),
        channels=_channels(root, level_0),
        is_mosaic=any(block.mosaic_index > 0 for block in blocks),
        compressions=_compressions(blocks),
        read_compressions=_compressions(read),
        pyramid_levels=tuple(sorted({block.reduction for block in blocks})),
        channel_asked=channel,
        pixel_size_fault=fault,
        planes=tuple(
            (name, len(counts[name])) for name in sorted(counts) if len(counts[name]) > 1 and name != "C"
        ),
        empty_entries=directory.empty_entries,
    )


def channel_of(block: SubBlock) -> int:
    """The channel that a block belongs to."""
    return block.plane.get("C", ONLY_CHANNEL)


def read_blocks(blocks: Sequence[SubBlock], scenes: Sequence[SceneInfo]) -> list[SubBlock]:
    """The RGB blocks of the channels that are read of these scenes."""
    channels = {scene.index: scene.channel for scene in scenes}
    return [
        block
        for block in blocks
        if block.pixel_type == RGB and channels.get(block.scene) == channel_of(block)
    ]


def _types(blocks: Sequence[SubBlock]) -> str:
    return "+".join(sorted({block.pixel_type for block in blocks}))


def _compressions(blocks: Sequence[SubBlock]) -> tuple[str, ...]:
    return tuple(sorted({block.compression for block in blocks}))


def _by_channel(blocks: Sequence[SubBlock]) -> dict[int, list[SubBlock]]:
    """Blocks by channel, in the order of the channels."""
    found: dict[int, list[SubBlock]] = {}
    for block in blocks:
        found.setdefault(channel_of(block), []).append(block)
    return dict(sorted(found.items()))


def index_counts(blocks: Sequence[SubBlock]) -> dict[str, list[int]]:
    """The indices in use along every dimension but X, Y, S and M, sorted."""
    indices: dict[str, set[int]] = {}
    for block in blocks:
        for name, index in block.plane.items():
            indices.setdefault(name, set()).add(index)
    return {name: sorted(found) for name, found in indices.items()}


def _scenes(directory: CziDirectory, channel: int | None) -> tuple[SceneInfo, ...]:
    by_scene: dict[int, list[SubBlock]] = {}
    for block in directory.level_0:
        by_scene.setdefault(block.scene, []).append(block)
    scenes = tuple(_scene(index, by_scene[index], channel) for index in sorted(by_scene))
    for scene in scenes:
        if max(scene.width_px, scene.height_px) > MAX_SIDE_PX:
            raise InputError(
                f"scene {scene.index} cannot be {scene.width_px} by {scene.height_px} pixels large",
                where=directory.path,
                fix=COPY_AGAIN,
            )
    return scenes


def _scene(index: int, blocks: Sequence[SubBlock], channel: int | None) -> SceneInfo:
    """A scene of these level-0 blocks; its box is that of all channels, so coordinates depend on none."""
    types = tuple((number, _types(found)) for number, found in _by_channel(blocks).items())
    rgb = [number for number, kind in types if kind == RGB and channel in (None, number)]
    return SceneInfo(index, _hull([block.box for block in blocks]), types, rgb[0] if rgb else None)


def _hull(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.x0 for box in boxes), min(box.y0 for box in boxes),
        max(box.x1 for box in boxes), max(box.y1 for box in boxes),
    )  # fmt: skip


def _root(directory: CziDirectory) -> tuple[ET.Element | None, str]:
    """The metadata and '', or None and why they cannot be read; None and '' where there are none.

    What is odd in a free text is no reason: the pixel size beside it is as good as ever.
    """
    if not directory.metadata_xml:
        return None, ""
    try:
        if "<!DOCTYPE" in directory.metadata_xml:  # entities can make a small text huge
            raise ET.ParseError("it declares a document type")
        return ET.fromstring(_as_xml(directory.metadata_xml)), ""
    except ET.ParseError as error:
        return None, f"has metadata that cannot be read ({error}), and so states no pixel size"


def _as_xml(text: str) -> str:
    """A text without what surrounds it, and without characters and ampersands that no XML may hold."""
    text = text[text.find("<") : text.rfind(">") + 1]
    text = _BARE_AMPERSAND.sub("&amp;", _NO_CHARACTER.sub(_REPLACEMENT, text))
    return _REFERENCE.sub(lambda found: found[0] if _is_character(*found.groups()) else _REPLACEMENT, text)


def _is_character(hexadecimal: str | None, decimal: str | None) -> bool:
    """Whether the number of a reference is that of a character which XML allows."""
    digits = hexadecimal or decimal or ""
    number = int(digits, 16 if hexadecimal else 10) if len(digits) <= _MOST_DIGITS else -1
    return 0 <= number <= 0x10FFFF and not _NO_CHARACTER.match(chr(number))


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


def _channels(root: ET.Element | None, blocks: Sequence[SubBlock]) -> tuple[ChannelInfo, ...]:
    by_channel = _by_channel(blocks)
    names = _channel_names(root, list(by_channel))
    return tuple(ChannelInfo(index, names[index], _types(found)) for index, found in by_channel.items())


def _channel_names(root: ET.Element | None, indices: Sequence[int]) -> Mapping[int, str]:
    """Names by channel: of the image, else of its display, else 'Channel:0' and so on."""
    names = {index: f"Channel:{index}" for index in indices}
    for path in reversed(_CHANNELS if root is not None else ()):
        named = root.findall(path) if root is not None else []
        places = range(len(indices)) if len(named) == len(indices) else indices
        for index, place in zip(indices, places, strict=True):
            if place < len(named):
                names[index] = named[place].get("Name") or names[index]
    return names
