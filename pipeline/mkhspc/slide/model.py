"""What is known of a slide before its pixels are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mkhspc.geometry import Box

READABLE_COMPRESSIONS = ("uncompressed", "jpeg-xr", "zstd0", "zstd1")
"""The compressions that are decoded here; old microscopes also wrote JPEG and LZW."""


@dataclass(frozen=True)
class SceneInfo:
    """A scene: a piece of glass that the scanner imaged in one go.

    Attributes:
        index: the scene's number in the file (0 for a file without scenes).
        mosaic_box: where the scene lies in the file's own coordinates (may start negative or far
            from 0); everything outside `slide.czi` uses the scene's own, which start at (0, 0).
    """

    index: int
    mosaic_box: Box

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


@dataclass(frozen=True)
class SlideInfo:
    """Facts of a CZI file, read from its metadata.

    Attributes:
        fingerprint: differs between files of the same name and size; see `CziDirectory`.
        um_per_px: pixel size in µm, or None when the file does not state one (absent, 0 or absurd).
        pixel_type: as the file names it, such as 'bgr24' or 'gray16'.
        compressions: of its sub-blocks, such as ('zstd1',), sorted.
        pyramid_levels: reduction factors of the stored pyramid, level 0 first, such as (1, 2).
        pixel_size_fault: why `um_per_px` is None, such as 'states no pixel size'.
        planes: dimensions with more than one index, channels apart, such as (('Z', 5),): of Z the
            middle plane is read, of the others, and of the channels, the first.
    """

    slide_id: str
    path: Path
    size_bytes: int
    fingerprint: str
    um_per_px: float | None
    scenes: tuple[SceneInfo, ...]
    pixel_type: str
    channels: tuple[str, ...]
    is_mosaic: bool
    compressions: tuple[str, ...]
    pyramid_levels: tuple[int, ...]
    pixel_size_fault: str = ""
    planes: tuple[tuple[str, int], ...] = ()

    @property
    def is_rgb(self) -> bool:
        """A brightfield colour slide; anything else can be inspected but not segmented."""
        return self.pixel_type == "bgr24"

    @property
    def unreadable_because(self) -> str:
        """Why its pixels cannot be read as an H&E slide, or '' when they can."""
        if not self.is_rgb:
            return f"is not an H&E brightfield slide: pixel type {self.pixel_type}"
        unknown = [name for name in self.compressions if name not in READABLE_COMPRESSIONS]
        if unknown:
            return f"holds images compressed as {', '.join(unknown)}, which cannot be read"
        return ""
