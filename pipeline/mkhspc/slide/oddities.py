"""What is unusual about a slide and does not stop it: lines for whoever inspects, plans or segments it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError
from mkhspc.geometry import BoolMask, Box, area_um2
from mkhspc.slide.czi.directory import SubBlock
from mkhspc.slide.czi.mosaic import Corners, corners_of_boxes, meets
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.model import SceneInfo, SlideInfo

SAMPLED_IMAGES = 6
"""How many images of a channel are looked at to see whether it is dark."""
LARGEST_SAMPLED_PX = 8_000_000
"""Larger images are left out of that, for they take long to unpack."""
SAMPLED_STEP = 8
"""Of these images one pixel of so many is looked at, along each axis."""
DARK_BELOW = 128
"""A channel is dark if this grey level is not reached by the brightest tenth of what was scanned: glass and
gaps of a brightfield scan lie above 200, and so does the red of eosin."""
BRIGHT_PERCENTILE = 90.0
"""The percentile of brightness that is compared with it."""
MOST_PAIRS = 10
"""So many pairs of scenes that lie over one another are named."""
OVERLAP_CELLS = 512
"""What two scenes share is measured on a grid of so many cells along each axis."""


def oddities(slide: CziSlide, scenes: Sequence[int] = ()) -> list[str]:
    """One line for each thing that is unusual about a slide that can be read.

    Args:
        scenes: those that are asked for; none for all.
    """
    info = slide.info
    wanted = [scene for scene in info.scenes if not scenes or scene.index in scenes]
    return [
        *_empty_entries(info),
        *_channel_read(info),
        *_dark_channels(slide, wanted),
        *_unread_scenes(info, wanted),
        *_scenes_over_one_another(slide, wanted),
    ]


def _empty_entries(info: SlideInfo) -> Iterator[str]:
    count = info.empty_entries
    if count:
        entries = "1 entry" if count == 1 else f"{count} entries"
        yield f"{entries} of its directory without width or height {'is' if count == 1 else 'are'} left out"


def _channel_read(info: SlideInfo) -> Iterator[str]:
    """Which channel is read, where there are several."""
    if len(info.channels) < 2:
        return
    numbers = sorted({scene.channel for scene in info.read_scenes if scene.channel is not None})
    read = " and ".join(f"{info.channel_words(number)}{_of(info, number)}" for number in numbers)
    verb = "is" if len(numbers) == 1 else "are"
    choose = ": choose another RGB one with --channel" if len(info.rgb_channels) > 1 else ""
    yield f"channel {read} {verb} read; there are {', '.join(map(str, info.channels))}{choose}"


def _of(info: SlideInfo, channel: int) -> str:
    """The scenes of which a channel is read, where not all have the same."""
    scenes = [str(scene.index) for scene in info.read_scenes if scene.channel == channel]
    return f" of scene {', '.join(scenes)}" if len(scenes) < len(info.read_scenes) else ""


def _dark_channels(slide: CziSlide, scenes: Sequence[SceneInfo]) -> Iterator[str]:
    """Channels that are read and dark, where there are several RGB ones."""
    info = slide.info
    if len(info.rgb_channels) < 2:
        return
    for channel in sorted({scene.channel for scene in scenes if scene.channel is not None}):
        brightness = channel_brightness(slide, channel)
        if brightness is not None and brightness < DARK_BELOW:
            others = [str(other.index) for other in info.rgb_channels if other.index != channel]
            yield (
                f"channel {info.channel_words(channel)} is dark: nine tenths of it lie below"
                f" {brightness:.0f} of 255; if it is not the H&E scan, choose another:"
                f" --channel {' or '.join(others)}"
            )


def channel_brightness(slide: CziSlide, channel: int) -> float | None:
    """The 90th percentile of the brightest colour, 0 to 255, of a few images of a channel.

    Black pixels count as not scanned; 0 if there is nothing else. None if no image can be decoded.
    """
    blocks = [block for block in slide.rgb_blocks(channel) if block.box.area_px <= LARGEST_SAMPLED_PX]
    step = max(1, len(blocks) // SAMPLED_IMAGES)
    found = [_brightest(slide, block) for block in blocks[::step][:SAMPLED_IMAGES]]
    seen = [pixels for pixels in found if pixels is not None]
    if not seen:
        return None
    scanned = np.concatenate(seen)
    scanned = scanned[scanned > 0]
    return float(np.percentile(scanned, BRIGHT_PERCENTILE)) if scanned.size else 0.0


def _brightest(slide: CziSlide, block: SubBlock) -> NDArray[np.uint8] | None:
    """The brightest colour of some pixels of an image; None where it cannot be decoded."""
    try:
        pixels = slide.decode(block).pixels
    except InputError:  # the tiles that need it will name it
        return None
    brightest: NDArray[np.uint8] = pixels[::SAMPLED_STEP, ::SAMPLED_STEP].max(axis=2).ravel()
    return brightest


def _unread_scenes(info: SlideInfo, scenes: Sequence[SceneInfo]) -> Iterator[str]:
    channel = "" if info.channel_asked is None else f" in channel {info.channel_asked}"
    for scene in scenes:
        if scene.channel is None:
            kinds = ", ".join(dict.fromkeys(kind for _, kind in scene.pixel_types))
            yield f"scene {scene.index} is left out: it has no RGB image{channel} (pixel type {kinds})"


def _scenes_over_one_another(slide: CziSlide, scenes: Sequence[SceneInfo]) -> Iterator[str]:
    """Pairs of scenes that show one place, such as a scan and the picture merged from it."""
    read = [scene for scene in scenes if scene.channel is not None]
    for one, other, shared_px in islice(_overlaps(slide, read), MOST_PAIRS):
        smaller = min(one, other, key=lambda scene: scene.box.area_px)
        size = slide.known_um_per_px
        area = f"{shared_px:,} px" if size is None else f"{area_um2(shared_px, size) / 1e6:.3g} mm²"
        share = min(1.0, shared_px / smaller.box.area_px)
        yield (
            f"scenes {one.index} and {other.index} lie over one another: {area} is in both ({share:.0%} of"
            f" scene {smaller.index}), and cells there count twice; choose one with --scene {one.index}"
            f" or --scene {other.index}"
        )


def _overlaps(slide: CziSlide, scenes: Sequence[SceneInfo]) -> Iterator[tuple[SceneInfo, SceneInfo, int]]:
    """Pairs of scenes whose images share a place, and how many pixels they share, about."""
    hulls = corners_of_boxes([scene.mosaic_box for scene in scenes])
    blocks: dict[int, list[Box]] = {}
    for block in slide.blocks_read():
        blocks.setdefault(block.scene, []).append(block.box)
    for nth, one in enumerate(scenes):
        for later in np.flatnonzero(meets(hulls[nth + 1 :], one.mosaic_box)).tolist():
            other = scenes[nth + 1 + later]
            place = one.mosaic_box.clipped(other.mosaic_box)
            sets = (corners_of_boxes(blocks[scene.index]) for scene in (one, other))
            shared_px = _shared_px(place, *(corners[meets(corners, place)] for corners in sets))
            if shared_px:
                yield one, other, shared_px


def _shared_px(place: Box, one: Corners, other: Corners) -> int:
    """About how many pixels of a box lie under blocks of both sets; 0 only where they share none."""
    if not any(meets(other, Box(*corners)).any() for corners in one.tolist()):
        return 0
    factor = -(-max(place.width, place.height) // OVERLAP_CELLS)
    both = _centres_covered(place, factor, one) & _centres_covered(place, factor, other)
    return min(place.area_px, max(1, int(both.sum()) * factor**2))


def _centres_covered(place: Box, factor: int, corners: Corners) -> BoolMask:
    """Of cells of `factor` x `factor` pixels laid over a box, those whose centre a block covers."""
    covered = np.zeros((-(-place.height // factor), -(-place.width // factor)), bool)
    origin = np.array([place.x0, place.y0, place.x0, place.y0]) + factor // 2
    for x0, y0, x1, y1 in np.maximum(-(-(corners - origin) // factor), 0).tolist():
        covered[y0:y1, x0:x1] = True
    return covered
