"""What is known of a slide before its pixels are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mkhspc.geometry import Box

READABLE_COMPRESSIONS = ("uncompressed", "jpeg-xr", "zstd0", "zstd1")
"""The compressions that are decoded here; old microscopes also wrote JPEG and LZW."""

RGB = "bgr24"
"""The pixel type that is read, as the file names it."""


@dataclass(frozen=True)
class SceneInfo:
    """A scene: a piece of glass that the scanner imaged in one go.

    Attributes:
        index: the scene's number in the file (0 for a file without scenes).
        mosaic_box: where the scene lies in the file's own coordinates (may start negative or far
            from 0); everything outside `slide.czi` uses the scene's own, which start at (0, 0).
        pixel_types: of its level-0 images, by channel: one, or several such as 'bgr24+gray16'.
        channel: the one that is read; None where none that may be read is RGB.
    """

    index: int
    mosaic_box: Box
    pixel_types: tuple[tuple[int, str], ...] = ((0, RGB),)
    channel: int | None = 0

    @property
    def width_px(self) -> int:
        return self.mosaic_box.width

    @property
    def height_px(self) -> int:
        return self.mosaic_box.height

    @property
    def box(self) -> Box:
        """The whole scene in its own coordinates."""
        return Box(0, 0, self.width_px, self.height_px)

    @property
    def rgb_channels(self) -> tuple[int, ...]:
        """The channels that could be read."""
        return tuple(channel for channel, kind in self.pixel_types if kind == RGB)


@dataclass(frozen=True)
class ChannelInfo:
    """A channel of a slide: its number in the file, its name, and the pixel types of its level-0 images."""

    index: int
    name: str
    pixel_type: str

    def __str__(self) -> str:
        return f"{self.index} ({self.name}, {self.pixel_type})"


@dataclass(frozen=True)
class SlideInfo:
    """Facts of a CZI file, read from its metadata.

    Attributes:
        fingerprint: differs between files of the same name and size; see `CziDirectory`.
        um_per_px: pixel size in µm, or None when the file does not state one (absent, 0 or absurd).
        scenes: all, those that hold nothing to read among them.
        pixel_type: of all level-0 images, as the file names it, such as 'bgr24' or 'bgr24+gray16'.
        channel_asked: the channel to read; None for the first RGB channel of each scene.
        compressions: of its sub-blocks, such as ('zstd1',), sorted.
        read_compressions: of those sub-blocks that are read.
        pyramid_levels: reduction factors of the stored pyramid, level 0 first, such as (1, 2).
        pixel_size_fault: why `um_per_px` is None, such as 'states no pixel size'.
        planes: dimensions with more than one index, channels apart, such as (('Z', 5),): of Z the
            middle plane is read, of the others the first.
        empty_entries: entries of the directory that name images of no size, and are left out.
    """

    slide_id: str
    path: Path
    size_bytes: int
    fingerprint: str
    um_per_px: float | None
    scenes: tuple[SceneInfo, ...]
    pixel_type: str
    channels: tuple[ChannelInfo, ...]
    is_mosaic: bool
    compressions: tuple[str, ...]
    read_compressions: tuple[str, ...]
    pyramid_levels: tuple[int, ...]
    channel_asked: int | None = None
    pixel_size_fault: str = ""
    planes: tuple[tuple[str, int], ...] = ()
    empty_entries: int = 0

    @cached_property
    def read_scenes(self) -> tuple[SceneInfo, ...]:
        """The scenes that can be read."""
        return tuple(scene for scene in self.scenes if scene.channel is not None)

    @property
    def rgb_channels(self) -> tuple[ChannelInfo, ...]:
        """The channels that could be read, in any scene."""
        found = {index for scene in self.scenes for index in scene.rgb_channels}
        return tuple(channel for channel in self.channels if channel.index in found)

    def channel_words(self, index: int) -> str:
        """A channel by number and name, such as '0 (Brightfield)'."""
        name = next(channel.name for channel in self.channels if channel.index == index)
        return f"{index} ({name})"

    @property
    def unreadable_because(self) -> str:
        """Why its pixels cannot be read as an H&E slide, or '' when they can."""
        if not self.rgb_channels:
            return f"is not an H&E brightfield slide: pixel type {self.pixel_type}"
        if not self.read_scenes:
            return self._channel_fault
        unknown = [name for name in self.read_compressions if name not in READABLE_COMPRESSIONS]
        if unknown:
            return f"holds images compressed as {', '.join(unknown)}, which cannot be read"
        return ""

    @property
    def _channel_fault(self) -> str:
        """Why the channel asked for cannot be read, with all that there are."""
        there = ", ".join(map(str, self.channels))
        asked = [channel for channel in self.channels if channel.index == self.channel_asked]
        if not asked:
            return f"has no channel {self.channel_asked}; its channels are {there}"
        return f"has no RGB image in channel {self.channel_asked}; its channels are {there}"

    @property
    def remedy(self) -> str:
        """What helps against `unreadable_because`."""
        if self.rgb_channels and not self.read_scenes:
            numbers = ", ".join(str(channel.index) for channel in self.rgb_channels)
            return f"give an RGB channel with --channel: {numbers}"
        return "give an RGB scan in transmitted light (pixel type bgr24)"
