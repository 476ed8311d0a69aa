"""The colours of each scene of a slide, measured on windows that are drawn from its tissue.

Which windows are drawn depends on the tissue, the scene's index and the seed: never on the tile size, nor on
what the file is called. Runs that began with the first rule, in which the slide's name took part, keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import RunSection
from mkhspc.config.identity import DRAW_BY_NAME
from mkhspc.errors import InputError
from mkhspc.geometry import Box, RgbImage
from mkhspc.slide.czi.directory import read_directory
from mkhspc.slide.czi.read_order import SceneBox, mosaics_of, order_windows
from mkhspc.slide.czi.slide import CziSlide, is_damage
from mkhspc.slide.czi.stream import WindowStream
from mkhspc.slide.stains import SceneCalibration, calibrate
from mkhspc.slide.tiles import is_wanted_scene, seeded_hash
from mkhspc.slide.tissue import TissueMask

CALIBRATION_WINDOW_UM = 110.0
"""The side of a calibration window in µm: some ten nuclei across, so that each holds nuclei and gaps too."""
TRIES_PER_WINDOW = 20
"""How many places are tried for each calibration window before the tissue counts as full."""
SPARE_WINDOWS = 2
"""Where windows cannot be decoded, this multiple of the windows asked for is drawn, to take their places."""
ROOM_BYTES = 64_000_000
"""Bytes of decoded images kept while windows are read: less than the calibration itself takes afterwards.
Where one image is larger it is kept all the same, for many windows may lie in it."""


def calibrate_scenes(
    slide: CziSlide, tissue: Mapping[int, TissueMask], run: RunSection, draw: int
) -> dict[int, SceneCalibration]:
    """The calibration of every scene that holds tissue, by scene.

    A scene that cannot be calibrated is left out, if the run does not ask for it.

    Args:
        tissue: by scene.
        run: its seed, how many windows a scene is calibrated on, and the scenes that it asks for.
        draw: the rule by which windows are drawn; see `config.identity`.

    Raises:
        InputError: a scene that the run asks for cannot be calibrated, or a disk or a server does not answer.
    """
    calibrations = {}
    for scene, mask in tissue.items():
        if mask.tissue.any():
            try:
                calibrations[scene] = _calibrate_scene(slide, scene, mask, run, draw)
            except InputError:
                if is_wanted_scene(run, scene):
                    raise
    return calibrations


def _calibrate_scene(
    slide: CziSlide, scene: int, mask: TissueMask, run: RunSection, draw: int
) -> SceneCalibration:
    try:
        return calibrate(_read_windows(slide, scene, mask, run, draw), slide.um_per_px)
    except InputError as error:
        raise InputError(
            f"scene {scene} cannot be calibrated: {error.what}",
            where=slide.info.path,
            fix="look at it with `mkhspc inspect --preview`, and leave it out with --scene",
        ) from error


def _read_windows(
    slide: CziSlide, scene: int, mask: TissueMask, run: RunSection, draw: int
) -> list[RgbImage]:
    """The pixels of the windows drawn; for each that cannot be decoded the next one drawn takes its place.

    Raises:
        InputError: none can be decoded, or a disk or a server does not answer.
    """
    side_px = round(CALIBRATION_WINDOW_UM / slide.um_per_px)
    name = slide.info.slide_id if draw == DRAW_BY_NAME else None
    key = draw_key(run.seed, scene, name)

    def drawn(count: int) -> list[Box]:  # a longer draw begins with the shorter one
        return calibration_boxes(mask, count, side_px, key)

    boxes = drawn(run.calibration_samples)
    windows, faults = _read_undamaged(slide, scene, boxes)
    if faults:
        spare = iter(drawn(SPARE_WINDOWS * run.calibration_samples)[len(boxes) :])
        while missing := list(islice(spare, len(boxes) - len(windows))):
            windows += _read_undamaged(slide, scene, missing)[0]
    if faults and not windows:
        raise faults[0]
    return windows


def _read_undamaged(
    slide: CziSlide, scene: int, boxes: Sequence[Box]
) -> tuple[list[RgbImage], list[InputError]]:
    """The pixels of those boxes in which no image is damaged, in their order, and the errors of the others.

    Boxes lie all over the scene, and on a small one many in the same images: those are decoded once.
    """
    windows = [SceneBox(scene, box) for box in boxes]
    room_bytes = max(ROOM_BYTES, *(block.unpacked_bytes for block in slide.directory.level_0))
    order = order_windows(mosaics_of(slide, windows), windows, room_bytes)
    found: dict[int, RgbImage] = {}
    faults: list[InputError] = []
    with WindowStream(
        CziSlide(read_directory(slide.info.path), slide.um_per_px, slide.info.channel_asked),
        order.windows,
        room_bytes=room_bytes,
        threads=1,
    ) as stream:
        while (step := stream.next_window()) is not None:
            box = order.windows[step].box
            pixels = np.empty((box.height, box.width, 3), np.uint8)
            try:
                stream.read_into(pixels)
            except InputError as error:
                if not is_damage(error):
                    raise
                faults.append(error)
            else:
                found[order.indices[step]] = pixels
    return [found[nth] for nth in sorted(found)], faults


def draw_key(seed: int, scene: int, slide_id: str | None = None) -> bytes:
    """What the draw of a scene's windows begins with.

    Args:
        slide_id: of a run whose draw depends on it; None in all others.
    """
    names = () if slide_id is None else (slide_id,)
    return seeded_hash(seed, *names, scene, "calibration")


def calibration_boxes(tissue: TissueMask, n: int, size_px: int, key: bytes) -> list[Box]:
    """Windows of a scene to calibrate on, drawn from fat-free tissue.

    Args:
        tissue: of the scene.
        n: how many windows; fewer where the tissue has no room for more.
        size_px: side of a window.
        key: of `draw_key`: what the draw depends on, next to the tissue.

    Returns:
        Boxes that do not overlap, in the order drawn, inside the scene unless it is smaller.
        Empty only without tissue.
    """
    rows, columns = np.nonzero(tissue.fat_free)
    if not rows.size:
        return []
    # Raw bits of PCG64 stay the same in every NumPy; what its distributions make of them may not.
    stream = np.random.PCG64(int.from_bytes(key))
    drawn = stream.random_raw(n * TRIES_PER_WINDOW) % np.uint64(rows.size)
    half = tissue.factor // 2
    x0 = _inside(columns[drawn] * tissue.factor + half - size_px // 2, size_px, tissue.width_px)
    y0 = _inside(rows[drawn] * tissue.factor + half - size_px // 2, size_px, tissue.height_px)
    kept = _apart(x0, y0, size_px)[:n]
    return [
        Box(x, y, x + size_px, y + size_px) for x, y in zip(x0[kept].tolist(), y0[kept].tolist(), strict=True)
    ]


def _inside(start: NDArray[np.int64], size: int, length: int) -> NDArray[np.int64]:
    """Starts moved so that [start, start + size) lies in [0, length), or at 0 where it cannot."""
    return np.clip(start, 0, max(0, length - size))


def _apart(x0: NDArray[np.int64], y0: NDArray[np.int64], size: int) -> list[int]:
    """Indices, in order, of the squares that overlap no square kept before."""
    free = np.ones(len(x0), bool)
    kept = []
    for i in range(len(x0)):
        if free[i]:
            kept.append(i)
            free &= (np.abs(x0 - x0[i]) >= size) | (np.abs(y0 - y0[i]) >= size)
    return kept
