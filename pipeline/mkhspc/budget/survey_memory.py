"""The memory that planning the tiles of a slide takes: finding its tissue and calibrating its stains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mkhspc.budget.workers import limit_gb_for
from mkhspc.errors import UsageError
from mkhspc.process.limits import SAFE_SHARE, MemoryLimit
from mkhspc.slide.calibration import CALIBRATION_WINDOW_UM
from mkhspc.slide.czi.directory import CziDirectory, SubBlock
from mkhspc.slide.czi.slide import STRIP_BYTES, CziSlide
from mkhspc.slide.czi.stream import AHEAD_PER_THREAD
from mkhspc.slide.model import SceneInfo
from mkhspc.slide.tissue import mask_factor
from mkhspc.store.manifest import SceneEntry, SlideEntry
from mkhspc.units import GB

SURVEY_BYTES = 180_000_000
"""Bytes of the first process with its libraries and a few decoded sub-blocks, before there are workers."""
USUAL_IMAGES_BYTES = 75_000_000
"""Bytes of these, for decoded sub-blocks as scanners store them: 2048 px a side."""
SUM_BYTES_PER_PX = 24
"""Bytes of the sums from which a picture for the mask is made, for each of its pixels."""
STRIP_COPIES = 4
"""How often a strip of a pyramid level is in memory while libCZI reads it; measured on 157 and 252 MB."""
MASK_BYTES_PER_PX = 28
"""Bytes that finding the tissue of a scene takes for each pixel of its mask."""
HELD_MASK_BYTES_PER_PX = 20
"""Bytes held for each pixel of every scene's mask while the stains are calibrated."""
SAMPLE_BYTES_PER_PX = 52
"""Bytes that calibration takes for each pixel in its sample. This and the two above were measured on 4, 67
and 1,074 million pixels of dense marrow, and on masks of up to 67 million."""
MOST_SAMPLED_PX = 4_500_000
"""Calibration works on a sample of its windows' pixels that is never larger than this."""


@dataclass(frozen=True)
class ImageSizes:
    """What the images of a slide take while they are read.

    Attributes:
        unpacked_bytes: of the largest, pyramid included.
        count: of level 0.
        strip_bytes: the most of a pyramid level that is read at once.
    """

    unpacked_bytes: int = 0
    count: int = 0
    strip_bytes: int = 0

    @classmethod
    def of(cls, directory: CziDirectory, um_per_px: float) -> ImageSizes:
        """From a slide's directory alone."""
        return cls(
            max(block.unpacked_bytes for block in directory.sub_blocks),
            len(directory.level_0),
            max((_strip_bytes(blocks, um_per_px) for blocks in directory.by_scene.values()), default=0),
        )

    def decoding_bytes(self, ahead: int) -> int:
        """While one is decoded, its pixels twice and as it is stored, and others wait to be shown."""
        return (min(self.count, ahead) + 2) * self.unpacked_bytes

    def reading_bytes(self, mask_px: int) -> int:
        """While a picture for the tissue mask is made of them."""
        more_bytes = max(0, max(self.decoding_bytes(1), STRIP_COPIES * self.strip_bytes) - USUAL_IMAGES_BYTES)
        return SUM_BYTES_PER_PX * mask_px + more_bytes


def _strip_bytes(blocks: Sequence[SubBlock], um_per_px: float) -> int:
    """Of the pyramid level from which the tissue of a scene is found; 0 where level 0 must do."""
    reductions = {block.reduction for block in blocks if not block.is_level_0}
    usable = [reduction for reduction in reductions if reduction <= mask_factor(um_per_px)]
    level = [block for block in blocks if usable and block.reduction == max(usable)]
    return min(STRIP_BYTES, sum(block.unpacked_bytes for block in level))


def tissue_bytes(scenes_px: Sequence[int], images: ImageSizes) -> int:
    """The most that finding the tissue of scenes takes, by the pixels of their masks."""
    largest_px = max(scenes_px)
    return SURVEY_BYTES + max(MASK_BYTES_PER_PX * largest_px, images.reading_bytes(largest_px))


def refuse_inspection(slide: CziSlide, calibration_samples: int, limit: MemoryLimit) -> None:
    """Raises `UsageError`, with the number, where a look at a slide takes too much: it is a survey."""
    um_per_px = slide.known_um_per_px
    if um_per_px is None or slide.info.unreadable_because:
        return
    images = ImageSizes.of(slide.directory, um_per_px)
    needed_bytes = _survey_bytes(slide.info.read_scenes, um_per_px, calibration_samples, images)
    if needed_bytes > SAFE_SHARE * limit.limit_bytes:
        raise UsageError(
            f"finding its tissue and stains takes {limit_gb_for(needed_bytes):.1f} GB of memory"
            f" and the limit is {limit.limit_bytes / GB:.3g} GB, set by {limit.set_by}",
            where=slide.info.path,
            fix="give it more with --memory-gb; or is the place of an image wrong in the file?",
        )


def survey_bytes(slide: SlideEntry, calibration_samples: int, images: ImageSizes = ImageSizes()) -> int:
    """The most that planning the tiles of a slide takes, known before a pixel is read."""
    return _survey_bytes(slide.scenes, slide.um_per_px, calibration_samples, images)


def _survey_bytes(
    scenes: Sequence[SceneEntry | SceneInfo], um_per_px: float, calibration_samples: int, images: ImageSizes
) -> int:
    of_scenes_px = masks_of(scenes, um_per_px)
    window_px = round(CALIBRATION_WINDOW_UM / um_per_px) ** 2
    largest_px = max((scene.width_px * scene.height_px for scene in scenes), default=0)
    windows_px = min(calibration_samples * window_px, max(window_px, largest_px))
    sample_bytes = SAMPLE_BYTES_PER_PX * min(windows_px, MOST_SAMPLED_PX)
    decoding_bytes = images.decoding_bytes(AHEAD_PER_THREAD + 1) - USUAL_IMAGES_BYTES  # and one that is kept
    stain_bytes = (
        HELD_MASK_BYTES_PER_PX * sum(of_scenes_px) + 3 * windows_px + max(sample_bytes, decoding_bytes)
    )
    return max(tissue_bytes(of_scenes_px, images), SURVEY_BYTES + stain_bytes)


def mask_px(slide: SlideEntry) -> int:
    """Pixels of the tissue masks of all scenes of a slide."""
    return sum(masks_px(slide))


def masks_px(slide: SlideEntry) -> list[int]:
    """Pixels of the tissue mask of each scene of a slide."""
    return masks_of(slide.scenes, slide.um_per_px)


def masks_of(scenes: Sequence[SceneEntry | SceneInfo], um_per_px: float) -> list[int]:
    """Pixels of the tissue mask of each of these scenes."""
    factor = mask_factor(um_per_px)
    return [math.ceil(s.width_px / factor) * math.ceil(s.height_px / factor) for s in scenes]
