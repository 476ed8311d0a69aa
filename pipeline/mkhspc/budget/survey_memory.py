"""The memory that planning the tiles of a slide takes: finding its tissue and calibrating its stains."""

from __future__ import annotations

import math

from mkhspc.slide.calibration import CALIBRATION_WINDOW_UM
from mkhspc.slide.tissue import mask_factor
from mkhspc.store.manifest import SlideEntry

SURVEY_BYTES = 180_000_000
"""Bytes of the first process with its libraries and one decoded sub-block, before there are workers."""
MASK_BYTES_PER_PX = 28
"""Bytes that finding the tissue of a scene takes for each pixel of its mask."""
HELD_MASK_BYTES_PER_PX = 20
"""Bytes held for each pixel of every scene's mask while the stains are calibrated."""
SAMPLE_BYTES_PER_PX = 52
"""Bytes that calibration takes for each pixel in its sample. This and the two above were measured on 4, 67
and 1,074 million pixels of dense marrow, and on masks of up to 67 million."""
MOST_SAMPLED_PX = 4_500_000
"""Calibration works on a sample of its windows' pixels that is never larger than this."""


def survey_bytes(slide: SlideEntry, calibration_samples: int) -> int:
    """The most that planning the tiles of a slide takes, known before a pixel is read."""
    of_scenes_px = masks_px(slide)
    window_px = round(CALIBRATION_WINDOW_UM / slide.um_per_px) ** 2
    largest_px = max(scene.width_px * scene.height_px for scene in slide.scenes)
    windows_px = min(calibration_samples * window_px, max(window_px, largest_px))
    sample_bytes = SAMPLE_BYTES_PER_PX * min(windows_px, MOST_SAMPLED_PX)
    tissue_bytes = MASK_BYTES_PER_PX * max(of_scenes_px)
    stain_bytes = HELD_MASK_BYTES_PER_PX * sum(of_scenes_px) + 3 * windows_px + sample_bytes
    return SURVEY_BYTES + max(tissue_bytes, stain_bytes)


def mask_px(slide: SlideEntry) -> int:
    """Pixels of the tissue masks of all scenes of a slide."""
    return sum(masks_px(slide))


def masks_px(slide: SlideEntry) -> list[int]:
    """Pixels of the tissue mask of each scene of a slide."""
    factor = mask_factor(slide.um_per_px)
    return [math.ceil(s.width_px / factor) * math.ceil(s.height_px / factor) for s in slide.scenes]
